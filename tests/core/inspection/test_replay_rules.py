"""The rules of a replay: bounds, marks, pace, and the fate of an event."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.core.ledger import Ledger
from pipelines.core.lineage import LineageView
from pipelines.core.record_filter import Facts
from pipelines.core.replay_rules import (
    Bound,
    Edge,
    Fate,
    Known,
    Tempo,
    fate,
    marked,
    origin_of,
    parse_bound,
    replay_of,
)
from pipelines.core.sequence_ranges import SequenceRanges
from tests.lineages import lineage_of

NOW_MS = 1_790_000_000_000
STREAM = ("gpt", 1, "r0", "metrics")
ONE_EPOCH = lineage_of((1, 0, -1))
FORKED_AT_20 = lineage_of((1, 0, -1), (2, 1, 20))
FACTS = Facts(run="gpt", lane="metrics", epoch=1, producer="r0", region="east", step=7, first_seq=7, seq=7)
UP_TO_9 = Ledger({STREAM: 9})


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("earliest", Bound(Edge.EARLIEST)),
        ("latest", Bound(Edge.LATEST)),
        ("checkpoint:40", Bound(Edge.CHECKPOINT, 40)),
        ("offset:0", Bound(Edge.OFFSET, 0)),
        ("15m", Bound(Edge.TIME, NOW_MS - 900_000)),
        ("2026-11-30T02:00:00Z", Bound(Edge.TIME, 1_796_004_000_000)),
    ],
)
def test_a_bound_is_a_word_a_step_an_offset_or_a_time(text: str, bound: Bound) -> None:
    """As a person types it."""
    assert parse_bound(text, NOW_MS) == bound


@pytest.mark.parametrize("text", ["", "checkpoint:", "offset:-1", "offset:x", "yesterday", "offset:" + "9" * 19])
def test_any_other_bound_is_refused_with_what_to_type(text: str) -> None:
    """One clear error."""
    with pytest.raises(ValueError, match=r"whole number|use earliest"):
        parse_bound(text, NOW_MS)


@pytest.mark.parametrize(
    ("change", "ledger", "known", "view", "expected"),
    [
        ({}, UP_TO_9, Known(SequenceRanges([(1, 9)])), ONE_EPOCH, Fate.DONE),
        ({}, UP_TO_9, Known(SequenceRanges([(1, 6), (8, 9)])), ONE_EPOCH, Fate.MISSED),
        ({}, UP_TO_9, Known(SequenceRanges([(1, 6)]), SequenceRanges([(7, 7)])), ONE_EPOCH, Fate.DEAD),
        ({}, Ledger({STREAM: 6}), Known(SequenceRanges([(1, 6)])), ONE_EPOCH, Fate.NEW),
        ({}, Ledger({STREAM: 3}), Known(SequenceRanges([(1, 3)])), ONE_EPOCH, Fate.NEW),
        ({"step": 21}, UP_TO_9, Known(), FORKED_AT_20, Fate.SUPERSEDED),
        ({"step": 21}, UP_TO_9, Known(SequenceRanges([(7, 7)])), FORKED_AT_20, Fate.DONE),
        ({"region": "south"}, UP_TO_9, Known(), ONE_EPOCH, Fate.OTHER),
        ({"seq": None}, UP_TO_9, Known(), ONE_EPOCH, Fate.UNDECODABLE),
        ({"first_seq": 5}, UP_TO_9, Known(SequenceRanges([(1, 5)])), ONE_EPOCH, Fate.MISSED),
    ],
)
def test_what_would_become_of_an_event(
    change: dict[str, object], ledger: Ledger, known: Known, view: LineageView, expected: Fate
) -> None:
    """Visible is done, whatever else holds; past the fork is refused; below the watermark and nowhere is missed."""
    facts = dataclasses.replace(FACTS, **change)  # type: ignore[arg-type] # fields of the table's rows
    assert fate(facts, "east", ledger, known, view) is expected


def test_marks_say_which_replay_and_from_where_and_never_pile_up() -> None:
    """A record that is replayed for the second time has one mark: the newest."""
    first = marked((("ce_id", b"x"),), "one", "c/farside.metrics/0/7")
    again = marked(first, "two", "c/replay.x/0/1")
    assert (replay_of(again), origin_of(again)) == ("two", "c/replay.x/0/1")
    assert len(again) == len(first) == 3
    assert (replay_of((("ce_id", b"x"),)), origin_of(())) == (None, None)


def test_a_rate_spaces_records_evenly_and_a_pause_is_not_made_up_for() -> None:
    """Ten a second; after a minute's pause, not six hundred at once."""
    tempo, now_s = Tempo(rate=10.0), 100.0
    for count in range(5):
        assert tempo.due_s(0, now_s) == pytest.approx(100.0 + count / 10)
        now_s = tempo.due_s(0, now_s)
        tempo.went(0, now_s)
    now_s += 60.0
    tempo.went(0, now_s)
    burst = 0
    while tempo.due_s(0, now_s) <= now_s:
        tempo.went(0, now_s)
        burst += 1
    assert burst <= 11


def test_a_speed_keeps_the_distances_between_records() -> None:
    """Twice as fast: two seconds apart become one; a record that is older than the one before it waits for nothing."""
    tempo = Tempo(speed=2.0)
    tempo.went(1_000, 50.0)
    assert tempo.due_s(3_000, 50.0) == pytest.approx(51.0)
    tempo.went(3_000, 51.0)
    assert tempo.due_s(2_000, 51.0) == pytest.approx(51.0)


@pytest.mark.parametrize(
    ("rate", "speed", "takes_s"), [(0.0, 0.0, None), (10.0, 0.0, 10.0), (0.0, 2.0, 30.0), (1.0, 2.0, 100.0)]
)
def test_a_plan_says_how_long_the_pace_takes(rate: float, speed: float, takes_s: float | None) -> None:
    """A hundred records that came over a minute."""
    assert Tempo(rate, speed).takes_s(100, 60_000) == takes_s
