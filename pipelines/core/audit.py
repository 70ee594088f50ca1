"""Whether every event of a run is accounted for: the regions' logs beside each other (I14), as a pure comparison.

A producer numbers its events from 1 without holes when they enter its node's spool (6.8). The region in which a stream
was first published is its *source*; every other region of the run is to have the same numbers. A number is accounted
for if it is visible, dead-lettered, past a fork, still in flight, or older than what the log keeps. Everything else is
reported, and so is everything that cannot be known because a log cannot be read. Events in flight are accounted for
only as long as their lane moves: a lane that stands is reported, and so is a replicator that does not answer (I19).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from pipelines.core.ledger import Stream
from pipelines.core.sequence_ranges import SequenceRanges

NONE = SequenceRanges()


@dataclass(slots=True)
class Log:
    """The numbers that were read from one region's log; `trouble` says why it could not be read."""

    region: str
    trouble: str = ""
    sources: dict[Stream, str] = field(default_factory=dict)  # where a stream was first published
    seen: dict[Stream, SequenceRanges] = field(default_factory=dict)
    doubled: dict[Stream, int] = field(default_factory=dict)
    dead: dict[Stream, SequenceRanges] = field(default_factory=dict)
    branch: dict[Stream, SequenceRanges] = field(default_factory=dict)  # past the fork that closed their epoch
    early: dict[Stream, SequenceRanges] = field(default_factory=dict)  # visible here, and what they name is not
    promised: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # (producer, lane): (epoch, last)
    marks: dict[Stream, int] = field(default_factory=dict)
    trimmed: set[str] = field(default_factory=set)  # lanes whose oldest records the log keeps no longer
    nameless: dict[str, int] = field(default_factory=dict)  # per lane: records of which nobody knows whose they are

    def take(self, stream: Stream, numbers: SequenceRanges, source: str | None) -> None:
        """Note the numbers of a record that is in the log."""
        if source is not None:
            self.sources.setdefault(stream, source)
        seen = self.seen.setdefault(stream, SequenceRanges())
        doubled = sum(not seen.add(seq) for seq in numbers)
        if doubled:
            self.doubled[stream] = self.doubled.get(stream, 0) + doubled


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """The words of a region's services on its lanes.

    Attributes:
        unanswered: why its replicator says nothing; "" if it answers.
        standing: a sentence for each lane of the run that stands below the end of its source.
        damaged: a sentence for each object in its store whose bytes went bad, by the notes of who read it back.
        lag: how far behind the region is, as its controller says; "" in the primary, or if that does not answer.
    """

    unanswered: str = ""
    standing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    lag: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One stream in one region. None: it cannot be known."""

    region: str
    is_source: bool
    lane: str
    epoch: int
    producer: str
    accepted: int | None  # in the spool of its node; at a standby: visible at its source
    visible: int | None
    in_flight: int | None
    dead: int | None
    branch: int | None
    duplicates: int | None
    expired: int = 0  # no longer in this log: older than what it keeps, or known from another
    gaps: SequenceRanges = NONE  # in no log that could be read, though later numbers are
    early: SequenceRanges = NONE
    tail_known: bool = True

    def plain(self) -> dict[str, object]:
        """As JSON; gaps as ranges."""
        ranges = {"gaps": self.gaps, "early": self.early}
        counted = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ranges}
        return counted | {name: [list(one) for one in of.ranges()] for name, of in ranges.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """Every stream in every region; `unaccounted` is empty if nothing is missing and nothing is unknown."""

    run: str
    lines: tuple[Line, ...]
    unaccounted: tuple[str, ...]
    notes: tuple[str, ...]
    lags: Mapping[str, str] = field(default_factory=dict)  # by region, in the words of its controller

    def plain(self) -> dict[str, object]:
        """As JSON."""
        lines = [one.plain() for one in self.lines]
        texts = {"unaccounted": list(self.unaccounted), "notes": list(self.notes)}
        return {"run": self.run, "accounted": not self.unaccounted, "lines": lines, **texts, "lag": dict(self.lags)}


@dataclass(frozen=True, slots=True)
class Settled:
    """How many of the events that spools accepted are visible in one log."""

    accepted: int
    visible: int
    duplicates: int
    lost: int

    def plain(self) -> dict[str, int]:
        """As JSON."""
        return {name: getattr(self, name) for name in ("accepted", "visible", "duplicates", "lost")}


def settled(accepted: Mapping[Stream, SequenceRanges], log: Log) -> Settled:
    """Compare the events in spools, which can be read themselves, with one log."""
    missing = {stream: numbers - log.seen.get(stream, NONE) for stream, numbers in accepted.items()}
    taken, lost = (sum(len(one) for one in of.values()) for of in (accepted, missing))
    return Settled(accepted=taken, visible=taken - lost, duplicates=sum(log.doubled.values()), lost=lost)


def compare(run: str, logs: Iterable[Log], following: Mapping[str, Following] | None = None) -> Report:
    """Compare the logs: every stream of a run that some log knows, in every region.

    Args:
        run: which.
        logs: one of each region.
        following: what each region's services say of its lanes; a region that is left out has none to follow.
    """
    following = following or {}
    by_region = {log.region: log for log in logs}
    lines: list[Line] = []
    for stream, source in sorted(_sources(run, by_region.values()).items(), key=lambda one: _order(one[0])):
        origin = by_region.get(source, Log(source, "it is not in the settings"))
        others = [log for log in by_region.values() if log.region != source]
        lines += [_at_source(stream, origin, others), *(_at_standby(stream, origin, log) for log in others)]
    unaccounted = (*_unaccounted(lines, by_region), *_not_moving(lines, following))
    lags = {region: of.lag for region, of in following.items() if of.lag}
    return Report(run, tuple(lines), unaccounted, tuple(_notes(lines, by_region)), lags)


def _sources(run: str, logs: Iterable[Log]) -> dict[Stream, str]:
    sources: dict[Stream, str] = {}
    for log in logs:
        for stream in (*log.seen, *log.dead, *log.branch):
            sources.setdefault(stream, log.sources.get(stream, log.region))
        sources |= log.sources
    known = {(producer, lane) for _, _, producer, lane in sources}
    for log in logs:
        for (producer, lane), (epoch, _) in log.promised.items():
            if (producer, lane) not in known:
                sources[run, epoch, producer, lane] = log.region
    return sources


def _unknown(stream: Stream, log: Log, *, is_source: bool) -> Line:
    _, epoch, producer, lane = stream
    return Line(
        region=log.region,
        is_source=is_source,
        lane=lane,
        epoch=epoch,
        producer=producer,
        accepted=None,
        visible=None,
        in_flight=None,
        dead=None,
        branch=None,
        duplicates=None,
        tail_known=False,
    )


def _at_source(stream: Stream, log: Log, others: Iterable[Log]) -> Line:
    _, epoch, producer, lane = stream
    if log.trouble:
        return _unknown(stream, log, is_source=True)
    seen, dead = log.seen.get(stream, NONE), log.dead.get(stream, NONE)
    taken = seen | dead
    promised = log.promised.get((producer, lane))
    accepted = max(taken.last, 0 if promised is None else promised[1])
    gaps, expired = _kept(SequenceRanges([(1, taken.last)]) - taken, taken, lane, log)
    for other in others:  # a topic that was made anew has lost what the others still have
        for known in (other.seen, other.dead, other.branch):
            before = len(gaps)
            gaps -= known.get(stream, NONE)
            expired += before - len(gaps)
    return Line(
        region=log.region,
        is_source=True,
        lane=lane,
        epoch=epoch,
        producer=producer,
        accepted=accepted,
        visible=len(seen),
        in_flight=accepted - taken.last,
        dead=len(dead - seen),
        branch=len(log.branch.get(stream, NONE)),
        duplicates=log.doubled.get(stream, 0),
        expired=expired,
        gaps=gaps,
        early=log.early.get(stream, NONE),
        tail_known=promised is not None,
    )


def _at_standby(stream: Stream, source: Log, log: Log) -> Line:
    """One stream at a standby: numbers up to the watermark are settled, those above it are still to come (6.8)."""
    _, epoch, producer, lane = stream
    if log.trouble:
        return _unknown(stream, log, is_source=False)
    seen, dead, branch = (of.get(stream, NONE) for of in (log.seen, log.dead, log.branch))
    taken = seen | dead | branch
    mark = max(log.marks.get(stream, 0), taken.last)
    past_fork = branch | source.branch.get(stream, NONE)
    expected = SequenceRanges([(1, mark)]) if source.trouble else source.seen.get(stream, NONE) - past_fork
    missing = expected - taken
    gaps, expired = _kept(missing.up_to(mark), taken, lane, log)
    return Line(
        region=log.region,
        is_source=False,
        lane=lane,
        epoch=epoch,
        producer=producer,
        accepted=None if source.trouble else len(source.seen.get(stream, NONE)),
        visible=len(seen),
        in_flight=None if source.trouble else len(missing.above(mark)),
        dead=len(dead - seen),
        branch=len(branch - seen),
        duplicates=log.doubled.get(stream, 0),
        expired=expired,
        gaps=gaps,
        early=log.early.get(stream, NONE),
        tail_known=not source.trouble,
    )


def _kept(missing: SequenceRanges, taken: SequenceRanges, lane: str, log: Log) -> tuple[SequenceRanges, int]:
    """The gaps, and how many missing numbers are older than the log's oldest record, which are no gaps."""
    if lane not in log.trimmed:
        return missing, 0
    old = missing if not taken else missing.up_to(taken.first)
    return missing - old, len(old)


def _unaccounted(lines: Iterable[Line], logs: Mapping[str, Log]) -> Iterable[str]:
    for name, log in logs.items():
        if log.trouble:
            yield f"{name}: what was accepted there and is nowhere else cannot be known; its log: {log.trouble}"
    for line in lines:
        where = f"{line.region}: {line.lane} of {line.producer}, epoch {line.epoch}"
        if line.gaps:
            yield f"{where}: {len(line.gaps)} missing: {line.gaps}"
        if line.early:
            yield f"{where}: {len(line.early)} visible before what they name is there: {line.early}"
        if not line.is_source and line.duplicates:
            yield f"{where}: {line.duplicates} visible more than once"


def _not_moving(lines: Iterable[Line], following: Mapping[str, Following]) -> Iterable[str]:
    """Events that are in flight, and nobody says that they move; objects that went bad since they arrived."""
    for region, of in following.items():
        yield from (f"{region}: {text}" for text in of.standing)
        yield from (f"{region}: damaged at rest: {text}" for text in of.damaged)
        in_flight = sum(line.in_flight or 0 for line in lines if line.region == region and not line.is_source)
        if of.unanswered and in_flight:
            yield f"{region}: {in_flight} in flight, and its replicator does not say that they move: {of.unanswered}"


def _notes(lines: Iterable[Line], logs: Mapping[str, Log]) -> Iterable[str]:
    for log in logs.values():
        for lane, count in sorted(log.nameless.items()):
            yield f"{log.region}: {count} records in {lane} of which nobody knows whose they are; see `events list`"
    for line in lines:
        if line.is_source and not line.tail_known and not logs[line.region].trouble:
            yield f"{line.region}: no heartbeat names {line.lane} of {line.producer}: its spool may have more"


def _order(stream: Stream) -> tuple[int, str, str]:
    return (stream[1], stream[3], stream[2])
