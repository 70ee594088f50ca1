"""A world in which one controller process dies before or after one chosen call of a port, and is started again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet

from pipelines.core.lease import ACTIVE, Held
from pipelines.flows.authority.planned_moves import MoveRequest
from schemas.records import Lease
from tests.simulation.failover_judge import ask, faults
from tests.simulation.failover_world import RUN, Region, World

RESTART_S = 3.0
ASK_S = 1.0
AFTERWARDS_S = 12.0  # long enough for another checkpoint

Build = Callable[["Interruption"], "InterruptedWorld"]
Judge = Callable[["InterruptedWorld"], list[str]]
Choice = Callable[[list[str]], list[int]]


class _Killed(BaseException):
    """The process ends at this call."""


@dataclasses.dataclass
class Interruption:
    """Which process dies, and at which of the moments that are counted while it is armed; 0: it only counts."""

    region: str
    at: int = 0
    armed: bool = False
    moments: list[str] = dataclasses.field(default_factory=list)
    hit: str = ""

    def moment(self, what: str) -> None:
        """One moment at which the process may die."""
        if self.armed:
            self.moments.append(what)
            if len(self.moments) == self.at:
                self.armed, self.hit = False, f"{self.region}, moment {self.at}: {what}"
                raise _Killed


class _Store:
    """The controller's way to its region's store."""

    def __init__(self, region: InterruptedRegion, store: Any) -> None:  # noqa: ANN401 - any store
        self._region, self._store = region, store

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def called(*args: object) -> object:
            with self._region.calling(f"store.{name}"):
                return found(*args)

        return called


class InterruptedRegion(Region):
    """A region whose controller's calls are the moments of an interruption."""

    world: InterruptedWorld

    def __init__(self, world: InterruptedWorld, name: str, generator: Any) -> None:  # noqa: ANN401 - as its parent
        super().__init__(world, name, generator)
        store: Any = _Store(self, self.store)
        self.store = store
        self._trainer = False

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """One call of a port by the controller; what its trainer or another region does is none."""
        plan = self.world.interruption
        counts = plan.region == self.name and not self._trainer and greenlet.getcurrent().parent is not None
        if counts:
            plan.moment(f"before {what}")
        yield
        if counts:
            plan.moment(f"after {what}")

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore."""
        with self.calling("lease.read"):
            return super().read(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore."""
        with self.calling(f"lease.write of epoch {lease.epoch} ({lease.reason})"):
            return super().write(lease, expected_etag)

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Implements LeaseStore."""
        with self.calling("lease.claim"):
            return super().claim(run, epoch, body)

    def claimed(self, run: str) -> int:
        """Implements LeaseStore."""
        with self.calling("lease.claimed"):
            return super().claimed(run)

    def note(self, lease: Lease) -> None:
        """Implements LeaseStore."""
        with self.calling("lease.note"):
            super().note(lease)

    def _surroundings(self, peer_states: Any, self_evidence: Any) -> None:  # noqa: ANN401 - as its parent
        self._trainer = True
        super()._surroundings(peer_states, self_evidence)
        self._trainer = False

    def _live(self) -> None:
        try:
            super()._live()
        except _Killed:
            self.close_claim()
            self.control = None
            self.world.say(f"{self.name} is killed: {self.world.interruption.hit}")
            self.world.at(RESTART_S / 2, self.world.meanwhile)
            self.world.at(RESTART_S, self.begin)


@dataclasses.dataclass
class InterruptedWorld(World):
    """Nothing else goes wrong in it; `meanwhile` happens between a death and the new process."""

    interruption: Interruption = dataclasses.field(default_factory=lambda: Interruption(""))
    faults: bool = False
    trains: bool = True
    length_s: float = 400.0
    meanwhile: Callable[[], object] = lambda: None
    done: bool = False

    def __post_init__(self) -> None:
        """As its parent, with regions that can be interrupted."""
        super().__post_init__()
        regions: Any = {
            name: InterruptedRegion(self, name, region.random) for name, region in sorted(self.regions.items())
        }
        self.regions = regions

    @property
    def lease(self) -> Lease:
        """The record at the witness."""
        return self.witness.records[RUN].lease

    def trains_in(self, region: str) -> bool:
        """The region holds the run, and its launch has the grant of the epoch."""
        grant = self.regions[region].job._grant
        held = self.lease.holder == region and self.lease.mode == ACTIVE
        return held and grant is not None and (grant.epoch, grant.attempt) == (self.lease.epoch, self.lease.attempt)

    def until_moved(self, requests: list[MoveRequest]) -> None:
        """A person who wants these moves, one after the other, and asks again while nothing of it is in the record."""
        if requests and self.trains_in(requests[0].target):
            del requests[0]
        if not requests:
            self.finish()
            return
        control = self.regions[self.lease.holder].control
        idle = self.lease.mode == ACTIVE and control is not None and not control._planned_moves.requests
        if idle and self.lease.holder != requests[0].target:
            ask(self, self.lease.holder, requests[0])
        self.at(ASK_S, lambda: self.until_moved(requests))

    def finish(self) -> None:
        """The requested moves have come about: the world lasts a few seconds more, in which nobody dies."""
        self.done, self.interruption.armed = True, False
        self.length_s = self.now_s + AFTERWARDS_S


def launches(world: World) -> list[str]:
    """The broken rules of launches: each has one attempt, each attempt one launch, and every new one is the next."""
    attempts: dict[str, set[tuple[int, int]]] = {}
    owners: dict[tuple[int, int], set[str]] = {}
    for lease in world.witness.history:
        if lease.launch:
            attempts.setdefault(lease.launch, set()).add((lease.epoch, lease.attempt))
            owners.setdefault((lease.epoch, lease.attempt), set()).add(lease.launch)
    found = [f"launch {name} has the attempts {sorted(of)}" for name, of in attempts.items() if len(of) > 1]
    found += [f"attempt {own} has the launches {sorted(of)}" for own, of in owners.items() if len(of) > 1]
    for epoch in sorted({epoch for epoch, _ in owners}):
        numbers = sorted(attempt for of, attempt in owners if of == epoch)
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"the attempts of epoch {epoch} are {numbers}")
    return found


def all_moments(moments: list[str]) -> list[int]:
    """The numbers of all moments, counted from 1."""
    return list(range(1, len(moments) + 1))


def first_of_each_kind(moments: list[str]) -> list[int]:
    """The numbers of those moments before which no moment had the same name: each kind of call once."""
    return [at for at in all_moments(moments) if moments.index(moments[at - 1]) == at - 1]


def the_others(moments: list[str]) -> list[int]:
    """The numbers of all moments that `first_of_each_kind` leaves out."""
    return [at for at in all_moments(moments) if moments.index(moments[at - 1]) != at - 1]


def die_everywhere(region: str, build: Build, judge: Judge, choose: Choice = all_moments) -> list[str]:
    """Kill the region's controller at every chosen moment in turn: each is really reached, and every promise holds.

    Returns:
        All moments, those that were not chosen among them.
    """
    counted = Interruption(region)
    first = build(counted)
    first.run()
    assert _faults(first, judge) == [], "without an interruption"
    wrong: list[str] = []
    trace: list[str] = []
    for at in choose(counted.moments):
        plan, moment = Interruption(region, at), counted.moments[at - 1]
        world = build(plan)
        world.run()
        broken = _faults(world, judge)
        if plan.hit != f"{region}, moment {at}: {moment}":
            broken.append(f"moment {at}, {moment}, was not reached: {plan.hit!r}")
        wrong += [f"{plan.hit}: {promise}" for promise in broken]
        trace = trace or (world.trace if broken else [])
    assert not wrong, "\n".join([*wrong, "the moments:", *counted.moments, "the first trace:", *trace[-80:]])
    return counted.moments


def _faults(world: InterruptedWorld, judge: Judge) -> list[str]:
    found = faults(world) + launches(world) + judge(world)
    if not world.done:
        found.append("the move did not come about")
    return found


def chain(world: InterruptedWorld) -> list[tuple[str, str]]:
    """Who won each epoch, and why."""
    return [(entry.region, entry.reason) for entry in world.lease.lineage]


def goes_on_in(world: InterruptedWorld, region: str) -> list[str]:
    """One holder in the end, and it commits under the newest epoch."""
    commits = [epoch for _, epoch, _ in world.regions[region].job.commits]
    found = [] if world.lease.holder == region else [f"{world.lease.holder} holds the run"]
    return found if commits and commits[-1] == world.lease.epoch else [*found, f"{region} commits nothing"]


def unrecorded(world: InterruptedWorld) -> list[str]:
    """I12: the copy of each epoch, the note of each change, and the epoch in the store of who won it."""
    found = []
    noted = {(one.epoch, one.reason) for one in world.witness.noted("gpt")}
    for entry in world.lease.lineage:
        if ("gpt", entry.epoch) not in world.witness.claims:
            found.append(f"I12: epoch {entry.epoch} was not claimed")
        if (entry.epoch, entry.reason) not in noted:
            found.append(f"I12: {entry.reason} of epoch {entry.epoch} is not in the history: {sorted(noted)}")
        if len(world.regions[entry.region].store.list("runs/gpt/epochs/")) < entry.epoch:
            found.append(f"I2: {entry.region} has not written epoch {entry.epoch} down")
    return found
