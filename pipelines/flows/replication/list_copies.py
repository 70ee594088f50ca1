"""Copies the lists of shards that data versions name, so that no version is visible before its list is here (I13)."""

from __future__ import annotations

from pipelines.core.data_versions import check_event
from pipelines.errors import CorruptError
from pipelines.ports import Clock, CopyJob, CopyResult, Transfers
from schemas.records import DataVersion

RETRY_S = 1.0


class ListCopies:
    """The lists of one peer that are being copied; the transfer verifies each by its digest.

    Args:
        peer: the region from which they come.
        transfers: copies the objects.
        clock: this process's.
    """

    def __init__(self, peer: str, transfers: Transfers, clock: Clock) -> None:
        self._peer, self._transfers, self._clock = peer, transfers, clock
        self._jobs: dict[str, CopyJob] = {}  # by their ids: those that are not known to be here
        self._here: set[str] = set()  # jobs that are done, until they were asked for
        self._broken: dict[str, str] = {}  # why a job can never be done
        self._retry_at_s: dict[str, float] = {}

    def done(self, event: DataVersion) -> bool:
        """Whether the list of a version is verified here; the first call begins its copy.

        Raises:
            CorruptError: it cannot be had as its event names it; the event becomes a dead letter.
        """
        if not event.list_key:
            return True
        check_event(event)
        job_id = f"{event.list_key}/{event.list_bytes}"  # what is to be had, whichever event names it
        job = CopyJob(job_id, self._peer, event.list_key, event.list_bytes, event.list_sha256)
        if job.job_id in self._broken:
            raise CorruptError(self._broken.pop(job.job_id))
        if job.job_id in self._here:
            self._here.discard(job.job_id)
            return True
        if job.job_id not in self._jobs:
            self._jobs[job.job_id] = job
            self._transfers.start(job)
        return False

    def ended(self, result: CopyResult) -> None:
        """Note a transfer that ended; one that got no answer is tried again."""
        job_id = result.job.job_id
        if job_id not in self._jobs:
            return
        if result.error and not result.corrupt:
            self._retry_at_s[job_id] = self._clock.boottime_s() + RETRY_S
            return
        del self._jobs[job_id]
        if result.corrupt:
            self._broken[job_id] = result.error
        else:
            self._here.add(job_id)

    def turn(self) -> None:
        """Start those again whose time has come."""
        now_s = self._clock.boottime_s()
        for job_id in [one for one, at_s in self._retry_at_s.items() if at_s <= now_s]:
            del self._retry_at_s[job_id]
            self._transfers.start(self._jobs[job_id])

    def forget(self) -> None:
        """Give up all copies: the replicator begins again from the ledger."""
        for job_id in self._jobs:
            self._transfers.cancel(job_id)
        self._jobs.clear()
        self._here.clear()
        self._broken.clear()
        self._retry_at_s.clear()
