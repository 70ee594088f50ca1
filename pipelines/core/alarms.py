"""Alarms about a log that a region follows, gaps and resets, and about troubles of a run, each as one value. Pure.

An alarm is open until it is healed (what was missing became visible or was set aside by name) or a person acknowledges
it. The numbers of a hole are kept exactly, also after that: an event that turns up later and lies in one was never
visible here, so it is taken, and no other one is (I15).

**Bounded.** There is one alarm for each stream or partition and kind. It lists `RANGES_MAX` ranges and counts the rest,
and a region keeps `ALARMS_MAX`: past that an acknowledged one, or else the oldest, is forgotten, which is reported.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.alarm_texts import OF_RUN, Kind, text_of
from pipelines.core.sequence_ranges import SequenceRanges
from schemas.http_bodies import AlarmStatus
from schemas.records import Alarm, AlarmRange

Stream = tuple[str, int, str, str]
OPEN, ACKNOWLEDGED, HEALED, FORGOTTEN = "open", "acknowledged", "healed", "forgotten"
RANGES_MAX = 100
ALARMS_MAX = 1_000


def alarm(
    kind: Kind,
    *,
    peer: str,
    lane: str,
    cause: str,
    time_ms: int,
    run: str = paths.EVERY_RUN,
    epoch: int = 0,
    producer: str = "",
    place: str = "",
    numbers: SequenceRanges | None = None,
) -> Alarm:
    """An open alarm."""
    return Alarm(
        kind=kind.value,
        state=OPEN,
        peer=peer,
        lane=lane,
        run=run,
        epoch=epoch,
        producer=producer,
        place=place,
        ranges=_ranges(numbers or SequenceRanges()),
        unlisted=0,
        cause=cause,
        time_ms=time_ms,
        actor="",
    )


def of_stream(kind: Kind, stream: Stream, numbers: SequenceRanges, *, peer: str, cause: str, time_ms: int) -> Alarm:
    """An open alarm of some numbers of a stream."""
    run, epoch, producer, lane = stream
    return alarm(
        kind,
        peer=peer,
        lane=lane,
        cause=cause,
        time_ms=time_ms,
        run=run,
        epoch=epoch,
        producer=producer,
        numbers=numbers,
    )


def of_bounds(known: int | None, first: int, end: int, *, others: bool) -> tuple[Kind, SequenceRanges, str] | None:
    """Whether a log can be read on at a known offset: None if it can, else the alarm's kind, offsets and cause.

    Args:
        known: the next offset to read; None if this partition was never read.
        first: the first offset that is still there.
        end: the one that the next record will get.
        others: whether another partition of that name and cluster was read: the topic is another one now.
    """
    if known is None and others:
        return Kind.ANEW, SequenceRanges([(0, first - 1)]), "somebody deleted the topic, or the broker lost its disk"
    if known is None:
        cause = "retention took them before this region began to follow the lane"
        return (Kind.RETENTION, SequenceRanges([(0, first - 1)]), cause) if first > 0 else None
    if known < first:
        cause = "retention of the peer's topic is shorter than this region's replicator was away or behind"
        return Kind.RETENTION, SequenceRanges([(known, first - 1)]), cause
    if known > end:
        cause = "the peer's broker came back with an older disk, or was elected uncleanly"
        return Kind.SHORTER, SequenceRanges([(end, known - 1)]), cause
    return None


def numbers_of(record: Alarm) -> SequenceRanges:
    """The numbers or offsets that an alarm lists."""
    return SequenceRanges((each.first, each.last) for each in record.ranges)


def key_of(record: Alarm) -> bytes:
    """The key of an alarm: two with the same key are one alarm."""
    whose = f"{record.run}|{record.epoch}|{record.producer}" if not record.place else f"{record.peer}|{record.place}"
    return f"alarm|{record.kind}|{record.lane}|{whose}".encode()


def id_of(record: Alarm) -> str:
    """The short id of an alarm, for people."""
    return hashlib.sha256(key_of(record)).hexdigest()[:8]


def sentence(record: Alarm) -> str:
    """An alarm in one sentence."""
    if record.kind in {kind.value for kind in OF_RUN}:
        return f"{record.run} in {record.peer}: {text_of(record.kind)}: {record.cause}"
    unit = "offsets" if record.place else "numbers"
    ranges = f", {unit} {numbers_of(record)}" if record.ranges else ""
    more = f" and {record.unlisted} more" if record.unlisted else ""
    whose = f" of {record.producer}, epoch {record.epoch}" if record.producer else ""
    run = "every run" if record.run == paths.EVERY_RUN else record.run
    text = f"{text_of(record.kind)}{ranges}{more}{whose}"
    return f"{record.lane} of {record.peer}, {run}: {text}; likely: {record.cause}"


def status_of(alarm: Alarm) -> AlarmStatus:
    """An alarm as `/status` answers it, with its id and its sentence."""
    return AlarmStatus(
        id=id_of(alarm),
        kind=alarm.kind,
        state=alarm.state,
        peer=alarm.peer,
        lane=alarm.lane,
        run=alarm.run,
        epoch=alarm.epoch,
        producer=alarm.producer,
        place=alarm.place,
        unlisted=alarm.unlisted,
        cause=alarm.cause,
        time_ms=alarm.time_ms,
        actor=alarm.actor,
        ranges=tuple((each.first, each.last) for each in alarm.ranges),
        text=sentence(alarm),
    )


def plain(alarm: Alarm) -> dict[str, object]:
    """The same as fields for the journal."""
    status = status_of(alarm)
    return {**dataclasses.asdict(status), "ranges": [list(each) for each in status.ranges]}


@dataclass(slots=True)
class Alarms:
    """The alarms of a region; `copy` it and change the copy, as the ledger around it."""

    kept: dict[bytes, Alarm] = field(default_factory=dict)
    ended: dict[bytes, Alarm] = field(default_factory=dict)  # since the copy was made

    def copy(self) -> Alarms:
        """A copy to change."""
        return Alarms(dict(self.kept))

    def learn(self, record: Alarm) -> None:
        """Take in a record of the alarms' topic; the last one of a key holds."""
        if record.state in {HEALED, FORGOTTEN} or (record.state == ACKNOWLEDGED and record.kind != Kind.HOLE.value):
            self.kept.pop(key_of(record), None)
        else:
            self.kept[key_of(record)] = record

    def add(self, record: Alarm) -> None:
        """Raise an alarm, or extend the one that there is."""
        key = key_of(record)
        before = self.kept.pop(key, None)
        whole = numbers_of(record) if before is None else numbers_of(record) | numbers_of(before)
        ranges = _ranges(whole)
        unlisted = record.unlisted if before is None else before.unlisted
        unlisted += len(whole) - sum(each.last - each.first + 1 for each in ranges)
        time_ms = record.time_ms if before is None else before.time_ms
        self.kept[key] = dataclasses.replace(record, ranges=ranges, unlisted=unlisted, time_ms=time_ms)
        self.ended.pop(key, None)
        if len(self.kept) > ALARMS_MAX:
            others = [each for each in self.kept if each != key]
            spent = (each for each in others if self.kept[each].state == ACKNOWLEDGED)
            self.end(next(spent, others[0]), FORGOTTEN)

    def fill(self, stream: Stream, first: int, last: int) -> None:
        """Take numbers that are accounted for out of the alarms; an alarm without any left is healed."""
        for kind in (Kind.HOLE, Kind.EPOCH, Kind.ASIDE):
            key = _key_of_stream(kind, stream)
            record = self.kept.get(key)
            if record is None:
                continue
            left = numbers_of(record) - SequenceRanges([(first, last)])
            if left or record.unlisted:
                self.kept[key] = dataclasses.replace(record, ranges=_ranges(left))
            else:
                self.end(key, HEALED)

    def missing(self, stream: Stream) -> SequenceRanges:
        """The numbers of a stream that were jumped over and did not come."""
        record = self.kept.get(_key_of_stream(Kind.HOLE, stream))
        return SequenceRanges() if record is None else numbers_of(record)

    def end(self, key: bytes, state: str, actor: str = "") -> None:
        """Keep an alarm no longer, since it was healed, acknowledged or forgotten."""
        record = self.kept.pop(key)
        self.ended[key] = dataclasses.replace(record, state=state, actor=actor)

    def acknowledge(self, alarm_id: str, actor: str) -> bool:
        """Note that a person knows of an alarm; False if none of this id is open. A hole's numbers are kept on."""
        for key, record in self.kept.items():
            if id_of(record) == alarm_id and record.state == OPEN:
                if record.kind == Kind.HOLE.value:
                    self.kept[key] = dataclasses.replace(record, state=ACKNOWLEDGED, actor=actor)
                else:
                    self.end(key, ACKNOWLEDGED, actor)
                return True
        return False

    def open_of(self, peer: str, lane: str) -> tuple[Alarm, ...]:
        """The open alarms of a lane, oldest first."""
        opened = [
            record for record in self.kept.values() if (record.peer, record.lane, record.state) == (peer, lane, OPEN)
        ]
        return tuple(sorted(opened, key=lambda record: record.time_ms))

    def changes_since(self, before: Alarms) -> tuple[Alarm, ...]:
        """The records that turn `before` into this."""
        new = [record for key, record in self.kept.items() if before.kept.get(key) != record]
        return (*new, *(record for key, record in self.ended.items() if key in before.kept))


def _key_of_stream(kind: Kind, stream: Stream) -> bytes:
    run, epoch, producer, lane = stream
    return f"alarm|{kind.value}|{lane}|{run}|{epoch}|{producer}".encode()


def _ranges(numbers: SequenceRanges) -> tuple[AlarmRange, ...]:
    """The newest ranges, as many as are kept."""
    newest: Iterable[tuple[int, int]] = numbers.ranges()[-RANGES_MAX:]
    return tuple(AlarmRange(first=first, last=last) for first, last in newest)
