"""The replicator's flow on fakes: what becomes visible when, and what never does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.lineage import LineageView
from pipelines.core.manifests import objects
from pipelines.core.retention import SWEPT
from pipelines.errors import FencedError, RetryableError, UnknownOutcomeError
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.log.log_reader import SILENCE_S, scan
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import TURN_S, LaneReplicator
from pipelines.flows.replication.record_judge import LINEAGE_AGE_S
from pipelines.flows.retention.pins import pin
from pipelines.paths import CheckpointId
from pipelines.ports import Clock, EventLog, EventSource, Fetched, Message
from schemas import codec
from schemas.codec import Codec, digest
from schemas.records import Abandoned, Checkpoint, DataVersion, DeadLetter, Manifest, Metric, MetricBatch
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemClock
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of
from tests.manual_clock import ManualClock
from tests.tripwire import Crash, Tripwire

CODEC = Codec()
ONE_EPOCH = lineage_of((1, 0, -1))
FORKED_AT_20 = lineage_of((1, 0, -1), (2, 1, 20))
ID = "farside-replicator-west-east-checkpoints"


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path, "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


@dataclasses.dataclass
class _World:
    """East and west, and the replicator in west."""

    signer: Ed25519Signer
    east: MemoryKafka = dataclasses.field(default_factory=lambda: MemoryKafka("east"))
    west: MemoryKafka = dataclasses.field(default_factory=lambda: MemoryKafka("west"))
    east_store: MemoryObjectStore = dataclasses.field(default_factory=MemoryObjectStore)
    west_store: MemoryObjectStore = dataclasses.field(default_factory=MemoryObjectStore)
    view: LineageView | None = ONE_EPOCH
    said: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
    per_turn: int = 1_000

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.said.append((event, fields))

    def replicator(
        self,
        wire: Tripwire | None = None,
        lane: str = "checkpoints",
        *,
        source: EventSource | None = None,
        log: EventLog | None = None,
        lineage: Callable[[str], LineageView | None] | None = None,
        clock: Clock | None = None,
    ) -> LaneReplicator:
        """A fresh process, with ports of the test's own where it gives any."""
        wire = wire or Tripwire()
        transfers = MemoryTransfers({"east": self.east_store}, self.west_store, self.per_turn)
        return LaneReplicator(
            PeerLane("east", lane),
            LanePorts(
                peer_source=wire.before(source or MemorySource(self.east)),
                own_source=wire.before(MemorySource(self.west)),
                log=wire.before(log or MemoryLog(self.west, f"farside-replicator-west-east-{lane}")),
                store=wire.before(self.west_store),
                peer_store=wire.before(self.east_store),
                transfers=wire.before(transfers),
                lineage=lineage or (lambda _run: self.view),
                signer=self.signer,
                codec=Codec(),
                clock=clock or SystemClock(),
                journal=self,
                visible_source=wire.before(MemorySource(self.west)),
                replay_source=wire.before(MemorySource(self.east)),
            ),
            runs=("gpt",),
        )

    def commit(
        self,
        step: int,
        seq: int,
        epoch: int = 1,
        spoil: Callable[[str, bytes], bytes | None] | None = None,
        outcome: str = "committed",
    ) -> Checkpoint:
        """A checkpoint as east's agent leaves it; `spoil` may change or remove an object."""
        own = CheckpointId("gpt", epoch, 1, step)
        chunk, state = f"chunk {step}".encode(), f"rng {step}".encode()
        manifest = manifest_of(own, lineage_seq=seq, shards=(shard_of(0, chunk),), rank_states=(state_of(0, state),))
        payload = CODEC.encode(manifest)
        bodies = {own.chunk(0, 0): chunk, own.rank_state(0): state, own.manifest: self.signer.sign(payload)}
        for key, body in bodies.items():
            kept = body if spoil is None else spoil(key, body)
            if kept is not None:
                self.east_store.create(key, kept)
        event = Checkpoint(
            event_id=f"gpt/{epoch}/r0/checkpoints/{seq}",
            run="gpt",
            region="east",
            epoch=epoch,
            attempt=1,
            producer="r0",
            seq=seq,
            step=step,
            time_ms=0,
            state=outcome,
            manifest_key=own.manifest,
            manifest_digest=digest(payload),
            lineage_seq=seq,
            size_bytes=len(chunk) + len(state),
            reason="",
        )
        self.send(event)
        return event

    def send(self, event: Checkpoint | DataVersion | Metric | MetricBatch) -> None:
        """Publish an event in east."""
        value = CODEC.encode(event)
        MemoryLog(self.east).publish([Message(paths.topic(event.lane), b"gpt", value, headers_of(event, "test"))])

    def visible(self, lane: str = "checkpoints") -> list[Any]:
        """The events in west's log."""
        topic = self.west.topic(paths.topic(lane))
        return [CODEC.decode(item.value) for item in topic if item is not None]

    def dead(self) -> list[DeadLetter]:
        """The dead letters in west's log."""
        topic = self.west.topic(paths.DEAD_LETTERS)
        return [CODEC.decode_as(DeadLetter, item.value) for item in topic if item is not None]

    def judge(self) -> None:
        """I13: whatever is visible as committed has every byte that it names here, verified."""
        for event in self.visible():
            if event.state not in {"committed", "branch"}:
                continue
            manifest = CODEC.decode_as(Manifest, self.signer.verify(self.west_store.objects[event.manifest_key]))
            for named in objects(manifest):
                assert digest(self.west_store.objects[named.key]) == named.sha256


def _turn(world: _World, replicator: LaneReplicator, turns: int = 8) -> None:
    for _ in range(turns):
        replicator.turn()
        world.judge()


def _metric(seq: int, step: int) -> Metric:
    return Metric(
        event_id=f"m{seq}",
        run="gpt",
        region="east",
        epoch=1,
        attempt=1,
        producer="r0",
        seq=seq,
        step=step,
        time_ms=0,
        values={"loss": 1.0},
    )


def test_I13_an_event_is_visible_only_after_its_bytes_are_verified_here(signer: Ed25519Signer) -> None:
    """Object by object: as long as one is missing there is neither a manifest nor an event."""
    world = _World(signer, per_turn=1)
    event = world.commit(10, 1)
    replicator = world.replicator()
    seen = []
    for _ in range(8):
        replicator.turn()
        world.judge()
        seen.append((len(world.west_store.objects), len(world.visible())))
    assert (1, 0) in seen, "half a copy, and nothing visible"
    assert world.visible() == [event]
    assert replicator.status().backlog == 0


def test_I15_a_crash_at_any_port_call_loses_nothing_and_doubles_nothing(signer: Ed25519Signer) -> None:
    """The process dies before and after every single call, is started again, and the result is the same."""
    at, crashes = 1, 0
    while True:
        world = _World(signer, per_turn=2)
        events = [world.commit(10, 1), world.commit(20, 2)]
        wire = Tripwire(at)
        try:
            _turn(world, world.replicator(wire), 10)
            crashed = False
        except Crash:
            crashed = True
        world.judge()
        _turn(world, world.replicator(), 10)
        assert world.visible() in (events, [_gave_way(events[0]), events[1]]), f"died at {at}"
        assert world.dead() == []
        if not crashed:
            break
        at, crashes = at + 1, crashes + 1
    assert crashes > 40, "every port call is a moment to die at"


def _gave_way(event: Checkpoint) -> Checkpoint:
    return dataclasses.replace(event, state="superseded", reason="step 20 can be complete sooner")


def test_I15_what_was_published_twice_is_visible_once(signer: Ed25519Signer) -> None:
    """An agent that crashed publishes again under the same identity."""
    world = _World(signer)
    for seq, step in [(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)]:
        world.send(_metric(seq, step))
    replicator = world.replicator(lane="metrics")
    _turn(world, replicator)
    assert [event.seq for event in world.visible("metrics")] == [1, 2, 3]


def test_I14_a_hole_in_the_numbers_is_noticed(signer: Ed25519Signer) -> None:
    """The event is taken, and what is missing before it is said."""
    world = _World(signer)
    world.send(_metric(1, 1))
    world.send(_metric(4, 4))
    _turn(world, world.replicator(lane="metrics"))
    assert [event.seq for event in world.visible("metrics")] == [1, 4]
    (reported,) = [fields for name, fields in world.said if name == "replicate.alarm"]
    assert (reported["kind"], reported["run"], reported["producer"], reported["ranges"]) == (
        "hole",
        "gpt",
        "r0",
        [[2, 3]],
    )


@pytest.mark.parametrize(
    ("what", "spoil", "detail"),
    [
        ("chunk gone", lambda key, body: None if "chunk" in key else body, "is not in the store"),
        ("chunk truncated", lambda key, body: body[:-1] if "chunk" in key else body, "7 bytes, its manifest names 8"),
        (
            "state changed",
            lambda key, body: b"x" * len(body) if "state" in key else body,
            "has SHA-256",
        ),
        ("manifest gone", lambda key, body: None if "manifest" in key else body, "is not in the store"),
        ("manifest unsigned", lambda key, body: b"x" if "manifest" in key else body, "not a signed record"),
    ],
)
def test_a_checkpoint_that_is_not_what_its_event_says_is_a_dead_letter_and_the_next_goes_on(
    signer: Ed25519Signer, what: str, spoil: Callable[[str, bytes], bytes | None], detail: str
) -> None:
    """Bytes and reason are kept, its number is taken, and the flow goes on."""
    world = _World(signer)
    bad = world.commit(10, 1, spoil=spoil)
    replicator = world.replicator()
    _turn(world, replicator)
    good = world.commit(20, 2)
    _turn(world, replicator)
    assert world.visible() == [good], what
    (letter,) = world.dead()
    assert (letter.reason, letter.value) == ("corrupt", CODEC.encode(bad))
    assert detail in letter.detail
    assert not any(name == "replicate.alarm" for name, _ in world.said)


def test_a_manifest_of_another_signer_or_outside_its_prefix_is_a_dead_letter(
    signer: Ed25519Signer, tmp_path: Path
) -> None:
    """Neither a stranger's signature nor a key that is not its own is followed."""
    (tmp_path / "stranger").mkdir()
    private, public = generate_keypair(tmp_path / "stranger", "mallory")
    stranger = Ed25519Signer(key_id="mallory", private_key_path=private, trusted={"mallory": public})
    world = _World(signer)

    def forge(key: str, body: bytes) -> bytes:
        return stranger.sign(signer.verify(body)) if key.endswith("manifest") else body

    world.commit(10, 1, spoil=forge)
    _turn(world, world.replicator())
    event = world.commit(20, 2)
    world.send(dataclasses.replace(event, seq=3, manifest_key="runs/gpt/../secrets/manifest"))
    world.send(dataclasses.replace(event, seq=4, step=21))
    _turn(world, world.replicator())
    assert world.visible() == [event]
    assert len(world.dead()) == 3
    assert "not trusted" in world.dead()[0].detail
    assert "prefix" in world.dead()[1].detail
    assert "prefix" in world.dead()[2].detail


def test_an_undecodable_value_fills_its_number_and_goes_to_the_dead_letters(signer: Ed25519Signer) -> None:
    """By its headers: no hole is reported after it."""
    world = _World(signer)
    torn = CODEC.encode(_metric(1, 1))[:-2]
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", torn, headers_of(_metric(1, 1), "metric"))])
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", b"\xff\x00", ())])
    world.send(_metric(2, 2))
    _turn(world, world.replicator(lane="metrics"))
    assert [event.seq for event in world.visible("metrics")] == [2]
    assert [letter.value for letter in world.dead()] == [torn, b"\xff\x00"]
    assert not any(name == "replicate.alarm" for name, _ in world.said)


def test_an_unknown_schema_waits_until_it_can_be_fetched(signer: Ed25519Signer) -> None:
    """Regions upgrade at different times: no dead letter; other runs go on meanwhile."""
    world = _World(signer)
    value = bytearray(CODEC.encode(_metric(1, 1)))
    text = '{"type": "record", "name": "Metric", "namespace": "farside", "fields": [{"name": "x", "type": "int"}]}'
    value[2:10] = bytes.fromhex(codec._fingerprint_of(text))
    MemoryLog(world.east).publish([Message(paths.METRICS, b"other", bytes(value), ())])
    world.send(_metric(1, 1))
    replicator = world.replicator(lane="metrics")
    _turn(world, replicator)
    assert [event.run for event in world.visible("metrics")] == ["gpt"]
    waits = replicator.status().waits
    assert isinstance(waits, dict)
    assert "unknown schema" in waits["other"]
    assert world.dead() == []
    restarted = world.replicator(lane="metrics")
    world.east_store.create(paths.schema(bytes(value[2:10]).hex()), text.encode())
    _turn(world, restarted)
    assert len(world.dead()) == 1, "now it is read, and turns out to be no metric of ours"
    assert [event.run for event in world.visible("metrics")] == ["gpt"], "the one beyond it was not published again"


def test_I5_past_the_fork_is_a_branch_and_at_or_before_it_comes_late(signer: Ed25519Signer) -> None:
    """A region that comes back: its tail up to the fork arrives, marked late; the rest is set aside with its bytes."""
    world = _World(signer, view=FORKED_AT_20)
    world.commit(10, 1)
    beyond = world.commit(30, 2)
    _turn(world, world.replicator())
    assert [event.step for event in world.visible()] == [10]
    (message,) = [item for item in world.west.topic(paths.CHECKPOINTS) if item is not None]
    assert ("farside_late", b"1") in message.headers
    (letter,) = world.dead()
    assert (letter.reason, letter.value) == ("branch", CODEC.encode(beyond))
    assert not any("s0000000030" in key for key in world.west_store.objects)


def test_I13_a_branch_of_which_its_own_region_knows_first_waits_for_the_epoch_that_made_it_one(
    signer: Ed25519Signer,
) -> None:
    """East was told of epoch 2, west cannot reach the witness: nothing is visible, and later it is set aside."""
    world = _World(signer)
    beyond = world.commit(30, 1, outcome="branch")
    replicator = world.replicator()
    _turn(world, replicator)
    assert world.visible() == []
    assert world.west_store.objects == {}
    world.view = FORKED_AT_20
    _turn(world, replicator)
    assert world.visible() == []
    (letter,) = world.dead()
    assert (letter.reason, letter.value) == ("branch", CODEC.encode(beyond))


def test_I13_a_branch_that_was_adopted_is_visible_once_its_bytes_are_here(signer: Ed25519Signer) -> None:
    """A replay after the adoption: it lies on the lineage, so it is copied like any other."""
    world = _World(signer, view=lineage_of((1, 0, -1), (2, 1, 20), (3, 1, 30)), per_turn=1)
    event = world.commit(30, 1, outcome="branch")
    _turn(world, world.replicator())
    assert world.visible() == [event]
    assert event.manifest_key in world.west_store.objects


def test_I5_an_epoch_that_is_not_known_yet_waits(signer: Ed25519Signer) -> None:
    """In whatever order things arrive: the event may be here before the lease record was read."""
    world = _World(signer, view=None)
    event = world.commit(10, 1)
    replicator = world.replicator()
    _turn(world, replicator)
    assert world.visible() == []
    world.view = ONE_EPOCH
    _turn(world, replicator)
    assert world.visible() == [event]


def test_newest_wins_and_the_older_one_says_so_under_its_own_number(signer: Ed25519Signer) -> None:
    """Nothing of the older was moved yet, so the newer one is sooner complete."""
    world = _World(signer, per_turn=1)
    older = world.commit(10, 1)
    newer = world.commit(20, 2)
    _turn(world, world.replicator())
    assert world.visible() == [_gave_way(older), newer]


def test_a_pinned_copy_does_not_give_way(signer: Ed25519Signer) -> None:
    """The link is slower than the run: a person wants that one, and gets both."""
    world = _World(signer)
    events = [world.commit(10, 1), world.commit(20, 2)]
    pin(world.west_store, CheckpointId("gpt", 1, 1, 10), {"actor": "ops"})
    _turn(world, world.replicator())
    assert world.visible() == events


def test_nothing_gives_way_to_a_newer_checkpoint_that_cannot_be_trusted(signer: Ed25519Signer) -> None:
    """The older one is the newest good one: it is copied, and the newer becomes a dead letter."""
    world = _World(signer)
    older = world.commit(10, 1)
    world.commit(20, 2, spoil=lambda key, body: b"x" if "manifest" in key else body)
    _turn(world, world.replicator())
    assert world.visible() == [older]
    assert [letter.reason for letter in world.dead()] == ["corrupt"]


def test_a_second_replicator_fences_the_first(signer: Ed25519Signer) -> None:
    """One that wakes up late cannot publish (6.2)."""
    world = _World(signer)
    seen = world.commit(10, 1)
    first = world.replicator()
    _turn(world, first)
    _turn(world, world.replicator(), 2)
    world.commit(20, 2)
    with pytest.raises(FencedError):
        _turn(world, first)
    assert world.visible() == [seen]


def test_I4_an_unanswered_commit_is_settled_by_reading_the_ledger(signer: Ed25519Signer) -> None:
    """It had happened: nothing is published twice."""
    world = _World(signer)

    class Unanswered(MemoryLog):
        lost = False

        def transaction(self, messages: Sequence[Message]) -> None:
            super().transaction(messages)
            if messages and not self.lost:
                self.lost = True
                raise UnknownOutcomeError("no answer")

    log = Unanswered(world.west, ID)
    replicator = world.replicator(log=log)
    event = world.commit(10, 1)
    _turn(world, replicator)
    assert world.visible() == [event]


def test_a_topic_made_anew_is_said_and_read_from_its_beginning(signer: Ed25519Signer) -> None:
    """6.8: the identity of a place includes the topic's id."""
    world = _World(signer)
    world.commit(10, 1)
    _turn(world, world.replicator())
    world.east.create_again(paths.CHECKPOINTS)
    event = world.commit(20, 2)
    _turn(world, world.replicator())
    assert world.visible()[-1] == event
    (reported,) = [fields for name, fields in world.said if name == "replicate.alarm"]
    assert (reported["kind"], reported["state"], reported["peer"], reported["lane"]) == (
        "topic_anew",
        "open",
        "east",
        "checkpoints",
    )


def test_I6_another_ones_manifest_under_the_same_key_is_never_overwritten(signer: Ed25519Signer) -> None:
    """The manifest that is here stays as it is; the event that names other bytes becomes a dead letter."""
    world = _World(signer)
    key = CheckpointId("gpt", 1, 1, 10).manifest
    world.west_store.create(key, b"somebody else's")
    world.commit(10, 1)
    _turn(world, world.replicator())
    assert world.west_store.objects[key] == b"somebody else's"
    assert world.visible() == []
    assert "I6" in world.dead()[0].detail


def test_a_copy_that_comes_after_a_sweep_says_so_under_its_own_number(signer: Ed25519Signer) -> None:
    """Its manifest's key is taken for good: no manifest ever stands over chunks that are gone, and the next goes on."""
    world = _World(signer)
    first = world.commit(10, 1)
    replicator = world.replicator()
    own = CheckpointId("gpt", 1, 1, 10)
    gone = Abandoned(
        run="gpt", epoch=1, attempt=1, step=10, parent_digest="", lineage_seq=1, reason=f"{SWEPT}an upload"
    )
    world.west_store.create(own.manifest, signer.sign(CODEC.encode(gone)))
    _turn(world, replicator)
    second = world.commit(20, 2)
    _turn(world, replicator)
    superseded = dataclasses.replace(first, state="superseded", reason="it was given up and swept here")
    assert world.visible() == [superseded, second]
    assert world.dead() == []


def test_what_was_lost_while_a_long_copy_went_on_is_copied_again_before_its_manifest(signer: Ed25519Signer) -> None:
    """6.10: everything is looked for once more directly before the manifest, and nothing is visible without it."""
    world = _World(signer, per_turn=1)
    event = world.commit(10, 1)
    replicator = world.replicator()
    while not world.west_store.objects:
        replicator.turn()
    (first,) = world.west_store.objects
    world.west_store.delete(first)
    _turn(world, replicator)
    assert first in world.west_store.objects
    assert world.visible() == [event]


def test_the_lineage_is_looked_up_twice_a_turn_however_many_events_wait(signer: Ed25519Signer) -> None:
    """Once to sort them, and once more directly before the transaction (6.2); here they are set aside."""
    world = _World(signer, view=FORKED_AT_20)
    for number in range(21, 71):
        world.send(_metric(number - 20, number))
    asked: list[str] = []

    def lineage(run: str) -> LineageView | None:
        asked.append(run)
        return world.view

    world.replicator(lane="metrics", lineage=lineage, clock=ManualClock()).turn()
    assert len(world.dead()) == 50
    assert asked == ["gpt", "gpt"]


def test_metrics_are_published_by_a_lineage_of_at_most_a_second(signer: Ed25519Signer) -> None:
    """A thousand small transactions a second ask the store once; a fork counts a second later at the latest."""
    world, clock, asked = _World(signer), ManualClock(), 0

    def lineage(_run: str) -> LineageView | None:
        nonlocal asked
        asked += 1
        return world.view

    replicator = world.replicator(lane="metrics", lineage=lineage, clock=clock)
    for number in range(1, 11):
        world.send(_metric(number, 20 + number))
        assert replicator.turn() == 0.0
    assert (len(world.visible("metrics")), asked) == (10, 1)
    world.view = FORKED_AT_20
    clock.sleep(LINEAGE_AGE_S)
    world.send(_metric(11, 31))
    replicator.turn()
    assert len(world.visible("metrics")) == 10
    assert "past the fork" in world.dead()[0].detail


def test_I14_a_metric_is_not_set_aside_by_a_lineage_that_is_a_moment_old(signer: Ed25519Signer) -> None:
    """An epoch adopts the branch just when its events come: they count, and nobody would ask for a dead letter."""
    world, clock = _World(signer, view=FORKED_AT_20), ManualClock()
    replicator = world.replicator(lane="metrics", clock=clock)
    world.send(_metric(1, 10))
    replicator.turn()
    world.view = lineage_of((1, 0, -1), (2, 1, 20), (3, 1, 40), west=2)
    world.send(_metric(2, 30))
    while replicator.turn() == 0.0 or len(world.visible("metrics")) < 2:
        assert world.dead() == []


def test_an_idle_lane_waits_for_a_record_and_does_not_rest_besides(signer: Ed25519Signer) -> None:
    """A record that comes while a turn rests waits for the end of the rest: so what was waited for is no rest again."""
    world, clock = _World(signer), ManualClock()
    replicator = world.replicator(lane="metrics", source=_SlowSource(world.east, clock, 0), clock=clock)
    world.send(_metric(1, 1))
    replicator.turn()
    assert replicator.turn() == 0.0  # it has waited in the source
    assert world.replicator(lane="metrics", clock=clock).turn() == 0.0  # it has settled one
    assert world.replicator(lane="checkpoints", clock=clock).turn() == TURN_S  # it has not waited at all


class _SlowSource(MemorySource):
    """Each poll gives one record, and takes its time; or gives none at all."""

    def __init__(self, kafka: MemoryKafka, clock: ManualClock, most: int) -> None:
        super().__init__(kafka)
        self._clock, self._most = clock, most

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """As it says."""
        self._clock.sleep(20.0)
        return super().poll(timeout_s, min(most, self._most)) if self._most else ()


def test_a_long_log_is_read_to_its_end_however_long_that_takes() -> None:
    """A region must be able to restart after millions of events; what gives nothing for a minute is given up."""
    kafka, clock = MemoryKafka("east"), ManualClock()
    MemoryLog(kafka).publish([Message(paths.METRICS, b"gpt", b"%d" % at) for at in range(20)])
    read = list(scan(_SlowSource(kafka, clock, 1), [paths.METRICS], clock))
    assert len(read) == 20
    assert clock.now_s > 2 * SILENCE_S
    with pytest.raises(RetryableError, match="gave nothing for 60 s"):
        list(scan(_SlowSource(kafka, clock, 0), [paths.METRICS], clock))
