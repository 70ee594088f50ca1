"""Two living regions and nothing but noise between them: how often is a takeover tried, and is one ever false?

The shipped detectors, decision and controllers run, in greenlets that give way in every port call; a controller sleeps
until `step` wanted to be turned again, so an hour takes seconds. Heartbeats are worked out when somebody looks. Both
regions have a whole checkpoint and a ready pool, so nothing but detectors and lease holds a takeover back. `noise.py`
disturbs; what is counted here is judged by true time and the other side's belief.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import greenlet

from pipelines.core.failover_decision import policy_of
from pipelines.core.failure_detector import Rhythm
from pipelines.core.heartbeats import NodeHeartbeats, RegionHeartbeats
from pipelines.core.lease import Held
from pipelines.core.lease_profiles import DEFAULT
from pipelines.errors import RetryableError, UnknownOutcomeError
from pipelines.flows.authority.controller import Controller
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Heartbeat, Lease
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer
from tests.manifests import manifest_of
from tests.simulation.lease_checker import faults_of_history
from tests.simulation.noise import Noise, Spans

RUN, REGIONS, NODES = "gpt", ("east", "west"), ("n0", "n1")
STEP = 10  # of the checkpoint that both regions have
BEAT_S, BUDGET_S, TIMEOUT_S = 1.0, 60.0, 2.0
HOUR_S = 3600.0
CODEC = Codec()


@dataclass
class Counts:
    """The counts of one world; two worlds' counts add up.

    Attributes:
        false: promotions while the holder was valid, or had renewed within the lease; each a broken promise.
        lapsed: promotions of a living region over another that could not renew for a whole lease, unheard.
        tries: lease writes that name a new epoch, by how they ended.
        broken: what a checker of the history says, in words.
        events: the controllers' journal entries, by name and reason.
        patience_raised: how often a controller began to doubt its own ears.
        patience_most: how far that went.
        gaps: how often a holder's validity ended before its next write landed, and for how long in all.
    """

    hours: float = 0.0
    false: int = 0
    lapsed: int = 0
    tries: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    beats: int = 0
    patience_raised: int = 0
    patience_most: float = 1.0
    gaps: int = 0
    gaps_s: float = 0.0

    def add(self, other: Counts) -> None:
        """Both together."""
        for one in dataclasses.fields(self):
            name = one.name
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, theirs) if name == "patience_most" else mine + theirs)


class World:
    """True time, what is cut when, and what was counted.

    Args:
        seed: decides everything.
        rates: of the regions' clocks; by default each is right, or wrong by as much as the profile allows.
    """

    def __init__(
        self,
        seed: int,
        signer: Ed25519Signer,
        hours: float,
        noise: Noise | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.seed, self.signer, self.length_s = seed, signer, hours * HOUR_S
        self.noise, self.rates = noise or Noise(), rates or {}
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.counts = Counts(hours=hours)
        self.trace: list[str] = []
        self.witness = MemoryLeaseStore()
        self.landed_s = 0.0  # when the record was written last, whoever wrote
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        link = self.drawn("link")
        uplinks = {name: self.drawn("uplink") for name in REGIONS}
        both = link.with_all(*uplinks.values())
        self.regions = {name: Region(self, name, uplinks[name], both.with_all(self.drawn("deaf"))) for name in REGIONS}

    def drawn(self, kind: str) -> Spans:
        """One kind of noise over the whole length."""
        spans: Spans = getattr(self.noise, kind).drawn(self.random, self.length_s)
        return spans

    def at(self, when_s: float, act: Callable[[], object]) -> None:
        """Let something happen then."""
        self._number += 1
        heapq.heappush(self._queue, (when_s, self._number, act))

    def run(self) -> World:
        """Until the end of time."""
        for region in self.regions.values():
            region.begin()
        while self._queue and self._queue[0][0] < self.length_s:
            self.now_s, _, act = heapq.heappop(self._queue)
            act()
        self.counts.broken += faults_of_history(self.witness.history)
        return self

    def land(self, region: Region, lease: Lease, expected_etag: str | None, sent_s: float) -> str | None:
        """A conditional write reaches the witness."""
        before = self.witness.read(lease.run)
        etag = self.witness.write(lease, expected_etag)
        if etag is None:
            return None
        if before is not None and before.lease.holder != lease.holder:
            self._judge(lease, self.regions[before.lease.holder])
        elif before is not None and sent_s > region.valid_until_s:
            self.counts.gaps += 1
            self.counts.gaps_s += sent_s - region.valid_until_s
        self.landed_s = self.now_s
        region.valid_until_s = sent_s + DEFAULT.holder_validity_s / region.rate
        return etag

    def _judge(self, lease: Lease, holder: Region) -> None:
        """A promotion is false while the other side still trusts its lease, or renewed it within its length."""
        renewed_s = self.now_s - self.landed_s
        false = holder.trusts_its_lease or renewed_s < lease.lease_s
        self.counts.false += false
        self.counts.lapsed += not false
        note = f"{self.now_s:.3f} {lease.holder} took epoch {lease.epoch}, {renewed_s:.3f} s after the last write"
        self.trace.append(note)
        if false:
            self.counts.broken.append(f"seed {self.seed}: false promotion: {note}")


class Node:
    """One node of the other region, as its heartbeats come over the link, in order."""

    def __init__(self, name: str, run: str, region: str, noise: Noise, random: random.Random) -> None:
        self._noise, self._random = noise, random
        self.beat = Heartbeat(
            event_id=name,
            run=run,
            region=region,
            epoch=1,
            attempt=1,
            producer=name,
            seq=1,
            step=STEP,
            time_ms=0,
            node=name,
            phase="train",
            budget_s=BUDGET_S,
            last_seqs=(),
        )
        self._sent_s, self.arrives_s = random.uniform(0, BEAT_S), 0.0

    def send(self, stops: Spans, hiccups: Spans, path: Spans) -> None:
        """Work out when the next beat arrives: nothing overtakes, and what a cut holds up comes when it is over."""
        self._sent_s = stops.after(self._sent_s + BEAT_S)
        left_s = path.after(hiccups.after(self._sent_s))
        self.arrives_s = max(self.arrives_s, path.after(left_s + self._noise.delay(self._random)))


class Region:
    """One region: its clock, its controller's process, how it reaches the witness and what it hears."""

    def __init__(self, world: World, name: str, uplink: Spans, hears: Spans) -> None:
        self.world, self.name = world, name
        self.random = random.Random(world.random.random())
        self.rate = world.rates.get(name, self.random.choice([1 - DEFAULT.rho, 1.0, 1 + DEFAULT.rho]))
        self._offset_s = self.random.uniform(0, 1e6)
        self._stops, self.hiccups = world.drawn("controller_stops"), world.drawn("hiccups")
        self.node_stops = {node: world.drawn("node_stops") for node in NODES}
        self._witness_cut = uplink.with_all(world.drawn("witness"))
        self._hears = hears
        (self._other,) = (one for one in REGIONS if one != name)
        self._nodes = {node: Node(node, RUN, self._other, world.noise, self.random) for node in NODES}
        self.valid_until_s = 0.0  # true time, by its last write that landed
        self._writes, self._launches = 0, 1
        self._patience = 1.0
        self.store = MemoryObjectStore()
        own = CheckpointId(RUN, 1, 1, STEP)
        manifest = CODEC.encode(manifest_of(own, lineage_seq=1, shards=(), rank_states=()))
        self.store.create(own.manifest, world.signer.sign(manifest))
        port: Any = self
        self._peer_states = {one: PeerState(region=one, run=RUN, clock=port) for one in REGIONS}
        self._self_evidence = SelfEvidence(
            region=name, log=port, store=self.store, codec=CODEC, clock=port, entropy=port
        )
        self.verifier = CheckpointVerifier(
            run=RUN,
            ports=VerifierPorts(
                store=self.store,
                pieces=self.store,
                signer=world.signer,
                codec=CODEC,
                clock=port,
                journal=port,
            ),
        )
        self.control = Controller(
            role=RunRole(run=RUN, region=name, first_region="east", candidate=True, policy=policy_of(DEFAULT)),
            ports=ControllerPorts(
                leases=port,
                store=self.store,
                signer=world.signer,
                codec=CODEC,
                clock=port,
                entropy=port,
                journal=port,
            ),
            observers=Observers(
                peer_states=self._peer_states, self_evidence=self._self_evidence, verifier=self.verifier
            ),
        )

    @property
    def trusts_its_lease(self) -> bool:
        """Its controller's belief at this moment, on its own clock."""
        return self.control._belief.valid_until_s(DEFAULT) > self.boottime_s()

    # --- the ports ---

    def boottime_s(self) -> float:
        """Implements Clock: this region's own."""
        return self._offset_s + self.rate * self.world.now_s

    def wall_ms(self) -> int:
        """Implements Clock."""
        return int(self.world.now_s * 1000)

    def sleep(self, seconds: float) -> None:
        """Implements Clock."""
        self._pause(seconds)

    def new_id(self) -> str:
        """Implements Entropy."""
        self._writes += 1
        return f"{self._writes:016x}{self.name:_>16}"

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        detail_fields = {"failover.alarm": "reason", "failover.decided": "reason", "failover.diagnosed": "trouble"}
        name = f"{event} {fields[detail_fields[event]]}" if event in detail_fields else event
        self.world.counts.events[name] += 1

    def publish(self, messages: Sequence[Message]) -> None:
        """Implements EventLog; what is said there is not listened to here."""

    transaction = publish

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore."""
        self._round_trip("read")
        held = self.world.witness.read(run)
        self._answer("read")
        return held

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Implements LeaseStore."""
        self._round_trip("claim")
        return self.world.witness.claim(run, epoch, body)

    def claimed(self, run: str) -> int:
        """Implements LeaseStore."""
        self._round_trip("claimed")
        return self.world.witness.claimed(run)

    def note(self, lease: Lease) -> None:
        """Implements LeaseStore."""
        self._round_trip("note")
        self.world.witness.note(lease)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """Implements LeaseStore."""
        return self.world.witness.noted(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore: a write may be lost, land late, or win without an answer."""
        world, sent_s = self.world, self.world.now_s
        seen = self.control._belief.held
        tries = seen is not None and lease.epoch > seen.lease.epoch
        world.counts.requests["write"] += 1
        there_s, back_s = world.noise.delay(self.random), world.noise.delay(self.random)
        if sent_s in self._witness_cut or there_s > TIMEOUT_S:
            if self.random.random() < world.noise.late:
                late_s = self._witness_cut.after(sent_s) + there_s
                world.at(late_s, partial(world.land, self, lease, expected_etag, sent_s))
            world.counts.tries["unanswered"] += tries
            self._fails("write", TIMEOUT_S, UnknownOutcomeError("no answer"))
        self._pause(there_s)
        etag = world.land(self, lease, expected_etag, sent_s)
        world.counts.tries["unanswered" if back_s > TIMEOUT_S else "refused" if etag is None else "won"] += tries
        if back_s > TIMEOUT_S or world.now_s in self._witness_cut:
            self._fails("write", TIMEOUT_S, UnknownOutcomeError("the answer was lost"))
        self._pause(back_s)
        return etag

    def _round_trip(self, kind: str) -> None:
        self.world.counts.requests[kind] += 1
        delay_s = self.world.noise.delay(self.random)
        if delay_s > TIMEOUT_S or self.world.now_s in self._witness_cut:
            self._fails(kind, TIMEOUT_S, RetryableError("the witness does not answer"))
        self._pause(delay_s)

    def _answer(self, kind: str) -> None:
        delay_s = self.world.noise.delay(self.random)
        if delay_s > TIMEOUT_S or self.world.now_s in self._witness_cut:
            self._fails(kind, TIMEOUT_S, RetryableError("the witness's answer does not come"))
        self._pause(delay_s)

    def _fails(self, kind: str, after_s: float, error: RetryableError) -> None:
        self.world.counts.requests[f"{kind} failed"] += 1
        self._pause(after_s)
        raise error

    # --- the process ---

    def begin(self) -> None:
        """Start the controller's process."""
        greenlet.greenlet(self._live).switch()

    def _live(self) -> None:
        while True:
            self._take_in()
            self._hear_ourselves()
            reply = self.control.grant(f"{self.name}-{self._launches}", STEP)
            self._launches += reply.state == "superseded"
            rests_s = self.control.turn()
            while self.verifier.turn() == 0.0:
                pass
            self.world.counts.turns += 1
            patience = self.control._detectors._trust.patience
            self.world.counts.patience_raised += patience > self._patience
            self.world.counts.patience_most = max(patience, self.world.counts.patience_most)
            self._patience = patience
            self._pause(rests_s / self.rate)

    def _pause(self, seconds: float) -> None:
        """Give way until then; a process that stands still goes on when it may."""
        actor = greenlet.getcurrent()
        self.world.at(self._stops.after(self.world.now_s + seconds), actor.switch)
        if actor.parent is not None:
            actor.parent.switch()
        self._take_in()

    def _take_in(self) -> None:
        """Do the work of the controller's other threads until now: hear heartbeats, probe."""
        now_s, other = self.world.now_s, self.world.regions[self._other]
        listener = self._peer_states[self._other]
        for name, node in self._nodes.items():
            while node.arrives_s <= now_s:
                if node.arrives_s > 0:
                    listener.heard(node.beat, self._own_s(self._stops.after(node.arrives_s)))
                    self.world.counts.beats += 1
                node.send(other.node_stops[name], other.hiccups, self._hears)
        well_s = self.hiccups.before(now_s)
        self._self_evidence.log_ack_at_s = self._self_evidence.store_put_at_s = self._own_s(well_s)
        self._self_evidence.trouble = "" if well_s == now_s else "our own Kafka and store do not answer"

    def _hear_ourselves(self) -> None:
        """Our own region's nodes; they count for half a minute, so once a turn is often enough."""
        now_s = self.world.now_s
        well_s = self._own_s(self.hiccups.before(now_s))
        beaten_s = {name: self._own_s(self.hiccups.before(self.node_stops[name].before(now_s))) for name in NODES}
        nodes = {name: NodeHeartbeats(STEP, "train", BUDGET_S, at_s, Rhythm(at_s)) for name, at_s in beaten_s.items()}
        self._peer_states[self.name].pulse = RegionHeartbeats(nodes, max(beaten_s.values()), well_s)

    def _own_s(self, true_s: float) -> float:
        return self._offset_s + self.rate * true_s
