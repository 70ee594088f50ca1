"""The agent's flow on fakes: what is published, under which authority, and what waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.record_filter import facts_of_letter, identity_of
from pipelines.core.resume_mode import StartRequest
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.core.set_aside import MARK
from pipelines.errors import RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, StartFolders
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.log.writer_schemas import store_schemas
from pipelines.ports import Beat, GrantReply, Message
from schemas.codec import MARKER, Codec, digest, record_types
from schemas.records import Abandoned, Checkpoint, DeadLetter, Event, Heartbeat, Manifest, Metric
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.spool import MemorySpool
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemEntropy
from tests.manifests import INTENT, OWN, SHARD
from tests.manual_clock import ManualClock


class _World(ManualClock):
    """Implements EventLog, Grants, Journal and Clock by remembering: one agent's surroundings, with a spool."""

    def __init__(self) -> None:
        super().__init__(100.0)
        self.spool = MemorySpool("gpt")
        self.spool.wants("launch-1", StartRequest())
        self.spool.beat(Beat("gpt-r0", 10, "train", 60.0, 0, 1, 1, {"metrics": 7}))
        self.spool.save(OWN, 0, SHARD, b"rng")
        self.reply = GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, forks=((1, 0, -1),))
        self.messages: list[Message] = []
        self.away = False

    def say(self, event: str, **fields: object) -> None:
        del event, fields

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        del run, launch, node, committed_step, begins
        return self.reply

    def publish(self, messages: list[Message]) -> None:
        if self.away:
            raise RetryableError("Kafka is away")
        self.messages += messages

    @property
    def standings(self) -> list[dict[str, Any]]:
        """The standings that the launch was shown, in order."""
        return self.spool.told["launch-1"]

    @property
    def position(self) -> int:
        """Up to where everything is settled."""
        return self.spool.position("gpt", "gpt-r0")

    def accept(self, lane: str, kind: str, body: dict[str, Any], step: int = 10) -> None:
        """As if the trainer had appended a record."""
        self.spool.accept("gpt-r0", lane, kind, step, body)

    def events(self, kind: type[Event]) -> list[Any]:
        """The events of one kind that were published."""
        published = [message for message in self.messages if MARK not in dict(message.headers)]
        records = [Codec().decode(message.value) for message in published]
        return [event for event in records if isinstance(event, kind)]


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path, "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


def _agent(
    world: _World,
    store: MemoryObjectStore,
    signer: Ed25519Signer,
    locate: Callable[[str], str | None] = lambda _digest: None,
) -> Publisher:
    fake: Any = world
    return Publisher(
        AgentNode("east", "n0"),
        AgentPorts(
            spool=world.spool,
            store=store,
            log=fake,
            grants=fake,
            signer=signer,
            codec=Codec(),
            clock=fake,
            entropy=SystemEntropy(),
            journal=fake,
        ),
        folders=StartFolders(locate=locate),
    )


def _turn(world: _World, agent: Publisher, turns: int = 4) -> None:
    for _ in range(turns):
        agent.turn()
        world.now_s += 0.5


def test_a_checkpoint_is_committed_once_all_of_it_is_in_the_store(signer: Ed25519Signer) -> None:
    """Grant, metric, heartbeat, chunks, manifest, event: in the end the position stands behind them all."""
    world, store = _World(), MemoryObjectStore()
    world.accept("metrics", "metric", {"values": {"loss": "nan"}})
    world.accept("checkpoints", "intent", INTENT)
    agent = _agent(world, store, signer)
    _turn(world, agent)
    assert world.spool.granted["launch-1"]["epoch"] == 1
    assert [event.step for event in world.events(Metric)] == [10]
    (event,) = world.events(Checkpoint)
    assert (event.state, event.manifest_key, event.seq, event.lineage_seq) == ("committed", OWN.manifest, 1, 1)
    payload = signer.verify(store.objects[OWN.manifest])
    assert event.manifest_digest == digest(payload)
    manifest = Codec().decode_as(Manifest, payload)
    for named in manifests.objects(manifest):
        assert digest(store.objects[named.key]) == named.sha256
    beat = world.events(Heartbeat)[-1]
    assert (beat.step, beat.last_seqs[0].seq) == (10, 7)
    assert world.position == 100
    assert world.spool.released == [OWN]
    assert world.messages[0].topic in {paths.HEARTBEATS, paths.METRICS}


def test_the_trainer_is_told_what_is_committed_and_what_is_safe_elsewhere(signer: Ed25519Signer) -> None:
    """Also by an agent that has just been restarted and has committed nothing itself."""
    world, store = _World(), MemoryObjectStore()
    _turn(world, _agent(world, store, signer))
    assert (world.standings[-1]["committed_step"], world.standings[-1]["recoverable_step"]) == (None, None)
    world.reply = dataclasses.replace(world.reply, committed_step=40, recoverable_step=30)
    _turn(world, _agent(world, store, signer))
    assert (world.standings[-1]["committed_step"], world.standings[-1]["recoverable_step"]) == (40, 30)


def test_a_launch_elsewhere_is_told_that_it_does_not_go_on_bit_for_bit(signer: Ed25519Signer) -> None:
    """Its fingerprint differs from the one on the manifest it starts from; equal ones are exact."""
    store, world = MemoryObjectStore(), _World()
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, _agent(world, store, signer))
    assert world.spool.granted["launch-1"]["exact"] is True
    resumes = {}
    for machine in ("", "another"):
        resumed = _World()
        resumed.spool.wants("launch-1", StartRequest(fingerprint={"machine": machine} if machine else {}))
        start: dict[str, Any] = {"start_manifest_key": OWN.manifest, "start_manifest_digest": _digest_of(store, signer)}
        resumed.reply = dataclasses.replace(resumed.reply, attempt=2, start_step=10, **start)
        _turn(resumed, _agent(resumed, store, signer, locate=lambda _digest: "/arena/A"))
        resumes[machine] = resumed.spool.granted["launch-1"]
        store.objects = {key: body for key, body in store.objects.items() if "/starts/" not in key}
    assert (resumes[""]["mode"], resumes[""]["exact"]) == ("exact", True)
    assert (resumes["another"]["mode"], resumes["another"]["exact"]) == ("same_state", False)


def _digest_of(store: MemoryObjectStore, signer: Ed25519Signer) -> str:
    return digest(signer.verify(store.objects[OWN.manifest]))


def test_I7_a_start_is_the_manifest_that_the_controller_chose_or_nothing(signer: Ed25519Signer) -> None:
    """The grant names its digest; another one that lies under that key, signed by whomever, starts no trainer."""
    store, world = MemoryObjectStore(), _World()
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, _agent(world, store, signer))
    resumed = _World()
    resumed.spool.wants("launch-2", StartRequest())
    start: dict[str, Any] = {"start_manifest_key": OWN.manifest, "start_manifest_digest": digest(b"another")}
    resumed.reply = dataclasses.replace(resumed.reply, attempt=2, start_step=10, **start)
    _turn(resumed, _agent(resumed, store, signer, locate=lambda _digest: "/arena/A"))
    assert "launch-2" not in resumed.spool.granted


def test_I17_an_outcome_that_another_region_signed_is_never_reported_committed(
    signer: Ed25519Signer, tmp_path: Path
) -> None:
    """It lies at the very key, in this region's own store, with the bytes that the agent would have written."""
    private, public = generate_keypair(tmp_path, "west")
    trusted = {"east": tmp_path / "east.pub.pem", "west": public}
    west = Ed25519Signer(key_id="west", private_key_path=private, trusted=trusted)
    store, world = MemoryObjectStore(), _World()
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, _agent(world, store, signer))
    again = _World()
    store.objects[OWN.manifest] = west.sign(signer.verify(store.objects[OWN.manifest]))
    east = Ed25519Signer(key_id="east", private_key_path=tmp_path / "east.key.pem", trusted=trusted)
    again.accept("checkpoints", "intent", INTENT)
    _turn(again, _agent(again, store, east))
    assert [message for message in again.messages if message.topic == paths.CHECKPOINTS] == []


def test_every_writers_schema_is_in_the_store_before_its_first_use(signer: Ed25519Signer) -> None:
    """A reader of another version can then decode all that is published."""
    world, store = _World(), MemoryObjectStore()
    store_schemas(store)  # as every service does before its flows begin
    world.accept("metrics", "metric", {"values": {"loss": 1.0}})
    _turn(world, _agent(world, store, signer))
    assert {paths.schema(message.value[2:10].hex()) for message in world.messages} <= set(store.objects)
    assert len(store.list("schemas/")) == len(record_types())


def test_I8_nothing_is_committed_without_a_grant_valid_at_that_moment(signer: Ed25519Signer) -> None:
    """The controller is away past the validity: uploads go on as provisional, and are ratified when it is back."""
    world, store = _World(), MemoryObjectStore()
    agent = _agent(world, store, signer)
    _turn(world, agent)
    world.reply = GrantReply("wait", reason="the witness is away")
    _turn(world, agent, 10)
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, agent, 10)
    assert world.events(Checkpoint) == []
    assert OWN.manifest not in store.objects
    assert OWN.receipt(0) in store.objects
    assert world.standings[-1]["state"] == "provisional"
    world.reply = GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, forks=((1, 0, -1),))
    _turn(world, agent)
    assert [event.state for event in world.events(Checkpoint)] == ["committed"]


def test_I8_a_grant_of_another_attempt_commits_nothing(signer: Ed25519Signer) -> None:
    """The trainer was started again: what the launch before still saves is provisional."""
    world, store = _World(), MemoryObjectStore()
    agent = _agent(world, store, signer)
    _turn(world, agent)
    world.reply = dataclasses.replace(world.reply, attempt=2)
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, agent, 8)
    assert world.events(Checkpoint) == []
    assert OWN.manifest not in store.objects
    assert world.standings[-1]["state"] == "provisional"


def test_I5_what_a_superseded_region_wrote_past_the_fork_is_kept_as_a_branch(signer: Ed25519Signer) -> None:
    """Under its own identity, with its manifest, and never called committed."""
    world, store = _World(), MemoryObjectStore()
    agent = _agent(world, store, signer)
    _turn(world, agent)
    world.reply = GrantReply("superseded", epoch=2, forks=((1, 0, -1), (2, 1, 5)))
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, agent)
    assert [(event.state, event.epoch, event.step) for event in world.events(Checkpoint)] == [("branch", 1, 10)]
    assert OWN.manifest in store.objects
    assert world.standings[-1]["state"] == "superseded"


def test_a_skipped_checkpoint_takes_its_number_and_its_key(signer: Ed25519Signer) -> None:
    """One key, one outcome: abandoned, with the reason."""
    world, store = _World(), MemoryObjectStore()
    world.accept("checkpoints", "skipped", {"reason": "disk full"})
    agent = _agent(world, store, signer)
    _turn(world, agent)
    (event,) = world.events(Checkpoint)
    assert (event.state, event.reason, event.seq) == ("abandoned", "disk full", 1)
    assert world.standings[-1]["given_up"] == [{"step": 10, "reason": "disk full"}]
    assert isinstance(Codec().decode(signer.verify(store.objects[OWN.manifest])), Abandoned)


def test_I16_with_kafka_away_events_wait_and_nothing_is_lost(signer: Ed25519Signer) -> None:
    """The flow goes on turning; what was accepted is published when Kafka is back."""
    world, store = _World(), MemoryObjectStore()
    world.away = True
    world.accept("metrics", "metric", {"values": {"loss": 1.0}})
    agent = _agent(world, store, signer)
    _turn(world, agent)
    assert world.position == 0
    assert "Kafka is away" in str(agent.status().troubles)
    world.away = False
    _turn(world, agent)
    assert [event.seq for event in world.events(Metric)] == [1]
    assert agent.status().troubles == {}


def test_I15_a_restarted_agent_publishes_under_the_same_identity_and_moves_nothing_twice(
    signer: Ed25519Signer,
) -> None:
    """Its position was lost: the same events, the same manifest, the same bytes in the store."""
    world, store = _World(), MemoryObjectStore()
    world.accept("metrics", "metric", {"values": {"loss": 1.0}})
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, _agent(world, store, signer))
    objects = dict(store.objects)
    world.spool.advance("gpt", "gpt-r0", 0)
    world.spool.save(OWN, 0, SHARD, b"rng")
    _turn(world, _agent(world, store, signer))
    assert store.objects == objects
    for kind in (Metric, Checkpoint):
        first, second = world.events(kind)
        assert first == second


def test_a_record_that_makes_no_event_becomes_a_dead_letter_and_the_next_one_goes_on(signer: Ed25519Signer) -> None:
    """Its bytes and the reason are kept, and the identity of the event that it would have been: no number is lost."""
    world, store = _World(), MemoryObjectStore()
    world.accept("metrics", "metric", {"values": {"loss": "much"}})
    world.accept("metrics", "metric", {"values": {"loss": 2.0}})
    _turn(world, _agent(world, store, signer))
    dead = [Codec().decode(message.value) for message in world.messages if message.topic == paths.DEAD_LETTERS]
    assert len(dead) == 1
    plain = dataclasses.asdict(dead[0])
    assert b"much" in plain["value"]
    assert "ValueError" in plain["detail"]
    assert isinstance(dead[0], DeadLetter)
    assert identity_of(facts_of_letter(dead[0])) == (("gpt", 1, "gpt-r0", "metrics"), SequenceRanges([(1, 1)]))
    assert [event.seq for event in world.events(Metric)] == [2]


def test_I16_an_object_that_cannot_be_decoded_costs_its_checkpoint_and_nothing_else(signer: Ed25519Signer) -> None:
    """A receipt of garbage, which nothing may be put over: abandoned by name, and metrics and heartbeats go on."""
    world, store = _World(), MemoryObjectStore()
    store.create(OWN.receipt(0), b"garbage")
    world.accept("checkpoints", "intent", INTENT)
    world.accept("metrics", "metric", {"values": {"loss": 1.0}})
    agent = _agent(world, store, signer)
    _turn(world, agent)
    assert [event.seq for event in world.events(Metric)] == [1]
    (event,) = world.events(Checkpoint)
    assert event.state == "abandoned"
    assert "receipts/rank-00000 is damaged in the store" in event.reason
    assert agent.status().troubles == {}


def test_I16_a_receipt_of_a_newer_agent_is_waited_for_and_told(signer: Ed25519Signer) -> None:
    """Its schema may become known: the checkpoint is not given up, and the other lanes go on."""
    world, store = _World(), MemoryObjectStore()
    store.create(OWN.receipt(0), MARKER + bytes(8) + b"newer")
    world.accept("checkpoints", "intent", INTENT)
    world.accept("metrics", "metric", {"values": {"loss": 1.0}})
    agent = _agent(world, store, signer)
    _turn(world, agent)
    assert [event.seq for event in world.events(Metric)] == [1]
    assert world.events(Checkpoint) == []
    assert "unknown schema" in str(agent.status().troubles)


def test_I7_a_rank_state_that_is_not_what_the_trainer_digested_is_never_committed(signer: Ed25519Signer) -> None:
    """Its checkpoint is abandoned by name, as for a chunk; nothing of it is signed as whole."""
    world, store = _World(), MemoryObjectStore()
    world.spool.damage_state(OWN, 0)
    world.accept("checkpoints", "intent", INTENT)
    _turn(world, _agent(world, store, signer))
    (event,) = world.events(Checkpoint)
    assert event.state == "abandoned"
    assert "not what the trainer wrote" in event.reason
    assert isinstance(Codec().decode(signer.verify(store.objects[OWN.manifest])), Abandoned)
    assert OWN.rank_state(0) not in store.objects
