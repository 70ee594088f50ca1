"""Looking at a log on fakes: all of it, once, whatever it holds, and nothing is changed by it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipelines import paths
from pipelines.core.record_counts import RecordCounts
from pipelines.core.record_filter import RecordFilter, parse
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.agent.publisher import headers_of
from pipelines.flows.log.log_reader import (
    Decoding,
    Following,
    Seen,
    at_place,
    event_ids,
    newest,
    scan,
    select,
)
from pipelines.ports import Fetched, Message, Partition
from schemas import records
from schemas.codec import MARKER, Codec, record_types, schema_text
from schemas.records import DeadLetter, Header, Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.system_clock import SystemClock
from services.cli import events_view
from tests.manual_clock import ManualClock

CODEC = Codec()
PLACE = Partition("c", "t", paths.METRICS, 0)


def _metric(seq: int, run: str = "gpt", value: float = 1.0) -> Metric:
    return Metric(
        event_id=f"{run}/1/r0/metrics/{seq}",
        run=run,
        region="east",
        epoch=1,
        attempt=1,
        producer="r0",
        seq=seq,
        step=seq,
        time_ms=0,
        values={"loss": value},
    )


def _message(event: Metric, value: bytes | None = None) -> Message:
    body = CODEC.encode(event) if value is None else value
    return Message(paths.METRICS, event.run.encode(), body, headers_of(event, "metric"))


def _decoding() -> Decoding:
    return Decoding(Codec(), SystemClock())


def test_a_scan_ends_at_the_ends_that_it_saw_first_and_gives_each_record_once() -> None:
    """Records written meanwhile are for the next scan; commit markers are passed; the progress ends at the total."""
    kafka = MemoryKafka("east")
    log = MemoryLog(kafka, "id")
    for seq in range(1, 1_201):
        log.transaction([_message(_metric(seq))])
    MemoryLog(kafka).publish([Message(paths.CHECKPOINTS, b"gpt", b"x")])
    progress: list[tuple[int, int]] = []
    places = []
    for fetched in scan(MemorySource(kafka), paths.TOPICS, SystemClock(), lambda *at: progress.append(at)):
        places.append((fetched.partition.topic, fetched.offset))
        MemoryLog(kafka).publish([_message(_metric(len(places) + 5_000))])
    assert len(places) == len(set(places)) == 1_201
    assert progress[-1] == (2_401, 2_401)


def test_a_log_that_gives_nothing_before_its_end_is_said_and_not_waited_for_for_ever() -> None:
    """For example behind an open transaction of a writer that never comes back."""
    kafka = MemoryKafka("east")
    MemoryLog(kafka).publish([_message(_metric(1))])
    clock = ManualClock()

    class Silent(MemorySource):
        def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
            del most
            clock.sleep(timeout_s)
            return ()

    with pytest.raises(RetryableError, match=r"farside\.metrics gave nothing for 60 s"):
        list(scan(Silent(kafka), [paths.METRICS], clock))


def test_what_cannot_be_decoded_is_shown_with_its_reason_and_counted() -> None:
    """Torn bytes, somebody else's bytes and bytes of a schema that nobody has: four records in, four out."""
    kafka = MemoryKafka("east")
    torn = CODEC.encode(_metric(1))[:-2]
    stranger = MARKER + b"\x01" * 8 + b"?"
    MemoryLog(kafka).publish([_message(_metric(1), torn), _message(_metric(2), stranger), _message(_metric(3))])
    MemoryLog(kafka).publish([Message(paths.METRICS, b"?", b"\x00", ())])
    chosen = parse(runs=["gpt"], now_ms=0)
    selected = list(select(MemorySource(kafka), chosen, _decoding()))
    assert [one.problem.partition(":")[0] for one in selected] == [
        "undecodable Metric",
        "unknown schema fingerprint 0101010101010101",
        "",
        "not Avro single-object encoding",
    ]
    tally = RecordCounts(("run", "type"))
    for one in selected:
        tally.add(one.record, one.fetched.headers, len(one.fetched.value), one.fetched.time_ms)
    assert [(one["run"], one["type"], one["records"], one["undecodable"]) for one in tally.plain()] == [
        ("gpt", "metric", 3, 2),
        (None, None, 1, 1),
    ]


def test_a_schema_that_we_lack_is_fetched_from_the_regions_store_once() -> None:
    """A region that was upgraded earlier writes it there first; without an answer the record is shown as it is."""
    newer = json.loads(schema_text(Metric))
    newer["fields"].append({"name": "unit", "type": "string", "default": ""})
    name = Codec().learn(json.dumps(newer))
    value = MARKER + bytes.fromhex(name) + CODEC.encode(_metric(1))[10:] + b"\x00"
    fetched = Fetched(PLACE, 0, b"gpt", value)
    asked: list[str] = []

    def store(key: str) -> bytes:
        asked.append(key)
        return json.dumps(newer).encode()

    decoding = Decoding(Codec(), SystemClock(), store)
    assert [decoding.see(fetched).record for _ in range(2)] == [_metric(1)] * 2
    assert asked == [paths.schema(name)]

    def away(key: str) -> bytes:
        asked.append(key)
        raise RetryableError("no answer")

    clock = ManualClock()
    decoding = Decoding(Codec(), clock, away)
    asked.clear()
    problems = {decoding.see(fetched).problem for _ in range(5)}
    assert problems == {f"unknown schema fingerprint {name}: the region's store does not give it: no answer"}
    assert len(asked) == 1, "a store that does not answer is not asked for each record"
    clock.sleep(60)
    decoding.see(fetched)
    assert len(asked) == 2, "but again after a while: a tail may run for hours"
    garbage = Decoding(Codec(), SystemClock(), lambda _key: b"no schema")
    assert "its schema is refused" in garbage.see(fetched).problem


@given(times=st.lists(st.integers(0, 50), max_size=60), limit=st.integers(1, 20))
def test_the_newest_are_those_that_a_full_sort_would_keep(times: list[int], limit: int) -> None:
    """In the order of the log's time, with bounded memory."""
    read = [Seen(Fetched(PLACE, at, b"", b"", (), time_ms), None) for at, time_ms in enumerate(times)]
    kept, count = newest(iter(read), limit)
    assert count == len(times)
    assert kept == sorted(read, key=lambda one: (one.fetched.time_ms, one.fetched.offset))[-limit:]


def test_a_record_is_found_by_its_place_and_an_offset_without_one_says_so() -> None:
    """A commit takes an offset too; a place that is not in the log has its bounds in the message."""
    kafka = MemoryKafka("east")
    log = MemoryLog(kafka, "id")
    for seq in (1, 2):
        log.transaction([_message(_metric(seq))])
    clock = SystemClock()
    assert at_place(MemorySource(kafka), paths.METRICS, 0, 2, clock).value == CODEC.encode(_metric(2))
    with pytest.raises(RetryableError, match="no record has this offset"):
        at_place(MemorySource(kafka), paths.METRICS, 0, 1, clock)
    with pytest.raises(RetryableError, match=r"offset 9 is outside 0\.\.4"):
        at_place(MemorySource(kafka), paths.METRICS, 0, 9, clock)
    with pytest.raises(RetryableError, match="no such partition"):
        at_place(MemorySource(kafka), paths.METRICS, 1, 0, clock)


def test_an_event_is_found_by_its_id_also_torn_and_in_a_dead_letter() -> None:
    """The id stands in the headers too, and a dead letter keeps them."""
    event = _metric(1)
    headers = headers_of(event, "metric")
    letter = DeadLetter(
        cluster="c",
        topic=paths.METRICS,
        partition=0,
        offset=0,
        key=b"gpt",
        value=b"",
        headers=tuple(Header(key=key, value=value) for key, value in headers),
        reason="",
        detail="",
        time_ms=0,
    )
    for seen in (
        Seen(Fetched(PLACE, 0, b"gpt", b"torn", headers), None, "torn"),
        Seen(Fetched(PLACE, 0, b"gpt", b"", ()), event),
        Seen(Fetched(PLACE, 0, b"gpt", b"", ()), letter),
    ):
        assert event_ids(seen) == {event.event_id}


def test_following_begins_at_the_end_and_gives_all_of_a_topic_that_is_made_later() -> None:
    """Records that are there already are history; a topic that is made, or made anew, is read from its first record."""
    kafka = MemoryKafka("east")
    MemoryLog(kafka).publish([_message(_metric(1))])
    clock = ManualClock()
    following = Following(MemorySource(kafka), paths.TOPICS, clock)
    assert following.poll() == ()
    MemoryLog(kafka).publish([_message(_metric(2)), Message(paths.CHECKPOINTS, b"gpt", b"x")])
    assert [one.offset for one in following.poll()] == [1]
    clock.sleep(60)
    assert [one.partition.topic for one in following.poll()] == [paths.CHECKPOINTS]
    kafka.create_again(paths.METRICS)
    MemoryLog(kafka).publish([_message(_metric(3))])
    clock.sleep(60)
    assert [one.value for one in following.poll()] == [CODEC.encode(_metric(3))]
    everything = Following(MemorySource(kafka), [paths.METRICS], clock, from_first=True)
    assert len(everything.poll()) == 1


def test_following_goes_on_where_it_was_when_records_were_removed_under_it() -> None:
    """It says so, gives nothing twice, and misses nothing that is still there."""
    kafka = MemoryKafka("east")
    fail = [False]

    class Removing(MemorySource):
        def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
            if fail and fail.pop():
                raise CorruptError("out of range")
            return super().poll(timeout_s, most)

    MemoryLog(kafka).publish([_message(_metric(1)), _message(_metric(2))])
    following = Following(Removing(kafka), [paths.METRICS], ManualClock(), from_first=True)
    assert [one.offset for one in following.poll()] == [0, 1]
    MemoryLog(kafka).publish([_message(_metric(3))])
    fail.append(True)
    with pytest.raises(RetryableError, match="removed"):
        following.poll()
    assert [one.offset for one in following.poll()] == [2]


def _rendered(records: list[Seen], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(events_view.table(records, header=True))
    text = console.file.getvalue()  # type: ignore[attr-defined] # the StringIO above
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_a_terminal_and_tells_a_reason_in_full(width: int) -> None:
    """Long values are cut or go on in the next line; a reason is never cut; nobody's text moves the cursor."""
    evil = replace(
        _metric(1, run="a-very-long-run-name-that-goes-on"), values={"loss\x1b[2J": 1e300, "n": float("nan")}
    )
    reason = "its reason is so long that it does not fit into one line of the table by far: " + "x" * 60
    lines = _rendered(
        [Seen(Fetched(PLACE, 12_345_678, b"", b""), evil), Seen(Fetched(PLACE, 1, b"", b""), None, reason)], width
    )
    assert max(len(line) for line in lines) <= width
    assert "\x1b" not in "".join(lines)
    assert reason.replace(" ", "") in "".join(line[55:] for line in lines).replace(" ", "")


@pytest.mark.parametrize("cls", [c for c in record_types().values() if c.schema_name.startswith("events/")])
def test_every_kind_of_record_has_a_line_of_its_own(cls: type[records.Record]) -> None:
    """A new kind must not be shown by its bare name."""
    assert cls in events_view._SUMMARIES


def test_json_keeps_every_byte_and_is_json_whatever_the_values_are() -> None:
    """Not-a-number is a string, bytes are hexadecimal, an undecodable value is there too."""
    seen = Seen(Fetched(PLACE, 1, b"gpt", b"", (("h", b"\xff"), ("h", b"2"))), _metric(1, value=float("nan")))
    found = json.loads(json.dumps(events_view.as_json(seen), allow_nan=False))
    assert found["record"]["values"] == {"loss": "nan"}
    assert found["headers"] == [["h", "hex:ff"], ["h", "2"]]
    assert found["place"] == "farside.metrics/0/1"
    torn = events_view.as_json(Seen(Fetched(PLACE, 1, b"", b"\xc3\x00"), None, "why"))
    assert (torn["problem"], torn["record"], torn["value"]) == ("why", None, "c300")
    raw = events_view.as_raw(replace(seen, fetched=replace(seen.fetched, value=b"\x00\xff")), "base64")
    assert (raw["value"], raw["headers"]) == ("AP8=", [["h", "/w=="], ["h", "Mg=="]])
    assert events_view.raw_lines(seen, "hex")[1:3] == ["  key 677074", "  h: ff  (hex:ff)"]


def test_an_empty_selection_selects_all() -> None:
    """The topics' own records too."""
    kafka = MemoryKafka("east")
    MemoryLog(kafka).publish([_message(_metric(1)), Message(paths.LEDGER, b"k", b"v")])
    assert len(list(select(MemorySource(kafka), RecordFilter(), _decoding()))) == 2
