"""The real controllers in a simulated world: greenlets that give way before and after every port call.

Time, the witness, the link and the processes are simulated; `pipelines.flows.authority.controller.Controller` and what
it rests on are the ones that ship. Faults live here, `failover_judge.py` judges.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import greenlet

from pipelines.core.failover_decision import policy_of
from pipelines.core.failure_detector import Rhythm
from pipelines.core.heartbeats import NodeHeartbeats, RegionHeartbeats
from pipelines.core.lease import NEVER_S, Held
from pipelines.core.lease_profiles import LeaseProfile
from pipelines.errors import RetryableError, UnknownOutcomeError
from pipelines.flows.authority.controller import TURN_S, Controller
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.peer_epochs import PeerEpochs
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Lease
from services.adapters.memory.kafka import MemoryKafka
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer
from tests.fleet_signer import FleetSigner
from tests.simulation.claims import Claim
from tests.simulation.register_checker import READ, REFUSED, UNKNOWN, WROTE, Operation
from tests.simulation.simulated_job import SimulatedJob

PROFILE = LeaseProfile(name="simulated", lease_s=20.0, renew_s=4.0, poll_s=2.0, rho=0.01, margin_s=1.0)
RUN = "gpt"
REGIONS = ("east", "west")


def signer_in(folder: Path) -> Ed25519Signer:
    """One key for all regions, each of which signs in its own name."""
    return FleetSigner.in_folder(folder)


@dataclass
class World:
    """True time, who runs when, what is cut, and what each controller claimed."""

    seed: int
    signer: Ed25519Signer
    length_s: float = 400.0
    faults: bool = True
    east_dies_at_s: float | None = None
    drift: float = PROFILE.rho
    trains: bool = False  # with trainers, whose checkpoints reach the other region
    settle_s: float = 0.0
    objectives: dict[str, Any] = field(default_factory=dict)
    now_s: float = 0.0
    trace: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)  # by ETag

    def __post_init__(self) -> None:
        """Derive everything from the seed."""
        self.random = random.Random(self.seed)
        self.witness = MemoryLeaseStore()
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        self.regions = {name: Region(self, name, random.Random(self.random.random())) for name in REGIONS}

    def at(self, delay_s: float, act: Callable[[], object]) -> None:
        """Let something happen later, in an order that the seed alone decides."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._number, act))

    def version_of(self, etag: str | None) -> str | None:
        """Which write made the version that an ETag names."""
        return None if etag is None else self.versions.get(etag)

    def say(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.now_s:9.3f} {text}")

    def run(self) -> World:
        """Until the end of time."""
        for region in self.regions.values():
            region.begin()
        if self.east_dies_at_s is not None:
            self.at(self.east_dies_at_s, self.regions["east"].die)
        while self._queue and self.now_s < self.length_s:
            self.now_s, _, act = heapq.heappop(self._queue)
            act()
        for region in self.regions.values():
            region.close_claim()
        return self


class Region:
    """One region: its clock, its store, its controller process, and how it reaches the witness."""

    def __init__(self, world: World, name: str, generator: random.Random) -> None:
        self.world, self.name, self.random = world, name, generator
        self.rate = generator.choice([1 - world.drift, 1 + world.drift, 1.0])
        # A busy machine's loop turns less often than it would like to; some regions' do.
        self.slowness = generator.choice([1, 3, 5]) if world.faults else 1
        self.offset_s = generator.uniform(0, 1e6)
        self.store = MemoryObjectStore()
        self.kafka = MemoryKafka(name)
        self.dead = False
        self.cut_until_s = 0.0
        self.deaf_until_s = 0.0
        self.incarnations = 0
        self.writes = 0
        self.due_s = NEVER_S
        self.control: Controller | None = None
        self._actor: greenlet.greenlet | None = None
        self._ended: list[greenlet.greenlet] = []  # processes that were killed: they never go on
        self._claimed: tuple[float, float] | None = None
        self.job = SimulatedJob(self)

    # --- the ports ---

    def boottime_s(self) -> float:
        """Implements Clock: this region's own."""
        return self.offset_s + self.rate * self.world.now_s

    def wall_ms(self) -> int:
        """Implements Clock."""
        return int(self.world.now_s * 1000)

    def sleep(self, seconds: float) -> None:
        """Implements Clock: give way."""
        self.pause(seconds)

    def new_id(self) -> str:
        """Implements Entropy."""
        self.writes += 1
        return f"{self.writes:016x}{self.name:_>16}"  # incarnations keep the first half

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.world.say(f"{self.name} {event} {fields}")

    def publish(self, messages: Sequence[Message]) -> None:
        """Implements EventLog."""
        self.pause(self.random.uniform(0.001, 0.05))
        for message in messages:
            self.kafka.topic(message.topic).append(message)

    transaction = publish

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore over a link that may be cut."""
        invoked_s = self.world.now_s
        self._reach()
        held = self.world.witness.read(run)
        self._reach()
        self._saw(READ, None if held is None else held.lease.write_id, invoked_s)
        return held

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore: a write may be lost, land late, or win without an answer."""
        invoked_s, named = self.world.now_s, self.world.version_of(expected_etag)
        if self.control is not None and self.control._belief.releases:
            self.close_claim()  # from before a release is sent, whenever its answer comes
        asked = Operation(self.name, UNKNOWN, lease.write_id, invoked_s, invoked_s)
        self.world.operations.append(asked)
        fate = self.random.random() if self.world.faults else 1.0
        if self.world.now_s < self.cut_until_s or fate < 0.05:
            self.pause(1.0)
            raise UnknownOutcomeError("never arrived")
        if fate < 0.12:
            self.world.at(self.random.uniform(0, 60), lambda: self._land(lease, expected_etag))
            self.pause(1.0)
            raise UnknownOutcomeError("arrives late")
        self.pause(self.random.uniform(0.01, 0.3))
        etag = self._land(lease, expected_etag)
        self.pause(self.random.uniform(0.01, 0.3))
        if fate < 0.2:
            raise UnknownOutcomeError("the answer was lost")
        if etag is None:
            self._saw(REFUSED, named, invoked_s)
        else:
            self._saw(WROTE, lease.write_id, invoked_s)
        return etag

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Implements LeaseStore."""
        self._reach()
        return self.world.witness.claim(run, epoch, body)

    def claimed(self, run: str) -> int:
        """Implements LeaseStore."""
        self._reach()
        return self.world.witness.claimed(run)

    def note(self, lease: Lease) -> None:
        """Implements LeaseStore."""
        self._reach()
        self.world.witness.note(lease)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """Implements LeaseStore."""
        self._reach()
        return self.world.witness.noted(run)

    def _saw(self, kind: str, version: str | None, invoked_s: float) -> None:
        self.world.operations.append(Operation(self.name, kind, version, invoked_s, self.world.now_s))

    def _land(self, lease: Lease, expected: str | None) -> str | None:
        etag = self.world.witness.write(lease, expected)
        if etag is not None:
            self.world.versions[etag] = lease.write_id
            self.world.say(f"{self.name} wrote epoch {lease.epoch} renewal {lease.renew_seq} ({lease.reason})")
        return etag

    def _reach(self) -> None:
        self.pause(self.random.uniform(0.01, 0.3))
        if self.world.now_s < self.cut_until_s:
            raise RetryableError("the witness does not answer")

    # --- the process ---

    def begin(self) -> None:
        """Start a controller process: a new incarnation with nothing but what is durable."""
        self._actor = greenlet.greenlet(self._live)
        self._actor.switch()

    def restart(self) -> None:
        """The controller process is killed wherever it is, and another one begins."""
        self.world.say(f"{self.name} is restarted")
        self.close_claim()
        if self._actor is not None:
            self._ended.append(self._actor)
        self.begin()

    def die(self) -> None:
        """The region is lost, for good."""
        self.world.say(f"{self.name} dies")
        self.dead = True

    def pause(self, seconds: float) -> None:
        """Give way; a process may also stand still, wherever it is."""
        if self.world.faults and self.random.random() < 0.001:
            seconds += self.random.uniform(0, 60)
        actor = greenlet.getcurrent()
        self.world.at(seconds, lambda: None if self.dead or actor in self._ended else actor.switch())
        if actor.parent is not None:
            actor.parent.switch()

    def _live(self) -> None:
        self.incarnations += 1
        self.due_s = NEVER_S
        peer_states = {name: PeerState(region=name, run=RUN, clock=self) for name in REGIONS}
        self_evidence = SelfEvidence(
            region=self.name, log=self, store=self.store, codec=Codec(), clock=self, entropy=self
        )
        verifier = CheckpointVerifier(
            run=RUN,
            ports=VerifierPorts(
                store=self.store,
                pieces=self.store,
                signer=self.world.signer,
                codec=Codec(),
                clock=self,
                journal=self,
            ),
            tell=self.wake,
        )
        others = {name: self.world.regions[name].store for name in REGIONS if name != self.name}
        peer_epochs = PeerEpochs(others, [RUN], self)
        self.control = control = Controller(
            role=RunRole(
                run=RUN,
                region=self.name,
                first_region="east",
                candidate=True,
                policy=policy_of(PROFILE, settle_s=self.world.settle_s, **self.world.objectives),
            ),
            ports=ControllerPorts(
                leases=self,
                store=self.store,
                signer=self.world.signer,
                codec=Codec(),
                clock=self,
                entropy=self,
                journal=self,
            ),
            observers=Observers(
                peer_states=peer_states, self_evidence=self_evidence, verifier=verifier, peer_epochs=peer_epochs
            ),
            wake=self.wake,
        )
        while True:
            self._surroundings(peer_states, self_evidence)
            peer_epochs.turn()
            while verifier.turn() == 0.0:
                pass
            before = control._belief
            if self.boottime_s() >= self.due_s:
                self.due_s = math.inf  # a wake during the turn is for the next one
                rests_s = control.turn()
                self.due_s = min(self.due_s, self.boottime_s() + rests_s)
            self._sleep_and_claim(TURN_S, before)

    def wake(self) -> None:
        """Somebody has something for the controller."""
        self.due_s = NEVER_S

    def _surroundings(self, peer_states: dict[str, PeerState], self_evidence: SelfEvidence) -> None:
        """Probes answer; living regions are heard unless this one is deaf."""
        now_s = self.boottime_s()
        self_evidence.log_ack_at_s = self_evidence.store_put_at_s = now_s
        if self.world.faults and self.random.random() < 0.002:
            self.cut_until_s = self.world.now_s + self.random.uniform(0, 60)
        if self.world.faults and self.random.random() < 0.002:
            self.deaf_until_s = self.world.now_s + self.random.uniform(0, 80)
        peer_states[self.name].named = len(self.job.arrivals) + len(self.job.commits)
        for name, listener in peer_states.items():
            other = self.world.regions[name]
            if not other.dead and (name == self.name or self.world.now_s >= self.deaf_until_s):
                node = NodeHeartbeats(int(self.world.now_s), "train", 5.0, now_s, Rhythm(now_s))
                if self.world.trains:
                    node = NodeHeartbeats(other.job.step, other.job.phase, 5.0, now_s, Rhythm(now_s))
                    listener.readiness = other.job.readiness
                listener.pulse = RegionHeartbeats({"n0": node}, now_s, now_s)
        if self.world.trains:
            self.job.turn()

    def _sleep_and_claim(self, seconds: float, before: object) -> None:
        assert self.control is not None
        if self.control._belief is not before:
            self.close_claim()
        until_s = self.control._belief.valid_until_s(PROFILE)
        if self._claimed is None and until_s > self.boottime_s():
            self._claimed = (self.world.now_s, (until_s - self.offset_s) / self.rate)
        self.pause(seconds * self.slowness)

    def close_claim(self) -> None:
        """End the open claim now, unless its validity had ended before."""
        if self._claimed is not None:
            begin_s, end_s = self._claimed
            self.world.claims.append(Claim(self.name, begin_s, min(end_s, self.world.now_s)))
            self._claimed = None

    def grant(self, launch: str) -> Any:  # noqa: ANN401 - the controller's own answer
        """Ask as an agent does."""
        assert self.control is not None
        return self.control.grant(launch, -1)
