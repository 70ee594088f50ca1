"""Stories of a replicator: one wakes up long after its work was given to another, one meets a newer writer."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from pipelines import paths
from pipelines.core.lineage import Standing, standing
from pipelines.core.manifests import objects
from pipelines.errors import FencedError, RetryableError
from pipelines.flows.agent.publisher import headers_of
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import MARKER, Codec, digest, schema_text
from schemas.records import Checkpoint, DataVersion, DeadLetter, Event, Manifest, Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of
from tests.manual_clock import ManualClock
from tests.manual_world import signer_in
from tests.stop_at_call import Moments, Stoppable, stop

CODEC = Codec()
ONE_EPOCH = lineage_of((1, 0, -1))
STEPS = (10, 20, 30)
TURNS = 12


class _FarStore(MemoryObjectStore):
    """A store behind a link that can be cut."""

    cut = False

    def get(self, key: str) -> bytes | None:
        """Implements ObjectStore."""
        if self.cut:
            raise RetryableError("the link is cut")
        return super().get(key)


class _World:
    """East publishes; replicators in west follow it."""

    def __init__(self, signer: Ed25519Signer) -> None:
        self.signer, self.clock = signer, ManualClock(1000.0)
        self.east, self.west = MemoryKafka("east"), MemoryKafka("west")
        self.east_store, self.west_store = _FarStore(), MemoryObjectStore()
        self.view = ONE_EPOCH
        self.fenced = False

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        del event, fields

    def start(self, lane: str, moments: Moments | None = None) -> LaneReplicator:
        """A replicator process with its region's transactional id for the lane."""
        moments = moments or Moments()
        transfers = MemoryTransfers({"east": self.east_store}, self.west_store, per_turn=2)
        return LaneReplicator(
            PeerLane("east", lane),
            LanePorts(
                peer_source=moments.of(MemorySource(self.east)),
                own_source=moments.of(MemorySource(self.west)),
                log=moments.of(MemoryLog(self.west, f"farside-replicator-west-east-{lane}")),
                store=moments.of(self.west_store),
                peer_store=moments.of(self.east_store),
                transfers=moments.of(transfers),
                lineage=lambda _run: self.view,
                signer=self.signer,
                codec=Codec(),
                clock=self.clock,
                journal=self,
            ),
        )

    def turn(self, flow: LaneReplicator) -> None:
        """As often as the whole work needs."""
        for _ in range(TURNS):
            flow.turn()
            self.clock.now_s += 1.0

    def send(self, event: Event, value: bytes = b"") -> None:
        """Publish an event in east."""
        topic, body = paths.topic(event.lane), value or CODEC.encode(event)
        MemoryLog(self.east).publish([Message(topic, event.run.encode(), body, headers_of(event, "test"))])

    def visible(self, lane: str) -> list[Any]:
        """The events in west's log."""
        codec = Codec()
        codec.learn(json.dumps(_newer_schema()))
        return [codec.decode(one.value) for one in self.west.topic(paths.topic(lane)) if one is not None]

    def dead(self) -> list[DeadLetter]:
        """The dead letters in west's log."""
        topic = self.west.topic(paths.DEAD_LETTERS)
        return [CODEC.decode_as(DeadLetter, one.value) for one in topic if one is not None]

    def commit(self, seq: int, step: int) -> None:
        """A checkpoint as east's agent leaves it."""
        own = CheckpointId("gpt", 1, 1, step)
        chunk, state = f"chunk {step}".encode(), f"rng {step}".encode()
        manifest = manifest_of(own, lineage_seq=seq, shards=(shard_of(0, chunk),), rank_states=(state_of(0, state),))
        payload = CODEC.encode(manifest)
        for key, body in ((own.chunk(0, 0), chunk), (own.rank_state(0), state)):
            self.east_store.create(key, body)
        self.east_store.create(own.manifest, self.signer.sign(payload))
        self.send(
            Checkpoint(
                **_identity("checkpoints", seq, step),
                state="committed",
                manifest_key=own.manifest,
                manifest_digest=digest(payload),
                lineage_seq=seq,
                size_bytes=len(chunk) + len(state),
                reason="",
            )
        )


def _identity(lane: str, seq: int, step: int, run: str = "gpt") -> dict[str, Any]:
    return {
        "event_id": f"{run}/1/r0/{lane}/{seq}",
        "run": run,
        "region": "east",
        "epoch": 1,
        "attempt": 1,
        "producer": "r0",
        "seq": seq,
        "step": step,
        "time_ms": 0,
    }


def _metric(seq: int, step: int, run: str = "gpt") -> Metric:
    return Metric(**_identity("metrics", seq, step, run), values={"loss": 1.0})


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """Nothing was published yet."""
    return _World(signer_in(tmp_path))


# --- the one that wakes up late ---


def _filled(signer: Ed25519Signer, lane: str) -> _World:
    world = _World(signer)
    for seq, step in enumerate(STEPS, start=1):
        if lane == "checkpoints":
            world.commit(seq, step)
        else:
            world.send(_metric(seq, step))
    return world


def _promote(world: _World) -> int:
    """West wins the next epoch from its recoverable step, or, where it has none, from step 10; the fork."""
    found = RecoverableFinder(world.west_store, world.signer, Codec()).newest("gpt", world.view)
    fork = 10 if found is None else found.manifest.step
    world.view = lineage_of((1, 0, -1), (2, 1, fork))
    return fork


def _wakes_up(signer: Ed25519Signer, lane: str, at: int, *, promoted_first: bool) -> tuple[_World, Moments]:
    """A replicator stops at one moment; another gets its work, its region is promoted, and then it goes on."""
    world, moments = _filled(signer, lane), Moments(at, stop)
    older = Stoppable(lambda: world.turn(flow))
    flow = world.start(lane, moments)
    older.turn()
    if not older.is_stopped:
        return world, moments
    fork = _promote(world) if promoted_first else 0
    newer = world.start(lane)
    world.turn(newer)
    fork = fork or _promote(world)
    before = (world.visible(lane), world.dead())
    try:
        older.thaw()
    except FencedError:
        world.fenced = True
    if "after transaction" in moments.seen:  # else it begins only now, so it is the newer one
        assert (world.visible(lane), world.dead()) == before, f"{moments.hit}: it published after it was superseded"
    assert not any(one.step > fork for one in world.visible(lane)[len(before[0]) :]), f"{moments.hit}: past the fork"
    return world, moments


def _once(world: _World, lane: str, what: str) -> None:
    """I13, I15: each event has one outcome in west, a visible one only with its bytes."""
    numbers = [one.seq for one in world.visible(lane)] + [one.offset + 1 for one in world.dead()]
    assert sorted(numbers) == [1, 2, 3], what
    assert {one.reason for one in world.dead()} <= {"branch"}, what
    for event in world.visible(lane):
        if isinstance(event, Checkpoint) and event.state == "committed":
            envelope = world.west_store.objects[event.manifest_key]
            for one in objects(CODEC.decode_as(Manifest, world.signer.verify(envelope))):
                assert digest(world.west_store.objects[one.key]) == one.sha256, what


@pytest.mark.parametrize("promoted_first", [False, True])
@pytest.mark.parametrize("lane", ["checkpoints", "metrics"])
def test_I5_I13_I15_a_replicator_that_wakes_up_after_its_work_was_given_away_publishes_nothing(
    tmp_path: Path, lane: str, promoted_first: bool
) -> None:
    """Stopped at any call; another has its transactional id and its region was promoted: it is fenced."""
    signer = signer_in(tmp_path)
    counted = _wakes_up(signer, lane, 0, promoted_first=promoted_first)[1].seen
    fenced = 0
    for at in range(1, len(counted) + 1):
        world, moments = _wakes_up(signer, lane, at, promoted_first=promoted_first)
        assert moments.hit == counted[at - 1], "each moment is really reached"
        fenced += world.fenced
        _once(world, lane, f"stopped {moments.hit}, moment {at}")
        newest = RecoverableFinder(world.west_store, signer, Codec()).newest("gpt", world.view)
        assert newest is None or standing(world.view, 1, newest.manifest.step) is Standing.CURRENT
    assert fenced > 10, "it finds out when it wants to publish"
    assert counted.count("before transaction") >= 2, "also between its last look at the lineage and its commit"
    assert len(counted) > 40, f"every call is two moments: {counted}"


# --- the newer writer ---


def _newer_schema() -> dict[str, Any]:
    """As a later version of ours may write a metric: one field more, with a default."""
    schema: dict[str, Any] = json.loads(schema_text(Metric))
    schema["fields"].append({"name": "unit", "type": "string", "default": ""})
    return schema


def _by_a_newer_writer(event: Metric) -> tuple[str, bytes]:
    """(the schema's fingerprint, the event's bytes)."""
    fingerprint = Codec().learn(json.dumps(_newer_schema()))
    out = io.BytesIO()
    plain = dataclasses.asdict(event) | {"unit": "nats"}
    fastavro.schemaless_writer(out, fastavro.parse_schema(_newer_schema()), plain)
    return fingerprint, MARKER + bytes.fromhex(fingerprint) + out.getvalue()


def _position(world: _World, topic: str) -> int:
    ledger = read_ledger(MemorySource(world.west), Codec(), world.clock)
    (found,) = [one.offset for one in ledger.positions.values() if one.topic == topic]
    return found


def _seqs(world: _World, lane: str, run: str = "gpt") -> list[int]:
    return [one.seq for one in world.visible(lane) if one.run == run]


def test_I13_I14_a_newer_writers_event_waits_for_its_schema_across_a_cut_link_and_nothing_else_does(
    world: _World,
) -> None:
    """No dead letter, and the position stays before it; other runs and lanes go on; then it comes, in order."""
    fingerprint, value = _by_a_newer_writer(_metric(2, 2))
    world.send(_metric(1, 1))
    world.send(_metric(2, 2), value)
    world.send(_metric(3, 3))
    world.send(_metric(1, 1, "other"))
    world.send(
        DataVersion(
            **_identity("data-versions", 1, 1), name="v1", digest="", shards=(), sampler="sequential", data_seed=0
        )
    )
    world.east_store.create(paths.schema(fingerprint), json.dumps(_newer_schema()).encode())
    world.east_store.cut = True
    metrics, data = world.start("metrics"), world.start("data-versions")
    for flow in (metrics, data):
        world.turn(flow)
    assert (_seqs(world, "metrics"), _seqs(world, "metrics", "other")) == ([1], [1])
    assert _seqs(world, "data-versions") == [1]
    assert _position(world, paths.METRICS) == 1, "it does not pass what waits"
    assert "the link is cut" in metrics.status().waits["gpt"]
    restarted = world.start("metrics")
    world.turn(restarted)
    assert (_seqs(world, "metrics"), _seqs(world, "metrics", "other")) == ([1], [1]), "nothing twice"
    world.east_store.cut = False
    world.turn(restarted)
    assert (_seqs(world, "metrics"), _seqs(world, "metrics", "other")) == ([1, 2, 3], [1])
    assert world.visible("metrics")[-2].values == {"loss": 1.0}
    assert world.dead() == []
    assert paths.schema(fingerprint) in world.west_store.objects, "kept here, for readers of this region"
    assert _position(world, paths.METRICS) == 4
