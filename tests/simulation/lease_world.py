"""A deterministic world for the lease: drifting clocks, pauses, lost replies and writes that land late.

The lease core (`pipelines.core.lease`) is driven as a controller drives it. Faults live here; what must hold is judged
in `lease_checker.py`, which sees only what landed at the witness and what each region believed, in true time.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from pipelines.core import lease as core
from pipelines.core.lease import Belief, Fork
from pipelines.core.lease_profiles import LeaseProfile
from schemas.records import Lease
from services.adapters.memory.lease_store import MemoryLeaseStore
from tests.simulation.claims import Claim

PROFILE = LeaseProfile(name="simulated", lease_s=60.0, renew_s=10.0, poll_s=5.0, rho=0.01, margin_s=1.0)
RUN = "gpt"
Turn = Generator[float, None, None]


@dataclass(frozen=True)
class Protocol:
    """The decisions that an actor asks of the core; a planted fault replaces one, to show that the checker sees it."""

    valid_until_s: Callable[[Belief], float] = lambda belief: belief.valid_until_s(PROFILE)
    may_try_at_s: Callable[[Belief], float] = lambda belief: belief.may_try_at_s(PROFILE)
    unanswered: Callable[[Belief, Lease, float], Belief] = lambda belief, _lease, _now_s: belief
    sent_at_s: Callable[[float, float], float] = lambda before_s, _after_s: before_s


@dataclass
class World:
    """True time, the witness, the actors and what they claimed."""

    seed: int
    drift: float = PROFILE.rho
    protocol: Protocol = field(default_factory=Protocol)
    length_s: float = 1_200.0
    faults: bool = True

    def __post_init__(self) -> None:
        """Derive everything from the seed."""
        self.random = random.Random(self.seed)
        self.witness = MemoryLeaseStore()
        self.now_s = 0.0
        self.claims: list[Claim] = []
        self.trace: list[str] = []
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0

    def at(self, delay_s: float, act: Callable[[], object]) -> None:
        """Let something happen later, in an order that the seed alone decides."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._number, act))

    def run(self, regions: tuple[str, ...] = ("east", "west")) -> None:
        """Until the end of time."""
        actors = [Actor(self, region, random.Random(self.random.random())) for region in regions]
        for actor in actors:
            self._go_on(actor, actor.live())
        while self._queue and self.now_s < self.length_s:
            self.now_s, _, act = heapq.heappop(self._queue)
            act()
        for actor in actors:
            actor.close_claim()

    def say(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.now_s:9.3f} {text}")

    def _go_on(self, actor: Actor, turn: Turn) -> None:
        delay_s = next(turn)
        if self.faults and actor.random.random() < 0.01:
            delay_s += actor.random.uniform(0, 150)  # the process is paused, wherever it stands
        self.at(delay_s, lambda: self._go_on(actor, turn))


class Actor:
    """One region's controller."""

    def __init__(self, world: World, region: str, generator: random.Random) -> None:
        self.world = world
        self.region = region
        self.random = generator
        self.rate = generator.choice([1 - world.drift, 1 + world.drift, 1.0])
        self.offset_s = generator.uniform(0, 1e6)
        self.belief = Belief(region=region, incarnation=f"{region}-1")
        self.writes = 0
        self.cut_until_s = 0.0
        self._claimed: tuple[float, float] | None = None

    def local_s(self) -> float:
        """This actor's clock."""
        return self.offset_s + self.rate * self.world.now_s

    def believe(self, belief: Belief) -> None:
        """Change the belief, and note for the checker from when to when it claims to be valid."""
        self.close_claim()
        self.belief = belief
        until_s = self.world.protocol.valid_until_s(belief)
        if until_s > self.local_s():
            self._claimed = (self.world.now_s, (until_s - self.offset_s) / self.rate)

    def close_claim(self) -> None:
        """The claim ends now, unless it had ended before."""
        if self._claimed is not None:
            begin_s, end_s = self._claimed
            self.world.claims.append(Claim(self.region, begin_s, min(end_s, self.world.now_s)))
            self._claimed = None

    def live(self) -> Turn:
        """Read, decide, write; for ever."""
        while True:
            yield self.random.uniform(0.05, 2.0)
            if self.world.faults and self.random.random() < 0.01:
                self.cut_until_s = self.world.now_s + self.random.uniform(0, 200)
            yield from self._read()
            lease = self._wanted()
            if lease is not None:
                yield from self._write(lease)

    def _cut(self) -> bool:
        return self.world.now_s < self.cut_until_s

    def _read(self) -> Turn:
        yield self._latency_s()
        held = self.world.witness.read(RUN)
        yield self._latency_s()
        if held is not None and not self._cut():
            self.believe(core.was_read(self.belief, held, self.local_s()))

    def _wanted(self) -> Lease | None:
        """The write that this actor would make now."""
        belief, now_s = self.belief, self.local_s()
        if belief.held is None:
            empty = self.world.witness.read(RUN) is None and self.region == "east"
            return core.first(RUN, self._author("created"), PROFILE) if empty else None
        if belief.gone_backwards:
            return None
        if belief.is_holder:
            due = now_s - belief.won_at_s >= PROFILE.renew_s
            return core.renewal(belief.held.lease, self._author("renewed"), 0) if due else None
        if belief.pending or now_s < self.world.protocol.may_try_at_s(belief):
            return None
        step = belief.held.lease.epoch * 10
        fork = Fork(step, f"digest-{self.region}-{self.writes}", step)
        return core.takeover(belief.held.lease, self._author("expired"), fork, PROFILE)

    def _write(self, lease: Lease) -> Turn:
        expected = None if self.belief.held is None else self.belief.held.etag
        before_s = self.local_s()
        self.writes += 1
        yield self._latency_s()
        fate = self.random.random() if self.world.faults else 1.0
        after_s = self.local_s()
        self.believe(core.sent(self.belief, lease, expected, self.world.protocol.sent_at_s(before_s, after_s)))
        if self._cut() or fate < 0.05:  # it never arrives
            return
        if fate < 0.15:  # it arrives late, and its answer never
            self.world.at(self.random.uniform(0, 120), lambda: self._land(lease, expected))
            self._unanswered(lease)
            return
        etag = self._land(lease, expected)
        yield self._latency_s()
        if fate < 0.25:  # it happened, and its answer is lost
            self._unanswered(lease)
            return
        self.believe(core.answered(self.belief, lease, etag, self.local_s()))

    def _unanswered(self, lease: Lease) -> None:
        self.believe(self.world.protocol.unanswered(self.belief, lease, self.local_s()))

    def _land(self, lease: Lease, expected: str | None) -> str | None:
        etag = self.world.witness.write(lease, expected)
        if etag is not None:
            self.world.say(f"{self.region} wrote epoch {lease.epoch} renewal {lease.renew_seq} ({lease.reason})")
        return etag

    def _latency_s(self) -> float:
        return self.random.uniform(0.01, 0.3)

    def _author(self, reason: str) -> core.Author:
        write_id = f"{self.region}-{self.writes}"
        return core.Author(self.region, self.belief.incarnation, write_id, reason, "controller", 0)


def believes_unanswered_writes(belief: Belief, lease: Lease, now_s: float) -> Belief:
    """A mutant: takes an unanswered write for a won one."""
    return core.answered(belief, lease, f'"{lease.write_id}"', now_s)
