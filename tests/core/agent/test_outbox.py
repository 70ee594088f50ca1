"""The agent's lanes beside the checkpoints: order, batches, outages, and a disk that is full."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from farside import _spool
from pipelines import paths
from pipelines.core.ledger import Arrival, Ledger, stream
from pipelines.core.metric_batches import BatchPolicy, metrics_of
from pipelines.core.resume_mode import StartRequest
from pipelines.core.set_aside import MARK
from pipelines.errors import RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy
from pipelines.flows.agent.publisher import Publisher
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply, Message, Spool
from schemas.codec import Codec, digest
from schemas.http_bodies import BacklogStatus
from schemas.records import DataVersion, DeadLetter, Event, Heartbeat, Metric, MetricBatch, MetricsThinned
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.spool import MemorySpool
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.spool import NodeSpool
from services.adapters.system_clock import SystemEntropy
from services.runtime.journal import ServiceJournal
from tests.manifests import INTENT, OWN, SHARD
from tests.manual_clock import ManualClock

RANKS = ("r0", "r1", "r2")


class _Surroundings(ManualClock):
    """Implements EventLog, Grants, Journal and Clock by remembering; Kafka can be away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(100.0)
        self.messages: list[Message] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.away = False
        self.attempts = 0
        private, public = generate_keypair(folder, "east")
        self.signer = Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
        self.store = MemoryObjectStore()

    def say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - as the port
        self.said.append((event, fields))

    def ask(self, *_: object, **__: object) -> GrantReply:
        return GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, forks=((1, 0, -1),))

    def publish(self, messages: list[Message]) -> None:
        self.attempts += 1
        if self.away:
            raise RetryableError("Kafka is away")
        self.messages += messages

    def agent(self, spool: Spool, batches: BatchPolicy | None = None, bytes_s: float = 1e9) -> Publisher:
        fake: Any = self
        return Publisher(
            AgentNode("east", "n0"),
            AgentPorts(
                spool=spool,
                store=self.store,
                log=fake,
                grants=fake,
                signer=self.signer,
                codec=Codec(),
                clock=fake,
                entropy=SystemEntropy(),
                journal=fake,
            ),
            PublishPolicy(batches=batches or BatchPolicy(), catch_up_bytes_s=bytes_s),
        )

    def turn(self, agent: Publisher, turns: int = 1, each_s: float = 0.1) -> None:
        for _ in range(turns):
            agent.turn()
            self.now_s += each_s

    def events(self) -> list[Event]:
        """The events that were published in the lanes, without heartbeats."""
        aside = [one for one in self.messages if one.topic == paths.DEAD_LETTERS or MARK in dict(one.headers)]
        records = [Codec().decode(one.value) for one in self.messages if one not in aside]
        return [one for one in records if isinstance(one, Event) and not isinstance(one, Heartbeat)]

    def metrics(self) -> list[Metric]:
        return [one for event in self.events() if isinstance(event, Metric | MetricBatch) for one in metrics_of(event)]


@pytest.fixture
def world(tmp_path: Path) -> _Surroundings:
    """A region and its agent's surroundings."""
    return _Surroundings(tmp_path)


def _metric(spool: MemorySpool, producer: str, step: int) -> None:
    spool.accept(producer, "metrics", "metric", step, {"values": {"loss": float(step), "lr": 0.1}})


def _accounted(events: list[Event], producer: str, lane: str) -> tuple[list[Arrival], int]:
    """How a reader that counts sees one stream, and the last number."""
    ledger, arrivals = Ledger(), []
    for event in events:
        if (event.producer, event.lane) == (producer, lane):
            arrivals.append(ledger.arrival(event))
            ledger.watermarks[stream(event)] = max(event.seq, ledger.watermarks.get(stream(event), 0))
    return arrivals, max(ledger.watermarks.values(), default=0)


def test_metrics_gather_and_a_lone_one_does_not_wait(world: _Surroundings) -> None:
    """At one a second, a batch every five seconds; the first one, and one after a pause, goes at once as itself."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool)
    for step in range(1, 12):
        _metric(spool, "r0", step)
        world.turn(agent, 10)
    world.turn(agent, 60)
    _metric(spool, "r0", 12)
    world.turn(agent)
    events = world.events()
    assert [type(one) for one in events] == [Metric, MetricBatch, MetricBatch, Metric]
    assert [one.seq for one in world.metrics()] == list(range(1, 13))
    assert [one.values["loss"] for one in world.metrics()] == [float(step) for step in range(1, 13)]
    headers = dict(world.messages[[one.topic for one in world.messages].index(paths.METRICS) :][1].headers)
    assert spool.position("gpt", "r0") == spool.end("gpt", "r0")
    assert b"farside.metric" in {value for one in world.messages for _, value in one.headers}
    assert headers["ce_specversion"] == b"1.0"


def test_I14_the_position_waits_for_metrics_that_gather_and_a_crash_publishes_them_again(world: _Surroundings) -> None:
    """Records that are only in memory are not settled; one that comes twice, in other batches, is counted once."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool)
    _metric(spool, "r0", 1)
    world.turn(agent)
    for step in (2, 3):
        _metric(spool, "r0", step)
    world.turn(agent, 3)
    assert [one.seq for one in world.metrics()] == [1]
    assert spool.position("gpt", "r0") == 50
    spool.advance("gpt", "r0", 0)  # as if the agent had died before it noted the first one
    again = world.agent(spool)
    _metric(spool, "r0", 4)
    world.turn(again, 2)
    arrivals, last = _accounted(world.events(), "r0", "metrics")
    assert (arrivals, last) == ([Arrival.NEXT, Arrival.NEXT], 4)
    assert [one.seq for one in world.metrics()] == [1, 1, 2, 3, 4]


def test_I16_with_kafka_away_for_hours_events_wait_and_come_in_order_at_the_pace(world: _Surroundings) -> None:
    """Per producer and lane no hole and no leap; heartbeats go on; the status says how much is left and how fast."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool, bytes_s=5_000.0)
    world.turn(agent)
    world.away = True
    for step in range(1, 2_001):
        for rank in RANKS:
            _metric(spool, rank, step)
        if step % 500 == 0:
            spool.accept("r0", "data-versions", "data_version", step, _data_version(step))
            world.turn(agent, 20)
    backlog = _backlog(agent)
    assert backlog.bytes == sum(spool.end("gpt", rank) for rank in RANKS)
    assert world.events() == []
    world.away = False
    shown: list[float] = []
    while _backlog(agent).bytes and len(shown) < 5_000:
        world.turn(agent)
        shown.append(_backlog(agent).bytes)
    assert len(shown) > 400, "it took its time"
    assert [type(one) for one in world.events()].count(DataVersion) == 4
    for rank in RANKS:
        arrivals, last = _accounted(world.events(), rank, "metrics")
        assert set(arrivals) == {Arrival.NEXT}
        assert last == 2_000
    assert _accounted(world.events(), "r0", "data-versions") == ([Arrival.NEXT] * 4, 4)
    assert shown[-1] == 0
    assert len([one for one in world.messages if one.topic == paths.HEARTBEATS]) > 30
    assert len(world.events()) < 400, "batches"


def _backlog(agent: Publisher) -> BacklogStatus:
    return agent.status().backlog


def _data_version(step: int) -> dict[str, Any]:
    return {"name": f"v{step}", "digest": "d" * 64, "shards": [], "sampler": "s", "seed": 1}


def test_catching_up_is_said_with_its_figures_and_so_is_its_end(world: _Surroundings) -> None:
    """An operator sees records, bytes, rate and remaining time."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool, bytes_s=100_000.0)
    for step in range(1, 30_000):
        _metric(spool, "r0", step)
    world.turn(agent, 60)
    assert 0 < (_backlog(agent).remaining_s or 0) < 60
    assert _backlog(agent).records_per_s > 0
    world.turn(agent, 200)
    reported = [(name, fields) for name, fields in world.said if name in {"publish.behind", "publish.caught_up"}]
    assert [name for name, _ in reported] == ["publish.behind", "publish.caught_up"]
    (_, first), _ = reported
    assert first["bytes"] > 1_000_000
    assert {"records", "bytes", "records_per_s", "bytes_per_s", "remaining_s"} == set(first)
    assert _backlog(agent).bytes == 0


def test_one_attempt_a_turn_while_kafka_does_not_answer(world: _Surroundings) -> None:
    """Each may take many seconds: with one for every producer, an agent would look stuck and be killed."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool)
    for rank in RANKS:
        _metric(spool, rank, 1)
    world.away = True
    for _ in range(5):
        before = world.attempts
        world.turn(agent, each_s=2.0)
        assert world.attempts == before + 1
    world.away = False
    world.turn(agent)
    assert len(world.metrics()) == 3


def test_I16_with_kafka_away_the_bytes_of_a_checkpoint_still_reach_the_store(world: _Surroundings) -> None:
    """Its event waits, the store does not: once Kafka is back, nothing is left to copy."""
    spool = MemorySpool("gpt")
    spool.wants("launch-1", StartRequest())
    spool.save(OWN, 0, SHARD, b"rng")
    agent = world.agent(spool)
    world.turn(agent, 3)
    world.away = True
    _metric(spool, "r0", 1)
    spool.accept("r0", "checkpoints", "intent", 10, INTENT)
    world.turn(agent, 8, each_s=1.0)
    assert OWN.manifest in world.store.objects
    assert world.events() == []
    world.away = False
    world.turn(agent, 3, each_s=1.0)
    assert [one.lane for one in world.events()] == ["metrics", "checkpoints"]


def test_what_is_wrong_with_one_producer_does_not_hold_up_another(world: _Surroundings) -> None:
    """An object in the store that cannot be read stops its own checkpoint only."""
    spool = MemorySpool("gpt")
    spool.wants("launch-1", StartRequest())
    agent = world.agent(spool)
    world.store.create(CheckpointId("gpt", 1, 1, 10).receipt(0), b"garbage")
    spool.accept("r0", "checkpoints", "intent", 10, INTENT)
    for rank in RANKS:
        _metric(spool, rank, 1)
    world.turn(agent, 4)
    assert {one.producer for one in world.metrics()} == set(RANKS)


def test_thinning_is_an_event_of_the_lane_in_its_place(world: _Surroundings) -> None:
    """With its own number, before the metrics that follow it; said in the log with the figures."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool)
    figures = {"first_step": 2, "last_step": 9, "dropped": 7, "keep_every": 8}
    figures |= {"used_bytes": 90, "bytes_max": 100, "free_bytes": 50}
    for step in (1, 2):
        _metric(spool, "r0", step)
    spool.accept("r0", "metrics", "thinned", 9, figures)
    _metric(spool, "r0", 16)
    world.turn(agent)
    events = world.events()
    assert [type(one) for one in events] == [MetricBatch, MetricsThinned, Metric]
    thinned = events[1]
    assert isinstance(thinned, MetricsThinned)
    assert {name: getattr(thinned, name) for name in figures} == figures
    assert _accounted(events, "r0", "metrics") == ([Arrival.NEXT] * 3, 4)
    assert ("publish.metrics_thinned", {"run": "gpt", "producer": "r0"} | figures) in world.said


@pytest.mark.parametrize(
    ("lane", "kind", "body"),
    [
        ("metrics", "metric", {"values": {"loss": 10**400}}),
        ("metrics", "metric", {"values": {"\ud800": 1.0}}),
        ("metrics", "thinned", {"first_step": 2**70}),
        ("data-versions", "data_version", _data_version(1) | {"seed": 2**70}),
        ("data-versions", "data_version", _data_version(1) | {"name": "\udfff"}),
        ("other", "metric", {}),
    ],
)
def test_a_record_that_no_event_can_hold_is_a_dead_letter_and_does_not_end_the_agent(
    world: _Surroundings, lane: str, kind: str, body: dict[str, Any]
) -> None:
    """Numbers beyond 64 bits, halves of characters, fields that are missing."""
    spool = MemorySpool("gpt")
    agent = world.agent(spool)
    spool.accept("r0", lane, kind, 1, body)
    _metric(spool, "r0", 2)
    world.turn(agent, 2)
    letters = [Codec().decode_as(DeadLetter, one.value) for one in world.messages if one.topic == paths.DEAD_LETTERS]
    assert [one.topic for one in letters] == [lane]
    assert letters[0].detail
    assert [one.step for one in world.metrics()] == [2]
    assert spool.position("gpt", "r0") == 100


def test_an_intent_that_no_manifest_can_hold_is_abandoned_and_does_not_end_the_agent(world: _Surroundings) -> None:
    """One key, one outcome, with the reason."""
    spool = MemorySpool("gpt")
    spool.wants("launch-1", StartRequest())
    agent = world.agent(spool)
    spool.accept("r0", "checkpoints", "intent", 10, INTENT | {"world_size": 2**70})
    spool.accept("r0", "checkpoints", "skipped", 20, {"reason": "half a character: \ud800"})
    world.turn(agent, 4)
    assert [getattr(one, "state", "") for one in world.events()] == ["abandoned", "abandoned"]
    assert spool.position("gpt", "r0") == 100


class _Disk:
    """Where small files are replaced, or find no room while it is `full`."""

    full = True

    def replace(self, path: Path, body: dict[str, Any], *, durable: bool = True) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        _spool.write_json_atomically(path, body, durable=durable)


def test_I16_with_the_nodes_disk_full_the_agent_publishes_on_and_makes_room_and_alarms_once(
    world: _Surroundings, tmp_path: Path
) -> None:
    """It cannot note its position; it still clears away what is published, and says what is used and free."""
    folder = _spool.producer_folder(tmp_path / "node", "gpt", "r0")
    writer = _spool.SpoolWriter(folder, "gpt", group_sync_s=0.001, segment_bytes=2_000)
    disk = _Disk()
    spool = NodeSpool(tmp_path / "node", world, disk.replace)
    agent = world.agent(spool)
    for step in range(1, 200):
        writer.append("metrics", "metric", epoch=1, attempt=1, step=step, body={"values": {"loss": 1.0}})
        if step % 20 == 0:
            writer.sync()
            world.turn(agent, each_s=6.0)
    world.turn(agent, 2, each_s=6.0)
    assert sum(one.path.stat().st_size for one in _spool.segments(folder)) < 8_000 < spool.end("gpt", "r0")
    assert [one.seq for one in world.metrics()] == list(range(1, 200))
    alarms = [fields for name, fields in world.said if name == "spool.full"]
    assert len(alarms) == 1
    assert alarms[0]["free_bytes"] > 0
    assert alarms[0]["log_bytes"] < 8_000
    assert "No space left" in str(agent.status().troubles)
    disk.full = False
    world.turn(agent, 2)
    assert spool.position("gpt", "r0") == spool.end("gpt", "r0")
    writer.close()
    assert [name for name, _ in world.said].count("spool.has_room") == 1
    assert "No space left" not in str(agent.status().troubles)


def test_published_segments_go_while_their_writer_lives_and_the_rest_when_it_is_gone(
    world: _Surroundings, tmp_path: Path
) -> None:
    """The spool's size is that of what waits, not that of what was ever said."""
    folder = _spool.producer_folder(tmp_path / "node", "gpt", "r0")
    writer = _spool.SpoolWriter(folder, "gpt", group_sync_s=0.001, segment_bytes=1_000)
    spool = NodeSpool(tmp_path / "node")
    agent = world.agent(spool)
    for step in range(1, 100):
        writer.append("metrics", "metric", epoch=1, attempt=1, step=step, body={"values": {"loss": 1.0}})
        writer.sync()
        world.turn(agent, each_s=6.0)
    assert sum(one.path.stat().st_size for one in _spool.segments(folder)) < 5_000
    assert spool.end("gpt", "r0") > 10_000
    writer.close()
    world.turn(agent, 3, each_s=6.0)
    assert spool.producers("gpt") == ()
    assert not folder.exists()
    assert [one.seq for one in world.metrics()] == list(range(1, 100))


def test_a_reimaged_node_is_a_new_producer_and_no_gap(world: _Surroundings, tmp_path: Path) -> None:
    """The node's disk is wiped and the rank starts again: another incarnation, counted from 1, for all who count."""
    names = []
    for _ in range(2):
        node_dir = tmp_path / "node"
        name = _spool.incarnation_name(0)
        names.append(name)
        writer = _spool.SpoolWriter(_spool.producer_folder(node_dir, "gpt", name), "gpt")
        for step in (1, 2, 3):
            writer.append("metrics", "metric", epoch=1, attempt=1, step=step, body={"values": {"loss": 1.0}})
        writer.close()
        for _ in range(2):  # and the agent is restarted in between
            world.turn(world.agent(NodeSpool(node_dir), BatchPolicy(rows_max=1, age_s=0.0)), 2)
        shutil.rmtree(node_dir)
    assert len(set(names)) == 2
    for name in names:
        assert _accounted(world.events(), name, "metrics") == ([Arrival.NEXT] * 3, 3)


def test_a_damaged_record_is_a_hole_that_shows_between_two_batches(world: _Surroundings, tmp_path: Path) -> None:
    """It is not hidden inside one: who counts reports it."""
    folder = _spool.producer_folder(tmp_path / "node", "gpt", "r0")
    writer = _spool.SpoolWriter(folder, "gpt")
    for step in range(1, 8):
        writer.append("metrics", "metric", epoch=1, attempt=1, step=step, body={"values": {"loss": 1.0}})
    writer.close()
    log = bytearray(_spool.log_path(folder).read_bytes())
    log[_spool.scan(_spool.log_path(folder)).entries[3][0] + _spool.HEADER_BYTES + 3] ^= 1
    _spool.log_path(folder).write_bytes(bytes(log))
    agent = world.agent(NodeSpool(tmp_path / "node"))
    world.turn(agent)
    assert _accounted(world.events(), "r0", "metrics") == ([Arrival.NEXT, Arrival.GAP], 7)
    assert [one.seq for one in world.metrics()] == [1, 2, 3, 5, 6, 7]


def test_a_journal_on_a_full_disk_still_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its timeline cannot be written; standard output and the counter have it, and the service lives."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - here only

    registry = CollectorRegistry()
    fake: Any = ManualClock(0.0)
    journal = ServiceJournal(service="agent", region="east", folder=tmp_path, clock=fake, registry=registry)
    (tmp_path / "agent-east.jsonl").symlink_to("/dev/full")
    journal.say("spool.full", free_bytes=0)
    assert "spool.full" in capsys.readouterr().out
    assert registry.get_sample_value("farside_events_total", {"event": "spool.full"}) == 1.0


def test_a_digest_of_the_shard_is_what_the_intent_names() -> None:
    """The pieces of `test_publish` that are used here fit together."""
    assert INTENT["ranks"][0]["sha256"] == digest(SHARD)
