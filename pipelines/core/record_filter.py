"""Which records of a log are meant: one value for everything that looks at events or replays them.

A filter is parsed once from a person's options, and then only compared. A record that cannot be decoded is judged by
its headers, and a property that is not known speaks neither for nor against it: a filter never hides a record that does
not contradict it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipelines import paths
from pipelines.core.ledger import Stream
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import MisconfiguredError
from schemas.records import Alarm, DeadLetter, Event, Position, Record, Redriven, Sighting, Watermark

Headers = Sequence[tuple[str, bytes]]
T = TypeVar("T")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
NUMBERS_MAX = 100_000  # that one record may take
_DIGITS_MAX = 18  # all such numbers fit into Avro's long
_TOPIC_PREFIX = paths.topic("")
_KEPT_IN: dict[type[Record], str] = {
    Watermark: "ledger",
    Position: "ledger",
    Redriven: "dead-letters",
    Sighting: "control",
    Alarm: "alarms",
}
LANES = (*paths.LANES, "dead-letters", "ledger", "alarms")
"""The lanes that can be looked at, and the topics that a region keeps beside them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from `low` to `high`, both included; None: no bound."""

    low: int | None = None
    high: int | None = None

    def holds(self, number: int) -> bool:
        """Whether a number lies in it."""
        return (self.low is None or self.low <= number) and (self.high is None or number <= self.high)


@dataclass(frozen=True, slots=True)
class Facts:
    """The properties of one record; None where one is not known."""

    run: str | None = None
    lane: str | None = None
    kind: str | None = None
    epoch: int | None = None
    attempt: int | None = None
    step: int | None = None
    first_seq: int | None = None  # a record may take several numbers: from this one to `seq`
    seq: int | None = None
    producer: str | None = None
    region: str | None = None  # where it was first published


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """A filter. An empty part selects everything; of the values of one part any may hold, of the headers all must."""

    runs: frozenset[str] = frozenset()
    lanes: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    producers: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    epochs: Span = Span()
    attempts: Span = Span()
    steps: Span = Span()
    since_ms: int | None = None
    until_ms: int | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def matches(self, record: Record | None, headers: Headers, time_ms: int) -> bool:
        """Whether a record of a log is meant.

        Args:
            record: the record; None if it cannot be decoded.
            headers: its headers.
            time_ms: when it was put into the log that is read.
        """
        return self.admits(facts_of(record, headers), headers, time_ms, decoded=record is not None)

    def admits(self, facts: Facts, headers: Headers, time_ms: int, *, decoded: bool) -> bool:
        """As `matches`, of a record whose facts are known already.

        A record that is decoded and has no such property (a sighting has no run) is not of the run that is asked for.
        """
        chosen = (
            (self.runs, facts.run),
            (self.lanes, facts.lane),
            (self.kinds, facts.kind),
            (self.producers, facts.producer),
            (self.regions, facts.region),
        )
        ranged = ((self.epochs, facts.epoch), (self.attempts, facts.attempt), (self.steps, facts.step))
        return (
            all(not wanted or value in wanted or (value is None and not decoded) for wanted, value in chosen)
            and all(_in(span, value, decoded=decoded) for span, value in ranged)
            and (self.since_ms is None or self.since_ms <= time_ms)
            and (self.until_ms is None or time_ms <= self.until_ms)
            and self._has_headers(headers)
        )

    def topics(self) -> tuple[str, ...]:
        """The topics in which such records can be."""
        return tuple(paths.topic(lane) for lane in LANES if not self.lanes or lane in self.lanes)

    def _has_headers(self, headers: Headers) -> bool:
        return all(any(_is(one, wanted) for one in headers) for wanted in self.headers)


def facts_of(record: Record | None, headers: Headers) -> Facts:
    """The facts of a record, by its headers if it cannot be decoded; of a dead letter, those of the event in it."""
    if isinstance(record, DeadLetter):
        facts = facts_of(None, [(one.key, one.value) for one in record.headers])
        run = facts.run or record.key.decode(errors="replace")
        return dataclasses.replace(facts, run=run, lane="dead-letters", kind="dead_letter")
    if isinstance(record, Event):
        return Facts(
            run=record.run,
            lane=record.lane,
            kind=kind_of(type(record).__name__),
            epoch=record.epoch,
            attempt=record.attempt,
            step=record.step,
            first_seq=getattr(record, "first_seq", record.seq),
            seq=record.seq,
            producer=record.producer,
            region=record.region,
        )
    if record is not None:
        has = {name: getattr(record, name, None) for name in ("run", "epoch", "seq", "producer", "region")}
        return Facts(kind=kind_of(type(record).__name__), lane=_KEPT_IN.get(type(record)), **has)
    return _by_headers(headers)


def facts_of_letter(letter: DeadLetter) -> Facts:
    """The facts of the event in a dead letter, with the event's own lane and kind."""
    facts = facts_of(None, [(one.key, one.value) for one in letter.headers])
    return dataclasses.replace(
        facts,
        run=facts.run or letter.key.decode(errors="replace"),
        lane=facts.lane or letter.topic.removeprefix(_TOPIC_PREFIX),
    )


def identity_of(facts: Facts) -> tuple[Stream, SequenceRanges] | None:
    """The numbers that a record takes in its stream; None if they are not known, or are no such numbers."""
    if facts.run is None or facts.epoch is None or facts.producer is None or facts.lane is None or facts.seq is None:
        return None
    first = facts.seq if facts.first_seq is None else facts.first_seq
    if not 1 <= first <= facts.seq < first + NUMBERS_MAX:
        return None
    return (facts.run, facts.epoch, facts.producer, facts.lane), SequenceRanges([(first, facts.seq)])


def kind_of(name: str) -> str:
    """A type as it is written in filters: `DataVersion`, `data-version` and `farside.data_version` are one."""
    bare = name.removeprefix("farside.").replace("-", "_")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", bare).lower()


def parse(
    *,
    runs: Iterable[str] = (),
    lanes: Iterable[str] = (),
    kinds: Iterable[str] = (),
    producers: Iterable[str] = (),
    regions: Iterable[str] = (),
    epochs: str = "",
    attempts: str = "",
    steps: str = "",
    since: str = "",
    until: str = "",
    headers: Iterable[str] = (),
    now_ms: int,
) -> RecordFilter:
    """The filter that a person's options mean; "" and () select everything.

    Ranges are `7`, `7..9`, `7..` or `..9`; times are RFC 3339 or a duration back from now (`15m`).

    Raises:
        MisconfiguredError: one line for each value that is wrong.
    """
    wrong: list[str] = []

    def read(name: str, text: str, reader: Callable[[str], T], default: T) -> T:
        try:
            return reader(text) if text else default
        except ValueError as error:
            wrong.append(f"{name} {text!r}: {error}")
            return default

    def each(name: str, texts: Iterable[str], reader: Callable[[str], str]) -> frozenset[str]:
        return frozenset(read(name, text, reader, "") for text in texts)

    chosen = RecordFilter(
        runs=each("run", runs, _run),
        lanes=each("lane", lanes, _lane),
        kinds=each("type", kinds, kind_of),
        producers=frozenset(producers),
        regions=frozenset(regions),
        epochs=read("epoch", epochs, span, Span()),
        attempts=read("attempt", attempts, span, Span()),
        steps=read("steps", steps, span, Span()),
        since_ms=read("since", since, lambda text: moment_ms(text, now_ms), None),
        until_ms=read("until", until, lambda text: moment_ms(text, now_ms), None),
        headers=tuple(read("header", text, _header, ("", "")) for text in headers),
    )
    if chosen.since_ms is not None and chosen.until_ms is not None and chosen.since_ms > chosen.until_ms:
        wrong.append(f"since {since!r} is after until {until!r}")
    if wrong:
        raise MisconfiguredError("\n".join(wrong))
    return chosen


def span(text: str) -> Span:
    """A range of whole numbers, both ends included; ValueError says what is wrong."""
    low, dots, high = text.partition("..")
    try:
        bounds = Span(_bound(low), _bound(high)) if dots else Span(_bound(low), _bound(low))
    except ValueError:
        raise ValueError("use a number, or a range like 7..9, 7.. or ..9") from None
    if bounds == Span():
        raise ValueError("the range has no end: name one")
    if bounds.low is not None and bounds.high is not None and bounds.low > bounds.high:
        raise ValueError(f"the range is empty: {bounds.low} is more than {bounds.high}")
    return bounds


def moment_ms(text: str, now_ms: int) -> int:
    """A moment in milliseconds since the Unix epoch: RFC 3339, or a duration back from now."""
    back = _DURATION.fullmatch(text)
    if back is not None:
        return now_ms - round(float(back[1]) * _UNIT_MS[back[2]])
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("use 2026-11-30T02:00:00Z, or a duration back from now: 90s, 15m, 8h, 2d") from None
    if moment.tzinfo is None:
        raise ValueError("say the time zone: put Z (UTC) or +02:00 behind it")
    return round(moment.timestamp() * 1000)


def _in(wanted: Span, value: int | None, *, decoded: bool) -> bool:
    if wanted == Span():
        return True
    return not decoded if value is None else wanted.holds(value)


def _is(header: tuple[str, bytes], wanted: tuple[str, str]) -> bool:
    return header[0] == wanted[0] and header[1] == wanted[1].encode()


def _by_headers(headers: Headers) -> Facts:
    texts = {name: value.decode(errors="replace") for name, value in headers}
    source = texts.get("ce_source", "").split("/")  # /farside/<region>/<run>
    kind = texts.get("ce_type")
    return Facts(
        run=texts.get("farside_run"),
        lane=texts.get("farside_lane"),
        kind=None if kind is None else kind_of(kind),
        epoch=_number(texts.get("farside_epoch")),
        attempt=_number(texts.get("farside_attempt")),
        step=_number(texts.get("farside_step")),
        first_seq=_number(texts.get("farside_first_seq", texts.get("farside_seq"))),
        seq=_number(texts.get("farside_seq")),
        producer=texts.get("farside_producer"),
        region=source[2] if len(source) > 3 and source[1] == "farside" else None,  # noqa: PLR2004 - its four parts
    )


def _number(text: str | None) -> int | None:
    """A number as our headers write it; anything else, and what no field of ours could hold, is not known."""
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS_MAX:
        return None
    return int(text)


def _bound(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(text)
    return int(text)


def _run(text: str) -> str:
    try:
        return paths.check_run(text)
    except MisconfiguredError as error:
        raise ValueError(str(error).partition(": ")[2]) from None


def _lane(text: str) -> str:
    bare = text.removeprefix(_TOPIC_PREFIX)
    if bare not in LANES:
        raise ValueError(f"use one of {', '.join(LANES)}")
    return bare


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("use name=value, as in farside_late=1")
    return name, value
