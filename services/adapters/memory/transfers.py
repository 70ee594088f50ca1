"""Copies between stores in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from pipelines.ports import CopyJob, CopyResult, ObjectStore
from services.adapters.transfers import copied, fetch_from


class MemoryTransfers:
    """Implements Transfers: copies `per_turn` objects at each `finished`, so that a test can look at half a copy."""

    def __init__(self, peers: Mapping[str, ObjectStore], store: ObjectStore, per_turn: int = 1_000) -> None:
        self.per_turn = per_turn
        self._fetch = fetch_from(peers)
        self._store = store
        self._waiting: deque[CopyJob] = deque()

    def start(self, job: CopyJob) -> None:
        """Begin, unless a job of this id is under way."""
        if all(one.job_id != job.job_id for one in self._waiting):
            self._waiting.append(job)

    def cancel(self, job_id: str) -> None:
        """Give up a job."""
        self._waiting = deque(one for one in self._waiting if one.job_id != job_id)

    def finished(self) -> tuple[CopyResult, ...]:
        """Copy a few and report them."""
        count = min(self.per_turn, len(self._waiting))
        return tuple(copied(self._waiting.popleft(), self._fetch, self._store) for _ in range(count))

    def under_way(self) -> Mapping[str, int]:
        """Nothing of an object crosses before all of it does."""
        return {job.job_id: 0 for job in self._waiting}
