"""Gaps and resets of a log that is followed: each an alarm with its range, kept until it is healed or acknowledged."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import paths
from pipelines.core import alarms
from pipelines.core.alarm_texts import Kind
from pipelines.core.alarms import ACKNOWLEDGED, HEALED, OPEN, Alarms, alarm, of_bounds, of_stream
from pipelines.core.ledger import Arrival, Ledger
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.ports import Message
from schemas.http_bodies import AcknowledgeAnswer
from schemas.records import Alarm, Metric
from services.adapters.memory.kafka import MemoryLog
from services.adapters.signer import Ed25519Signer
from services.http.bodies import plain
from tests.core.replication.test_lane_replicator import CODEC, _metric, _turn, _World
from tests.core.replication.test_metric_batch_replication import _batch, _rows
from tests.lineages import lineage_of
from tests.replaying import places
from tests.tripwire import Crash, Tripwire

STREAM = ("gpt", 1, "r0", "metrics")
FORKED_AT_20_AND_40 = lineage_of((1, 0, -1), (2, 1, 20), (3, 2, 40))


@pytest.fixture
def world(signer: Ed25519Signer) -> _World:
    """East and west."""
    return _World(signer)


def _of(epoch: int, seq: int, step: int) -> Metric:
    return dataclasses.replace(_metric(seq, step), event_id=f"e{epoch}m{seq}", epoch=epoch, producer=f"r{epoch}")


def _open(flow: LaneReplicator) -> list[dict[str, Any]]:
    alarms = flow.status().alarms
    assert alarms.open == len(alarms.newest)
    return [plain(alarm) for alarm in alarms.newest]


def _kinds(flow: LaneReplicator) -> list[str]:
    return [one["kind"] for one in _open(flow)]


def _reported(world: _World, name: str) -> list[dict[str, Any]]:
    return [fields for event, fields in world.said if event == name]


def _seqs(world: _World) -> list[int]:
    return [one.seq for one in world.visible("metrics")]


# --- each kind, from what happens to the log ---


def test_I14_retention_that_took_unread_records_is_an_alarm_with_their_offsets(world: _World) -> None:
    """And the numbers that they had are one more, as soon as a later one of their producer shows it."""
    for seq in (1, 2, 3, 4, 5):
        world.send(_metric(seq, seq))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    for seq in (6, 7, 8):
        world.send(_metric(seq, seq))
    world.east.trim(paths.METRICS, 7)
    later = world.replicator(lane="metrics")
    _turn(world, later)
    gone, hole = _open(later)
    assert (gone["kind"], gone["ranges"], gone["run"]) == ("records_gone", [[5, 6]], "*")
    assert "retention" in gone["cause"]
    assert (hole["kind"], hole["ranges"], hole["run"], hole["producer"]) == ("hole", [[6, 7]], "gpt", "r0")
    assert "unread records are gone" in hole["cause"], "the hole says what made it"
    assert _seqs(world) == [1, 2, 3, 4, 5, 8]
    assert len(_reported(world, "replicate.alarm")) == 2, "each is told once"


def test_I14_a_log_that_is_shorter_than_before_is_an_alarm_and_is_read_from_its_beginning(world: _World) -> None:
    """A broker came back with an older disk: what it has again is known, what it gets anew is not missed."""
    for seq in (1, 2, 3, 4):
        world.send(_metric(seq, seq))
    _turn(world, world.replicator(lane="metrics"))
    world.east.cut(paths.METRICS, 2)
    world.send(_metric(5, 5))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    (opened,) = _open(flow)
    assert (opened["kind"], opened["ranges"]) == ("log_shorter", [[3, 3]])
    assert _seqs(world) == [1, 2, 3, 4, 5]


def test_I14_an_event_of_an_epoch_that_its_region_had_left_is_an_alarm(world: _World) -> None:
    """East held epoch 1, lost it, holds epoch 3, and then something writes under epoch 1 past its fork."""
    world.view = FORKED_AT_20_AND_40
    for event in (_of(1, 1, 10), _of(3, 1, 41)):
        world.send(event)
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    world.send(_of(1, 2, 20))
    _turn(world, flow)
    assert _open(flow) == [], "at or before its fork it is late, and nothing is wrong"
    restarted = world.replicator(lane="metrics")
    world.send(_of(1, 3, 25))
    world.send(_of(1, 4, 26))
    _turn(world, restarted)
    (opened,) = _open(restarted)
    assert (opened["kind"], opened["epoch"], opened["producer"], opened["ranges"]) == (
        "epoch_backwards",
        1,
        "r1",
        [[3, 4]],
    )
    assert "epoch 3" in opened["cause"], "known across the restart"
    assert [letter.reason for letter in world.dead()] == ["branch", "branch"]


def test_the_tail_of_a_region_that_was_lost_is_a_branch_and_no_alarm(world: _World) -> None:
    """It comes after each failover: its region has not left that epoch yet."""
    world.view = FORKED_AT_20_AND_40
    world.send(_of(1, 1, 10))
    world.send(_of(1, 2, 25))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert len(world.dead()) == 1
    assert _open(flow) == []


@pytest.mark.parametrize(
    ("known", "first", "end", "others", "expected"),
    [
        (None, 0, 9, False, None),
        (None, 4, 9, False, (Kind.RETENTION, [(0, 3)])),
        (None, 0, 9, True, (Kind.ANEW, [])),
        (None, 4, 9, True, (Kind.ANEW, [(0, 3)])),
        (5, 5, 9, False, None),
        (9, 5, 9, True, None),
        (5, 6, 9, False, (Kind.RETENTION, [(5, 5)])),
        (12, 5, 9, False, (Kind.SHORTER, [(9, 11)])),
    ],
)
def test_what_the_bounds_of_a_log_say(known: int | None, first: int, end: int, others: bool, expected: Any) -> None:  # noqa: ANN401 - a table
    """One answer for each way in which a place to read from can be lost."""
    noticed = of_bounds(known, first, end, others=others)
    assert (None if noticed is None else (noticed[0], list(noticed[1].ranges()))) == expected


# --- it stays until it is healed or acknowledged ---


def test_I14_an_alarm_outlives_the_replicator_and_is_told_once(world: _World) -> None:
    """It lies in the region's own log, in the transaction that went past the hole."""
    for seq in (1, 4):
        world.send(_metric(seq, seq))
    first = world.replicator(lane="metrics")
    _turn(world, first)
    before = _open(first)
    later = world.replicator(lane="metrics")
    _turn(world, later)
    assert _open(later) == before
    assert [one["ranges"] for one in before] == [[[2, 3]]]
    assert len(_reported(world, "replicate.alarm")) == 1
    assert later.lane_alarms.raised.total() == 0, "it was raised by the one before"
    assert later.lane_alarms.open_by_kind() == {"hole": 1}


def test_I14_I15_a_crash_at_any_port_call_neither_loses_nor_doubles_an_alarm(signer: Ed25519Signer) -> None:
    """The topic is made anew with a hole behind it; the process dies before and after every call."""
    at, crashes = 1, 0
    while True:
        world = _World(signer)
        world.send(_metric(1, 1))
        _turn(world, world.replicator(lane="metrics"))
        world.east.create_again(paths.METRICS)
        world.send(_metric(4, 4))
        try:
            _turn(world, world.replicator(Tripwire(at), lane="metrics"))
            crashed = False
        except Crash:
            crashed = True
        flow = world.replicator(lane="metrics")
        _turn(world, flow)
        assert _kinds(flow) == ["topic_anew", "hole"], f"died at {at}"
        assert _seqs(world) == [1, 4]
        written = [CODEC.decode_as(Alarm, one.value) for one in world.west.topic(paths.ALARMS) if one is not None]
        assert [one.kind for one in written] == ["topic_anew", "hole"], f"died at {at}"
        if not crashed:
            break
        at, crashes = at + 1, crashes + 1
    assert crashes > 20


def test_I14_I15_a_replay_that_brings_what_was_missing_heals_it_and_doubles_nothing(world: _World) -> None:
    """The peer's log has the numbers after all: they are taken, marked, and the others are duplicates."""
    for seq in (1, 4):
        world.send(_metric(seq, seq))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    world.send(_metric(3, 3))
    _turn(world, flow)
    assert _seqs(world) == [1, 4, 3]
    assert [one["ranges"] for one in _open(flow)] == [[[2, 2]]]
    world.send(_metric(2, 2))
    (everything,) = places(world.east, "metrics")
    flow.replay(everything)
    _turn(world, flow)
    _turn(world, world.replicator(lane="metrics"))
    assert _seqs(world) == [1, 4, 3, 2]
    assert _open(flow) == []
    assert [one["state"] for one in _reported(world, "replicate.alarm_healed")] == [HEALED]
    marked = [one for one in world.west.topic(paths.METRICS) if one and ("farside_filled", b"1") in one.headers]
    assert [CODEC.decode_as(Metric, one.value).seq for one in marked] == [3, 2]


def test_I15_of_a_batch_that_lies_in_a_hole_only_the_missing_rows_are_taken(world: _World) -> None:
    """Rows on both sides of it are known."""
    for event in (_batch(1, 3), _batch(7, 9)):
        world.send(event)
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    world.send(_batch(2, 8))
    _turn(world, flow)
    assert sorted(_rows(world)) == list(range(1, 10))
    assert _open(flow) == []


def test_I15_an_undecodable_record_in_a_hole_takes_its_number(world: _World) -> None:
    """Its dead letter accounts for it."""
    for seq in (1, 3):
        world.send(_metric(seq, seq))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    lost = world.east.topic(paths.METRICS)[0]
    assert lost is not None
    headers = tuple((name, b"2" if name == "farside_seq" else value) for name, value in lost.headers)
    for _ in range(2):
        MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", b"garbage", headers)])
    _turn(world, flow)
    assert len(world.dead()) == 1
    assert _open(flow) == []


def test_an_alarm_that_was_acknowledged_is_open_no_longer_and_its_numbers_are_still_taken(world: _World) -> None:
    """A person knows; the event that turns up later is no duplicate."""
    for seq in (1, 3):
        world.send(_metric(seq, seq))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    (opened,) = _open(flow)
    assert flow.lane_alarms.acknowledge(opened["id"], "ann") == AcknowledgeAnswer(state="waits")
    _turn(world, flow, 1)
    assert flow.lane_alarms.acknowledge(opened["id"], "ann") == AcknowledgeAnswer(state="done")
    flow.lane_alarms.acknowledge("nonsense", "ann")
    _turn(world, flow, 1)
    assert flow.lane_alarms.acknowledge("nonsense", "ann") == AcknowledgeAnswer(state="unknown")
    later = world.replicator(lane="metrics")
    _turn(world, later)
    assert _open(later) == []
    assert [fields["actor"] for fields in _reported(world, "replicate.alarm_acknowledged")] == ["ann"]
    world.send(_metric(2, 2))
    world.send(_metric(5, 5))
    _turn(world, later)
    assert _seqs(world) == [1, 3, 2, 5]
    assert [opened["ranges"] for opened in _open(later)] == [[[4, 4]]], "a new hole is open anew"


# --- the values ---


def test_a_sentence_names_run_lane_producer_range_and_cause() -> None:
    """The sentence that a person reads is made of the same fields that a program reads."""
    hole = of_stream(Kind.HOLE, STREAM, SequenceRanges([(2, 3), (7, 7)]), peer="east", cause="why", time_ms=1)
    text = alarms.sentence(hole)
    assert text == "metrics of east, gpt: numbers were jumped over, numbers 2..3, 7 of r0, epoch 1; likely: why"
    assert alarms.plain(hole)["text"] == text
    whole = alarm(
        Kind.SHORTER, peer="east", lane="metrics", cause="why", time_ms=1, place="t/0", numbers=SequenceRanges([(4, 9)])
    )
    assert (
        alarms.sentence(whole)
        == "metrics of east, every run: the log is shorter than before, offsets 4..9; likely: why"
    )


def _hole(number: int, first: int, last: int) -> Alarm:
    stream = ("gpt", 1, f"r{number}", "metrics")
    return of_stream(Kind.HOLE, stream, SequenceRanges([(first, last)]), peer="east", cause="", time_ms=number)


def test_alarms_are_bounded_and_what_is_forgotten_is_said() -> None:
    """First one that was acknowledged goes, else the oldest; of ranges the newest are listed and the rest counted."""
    kept = Alarms()
    for number in range(alarms.ALARMS_MAX):
        kept.add(_hole(number, 1, 1))
    assert kept.acknowledge(alarms.id_of(_hole(7, 1, 1)), "ann")
    before, after = kept, kept.copy()
    after.add(_hole(-1, 1, 1))
    after.add(_hole(-2, 1, 1))
    assert len(after.kept) == alarms.ALARMS_MAX
    ended = [one for one in after.changes_since(before) if one.state != OPEN]
    assert [(one.producer, one.state) for one in ended] == [("r7", "forgotten"), ("r0", "forgotten")]
    many = Alarms()
    for at in range(alarms.RANGES_MAX + 20):
        many.add(_hole(1, 3 * at + 1, 3 * at + 1))
    (one,) = many.kept.values()
    assert (len(one.ranges), one.unlisted, one.ranges[0].first) == (alarms.RANGES_MAX, 20, 61)
    many.fill(("gpt", 1, "r1", "metrics"), 1, 10_000)
    assert many.kept, "what is not listed any longer is never healed by itself"


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), max_size=40), st.integers(0, 30))
def test_I15_whatever_comes_in_whatever_order_a_number_is_new_once(came: list[tuple[int, int]], cut_at: int) -> None:
    """Watermark and holes together are exactly the set of what was taken, also when read back from their records."""
    ledger, taken = Ledger(), SequenceRanges()
    for at, (first, more) in enumerate(came):
        before = ledger
        ledger = before.copy()
        numbers = SequenceRanges([(first, first + more)])
        is_new = [seq for seq in numbers if ledger.is_new(STREAM, seq)]
        assert is_new == [seq for seq in numbers if seq not in taken]
        assert (ledger.arrival_of(STREAM, numbers.last, numbers.first) is Arrival.DUPLICATE) is not bool(is_new)
        skipped = ledger.take(STREAM, first, first + more)
        if skipped:
            ledger.alarms.add(of_stream(Kind.HOLE, STREAM, skipped, peer="east", cause="", time_ms=at))
        taken |= numbers
        if at == cut_at:
            read = Ledger()
            for record in ledger.changes_since(Ledger()):
                read.learn(record)
            assert (read.watermarks, read.alarms.kept) == (ledger.watermarks, ledger.alarms.kept)
            ledger = read


def test_what_ended_is_not_read_back() -> None:
    """The last record of a key holds."""
    kept = Alarms()
    kept.add(_hole(1, 1, 2))
    before, after = kept, kept.copy()
    after.fill(("gpt", 1, "r1", "metrics"), 1, 2)
    (record,) = after.changes_since(before)
    assert record.state == HEALED
    read = Alarms()
    for known in (_hole(1, 1, 2), record):
        read.learn(known)
    assert read.kept == {}
    assert not read.acknowledge(alarms.id_of(record), "ann")
    assert ACKNOWLEDGED != OPEN
