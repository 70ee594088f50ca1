"""The audit: each number of each stream is accounted for, or told; what cannot be known is told too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import paths
from pipelines.core.audit import Following, Line, Log, Report, compare, settled
from pipelines.core.ledger import key_of
from pipelines.core.lineage import LineageView
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import RetryableError
from pipelines.flows.agent.publisher import headers_of
from pipelines.flows.inspection import audit_reader
from pipelines.flows.log.log_reader import Decoding
from pipelines.ports import Message, Partition
from schemas.codec import Codec
from schemas.records import Checkpoint, DeadLetter, Event, Header, Heartbeat, LastSeq, Metric, Watermark
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.system_clock import SystemClock
from tests.lineages import lineage_of

CODEC = Codec()
STREAM = ("gpt", 1, "r0", "metrics")
FEW = st.sets(st.integers(1, 40), max_size=30)


def _numbers(values: Iterable[int]) -> SequenceRanges:
    numbers = SequenceRanges()
    for value in values:
        numbers.add(value)
    return numbers


@given(FEW, FEW, st.integers(0, 45))
def test_ranges_are_sets(one: set[int], other: set[int], bound: int) -> None:
    """In whatever order the numbers come; and no more ranges than there are runs of numbers."""
    left, right = _numbers(one), SequenceRanges((value, value) for value in other)
    assert set(left) == one
    assert len(left) == len(one)
    assert set(left | right) == one | other
    assert set(left - right) == one - other
    assert set(left & right) == one & other
    assert set(left.up_to(bound)) == {value for value in one if value <= bound}
    assert set(left.above(bound)) == {value for value in one if value > bound}
    assert [value in left for value in range(45)] == [value in one for value in range(45)]
    assert (left.first, left.last) == (min(one, default=0), max(one, default=0))
    assert len(left.ranges()) == sum(1 for value in one if value + 1 not in one)
    assert left == SequenceRanges((value, value) for value in one)
    assert [left.add(value) for value in one] == [False] * len(one)


def test_a_stream_without_holes_is_one_range_however_long_it_is() -> None:
    """An audit of a million events does not remember a million numbers."""
    assert _numbers(range(1, 100_001)).ranges() == ((1, 100_000),)


def _compared(east: Log, west: Log) -> tuple[Report, Line, Line]:
    report = compare("gpt", [east, west])
    (source,) = [one for one in report.lines if one.is_source]
    (standby,) = [one for one in report.lines if not one.is_source]
    return report, source, standby


@given(
    published=st.integers(1, 30),
    spooled=st.integers(0, 10),
    holes=FEW,
    dead=FEW,
    settled_to=st.integers(0, 30),
    lost=FEW,
)
def test_I14_every_number_is_accounted_for_or_told(
    published: int, spooled: int, holes: set[int], dead: set[int], settled_to: int, lost: set[int]
) -> None:
    """Whatever is removed from the logs: exactly that is told as missing, and the rest adds up."""
    inside = set(range(1, published)) & holes  # the last one is there: what follows it is in the spool
    there = set(range(1, published + 1)) - inside
    done = {seq for seq in there if seq <= settled_to}
    vanished = (lost & done) - {max(done, default=0)}
    letters = (dead & done) - vanished
    east = Log("east", seen={STREAM: _numbers(there)}, promised={("r0", "metrics"): (1, published + spooled)})
    east.sources[STREAM] = "east"
    west = Log("west", marks={STREAM: max(done, default=0)}, dead={STREAM: _numbers(letters)})
    west.seen[STREAM] = _numbers(done - vanished - letters)
    report, source, standby = _compared(east, west)
    assert (source.accepted, source.in_flight, set(source.gaps)) == (published + spooled, spooled, inside)
    assert set(standby.gaps) == vanished
    assert bool(report.unaccounted) == bool(inside or vanished)
    assert standby.visible is not None
    assert standby.dead is not None
    assert standby.in_flight is not None
    assert standby.visible + standby.dead + standby.in_flight + len(standby.gaps) == standby.accepted == len(there)


def test_a_branch_is_expected_nowhere_else() -> None:
    """Past the fork: set aside at the standby, or never read by it; neither is missing."""
    east = Log("east", seen={STREAM: _numbers(range(1, 11))}, branch={STREAM: _numbers(range(8, 11))})
    west = Log("west", seen={STREAM: _numbers(range(1, 8))}, branch={STREAM: _numbers([8])}, marks={STREAM: 8})
    east.sources[STREAM] = "east"
    report, source, standby = _compared(east, west)
    assert (source.branch, standby.branch, standby.in_flight) == (3, 1, 0)
    assert report.unaccounted == ()


def test_what_retention_took_is_not_missing_and_a_hole_behind_it_is() -> None:
    """The log's first offset tells the one from the other."""
    east = Log("east", seen={STREAM: _numbers([5, 6, 8])}, trimmed={"metrics"}, sources={STREAM: "east"})
    west = Log("west", seen={STREAM: _numbers([5, 6, 8])}, marks={STREAM: 8})
    report, source, _ = _compared(east, west)
    assert (source.expired, source.gaps) == (4, SequenceRanges([(7, 7)]))
    assert len(report.unaccounted) == 1


def test_what_a_topic_made_anew_has_lost_and_a_standby_still_has_is_not_missing() -> None:
    """It is told as gone from this log."""
    east = Log("east", seen={STREAM: _numbers([4, 5])}, sources={STREAM: "east"})
    west = Log("west", seen={STREAM: _numbers(range(1, 5))}, marks={STREAM: 4})
    report, source, standby = _compared(east, west)
    assert (source.gaps, source.expired, standby.in_flight) == (SequenceRanges(), 3, 1)
    assert report.unaccounted == ()


def test_a_primary_that_is_gone_leaves_unknown_what_only_it_knew() -> None:
    """The standby's own holes are told; how many more were accepted is said to be unknown, and that is exit 1."""
    west = Log("west", seen={STREAM: _numbers([1, 2, 4])}, marks={STREAM: 4}, sources={STREAM: "east"})
    report, source, standby = _compared(Log("east", "no answer"), west)
    assert (source.accepted, source.visible, source.tail_known) == (None, None, False)
    assert (standby.accepted, standby.in_flight, standby.gaps) == (None, None, SequenceRanges([(3, 3)]))
    assert any("cannot be known" in line and "no answer" in line for line in report.unaccounted)
    assert any("1 missing: 3" in line for line in report.unaccounted)


def test_what_is_visible_twice_or_too_early_at_a_standby_is_told() -> None:
    """I15 and I13, as far as the logs and the store show them. At the source, a repeated publication is normal."""
    east = Log("east", seen={STREAM: _numbers([1, 2])}, doubled={STREAM: 1}, sources={STREAM: "east"})
    west = Log("west", seen={STREAM: _numbers([1, 2])}, marks={STREAM: 2})
    assert _compared(east, west)[0].unaccounted == ()
    west.doubled[STREAM] = 1
    west.early[STREAM] = _numbers([2])
    unaccounted = _compared(east, west)[0].unaccounted
    assert [line.rpartition(": ")[2] for line in unaccounted] == ["2", "1 visible more than once"]


def test_a_producer_of_which_only_a_heartbeat_tells_is_in_flight() -> None:
    """Accepted in its spool, and nothing published yet."""
    east = Log("east", promised={("r1", "checkpoints"): (3, 2)})
    report, source, standby = _compared(east, Log("west"))
    assert (source.epoch, source.accepted, source.in_flight) == (3, 2, 2)
    assert (standby.visible, standby.in_flight) == (0, 0)
    assert report.unaccounted == ()


@given(taken=FEW, seen=FEW)
def test_the_demos_figures_are_those_of_the_audit(taken: set[int], seen: set[int]) -> None:
    """Spools that can be read themselves, against a log."""
    log = Log("west", seen={STREAM: _numbers(seen)}, doubled={STREAM: 3})
    figures = settled({STREAM: _numbers(taken)}, log)
    assert figures.plain() == {
        "accepted": len(taken),
        "visible": len(taken & seen),
        "duplicates": 3,
        "lost": len(taken - seen),
    }


# --- reading ---


def _metric(seq: int, *, epoch: int = 1, step: int = 0, run: str = "gpt") -> Metric:
    return Metric(
        event_id=f"{run}/{epoch}/r0/metrics/{seq}",
        run=run,
        region="east",
        epoch=epoch,
        attempt=1,
        producer="r0",
        seq=seq,
        step=step or seq,
        time_ms=0,
        values={},
    )


def _message(event: Event, value: bytes | None = None) -> Message:
    body = CODEC.encode(event) if value is None else value
    return Message(paths.topic(event.lane), event.run.encode(), body, headers_of(event, event.lane))


def _letter(event: Event, reason: str, *, headers: bool = True) -> Message:
    letter = DeadLetter(
        cluster="east",
        topic=paths.topic(event.lane),
        partition=0,
        offset=event.seq,
        key=event.run.encode(),
        value=CODEC.encode(event),
        headers=tuple(Header(key=key, value=value) for key, value in headers_of(event, event.lane)) if headers else (),
        reason=reason,
        detail="",
        time_ms=0,
    )
    return Message(paths.DEAD_LETTERS, b"gpt", CODEC.encode(letter))


def _read(kafka: MemoryKafka, view: LineageView | None = None, manifests: set[str] | None = None) -> Log:
    decoding = Decoding(Codec(), SystemClock())
    return audit_reader.Reading("gpt", kafka.cluster, view, decoding, lambda: manifests).read(MemorySource(kafka))


def test_a_log_is_read_by_identity_whatever_else_is_in_it() -> None:
    """Other runs are passed over; torn values count by their headers, bytes without any are told as nameless."""
    kafka = MemoryKafka("east")
    log = MemoryLog(kafka)
    log.publish(
        [_message(_metric(1)), _message(_metric(2), b"torn"), _message(_metric(1)), _message(_metric(9, run="x"))]
    )
    log.publish([Message(paths.METRICS, b"?", b"\x00"), _letter(_metric(3), "corrupt", headers=False)])
    log.publish([_letter(_metric(4), "branch")])
    log.publish([Message(paths.LEDGER, key_of(one), CODEC.encode(one)) for one in (_mark(2), _mark(4))])
    beat = Heartbeat(
        **{one.name: getattr(_metric(1), one.name) for one in dataclasses.fields(Event)},
        node="n0",
        phase="train",
        budget_s=1.0,
        last_seqs=(LastSeq(producer="r0", lane="metrics", seq=7), LastSeq(producer="r0", lane="else", seq=9)),
    )
    log.publish([_message(beat)])
    log_read = _read(kafka)
    assert log_read.seen == {STREAM: SequenceRanges([(1, 2)])}
    assert log_read.doubled == {STREAM: 1}
    assert log_read.dead == {STREAM: SequenceRanges([(3, 3)])}
    assert log_read.branch == {STREAM: SequenceRanges([(4, 4)])}
    assert log_read.marks == {STREAM: 4}
    assert log_read.promised == {("r0", "metrics"): (1, 7)}
    assert log_read.nameless == {"metrics": 1}
    assert log_read.sources == {STREAM: "east"}


def _mark(seq: int) -> Watermark:
    return Watermark(run="gpt", epoch=1, producer="r0", lane="metrics", seq=seq)


def test_what_lies_past_the_fork_is_a_branch_and_a_missing_manifest_is_early() -> None:
    """By the lineage of whatever region's store answers, and by what the region's own store holds."""
    kafka = MemoryKafka("east")
    common = {one.name: getattr(_metric(1, step=30), one.name) for one in dataclasses.fields(Event)}
    event = Checkpoint(
        **common, state="committed", manifest_key="m", manifest_digest="", lineage_seq=1, size_bytes=0, reason=""
    )
    MemoryLog(kafka).publish([_message(event)])
    stream = ("gpt", 1, "r0", "checkpoints")
    view = lineage_of((1, 0, -1), (2, 1, 20))
    assert _read(kafka, view).branch == {stream: SequenceRanges([(1, 1)])}
    assert _read(kafka, manifests=set()).early == {stream: SequenceRanges([(1, 1)])}
    assert _read(kafka, manifests={"m"}).early == {}
    assert _read(kafka).early == {}, "the store does not answer: nobody can say"


def test_a_run_that_goes_on_while_it_is_audited_does_not_look_as_if_events_were_early() -> None:
    """A checkpoint comes while the log is read: the store is asked after it, or its manifest would look missing."""
    kafka, stored = MemoryKafka("east"), set[str]()
    common = {one.name: getattr(_metric(1), one.name) for one in dataclasses.fields(Event)}
    event = Checkpoint(
        **common, state="committed", manifest_key="m", manifest_digest="", lineage_seq=1, size_bytes=0, reason=""
    )

    class Busy(MemorySource):
        def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
            if paths.topic("checkpoints") in topics and not stored:
                stored.add("m")
                MemoryLog(kafka).publish([_message(event)])
            return super().partitions(topics)

    decoding = Decoding(Codec(), SystemClock())
    log_read = audit_reader.Reading("gpt", "east", None, decoding, lambda: set(stored)).read(Busy(kafka))
    assert log_read.seen
    assert log_read.early == {}


def test_a_log_that_does_not_answer_is_read_as_its_trouble() -> None:
    """Not as an empty log: that would look like a loss of everything."""

    class Away(MemorySource):
        def partitions(self, topics: object) -> tuple[Partition, ...]:
            raise RetryableError(f"no answer about {topics}")

    decoding = Decoding(Codec(), SystemClock())
    log_read = audit_reader.Reading("gpt", "east", None, decoding).read(Away(MemoryKafka("east")))
    assert "no answer" in log_read.trouble


@pytest.mark.parametrize("trimmed", [True, False])
def test_a_log_whose_oldest_records_are_gone_says_so(trimmed: bool) -> None:
    """By its first offset."""

    class Trimmed(MemorySource):
        def bounds(self, partition: Partition) -> tuple[int, int]:
            first, end = super().bounds(partition)
            return (min(1, end) if trimmed and partition.topic == paths.METRICS else first), end

    kafka = MemoryKafka("east")
    MemoryLog(kafka).publish([_message(_metric(1)), _message(_metric(2))])
    log_read = audit_reader.Reading("gpt", "east", None, Decoding(Codec(), SystemClock())).read(Trimmed(kafka))
    assert (log_read.trimmed, log_read.seen[STREAM].first) == (({"metrics"}, 2) if trimmed else (set(), 1))


def test_I19_what_is_in_flight_is_accounted_for_only_while_its_lane_moves() -> None:
    """A lane that stands, or a replicator that does not answer: nobody says that it will arrive."""
    east = Log("east", seen={STREAM: _numbers(range(1, 6))}, sources={STREAM: "east"})
    west = Log("west", seen={STREAM: _numbers(range(1, 4))}, marks={STREAM: 3})
    stands = Following(standing=("east/metrics has stood for 31 s: access denied",), lag=">= 220 steps, 25 s ago")
    silent = Following(unanswered="it does not answer")
    assert compare("gpt", [east, west], {"west": Following()}).unaccounted == ()
    damaged = Following(damaged=("runs/gpt/e000001/a0001/s0000000010/rank-00000/state has SHA-256 ab",))
    (problem,) = compare("gpt", [east, west], {"west": damaged}).unaccounted
    assert problem.startswith("west: damaged at rest: runs/gpt/"), "its event is visible, its bytes are not right"
    report = compare("gpt", [east, west], {"west": stands})
    assert report.unaccounted == ("west: east/metrics has stood for 31 s: access denied",)
    assert report.plain()["lag"] == {"west": ">= 220 steps, 25 s ago"}
    assert compare("gpt", [east, west], {"west": silent}).unaccounted == (
        "west: 2 in flight, and its replicator does not say that they move: it does not answer",
    )
    done = Log("west", seen={STREAM: _numbers(range(1, 6))}, marks={STREAM: 5})
    assert compare("gpt", [east, done], {"west": silent}).unaccounted == (), "nothing is left to move"
