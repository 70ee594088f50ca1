"""What went wrong with a log that a region follows: gaps and resets, each as one value with its likely cause. Pure.

An alarm is open until it is healed (what was missing became visible or was set aside by name) or a person acknowledges
it. The numbers of a hole are kept exactly, also after that: an event that turns up later and lies in one was never
visible here, so it is taken, and no other one is (I15).

**Bounded.** There is one alarm for each stream or partition and kind. It lists `RANGES_MAX` ranges and counts the rest,
and a region keeps `ALARMS_MAX`: past that an acknowledged one, or else the oldest, is forgotten, which is said.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.sequence_ranges import SequenceRanges
from schemas.http_bodies import AlarmStatus
from schemas.records import Alarm, AlarmRange

Stream = tuple[str, int, str, str]
OPEN, ACKNOWLEDGED, HEALED, FORGOTTEN = "open", "acknowledged", "healed", "forgotten"
RANGES_MAX = 100
ALARMS_MAX = 1_000


class Kind(enum.Enum):
    """What was noticed."""

    RETENTION = "records_gone"  # retention took records that were not read
    ANEW = "topic_anew"  # the topic was deleted and made anew
    SHORTER = "log_shorter"
    HOLE = "hole"  # numbers of a stream were jumped over
    EPOCH = "epoch_backwards"  # written under an epoch that its own region had left
    LEDGER = "ledger_lost"  # of this region's own: what was done is read from the lanes


TEXTS = {
    Kind.RETENTION: "unread records are gone",
    Kind.ANEW: "the topic was deleted and made anew",
    Kind.SHORTER: "the log is shorter than before",
    Kind.HOLE: "numbers were jumped over",
    Kind.EPOCH: "the epoch went backwards",
    Kind.LEDGER: "the ledger was lost",
}
OF_LOG = frozenset({Kind.RETENTION.value, Kind.ANEW.value, Kind.SHORTER.value})
"""The kinds of which only the log's offsets are known, and not whose records these were."""


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
    """What a log's bounds say about reading on at a known offset.

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


def numbers_of(one: Alarm) -> SequenceRanges:
    """The numbers or offsets that are listed."""
    return SequenceRanges((each.first, each.last) for each in one.ranges)


def key_of(one: Alarm) -> bytes:
    """What makes two alarms the same one."""
    whose = f"{one.run}|{one.epoch}|{one.producer}" if not one.place else f"{one.peer}|{one.place}"
    return f"alarm|{one.kind}|{one.lane}|{whose}".encode()


def id_of(one: Alarm) -> str:
    """A short name, for people."""
    return hashlib.sha256(key_of(one)).hexdigest()[:8]


def sentence(one: Alarm) -> str:
    """All of it, in a line."""
    unit = "offsets" if one.place else "numbers"
    ranges = f", {unit} {numbers_of(one)}" if one.ranges else ""
    more = f" and {one.unlisted} more" if one.unlisted else ""
    whose = f" of {one.producer}, epoch {one.epoch}" if one.producer else ""
    run = "every run" if one.run == paths.EVERY_RUN else one.run
    return f"{one.lane} of {one.peer}, {run}: {TEXTS[Kind(one.kind)]}{ranges}{more}{whose}; likely: {one.cause}"


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
    """Those that a region has; `copy` it and change the copy, as the ledger around it."""

    kept: dict[bytes, Alarm] = field(default_factory=dict)
    ended: dict[bytes, Alarm] = field(default_factory=dict)  # since the copy was made

    def copy(self) -> Alarms:
        """One to change."""
        return Alarms(dict(self.kept))

    def learn(self, one: Alarm) -> None:
        """Take in a record of the alarms' topic; the last one of a key holds."""
        if one.state in {HEALED, FORGOTTEN} or (one.state == ACKNOWLEDGED and one.kind != Kind.HOLE.value):
            self.kept.pop(key_of(one), None)
        else:
            self.kept[key_of(one)] = one

    def add(self, one: Alarm) -> None:
        """Raise an alarm, or extend the one that there is."""
        key = key_of(one)
        before = self.kept.pop(key, None)
        whole = numbers_of(one) if before is None else numbers_of(one) | numbers_of(before)
        ranges = _ranges(whole)
        unlisted = one.unlisted if before is None else before.unlisted
        unlisted += len(whole) - sum(each.last - each.first + 1 for each in ranges)
        time_ms = one.time_ms if before is None else before.time_ms
        self.kept[key] = dataclasses.replace(one, ranges=ranges, unlisted=unlisted, time_ms=time_ms)
        self.ended.pop(key, None)
        if len(self.kept) > ALARMS_MAX:
            others = [each for each in self.kept if each != key]
            spent = (each for each in others if self.kept[each].state == ACKNOWLEDGED)
            self.end(next(spent, others[0]), FORGOTTEN)

    def fill(self, stream: Stream, first: int, last: int) -> None:
        """These numbers are accounted for."""
        for kind in (Kind.HOLE, Kind.EPOCH):
            key = _key_of_stream(kind, stream)
            found = self.kept.get(key)
            if found is None:
                continue
            left = numbers_of(found) - SequenceRanges([(first, last)])
            if left or found.unlisted:
                self.kept[key] = dataclasses.replace(found, ranges=_ranges(left))
            else:
                self.end(key, HEALED)

    def missing(self, stream: Stream) -> SequenceRanges:
        """The numbers of a stream that were jumped over and did not come."""
        found = self.kept.get(_key_of_stream(Kind.HOLE, stream))
        return SequenceRanges() if found is None else numbers_of(found)

    def end(self, key: bytes, state: str, actor: str = "") -> None:
        """It is not kept any longer, for this reason."""
        found = self.kept.pop(key)
        self.ended[key] = dataclasses.replace(found, state=state, actor=actor)

    def acknowledge(self, alarm_id: str, actor: str) -> bool:
        """Somebody knows of it; False if there is no open one of this id. A hole's numbers are kept on."""
        for key, one in self.kept.items():
            if id_of(one) == alarm_id and one.state == OPEN:
                if one.kind == Kind.HOLE.value:
                    self.kept[key] = dataclasses.replace(one, state=ACKNOWLEDGED, actor=actor)
                else:
                    self.end(key, ACKNOWLEDGED, actor)
                return True
        return False

    def open_of(self, peer: str, lane: str) -> tuple[Alarm, ...]:
        """The open ones of a lane, oldest first."""
        found = [one for one in self.kept.values() if (one.peer, one.lane, one.state) == (peer, lane, OPEN)]
        return tuple(sorted(found, key=lambda one: one.time_ms))

    def changes_since(self, before: Alarms) -> tuple[Alarm, ...]:
        """The records that turn `before` into this."""
        new = [one for key, one in self.kept.items() if before.kept.get(key) != one]
        return (*new, *(one for key, one in self.ended.items() if key in before.kept))


def _key_of_stream(kind: Kind, stream: Stream) -> bytes:
    run, epoch, producer, lane = stream
    return f"alarm|{kind.value}|{lane}|{run}|{epoch}|{producer}".encode()


def _ranges(numbers: SequenceRanges) -> tuple[AlarmRange, ...]:
    """The newest ranges, as many as are kept."""
    found: Iterable[tuple[int, int]] = numbers.ranges()[-RANGES_MAX:]
    return tuple(AlarmRange(first=first, last=last) for first, last in found)
