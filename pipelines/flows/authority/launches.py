"""The launches of a run's trainer: which were granted, which an agent asked about, and which wait for another region.

A grant is fixed in the region's store, create-only, before an agent hears of it (6.5). Whether the controller may
write a new attempt into the lease record is not decided here: `settle` is handed the function that does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pipelines import paths
from pipelines.errors import CorruptError
from pipelines.flows.standby.recoverable import RecoverableCheckpoint
from pipelines.ports import Clock, Journal, ObjectStore
from schemas.records import Lease

ASKED_LATELY_S = 1.0  # agents with a launch that waits ask several times a second


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of the trainer: under which epoch and attempt it runs, and from which checkpoint it starts."""

    name: str
    epoch: int
    attempt: int
    start_step: int = 0
    start_manifest_key: str = ""
    start_manifest_digest: str = ""
    start_lineage_seq: int = 0


class Launches:
    """The launches of one run, as its controller in one region knows them.

    `granted` and `ask` may be called from another thread than the rest.

    Args:
        run: whose launches.
        store: the region's; grants are fixed there.
        start: the checkpoint from which a launch under a record starts, None: from step 0.
        clock: the controller's own.
        journal: hears of each new grant.
    """

    def __init__(
        self,
        *,
        run: str,
        store: ObjectStore,
        start: Callable[[Lease], RecoverableCheckpoint | None],
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._run, self._store, self._start = run, store, start
        self._clock, self._journal = clock, journal
        self._granted: dict[str, Launch] = {}
        self._wanted: dict[str, None] = {}  # to be settled in the controller's next turn, in the order of asking
        self._unknown: dict[str, float] = {}  # launches that wait for a region that holds the run, and when they asked

    @property
    def pending(self) -> bool:
        """Whether a launch waits to be settled."""
        return bool(self._wanted)

    def granted(self, name: str) -> Launch | None:
        """The grant of a launch; None if this controller does not know of one."""
        return self._granted.get(name)

    def ask(self, name: str, now_s: float, *, holds: bool) -> bool:
        """An agent asks about a launch without a grant; True if the controller should settle it soon.

        Args:
            name: of the launch.
            now_s: on the controller's clock.
            holds: whether this region holds the run, so that a new attempt can begin here.
        """
        if name not in self._unknown or holds:
            self._wanted[name] = None
            return True
        self._unknown[name] = now_s
        return False

    def ask_again(self) -> None:
        """The region has won the run: settle the launches that wait, if their agents asked lately.

        The time until they would ask once more is not lost that way.
        """
        since_s = self._clock.boottime_s() - ASKED_LATELY_S
        self._wanted |= dict.fromkeys([name for name, at_s in list(self._unknown.items()) if at_s >= since_s])

    def settle(self, attempt_of: Callable[[str], Lease | None]) -> None:
        """Read the grants of the launches that agents asked about, or make each a new attempt.

        Args:
            attempt_of: writes a launch into the lease record as a new attempt, unless it stands there already, and
                returns the record; None if this controller may not write, or its write did not win.

        Raises:
            RetryableError: the store or the witness does not answer, or the start is not known to be sound; the agents
                ask again.
        """
        for name in list(self._wanted):
            del self._wanted[name]
            launch = read_launch(self._store, self._run, name) or self._begin(name, attempt_of)
            if launch is None:
                self._unknown[name] = self._clock.boottime_s()
            else:
                self._unknown.pop(name, None)
                self._granted[name] = launch

    def _begin(self, name: str, attempt_of: Callable[[str], Lease | None]) -> Launch | None:
        lease = attempt_of(name)
        if lease is None:
            return None
        start = self._start(lease)
        launch = fix_launch(self._store, self._run, starting_from(name, lease.epoch, lease.attempt, start))
        self._journal.say(
            "launch.granted",
            run=self._run,
            launch=name,
            epoch=launch.epoch,
            attempt=launch.attempt,
            step=launch.start_step,
        )
        return launch


def starting_from(name: str, epoch: int, attempt: int, start: RecoverableCheckpoint | None) -> Launch:
    """A launch under an attempt, from a checkpoint or from step 0."""
    if start is None:
        return Launch(name, epoch, attempt)
    manifest = start.manifest
    return Launch(name, epoch, attempt, manifest.step, start.key, start.digest, manifest.lineage_seq)


def read_launch(store: ObjectStore, run: str, name: str) -> Launch | None:
    """The grant that the store holds for a launch; None if there is none."""
    body = store.get(paths.launched(run, name))
    return None if body is None else Launch(**json.loads(body))


def fix_launch(store: ObjectStore, run: str, launch: Launch) -> Launch:
    """Write a grant, create-only, and return the one that stands in the store: the first that was written."""
    store.create(paths.launched(run, launch.name), json.dumps(asdict(launch), sort_keys=True).encode())
    fixed = read_launch(store, run, launch.name)
    if fixed is None:
        raise CorruptError(f"{paths.launched(run, launch.name)} was created and is gone")
    return fixed
