"""A link of a known rate in virtual time."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.ports import Clock, CopyJob, CopyResult, ObjectStore
from services.adapters.transfers import copied, fetch_from


class PacedTransfers:
    """Implements Transfers: the first `workers` jobs share the link's rate; a cancelled one frees its place at once.

    Args:
        peers: how the other regions' stores are read.
        store: ours.
        clock: tells how many bytes have crossed since the last look.
        rate_bytes_s: of the whole link; may be changed at any time.
        workers: how many objects cross at once.
    """

    def __init__(
        self, peers: Mapping[str, ObjectStore], store: ObjectStore, clock: Clock, rate_bytes_s: float, workers: int = 4
    ) -> None:
        self.rate_bytes_s = rate_bytes_s
        self.crossed_bytes = 0.0
        self._fetch, self._store, self._clock, self._workers = fetch_from(peers), store, clock, workers
        self._jobs: dict[str, CopyJob] = {}
        self._crossed: dict[str, float] = {}
        self._at_s = clock.boottime_s()
        self._done: list[CopyResult] = []

    def start(self, job: CopyJob) -> None:
        """Begin, unless a job of this id is under way."""
        self._advance()
        self._jobs.setdefault(job.job_id, job)

    def cancel(self, job_id: str) -> None:
        """Give up a job, and what has crossed of it."""
        self._advance()
        self._jobs.pop(job_id, None)
        self._crossed.pop(job_id, None)
        self._done = [result for result in self._done if result.job.job_id != job_id]

    def finished(self) -> tuple[CopyResult, ...]:
        """The jobs whose bytes have crossed since the last call."""
        self._advance()
        done, self._done = tuple(self._done), []
        return done

    def under_way(self) -> Mapping[str, int]:
        """The bytes that have crossed so far of each job."""
        self._advance()
        return {job_id: int(self._crossed.get(job_id, 0.0)) for job_id in list(self._jobs)[: self._workers]}

    def _advance(self) -> None:
        """Let the link's bytes cross, one completed object after the other."""
        now_s = self._clock.boottime_s()
        budget = (now_s - self._at_s) * self.rate_bytes_s
        self._at_s = now_s
        while budget > 0 and self._jobs:
            active = list(self._jobs.values())[: self._workers]
            left = {job.job_id: job.size - self._crossed.get(job.job_id, 0.0) for job in active}
            share = min(budget / len(active), *left.values())
            for job in active:
                self._crossed[job.job_id] = self._crossed.get(job.job_id, 0.0) + share
            self.crossed_bytes += share * len(active)
            budget -= share * len(active)
            for job in [job for job in active if job.size - self._crossed[job.job_id] <= 1e-6]:
                del self._jobs[job.job_id], self._crossed[job.job_id]
                self._done.append(copied(job, self._fetch, self._store))
