"""Copies between the simulated regions' stores: the shipped copy, over links that may be narrow."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.ports import CopyJob, CopyResult, ObjectStore
from services.adapters.transfers import copied, fetch_from
from tests.simulation.kernel import Process
from tests.simulation.simulated_ports import Trouble

COPIES_MOST = 3
NARROW_BYTES_S = 25.0  # of a link that is narrow: about a third of what a job's checkpoints need
CROSSING_S = 0.25


@dataclass(frozen=True, slots=True)
class Link:
    """The way from one region's store to another."""

    trouble: Trouble
    way: str

    @property
    def is_narrow(self) -> bool:
        """Whether bytes crawl now."""
        return f"narrow:{self.way}" in self.trouble


class SimulatedTransfers:
    """Implements Transfers: the shipped copy, a few at a time, each on a strand of the process.

    Over a narrow link bytes cross at its rate, shared by what crosses at once; a cancel takes effect in mid-object.
    """

    def __init__(self, process: Process, peers: Mapping[str, ObjectStore], store: ObjectStore, link: Link) -> None:
        self._process, self._fetch, self._store = process, fetch_from(peers), store
        self._link = link
        self._crossed: dict[str, float] = {}  # of the jobs that have begun
        self._waiting: deque[CopyJob] = deque()
        self._jobs: dict[str, bool] = {}  # whether it is still wanted
        self._done: list[CopyResult] = []
        self._busy = 0

    def start(self, job: CopyJob) -> None:
        """Begin, unless a job of this id is under way or finished and not yet collected."""
        if job.job_id in self._jobs:
            self._jobs[job.job_id] = True
            return
        self._jobs[job.job_id] = True
        self._waiting.append(job)
        if self._busy < COPIES_MOST:
            self._busy += 1
            self._process.strand("copy", lambda _strand: self._work())

    def cancel(self, job_id: str) -> None:
        """Give up a job; one that has begun ends at its next piece and is not reported."""
        if job_id not in self._jobs:
            return
        waiting = [one for one in self._waiting if one.job_id == job_id]
        finished = [one for one in self._done if one.job.job_id == job_id]
        if waiting or finished:
            self._waiting = deque(one for one in self._waiting if one.job_id != job_id)
            self._done = [one for one in self._done if one.job.job_id != job_id]
            del self._jobs[job_id]
        else:
            self._jobs[job_id] = False

    def finished(self) -> tuple[CopyResult, ...]:
        """The jobs that ended since the last call."""
        done, self._done = tuple(self._done), []
        for one in done:
            self._jobs.pop(one.job.job_id, None)
        return done

    def under_way(self) -> Mapping[str, int]:
        """The bytes that have crossed so far of each job that has begun."""
        return {job_id: int(size) for job_id, size in self._crossed.items() if self._jobs.get(job_id)}

    def _cross(self, job: CopyJob) -> None:
        """Let the bytes of an object cross; returns early if it was given up."""
        self._crossed[job.job_id] = 0.0
        while self._link.is_narrow and self._jobs.get(job.job_id) and self._crossed[job.job_id] < job.size:
            self._process.pause(CROSSING_S)
            piece = NARROW_BYTES_S * CROSSING_S / len(self._crossed)
            self._crossed[job.job_id] = min(float(job.size), self._crossed[job.job_id] + piece)

    def _work(self) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            self._cross(job)
            result = copied(job, self._fetch, self._store) if self._jobs.get(job.job_id) else CopyResult(job)
            del self._crossed[job.job_id]
            if self._jobs.get(job.job_id):
                self._done.append(result)
            else:
                self._jobs.pop(job.job_id, None)
        self._busy -= 1
