"""Events that Kafka does not take are set aside at their source, their places filled, and nothing waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import paths
from pipelines.core.data_versions import check_list, files_of
from pipelines.core.ledger import Ledger
from pipelines.core.message_size import EVENT_BYTES_MAX, MESSAGE_BYTES_MAX, size_bytes
from pipelines.core.metric_batches import metrics_of
from pipelines.core.record_filter import facts_of_letter, identity_of
from pipelines.core.resume_mode import StartRequest
from pipelines.core.sequence_numbers import number_of
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.core.set_aside import MARK, VALUE_AT, clipped, why_set_aside
from pipelines.errors import RefusedError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.agent.sending import REMEMBERED_S
from pipelines.ports import GrantReply, Message
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, DataVersion, DeadLetter, Event, Metric, MetricBatch, ShardList
from services.adapters.memory.kafka import MemoryKafka, MemoryLog
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.spool import MemorySpool
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemEntropy
from tests.manifests import INTENT, OWN, SHARD
from tests.manual_clock import ManualClock

CODEC = Codec()


class _World(ManualClock):
    """Implements Grants, Journal and Clock: an agent on a Kafka that takes records up to a size only."""

    def __init__(self, folder: Path) -> None:
        super().__init__(100.0)
        self.kafka = MemoryKafka("east")
        self.store = MemoryObjectStore()
        self.spool = MemorySpool("gpt")
        self.said: list[str] = []
        private, public = generate_keypair(folder, "east")
        fake: Any = self
        self.agent = Publisher(
            AgentNode("east", "n0"),
            AgentPorts(
                spool=self.spool,
                store=self.store,
                log=MemoryLog(self.kafka),
                grants=fake,
                signer=Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public}),
                codec=Codec(),
                clock=fake,
                entropy=SystemEntropy(),
                journal=fake,
            ),
        )

    def say(self, event: str, **fields: object) -> None:
        del fields
        self.said.append(event)

    def ask(self, *_: object, **__: object) -> GrantReply:
        return GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, forks=((1, 0, -1),))

    def turn(self, turns: int = 4) -> None:
        for _ in range(turns):
            self.agent.turn()
            self.now_s += 2.0

    def records(self, topic: str) -> list[Message]:
        return [one for one in self.kafka.topic(topic) if one is not None]

    def events(self, topic: str) -> list[Event]:
        plain = [CODEC.decode(one.value) for one in self.records(topic) if MARK not in dict(one.headers)]
        return [one for one in plain if isinstance(one, Event)]

    def letters(self) -> list[DeadLetter]:
        return [CODEC.decode_as(DeadLetter, one.value) for one in self.records(paths.DEAD_LETTERS)]

    def metric(self, values: dict[str, Any], step: int = 1) -> None:
        self.spool.accept("r0", "metrics", "metric", step, {"values": values})

    def checkpoint(self) -> None:
        self.spool.wants("launch-1", StartRequest())
        self.spool.save(OWN, 0, SHARD, b"rng")
        self.spool.accept("r0", "checkpoints", "intent", 10, INTENT)

    @property
    def all_settled(self) -> bool:
        return self.spool.position("gpt", "r0") == self.spool.end("gpt", "r0")


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """An agent."""
    return _World(tmp_path)


def _shards(count: int) -> list[dict[str, Any]]:
    return [
        {"path": f"corpus/part-{at:06d}.bin", "size": at, "sha256": digest(str(at).encode())} for at in range(count)
    ]


def _version(count: int, **changes: object) -> dict[str, Any]:
    return {"name": "v", "digest": "d" * 64, "shards": _shards(count), "sampler": "s", "seed": 1} | changes


def _numbers(world: _World, topic: str) -> list[tuple[int, int]]:
    """The numbers of each record of a topic, by its headers, as a reader that cannot decode it sees them."""
    named = [number_of(one.headers) for one in world.records(topic)]
    return [(one.first_seq, one.seq) for one in named if one is not None]


def test_I18_a_data_version_of_12000_shards_is_a_small_event_and_its_list_is_in_the_store(world: _World) -> None:
    """Seen: above the topic's limit it stopped all lanes of its producer, checkpoints too."""
    world.checkpoint()
    world.spool.accept("r0", "data-versions", "data_version", 0, _version(12_000))
    world.spool.accept("r0", "data-versions", "data_version", 0, _version(3))
    world.metric({"loss": 1.0})
    world.turn(6)
    large, small = world.events(paths.DATA_VERSIONS)
    assert isinstance(large, DataVersion)
    assert isinstance(small, DataVersion)
    assert (files_of(large), large.shards, large.list_key) == (12_000, (), paths.shard_list("gpt", large.list_sha256))
    assert (files_of(small), len(small.shards), small.list_key) == (3, 3, "")
    listed = world.store.objects[large.list_key]
    check_list(large, listed)
    assert [one.path for one in CODEC.decode_as(ShardList, listed).shards] == [one["path"] for one in _shards(12_000)]
    assert max(size_bytes(one.key, one.value, one.headers) for one in world.records(paths.DATA_VERSIONS)) < 10_000
    assert [type(one) for one in world.events(paths.CHECKPOINTS)] == [Checkpoint]
    assert (world.letters(), world.all_settled) == ([], True)


def test_a_list_waits_for_the_store_and_nothing_else_does(world: _World) -> None:
    """No version is visible before its list; the same producer's metrics go on."""
    world.spool.accept("r0", "data-versions", "data_version", 0, _version(2_000))
    world.metric({"loss": 1.0})
    create = world.store.create
    world.store.create = _away  # type: ignore[method-assign] # the store is away
    world.turn()
    assert (world.events(paths.DATA_VERSIONS), len(world.events(paths.METRICS))) == ([], 1)
    world.store.create = create  # type: ignore[method-assign] # it is back
    world.turn()
    assert len(world.events(paths.DATA_VERSIONS)) == 1


def _away(key: str, body: bytes) -> bool:
    raise RetryableError(f"the store is away: {key} of {len(body)} bytes")


def test_I18_an_event_that_no_topic_takes_is_a_dead_letter_with_its_bytes_and_its_place_is_filled(
    world: _World,
) -> None:
    """A name of a million characters: topic, size and remedy are told; the numbers have no hole; the rest goes on."""
    world.checkpoint()
    world.metric({"loss": 1.0})
    world.metric({"x" * 1_000_000: 1.0})
    world.metric({"loss": 3.0})
    world.turn(6)
    (letter,) = world.letters()
    for told in ("farside.metrics", str(EVENT_BYTES_MAX), "max.message.bytes", "shorten"):
        assert told in letter.detail
    assert identity_of(facts_of_letter(letter)) == (("gpt", 1, "r0", "metrics"), SequenceRanges([(2, 2)]))
    (key,) = [one.value.decode() for one in letter.headers if one.key == VALUE_AT]
    event = CODEC.decode_as(Metric, world.store.objects[key])
    assert (letter.value, event.seq, list(event.values)) == (b"", 2, ["x" * 1_000_000])
    assert _numbers(world, paths.METRICS) == [(1, 1), (2, 2), (3, 3)]
    assert [one.seq for one in world.events(paths.METRICS)] == [1, 3]
    assert len(world.events(paths.CHECKPOINTS)) == 1
    assert world.all_settled
    assert world.said.count("publish.dead_letter") == 1


def test_a_metric_that_makes_no_event_keeps_its_place_among_those_that_gather(world: _World) -> None:
    """Else the place would be filled before the number before it is there, and a reader would see a hole."""
    world.metric({"loss": 1.0})
    world.turn(1)
    world.now_s -= 2.0
    for value in (2.0, "much", 4.0):
        world.metric({"loss": value})
    world.turn()
    assert _numbers(world, paths.METRICS) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [letter.reason for letter in world.letters()] == ["spool_record"]


def test_I18_what_a_topic_with_a_smaller_limit_refuses_is_divided_and_only_what_is_left_is_set_aside(
    world: _World,
) -> None:
    """Topics that somebody else made: a batch goes on in parts, and one row that is too large alone is a letter."""
    world.kafka.bytes_max[paths.METRICS] = 2_000
    for step in range(1, 40):
        world.metric({"loss": 1.0, **({"wide " * 500: 1.0} if step == 20 else {})}, step)
    world.turn()
    rows = [
        row for one in world.events(paths.METRICS) if isinstance(one, Metric | MetricBatch) for row in metrics_of(one)
    ]
    assert {row.seq for row in rows} == set(range(1, 40)) - {20}
    (letter,) = {one.detail: one for one in world.letters()}.values()
    assert "topic farside.metrics refuses" in letter.detail
    assert letter.reason == "refused"
    assert {number for first, last in _numbers(world, paths.METRICS) for number in range(first, last + 1)} == set(
        range(1, 40)
    )
    assert world.all_settled


def test_however_many_records_are_too_large_each_turn_comes_further(world: _World) -> None:
    """A size that was refused is not asked about again, else so many would be tried from the first one for ever."""
    world.kafka.bytes_max[paths.METRICS] = 2_000
    for step in range(1, 101):
        world.metric({"x" * (2_000 + 10 * step): 1.0}, step)
    world.turn(12)
    assert len({letter.headers for letter in world.letters()}) == 100
    assert world.all_settled


def test_a_size_that_a_topic_refused_is_asked_about_again_only_after_a_while(world: _World) -> None:
    """An event as large is set aside meanwhile; then somebody may have raised the topic's limit."""
    world.kafka.bytes_max[paths.METRICS] = 2_000
    world.metric({"x" * 3_000: 1.0})
    world.turn()
    del world.kafka.bytes_max[paths.METRICS]
    world.metric({"y" * 3_000: 1.0}, 2)
    world.turn()
    assert [letter.reason for letter in world.letters()] == ["refused", "refused"]
    assert "has just refused" in world.letters()[1].detail
    world.now_s += REMEMBERED_S
    world.metric({"z" * 3_000: 1.0}, 3)
    world.turn()
    assert [event.seq for event in world.events(paths.METRICS)] == [3]
    assert world.all_settled


def test_a_letter_that_the_dead_letters_refuse_is_sent_again_with_its_bytes_in_the_store(world: _World) -> None:
    """Nothing is lost, and nothing stands."""
    world.kafka.bytes_max[paths.DEAD_LETTERS] = 3_000
    world.metric({"loss": "much" * 1_000})
    world.metric({"loss": 2.0})
    world.turn()
    (letter,) = world.letters()
    (key,) = [one.value.decode() for one in letter.headers if one.key == VALUE_AT]
    assert (letter.value, b"much" in world.store.objects[key]) == (b"", True)
    assert {one.seq for one in world.events(paths.METRICS)} == {2}, "twice under one identity, as after a crash"
    assert world.all_settled


def test_a_heartbeat_that_is_refused_is_a_trouble_of_its_run_and_nothing_more(world: _World) -> None:
    """It has no place in a sequence: the next one replaces it."""
    world.kafka.bytes_max[paths.HEARTBEATS] = 10
    world.metric({"loss": 1.0})
    world.turn()
    assert [one.seq for one in world.events(paths.METRICS)] == [1]
    assert "farside.heartbeats" in world.agent.status().troubles["gpt/heartbeat"]


def test_a_checkpoints_reason_is_clipped_before_it_is_signed(world: _World) -> None:
    """A node's record may carry any text as the reason."""
    world.spool.wants("launch-1", StartRequest())
    world.spool.accept("r0", "checkpoints", "skipped", 10, {"reason": "\ud800 much " * 300_000})
    world.turn()
    (event,) = world.events(paths.CHECKPOINTS)
    assert isinstance(event, Checkpoint)
    assert event.state == "abandoned"
    assert len(event.reason) < 2_100


@given(st.text(max_size=50), st.integers(20, 60))
def test_clipped_texts_fit_and_can_be_encoded(text: str, most: int) -> None:
    """Whatever a node's file holds."""
    assert len(clipped(text + "\ud800", most)) <= most + 20
    clipped(text + "\udfff").encode()


@given(
    st.lists(
        st.dictionaries(st.text(max_size=300), st.floats(allow_nan=False), min_size=1, max_size=40),
        min_size=1,
        max_size=30,
    ),
    st.integers(1_200, 5_000),
)
def test_whatever_the_widths_every_number_is_published_or_set_aside(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float]], bytes_max: int
) -> None:
    """A property of the whole way from the spool, for any topic's limit that takes a letter's place."""
    world = _World(tmp_path_factory.mktemp("agent"))
    world.kafka.bytes_max[paths.METRICS] = bytes_max
    for step, values in enumerate(rows, 1):
        world.metric(values, step)
    world.turn(3)
    ledger, seen = Ledger(), set()
    for first, last in _numbers(world, paths.METRICS):
        ledger.take(("gpt", 1, "r0", "metrics"), first, last)
        seen |= set(range(first, last + 1))
    assert seen == set(range(1, len(rows) + 1))
    assert world.all_settled


def test_a_record_that_is_refused_for_another_reason_says_nothing_of_sizes(world: _World) -> None:
    """A broker's own check of one record: those that are larger go on."""
    publish = MemoryLog.publish
    refusals: list[int] = []

    def refuse(log: MemoryLog, messages: Sequence[Message]) -> None:
        at = next((at for at, one in enumerate(messages) if b"odd" in one.value and not refusals), None)
        if at is not None:
            refusals.append(at)
            raise RefusedError({at: "topic farside.metrics refuses a record (InvalidRecordError)"})
        publish(log, messages)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MemoryLog, "publish", refuse)
        world.metric({"odd": 1.0})
        world.turn(2)
        world.metric({"a name that is longer than the other one": 2.0})
        world.turn(2)
    assert [one.seq for one in world.events(paths.METRICS)] == [2]
    assert ["InvalidRecordError" in one.detail for one in world.letters()] == [True]


def test_a_message_of_the_size_that_is_stated_is_the_largest_that_is_sent() -> None:
    """The estimate is never below what Kafka counts, and an event's dead letter has room beside it."""
    message = Message("t", b"k" * 10, b"v" * 100, (("name", b"value"),))
    assert size_bytes(message.key, message.value, message.headers) > 10 + 100 + 4 + 5
    assert EVENT_BYTES_MAX + 100_000 < MESSAGE_BYTES_MAX


def test_only_a_record_that_says_so_fills_a_place() -> None:
    """Any other undecodable record is judged as before."""
    assert why_set_aside([("farside_seq", b"1")], b"junk") is None
    assert why_set_aside([(MARK, b"too_large")], b"\xff why") == ("too_large", "at its source: \ufffd why")
