"""Replays on fakes: what is read, in which order, where it goes, and that it does what once would have done."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.core.lineage import LineageView
from pipelines.core.record_filter import RecordFilter, parse
from pipelines.core.replay_rules import EARLIEST, LATEST, Bound, Edge, Fate, Tempo, marked, origin_of, replay_of
from pipelines.errors import MisconfiguredError
from pipelines.flows.agent.publisher import headers_of
from pipelines.flows.authority.heartbeat_reader import HeartbeatReader, PeerState
from pipelines.flows.inspection import replay
from pipelines.flows.inspection.replay import Drive, Handlers, Mark, Merged, ReplayTarget, Row, Stretch, check_lane
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.log.log_reader import Decoding
from pipelines.flows.replication import visible_index
from pipelines.flows.replication.checkpoint_copies import whole
from pipelines.flows.replication.visible_index import VisibleIndex
from pipelines.paths import CheckpointId
from pipelines.ports import Damage, EventSource, Fetched, Message, Partition
from schemas.codec import Codec
from schemas.http_bodies import ReplayAnswer, ReplayBody
from schemas.records import Heartbeat, Watermark
from services.adapters.bookmark import FileBookmark
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.recording import RecordingSource, RecordingTarget
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemClock
from services.operations.replay_targets import HandlersTarget, TopicTarget, check_topic
from tests.core.replication.test_lane_replicator import FORKED_AT_20, _turn, _World
from tests.core.replication.test_redrive_requests import _metric
from tests.manual_clock import ManualClock
from tests.replaying import places
from tests.tripwire import Crash, Tripwire

CODEC = Codec()
LANES = ("checkpoints", "metrics")
TOPICS = tuple(map(paths.topic, LANES))


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """East and west; east's records are a second apart."""
    private, public = generate_keypair(tmp_path, "east")
    regions = _World(Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public}))
    ticks = iter(range(1_000, 10_000_000, 1_000))
    regions.east = MemoryKafka("east", lambda: next(ticks))
    return regions


def _decoding() -> Decoding:
    return Decoding(Codec(), SystemClock())


def _parts(world: _World, begin: Bound = EARLIEST, until: Bound = LATEST, run: str = "gpt") -> tuple[Stretch, ...]:
    chosen = RecordFilter(runs=frozenset({run}))
    return replay.stretches(MemorySource(world.east), TOPICS, chosen, begin, until, _decoding())


def _filled(world: _World) -> _World:
    """Metric 1, checkpoint 10, metric 2, checkpoint 20, metric 3: a second apart, from second 1 on."""
    world.send(_metric(1))
    world.commit(10, 1)
    world.send(_metric(2))
    world.commit(20, 2)
    world.send(_metric(3))
    return world


def _read(source: EventSource, parts: Sequence[Stretch]) -> list[str]:
    merged, names = Merged(source, parts, SystemClock()), []
    merged.begin()
    while not merged.done:
        if merged.peek() is not None:
            item = merged.take()
            names.append(f"{item.partition.topic.removeprefix(paths.topic(''))} {item.offset}")
    return names


def test_lanes_are_read_in_the_order_in_which_their_records_came(world: _World) -> None:
    """Merged by time; each once; a partition's own order is kept."""
    _filled(world)
    assert _read(MemorySource(world.east), _parts(world)) == [
        "metrics 0",
        "checkpoints 0",
        "metrics 1",
        "checkpoints 1",
        "metrics 2",
    ]


@pytest.mark.parametrize(
    ("begin", "until", "found"),
    [
        (Bound(Edge.CHECKPOINT, 20), LATEST, ["checkpoints 1", "metrics 2"]),
        (EARLIEST, Bound(Edge.CHECKPOINT, 10), ["metrics 0", "checkpoints 0"]),
        (Bound(Edge.TIME, 3_000), Bound(Edge.TIME, 5_000), ["metrics 1", "checkpoints 1"]),
        (LATEST, LATEST, []),
    ],
)
def test_bounds_hold_in_every_lane(world: _World, begin: Bound, until: Bound, found: list[str]) -> None:
    """A checkpoint stands for its own record in its lane, and for its moment in the others."""
    _filled(world)
    assert _read(MemorySource(world.east), _parts(world, begin, until)) == found


def test_a_time_bound_compares_each_record_since_a_log_is_not_ordered_by_time(world: _World) -> None:
    """Producers set the times: behind the first that is too late, earlier ones follow, and none of them is left out."""
    for seq in range(1, 8):
        world.send(_metric(seq))
    offsets = [offset for offset, record in enumerate(world.east.topic(paths.METRICS)) if record is not None]
    times = dict(zip(offsets, [1_000, 9_000, 2_000, 8_000, 3_000, 3_500, 4_000], strict=True))
    world.east.times[paths.METRICS] = times
    parts = _parts(world, until=Bound(Edge.TIME, 4_000))
    rows = replay.plan(MemorySource(world.east), parts, RecordFilter(), _decoding())
    assert sum(row.records for row in rows) == 4
    found = _read(MemorySource(world.east), parts)
    assert found == [f"metrics {offset}" for offset in offsets if times[offset] < 4_000]
    later = _read(MemorySource(world.east), _parts(world, begin=Bound(Edge.TIME, 4_000)))
    assert later == [f"metrics {offset}" for offset in offsets if times[offset] >= 4_000]


@pytest.mark.parametrize("kind", ["topic", "file"])
def test_a_record_that_nobody_can_read_is_left_out_and_counted(world: _World, tmp_path: Path, kind: str) -> None:
    """Its beginning alone must not pass for a record."""
    world.send(_metric(1))
    (recorded,) = _everything(MemorySource(world.east))
    bad = dataclasses.replace(recorded, offset=7, damage=Damage("its checksum is wrong", 9, "e" * 64, 7))
    said: list[str] = []
    if kind == "topic":
        target: ReplayTarget = TopicTarget("replay.x", MemoryLog(world.east), "r-1", say=said.append)
    else:
        target = RecordingTarget(tmp_path / "x.avro", 0, lambda _item: {})
    counts = target.deliver([recorded, bad]) or Counter()
    assert counts["left_out"] == 1
    assert counts["published"] + counts["recorded"] == 1
    assert said == (["farside.metrics/0/7 is left out: its checksum is wrong"] if kind == "topic" else [])


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (Bound(Edge.CHECKPOINT, 30), "has none of gpt at this step"),
        (Bound(Edge.OFFSET, 1), "name one lane"),
    ],
)
def test_a_bound_that_is_not_there_is_refused(world: _World, begin: Bound, why: str) -> None:
    """With what to do."""
    with pytest.raises(MisconfiguredError, match=why):
        _parts(_filled(world), begin)


def test_an_offset_counts_in_one_lane_and_must_be_in_it(world: _World) -> None:
    """Beyond the end is refused."""
    source = MemorySource(_filled(world).east)

    def found(number: int) -> tuple[Stretch, ...]:
        return replay.stretches(source, TOPICS[1:], RecordFilter(), Bound(Edge.OFFSET, number), LATEST, _decoding())

    assert [(one.begin, one.end) for one in found(2)] == [(2, 3)]
    with pytest.raises(MisconfiguredError, match=r"outside 0\.\.3"):
        found(4)


def _planned(world: _World, lane: str = "checkpoints", asked: list[str] | None = None) -> Row:
    """The only row of a plan; the runs whose lineage was asked for go to `asked`."""
    asked = [] if asked is None else asked

    def lineage(run: str) -> LineageView | None:
        asked.append(run)
        return world.view

    own = MemorySource(world.west)
    reading = VisibleIndex(lane, own, Codec(), SystemClock())
    assert reading.read_on()
    handlers = Handlers(
        peer="east",
        ledger=read_ledger(MemorySource(world.west), Codec(), SystemClock()),
        known=reading.known,
        lineage=lineage,
        whole=lambda event: whole(event, world.west_store, CODEC, world.signer.opened),
    )
    source = MemorySource(world.east)
    parts = replay.stretches(source, [paths.topic(lane)], RecordFilter(), EARLIEST, LATEST, _decoding())
    (row,) = replay.plan(source, parts, RecordFilter(), _decoding(), handlers)
    return row


class _SlowSource(MemorySource):
    """One record a poll, and each takes longer than a turn may."""

    def __init__(self, kafka: MemoryKafka, clock: ManualClock) -> None:
        super().__init__(kafka)
        self._clock = clock
        self.seeks = 0

    def seek(self, partition: Partition, offset: int) -> None:
        """Implements EventSource."""
        self.seeks += 1
        super().seek(partition, offset)

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """Implements EventSource."""
        self._clock.now_s += 2 * visible_index.READ_S
        return super().poll(timeout_s, min(most, 1))


def test_a_log_that_is_read_in_several_turns_is_sought_once(world: _World) -> None:
    """To seek throws away what is fetched: a long log would be fetched again in each turn."""
    clock = ManualClock()
    source = _SlowSource(_filled(world).east, clock)
    reading = VisibleIndex("metrics", source, Codec(), clock)
    turns = 1
    while not reading.read_on():
        turns += 1
    assert turns >= 3
    assert source.seeks == 1
    assert [len(one) for one in reading._numbers.values()] == [3]


def test_a_plan_asks_the_store_for_a_runs_lineage_once(world: _World) -> None:
    """And not for each of a million records."""
    asked: list[str] = []
    assert _planned(_filled(world), "metrics", asked).records == 3
    assert asked == ["gpt"]


def _replayed(world: _World, lane: str = "checkpoints") -> Counter[str]:
    """Everything into west's handlers; what has become of it."""
    replicator = world.replicator(lane=lane)
    _turn(world, replicator)
    (everything,) = places(world.east, lane)
    replicator.replay(everything)
    _turn(world, replicator)
    answer = replicator.replay(everything)
    assert answer.state == "done", answer
    counts = answer.counts
    assert isinstance(counts, dict)
    return +Counter(counts)


def test_I15_a_replay_is_planned_first_and_changes_nothing_of_what_is_done(world: _World) -> None:
    """The plan says done for each; so do the handlers; nothing is visible twice, and no object changes."""
    world.commit(10, 1)
    _turn(world, world.replicator())
    world.commit(20, 2)
    row = _planned(world)
    assert (row.records, row.steps, row.epochs, row.fates) == (2, (10, 20), {1}, {Fate.DONE: 1, Fate.NEW: 1})
    assert _replayed(world) == {"done": 2}
    objects = dict(world.west_store.objects)
    assert _replayed(world) == {"done": 2}
    assert ([event.step for event in world.visible()], world.west_store.objects) == ([10, 20], objects)


def _passed_over(world: _World) -> None:
    """A ledger that says more than was ever visible: two of three numbers are passed over as duplicates."""
    watermark = Watermark(run="gpt", epoch=1, producer="r0", lane="metrics", seq=2)
    MemoryLog(world.west).publish([Message(paths.LEDGER, b"watermark|gpt|1|r0|metrics", CODEC.encode(watermark))])
    for seq in (1, 2, 3):
        world.send(_metric(seq))
    _turn(world, world.replicator(lane="metrics"))
    assert [event.seq for event in world.visible("metrics")] == [3]


def test_what_was_passed_over_is_made_up_for_once_and_marked(world: _World) -> None:
    """Its number lies below the watermark: no reader of the lane would ever look at it again."""
    _passed_over(world)
    assert _planned(world, "metrics").fates == {Fate.DONE: 1, Fate.MISSED: 2}
    assert _replayed(world, "metrics") == {"done": 1, "made_up": 2}
    assert _replayed(world, "metrics") == {"done": 3}
    assert [event.seq for event in world.visible("metrics")] == [3, 1, 2]
    message = next(item for item in world.west.topic(paths.METRICS) if item and replay_of(item.headers))
    assert (replay_of(message.headers), origin_of(message.headers)) == ("replay-1", "east/farside.metrics/0/0")


def test_bytes_that_are_gone_are_copied_again_and_nothing_is_told_twice(world: _World) -> None:
    """A visible checkpoint whose chunk was lost here: the plan says damaged, the handlers repair it."""
    event = world.commit(10, 1)
    _turn(world, world.replicator())
    before = dict(world.west_store.objects)
    world.west_store.delete(CheckpointId("gpt", 1, 1, 10).chunk(0, 0))
    assert _planned(world).fates == {Fate.DAMAGED: 1}
    replicator, (everything,) = world.replicator(), places(world.east, "checkpoints")
    replicator.replay(everything)
    for _ in range(5):
        replicator.turn()
    assert replicator.replay(everything) == ReplayAnswer(state="done", why="", counts={"gone": 0, "repaired": 1})
    assert (world.west_store.objects, world.visible()) == (before, [event])


def test_I5_what_is_past_the_fork_stays_refused(world: _World) -> None:
    """The plan says superseded; a replay makes nothing of it visible."""
    world.view = FORKED_AT_20
    world.commit(30, 1)
    _turn(world, world.replicator())
    assert _planned(world).fates == {Fate.SUPERSEDED: 1}
    assert _replayed(world) == {"superseded": 1}
    assert (world.visible(), len(world.dead())) == ([], 1)


def test_I15_a_crash_at_any_port_call_of_a_replay_makes_nothing_visible_twice(tmp_path: Path) -> None:
    """Whoever asked asks the process that comes after it."""
    calls = 1
    while True:
        private, public = generate_keypair(tmp_path, f"east{calls}")
        signer = Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
        world = _World(signer)
        _passed_over(world)
        wire = Tripwire(calls)
        replicator = world.replicator(wire, "metrics")
        try:
            (everything,) = places(world.east, "metrics")
            replicator.replay(everything)
            _turn(world, replicator)
        except Crash:
            assert sum(_replayed(world, "metrics").values()) == 3
            assert [event.seq for event in world.visible("metrics")] == [3, 1, 2]
            calls += 1
            continue
        assert calls > 10
        return


@pytest.mark.parametrize("lane", ["heartbeats", "control", "nonsense"])
def test_I10_heartbeats_and_control_reach_no_handler(lane: str) -> None:
    """An old sign of life is none (6.11)."""
    with pytest.raises(MisconfiguredError, match="cannot be replayed"):
        check_lane(lane)


def test_I10_a_heartbeat_that_was_replayed_is_no_sign_of_life(world: _World) -> None:
    """Whoever puts one into the lane by other means: who listens sees the mark, and does not count it."""
    clock = ManualClock()
    world.east.topic(paths.HEARTBEATS)
    listener = PeerState(region="east", run="gpt", clock=clock)
    heartbeats = HeartbeatReader(
        region="east", source=MemorySource(world.east), codec=Codec(), clock=clock, peer_states=[listener]
    )
    heartbeats.turn()
    common = {name: getattr(_metric(1), name) for name in ("event_id", "run", "region", "epoch", "attempt", "producer")}
    beat = Heartbeat(**common, seq=1, step=1, time_ms=1, node="n0", phase="train", budget_s=1.0, last_seqs=())
    message = Message(paths.HEARTBEATS, b"gpt", CODEC.encode(beat), headers_of(beat, "heartbeat"))
    replayed = dataclasses.replace(message, headers=marked(message.headers, "r", "east/farside.heartbeats/0/0"))
    MemoryLog(world.east).publish([replayed])
    heartbeats.turn()
    assert "n0" not in listener.pulse.nodes
    MemoryLog(world.east).publish([message])
    heartbeats.turn()
    assert "n0" in listener.pulse.nodes


# --- targets ---


def _drive(
    source: EventSource, parts: Sequence[Stretch], target: replay.ReplayTarget, bookmark: FileBookmark, *, run: str = ""
) -> Drive:
    """A replay that begins, or goes on where its bookmark is."""
    mark = bookmark.read() or Mark("r-1", {one.place: one.begin for one in parts}, {}, {})
    left = [dataclasses.replace(one, begin=mark.at[one.place]) for one in parts]
    merged = Merged(source, left, SystemClock())
    merged.begin()
    return Drive(
        merged=merged,
        chosen=parse(runs=[run] if run else [], now_ms=0),
        decoding=_decoding(),
        target=target,
        bookmark=bookmark,
        begun=mark,
        tempo=Tempo(),
        clock=SystemClock(),
    )


def _to_end(drive: Drive) -> Counter[str]:
    while not drive.done:
        drive.turn()
    drive.note()
    return drive.counts


def _everything(source: EventSource) -> list[Fetched]:
    parts = [Stretch(partition, *source.bounds(partition)) for partition in source.partitions(TOPICS)]
    merged, records = Merged(source, parts, SystemClock()), []
    merged.begin()
    while not merged.done:
        if merged.peek() is not None:
            records.append(merged.take())
    return records


@pytest.mark.parametrize("name", ["incident.avro", "incident.jsonl"])
def test_a_file_holds_every_byte_of_what_was_recorded_and_is_read_as_the_log_was(
    world: _World, tmp_path: Path, name: str
) -> None:
    """Places, times, keys, values and headers; what cannot be decoded is recorded like the rest."""
    _filled(world)
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", b"\xff torn", (("h", b"\x00"),))])
    target = RecordingTarget(tmp_path / name, 0, lambda _item: {"type": "test"})
    drive = _drive(MemorySource(world.east), _parts(world), target, FileBookmark(tmp_path / "mark.json"))
    assert _to_end(drive) == {"recorded": 6}
    target.close()
    read = RecordingSource(tmp_path / name)
    assert _everything(read) == _everything(MemorySource(world.east))
    (metrics,) = read.partitions([paths.METRICS])
    assert (read.bounds(metrics), read.offset_at(metrics, 3_000)) == ((0, 4), 1)


@pytest.mark.parametrize("name", ["incident.avro", "incident.jsonl"])
def test_a_recording_that_was_killed_goes_on_behind_what_is_durable(world: _World, tmp_path: Path, name: str) -> None:
    """Records that were written and not noted are cut off: every record is in the file once."""
    _filled(world)
    bookmark, path = FileBookmark(tmp_path / "mark.json"), tmp_path / name
    parts = _parts(world)
    short = [dataclasses.replace(one, end=one.begin + 1) for one in parts]
    target = RecordingTarget(path, 0, lambda _item: {})
    first = _drive(MemorySource(world.east), short, target, bookmark)
    _to_end(first)
    target.deliver(_everything(MemorySource(world.east))[-2:])  # written, not noted: then it is killed
    target.mark()
    target.close()
    mark = bookmark.read()
    assert mark is not None
    target = RecordingTarget(path, mark.target, lambda _item: {})
    assert _to_end(_drive(MemorySource(world.east), parts, target, bookmark)) == {"recorded": 5}
    target.close()
    recorded = _everything(RecordingSource(path))
    assert sorted(map(repr, recorded)) == sorted(map(repr, _everything(MemorySource(world.east))))


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("a.txt", b"", "which says what to write"),
        ("a.jsonl", b'{"cluster": 1}\n', "line 1 is no record"),
        ("a.jsonl", b"\xff\n", "line 1 is no record"),
        ("a.avro", b"no container", "it is no recording"),
        ("missing.avro", None, "No such file"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_its_place(
    tmp_path: Path, name: str, body: bytes | None, why: str
) -> None:
    """And nothing of it is replayed."""
    if body is not None:
        (tmp_path / name).write_bytes(body)
    with pytest.raises(MisconfiguredError, match=why):
        RecordingSource(tmp_path / name)


def test_an_incident_that_was_recorded_is_a_test_of_the_handlers(world: _World, tmp_path: Path) -> None:
    """The file stands in for the primary's log: the replicator does with it what it did then."""
    _filled(world)
    target = RecordingTarget(tmp_path / "incident.avro", 0, lambda _item: {})
    _to_end(_drive(MemorySource(world.east), _parts(world), target, FileBookmark(tmp_path / "mark.json")))
    target.close()
    source = RecordingSource(tmp_path / "incident.avro")
    replicator = dataclasses.replace(world).replicator(source=source)
    _turn(world, replicator)
    assert [event.step for event in world.visible()] == [10, 20]
    ledger = read_ledger(MemorySource(world.west), Codec(), SystemClock())
    assert {(one.cluster, one.offset) for one in ledger.positions.values()} == {("east", 2)}


def test_a_topic_gets_the_same_bytes_marked_and_a_killed_replay_puts_none_there_twice(
    world: _World, tmp_path: Path
) -> None:
    """It was killed after it had published and before it noted: it looks at the topic first."""
    _filled(world)

    def target() -> TopicTarget:
        topic_target = TopicTarget("replay.copy", MemoryLog(world.west), "r-1")
        topic_target.look(MemorySource(world.west), SystemClock())
        return topic_target

    everything = _everything(MemorySource(world.east))
    assert target().deliver(everything[:3]) == {"published": 3, "there": 0}
    done = _to_end(_drive(MemorySource(world.east), _parts(world), target(), FileBookmark(tmp_path / "m.json")))
    assert +done == {"published": 2, "there": 3}
    there = [item for item in world.west.topic("replay.copy") if item is not None]
    assert [item.value for item in there] == [item.value for item in everything]
    assert {replay_of(item.headers) for item in there} == {"r-1"}


@pytest.mark.parametrize("name", ["farside.metrics", "replay.", "metrics"])
def test_I10_a_topic_that_services_read_is_never_written(name: str) -> None:
    """Only those that begin with replay. are."""
    with pytest.raises(MisconfiguredError, match=r"begin with 'replay\.'"):
        check_topic(name)


def test_handlers_are_asked_until_they_have_settled_it_and_refusals_are_said(world: _World) -> None:
    """A batch that waits for a copy is asked for again; a topic that was made anew ends it."""
    waits = ReplayAnswer(state="waits", why="step 10 is being copied")
    done = ReplayAnswer(state="done", why="", counts={"done": 2})
    answers = iter([waits, done])
    asked: list[ReplayBody] = []

    def ask(body: ReplayBody) -> ReplayAnswer:
        asked.append(body)
        return next(answers, ReplayAnswer(state="refused", why="another topic now"))

    _filled(world)
    records = [one for one in _everything(MemorySource(world.east)) if one.partition.topic == paths.CHECKPOINTS]
    target = HandlersTarget("east", "west", "r-1", ask)
    assert (target.deliver(records), target.waits()) == (None, "step 10 is being copied")
    assert target.deliver(records) == {"done": 2}
    assert asked[0] == asked[1]
    assert (asked[0].lane, asked[0].offsets) == ("checkpoints", (0, 1))
    with pytest.raises(MisconfiguredError, match="another topic now"):
        target.deliver(records)


def test_bytes_that_nobody_has_any_more_are_told_and_stay_gone(world: _World) -> None:
    """The peer lost them too: it fails with its place and the reason, and the command's exit code says so."""
    world.commit(10, 1)
    _turn(world, world.replicator())
    for store in (world.west_store, world.east_store):
        store.delete(CheckpointId("gpt", 1, 1, 10).chunk(0, 0))
    replicator, (everything,) = world.replicator(), places(world.east, "checkpoints")
    replicator.replay(everything)
    for _ in range(5):
        replicator.turn()
    answer = replicator.replay(everything)
    assert (answer.state, answer.counts) == ("done", {"gone": 0, "failed": 1})
    assert "east/farside.checkpoints/0/0" in str(answer.why)
