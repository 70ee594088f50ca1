"""Which records a filter means, and what it says of a value that it does not understand."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.record_filter import (
    LANES,
    Facts,
    RecordFilter,
    Span,
    facts_of,
    facts_of_letter,
    kind_of,
    moment_ms,
    parse,
    span,
)
from pipelines.errors import MisconfiguredError
from pipelines.flows.agent.publisher import headers_of
from schemas.records import DataVersion, DeadLetter, Header, Metric, Sighting, Watermark

NOW_MS = 1_790_000_000_000
NUMBERS = st.integers(0, 2**40)


def _metric(run: str = "gpt", epoch: int = 1, attempt: int = 1, step: int = 7, producer: str = "r0") -> Metric:
    return Metric(
        event_id=f"{run}/{epoch}/{producer}/metrics/1",
        run=run,
        region="east",
        epoch=epoch,
        attempt=attempt,
        producer=producer,
        seq=1,
        step=step,
        time_ms=NOW_MS,
        values={"loss": 1.0},
    )


METRIC = _metric()
HEADERS = headers_of(METRIC, "metric")
SIGHTING = Sighting(
    region="west", observer="replicator", of_region="east", kafka_age_s=0, store_age_s=0, nodes_age_s=0, time_ms=0
)


@given(
    run=st.sampled_from(["gpt", "other"]),
    epoch=NUMBERS,
    attempt=NUMBERS,
    step=NUMBERS,
    low=NUMBERS,
    width=NUMBERS,
    time_ms=NUMBERS,
)
def test_a_record_is_judged_alike_by_its_bytes_and_by_its_headers(
    run: str, epoch: int, attempt: int, step: int, low: int, width: int, time_ms: int
) -> None:
    """The identity stands in both: whether the value can be read does not change what is selected."""
    event = _metric(run, epoch, attempt, step)
    headers = headers_of(event, "metric")
    bounds = f"{low}..{low + width}"
    for chosen in (
        parse(runs=["gpt"], now_ms=NOW_MS),
        parse(epochs=bounds, now_ms=NOW_MS),
        parse(attempts=bounds, now_ms=NOW_MS),
        parse(steps=bounds, lanes=["metrics"], now_ms=NOW_MS),
        parse(kinds=["metric"], producers=["r0"], regions=["east"], now_ms=NOW_MS),
        parse(kinds=["checkpoint"], now_ms=NOW_MS),
    ):
        assert chosen.matches(event, headers, time_ms) == chosen.matches(None, headers, time_ms)
    assert parse(steps=bounds, now_ms=NOW_MS).matches(event, headers, time_ms) == (low <= step <= low + width)
    assert facts_of(event, ()) == facts_of(None, headers)


@given(time_ms=NUMBERS, since=NUMBERS, until=NUMBERS)
def test_both_ends_of_a_time_range_are_included(time_ms: int, since: int, until: int) -> None:
    """It is the time at which the record was put into the log."""
    chosen = RecordFilter(since_ms=since, until_ms=until)
    assert chosen.matches(METRIC, HEADERS, time_ms) == (since <= time_ms <= until)


@pytest.mark.parametrize(
    "chosen",
    [
        {"runs": ["gpt"]},
        {"lanes": ["checkpoints"]},
        {"kinds": ["metric"]},
        {"epochs": "3"},
        {"attempts": "3.."},
        {"steps": "..9"},
        {"producers": ["r0"]},
        {"regions": ["east"]},
    ],
)
def test_what_nobody_can_read_is_hidden_by_no_filter(chosen: dict[str, str | list[str]]) -> None:
    """Bytes without headers might be anything; a decoded record that lacks the property is something else."""
    wanted = parse(**chosen, now_ms=NOW_MS)  # type: ignore[arg-type] # one table for all parts
    assert wanted.matches(None, (), 0)
    if "regions" not in chosen:
        assert not wanted.matches(SIGHTING, (), 0)


def test_of_the_values_of_one_part_any_may_hold_and_of_the_headers_all_must() -> None:
    """Parts narrow each other; header values are compared as bytes."""
    assert parse(runs=["other", "gpt"], kinds=["Checkpoint", "Metric"], now_ms=NOW_MS).matches(METRIC, HEADERS, 0)
    assert not parse(runs=["gpt"], kinds=["checkpoint"], now_ms=NOW_MS).matches(METRIC, HEADERS, 0)
    assert parse(headers=["farside_run=gpt", "farside_seq=1"], now_ms=NOW_MS).matches(METRIC, HEADERS, 0)
    assert not parse(headers=["farside_run=gpt", "farside_seq=2"], now_ms=NOW_MS).matches(METRIC, HEADERS, 0)
    assert parse(headers=["x=a=b"], now_ms=NOW_MS).headers == (("x", "a=b"),)
    assert not parse(headers=["farside_late=1"], now_ms=NOW_MS).matches(None, (), 0), "a header is there or it is not"


def test_a_dead_letter_is_selected_by_the_event_that_is_in_it() -> None:
    """As a record of its topic by run, epoch and step; as a letter also by the lane and kind of its event."""
    letter = DeadLetter(
        cluster="c",
        topic="farside.metrics",
        partition=0,
        offset=3,
        key=b"gpt",
        value=b"\xff",
        headers=tuple(Header(key=key, value=value) for key, value in HEADERS),
        reason="undecodable",
        detail="",
        time_ms=0,
    )
    assert facts_of(letter, ()) == dataclasses.replace(facts_of(METRIC, ()), lane="dead-letters", kind="dead_letter")
    assert facts_of_letter(letter) == facts_of(METRIC, ())
    bare = dataclasses.replace(letter, headers=())
    assert facts_of_letter(bare) == Facts(run="gpt", lane="metrics")


def test_records_that_are_no_events_say_what_they_have() -> None:
    """A watermark has a run; its lane is the topic in which it is kept, and so the filter finds it."""
    mark = Watermark(run="gpt", epoch=2, producer="r0", lane="metrics", seq=9)
    assert facts_of(mark, ()) == Facts(run="gpt", lane="ledger", kind="watermark", epoch=2, seq=9, producer="r0")
    assert parse(lanes=["ledger"], now_ms=NOW_MS).matches(mark, (), 0)
    assert parse(lanes=["control"], regions=["west"], now_ms=NOW_MS).matches(SIGHTING, (), 0)


def test_headers_with_numbers_that_are_none_are_not_known() -> None:
    """Somebody else's headers never end a command."""
    headers = [("farside_epoch", b"\xff"), ("farside_seq", b"9" * 5000), ("farside_attempt", b"9" * 19)]
    headers += [("farside_step", "٣".encode()), ("ce_source", b"/x/y/z/w")]
    assert facts_of(None, headers) == Facts()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", Span(7, 7)), ("7..9", Span(7, 9)), ("7..", Span(7)), ("..9", Span(None, 9)), ("0..0", Span(0, 0))],
)
def test_a_range_has_both_ends_included(text: str, expected: Span) -> None:
    """Of one number, of two, or open at one end."""
    assert span(text) == expected


@given(back=st.integers(0, 10_000), unit=st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_counts_back_from_now(back: int, unit: str) -> None:
    """And RFC 3339 names the same moment in any time zone."""
    factor = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
    found = moment_ms(f"{back}{unit}", NOW_MS)
    assert found == NOW_MS - back * factor
    zone = dt.timezone(dt.timedelta(hours=2))
    assert moment_ms(dt.datetime.fromtimestamp(found / 1000, zone).isoformat(), NOW_MS) == found


def test_a_selection_names_the_topics_that_have_to_be_read() -> None:
    """All of them, or those of the lanes that are asked for; a topic's name is as good as a lane's."""
    assert len(RecordFilter().topics()) == len(LANES)
    assert parse(lanes=["farside.metrics", "dead-letters"], now_ms=NOW_MS).topics() == (
        "farside.metrics",
        "farside.dead-letters",
    )
    assert kind_of("DataVersion") == kind_of("data-version") == kind_of("farside.data_version") == "data_version"
    assert kind_of(DataVersion.__name__) == "data_version"


def test_each_wrong_value_has_one_clear_line_of_its_own() -> None:
    """All at once, so that nobody corrects them one by one."""
    with pytest.raises(MisconfiguredError) as caught:
        parse(
            runs=["GPT"],
            lanes=["metric"],
            epochs="one",
            attempts="..",
            steps="9..7",
            since="yesterday",
            until="2026-11-30T02:00:00",
            headers=["late"],
            now_ms=NOW_MS,
        )
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "run 'GPT'",
        "lane 'metric'",
        "epoch 'one'",
        "attempt '..'",
        "steps '9..7'",
        "since 'yesterday'",
        "until '2026-11-30T02",
        "header 'late'",
    ]
    assert lines[4] == "steps '9..7': the range is empty: 9 is more than 7"
    assert "say the time zone" in lines[6]


def test_a_time_range_that_ends_before_it_begins_is_refused() -> None:
    """Else it would select nothing, in silence."""
    with pytest.raises(MisconfiguredError, match="since '5m' is after until '10m'"):
        parse(since="5m", until="10m", now_ms=NOW_MS)
