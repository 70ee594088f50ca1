"""The rules of a replay, pure: its bounds, the fate of each event, the marks on replayed records, and the pace.

A replay gives nobody authority (I10): heartbeats and control never reach a handler again, and a handler takes an event
only where its number is missing from what is visible (I15).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.core.authorship import known_foreign
from pipelines.core.ledger import Ledger
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.core.record_filter import Facts, identity_of, moment_ms
from pipelines.core.sequence_ranges import SequenceRanges

Headers = tuple[tuple[str, bytes], ...]

REPLAYED, REPLAYED_FROM = "farside_replay", "farside_replayed_from"
"""The headers of a record that was replayed: which replay put it there, and where its original lies."""

_DIGITS_MAX = 18


class Edge(enum.Enum):
    """The ways to name a bound."""

    EARLIEST = "earliest"
    LATEST = "latest"
    CHECKPOINT = "checkpoint"  # a step
    OFFSET = "offset"
    TIME = "time"  # milliseconds since the Unix epoch


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a replay begins or ends."""

    edge: Edge
    number: int = 0


EARLIEST, LATEST = Bound(Edge.EARLIEST), Bound(Edge.LATEST)


def parse_bound(text: str, now_ms: int) -> Bound:
    """The bound that a person's text means.

    Raises:
        ValueError: it means none; the text says what is wrong.
    """
    if text in {Edge.EARLIEST.value, Edge.LATEST.value}:
        return Bound(Edge(text))
    kind, colon, number = text.partition(":")
    if colon and kind in {Edge.CHECKPOINT.value, Edge.OFFSET.value}:
        if not (number.isascii() and number.isdecimal()) or len(number) > _DIGITS_MAX:
            raise ValueError(f"{kind}: is followed by a whole number")
        return Bound(Edge(kind), int(number))
    try:
        return Bound(Edge.TIME, moment_ms(text, now_ms))
    except ValueError as error:
        raise ValueError(f"use earliest, latest, checkpoint:STEP, offset:N, or a time: {error}") from None


class Fate(enum.Enum):
    """The fate of an event that is replayed into a region's handlers."""

    NEW = "new"  # not reached yet: normal replication will deliver it
    DONE = "done"
    MISSED = "missed"  # passed over, and visible nowhere: the replay publishes it
    DAMAGED = "damaged"  # visible, but not everything it names is here any more: the replay copies it again
    SUPERSEDED = "superseded"  # past the fork that closed its epoch: refused
    FOREIGN = "foreign"  # of an epoch that its region does not hold: refused, whatever is visible
    DEAD = "dead"  # a dead letter: `farside events dead redrive` is for that
    UNDECODABLE = "undecodable"
    OTHER = "other"  # first published elsewhere
    GONE = "gone"  # no longer in the log


@dataclass(frozen=True, slots=True)
class Known:
    """The numbers of one stream that are visible in a region, and those that are dead letters there."""

    visible: SequenceRanges = field(default_factory=SequenceRanges)
    dead: SequenceRanges = field(default_factory=SequenceRanges)


def fate(facts: Facts, peer: str, ledger: Ledger, known: Known, view: LineageView | None) -> Fate:
    """The fate of an event of `peer`, from its facts; whether all it names is here (DAMAGED) is not looked at."""
    if facts.region != peer:
        return Fate.OTHER
    identity = identity_of(facts)
    if identity is None or facts.epoch is None or facts.step is None:
        return Fate.UNDECODABLE
    stream, numbers = identity
    is_foreign = known_foreign(view, facts.epoch, peer) != ""  # I17
    if is_foreign or not numbers - known.visible:
        return Fate.FOREIGN if is_foreign else Fate.DONE
    if view is not None and standing(view, facts.epoch, facts.step) is Standing.BRANCH:
        return Fate.SUPERSEDED
    if not numbers - known.visible - known.dead:
        return Fate.DEAD
    return Fate.MISSED if numbers.first <= ledger.watermarks.get(stream, 0) else Fate.NEW


def marked(headers: Sequence[tuple[str, bytes]], replay_id: str, origin: str) -> Headers:
    """The headers of a replayed record; an earlier replay's marks are taken out, so that they never pile up."""
    kept = tuple(one for one in headers if one[0] not in {REPLAYED, REPLAYED_FROM})
    return (*kept, (REPLAYED, replay_id.encode()), (REPLAYED_FROM, origin.encode()))


def replay_of(headers: Sequence[tuple[str, bytes]]) -> str | None:
    """Which replay put a record where it is; None if none did."""
    return next((value.decode(errors="replace") for name, value in headers if name == REPLAYED), None)


def origin_of(headers: Sequence[tuple[str, bytes]]) -> str | None:
    """Where the original of a replayed record lies; None if it is none."""
    return next((value.decode(errors="replace") for name, value in headers if name == REPLAYED_FROM), None)


@dataclass(slots=True)
class Tempo:
    """When a record is due: at most `rate` records a second, or `speed` times as fast as they came; 0: no limit.

    A pause is not made up for: after it the tempo goes on as before it.
    """

    rate: float = 0.0
    speed: float = 0.0
    _due_s: float = 0.0
    _time_ms: int | None = None
    _begun: bool = False

    def due_s(self, time_ms: int, now_s: float) -> float:
        """When the next record, which was put into its log at `time_ms`, may go; asking again changes nothing."""
        if not self._begun:
            return now_s
        wait_s = 1.0 / self.rate if self.rate > 0 else 0.0
        if self.speed > 0 and self._time_ms is not None:
            wait_s = max(wait_s, max(0, time_ms - self._time_ms) / 1000 / self.speed)
        return self._due_s + wait_s

    def went(self, time_ms: int, now_s: float, late_s: float = 1.0) -> None:
        """Note that a record went; a replay that is later than `late_s` does not catch up."""
        self._due_s = max(self.due_s(time_ms, now_s), now_s - late_s)
        self._time_ms = time_ms if self._time_ms is None else max(time_ms, self._time_ms)
        self._begun = True

    def takes_s(self, records: int, spread_ms: int) -> float | None:
        """How long a replay of so many records, which came over so long a time, takes; None: as fast as it can."""
        if self.rate <= 0 and self.speed <= 0:
            return None
        return max(
            records / self.rate if self.rate > 0 else 0.0,
            spread_ms / 1000 / self.speed if self.speed > 0 else 0.0,
        )
