"""The launches of a run's trainer: which were granted, which an agent asked about, and which wait for another region.

A new launch takes the run from the one before it, so it must be meant: its agent says that it waits on the agent's own
node for its start, and while the trainer before it works on *another* node it waits until that has ended. (On its own
node an agent can stop the trainer anyway.) Whoever merely asks about a launch begins none.

A grant is fixed in the region's store, create-only, before an agent hears of it (6.5). Whether the controller may
write a new attempt into the lease record is not decided here: `settle` is handed the function that does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from pipelines import paths
from pipelines.core.heartbeats import working_nodes
from pipelines.core.lease import Held
from pipelines.core.remembering import forget_oldest
from pipelines.errors import CorruptError
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.standby.recoverable import RecoverableCheckpoint
from pipelines.ports import Clock, Journal, ObjectStore
from schemas.records import Lease

ASKED_LATELY_S = 1.0  # agents with a launch that waits ask several times a second
WAITING_MAX = 64  # launches without a grant that are remembered
GRANTED_MAX = 256  # that are remembered; the others are read again when somebody asks


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


@dataclass(slots=True)
class _Asked:
    """A launch without a grant, and who asked about it."""

    at_s: float
    begins: bool = False
    nodes: set[str] = field(default_factory=set)
    why: str = ""  # it waits


class Launches:
    """The launches of one run, as its controller in one region knows them.

    `granted` and `ask` may be called from another thread than the rest.

    Args:
        run: whose launches.
        store: the region's; grants are fixed there.
        start: the checkpoint from which a launch under a record starts, None: from step 0.
        works_on: the nodes on which the trainer of another launch than this one works now.
        clock: the controller's own.
        journal: hears of each new grant.
    """

    def __init__(
        self,
        *,
        run: str,
        store: ObjectStore,
        start: Callable[[Lease], RecoverableCheckpoint | None],
        works_on: Callable[[str], frozenset[str]] = lambda _launch: frozenset(),
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._run, self._store, self._start, self._works_on = run, store, start, works_on
        self._clock, self._journal = clock, journal
        self._granted: dict[str, Launch] = {}
        self._wanted: dict[str, None] = {}  # to be settled in the controller's next turn, in the order of asking
        self._unknown: dict[str, _Asked] = {}  # launches without a grant, the one that was asked about last at the end

    @property
    def pending(self) -> bool:
        """Whether a launch waits to be settled."""
        return bool(self._wanted)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The launches without a grant that are remembered, the one that was asked about last at the end."""
        return tuple(self._unknown)

    def granted(self, name: str) -> Launch | None:
        """The grant of a launch; None if this controller does not know of one."""
        return self._granted.get(name)

    def ask(self, name: str, now_s: float, *, holds: bool, node: str = "", begins: bool = True) -> bool:
        """An agent asks about a launch without a grant; True if the controller should settle it soon.

        Args:
            name: of the launch.
            now_s: on the controller's clock.
            holds: whether this region holds the run, so that a new attempt can begin here.
            node: the agent's own; "": not known.
            begins: the launch waits on that node for its start.
        """
        asked = self._unknown.pop(name, None)
        soon = asked is None or holds
        asked = asked or _Asked(now_s)
        asked.at_s, asked.begins = now_s, asked.begins or begins
        asked.nodes.add(node)
        self._unknown[name] = asked
        for oldest in forget_oldest(self._unknown, WAITING_MAX):
            self._wanted.pop(oldest, None)
        if soon:
            self._wanted[name] = None
        return soon

    def why_waits(self, name: str) -> str:
        """Why a launch without a grant waits, if that is not for its region; "" otherwise."""
        asked = self._unknown.get(name)
        return "" if asked is None else asked.why

    def ask_again(self) -> None:
        """The region has won the run: settle the launches that wait, if their agents asked lately.

        The time until they would ask once more is not lost that way.
        """
        since_s = self._clock.boottime_s() - ASKED_LATELY_S
        self._wanted |= dict.fromkeys([name for name, one in list(self._unknown.items()) if one.at_s >= since_s])

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
            self._wanted.pop(name, None)
            launch = read_launch(self._store, self._run, name) or self._begin(name, attempt_of)
            if launch is not None:
                self._unknown.pop(name, None)
                self._remember(launch)

    def _remember(self, launch: Launch) -> None:
        newest = max([launch, *self._granted.values()], key=lambda one: (one.epoch, one.attempt))
        self._granted[launch.name] = launch
        for oldest in list(self._granted)[:-GRANTED_MAX]:
            if oldest != newest.name:
                del self._granted[oldest]

    def _begin(self, name: str, attempt_of: Callable[[str], Lease | None]) -> Launch | None:
        asked = self._unknown.get(name)
        if asked is None or not asked.begins:
            return None
        others = self._works_on(name) - asked.nodes
        asked.why = f"the run's trainer works on {', '.join(sorted(others))}: end it there first" if others else ""
        if others and "" not in asked.nodes:
            return None
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


def works_on(launch: str, held: Held | None, own: PeerState, since_s: float) -> frozenset[str]:
    """The nodes on which the trainer of the run's newest attempt has worked since a moment, if it is another launch's.

    Args:
        launch: the one that would take its place.
        held: the lease record.
        own: what the region's own log says.
        since_s: on the controller's clock.
    """
    if held is None or held.lease.launch in {"", launch}:
        return frozenset()
    return working_nodes(own.pulse, held.lease.epoch, held.lease.attempt, since_s)


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
