"""A region's ledger of a peer's log: watermarks and positions (design 6.8), as values without I/O.

A watermark per (run, epoch, producer, lane) makes effects happen once; a position per source partition says where to
read on; the numbers that a watermark jumped over are in the alarms. All are written in the transaction that publishes,
so they never disagree with what is visible.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from pipelines.core import alarms
from pipelines.core.alarms import Alarms
from pipelines.core.metric_batches import first_number
from pipelines.core.sequence_ranges import SequenceRanges
from schemas.records import Alarm, Event, Position, Record, Watermark

Stream = alarms.Stream
Source = tuple[str, str, int]
_REGION = "region:"  # in the place of a producer, with epoch 0: the number is the highest epoch that came from there


class Arrival(enum.Enum):
    """Whether an event's number is due, was taken already, or leaves numbers out."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    GAP = "gap"  # numbers before it are missing: it is taken, and the gap is reported


@dataclass(slots=True)
class Ledger:
    """Watermarks and positions; `copy` it, change the copy, and keep the copy once the transaction is through."""

    watermarks: dict[Stream, int] = field(default_factory=dict)
    positions: dict[Source, Position] = field(default_factory=dict)
    alarms: Alarms = field(default_factory=Alarms)
    epochs: dict[tuple[str, str, str], int] = field(default_factory=dict)  # run, region, lane: the highest from there

    def copy(self) -> Ledger:
        """A copy to change."""
        return Ledger(dict(self.watermarks), dict(self.positions), self.alarms.copy(), dict(self.epochs))

    def learn(self, record: Record) -> None:
        """Take one record of the ledger in; the last position wins, and a watermark never falls."""
        if isinstance(record, Watermark):
            region = region_of(record)
            if region is not None:
                self.saw_epoch(record.run, region, record.lane, record.seq)
                return
            key = (record.run, record.epoch, record.producer, record.lane)
            self.watermarks[key] = max(record.seq, self.watermarks.get(key, 0))
        elif isinstance(record, Position):
            self.positions[record.cluster, record.topic_id, record.partition] = record
        elif isinstance(record, Alarm):
            self.alarms.learn(record)

    def arrival(self, event: Event) -> Arrival:
        """Whether the event is new here."""
        return self.arrival_of(stream(event), event.seq, first_number(event))

    def arrival_of(self, key: Stream, seq: int, first_seq: int | None = None) -> Arrival:
        """Whether a number of a stream is new here, or some of those from `first_seq` on."""
        seen = self.watermarks.get(key, 0)
        if seq <= seen:
            missing = self.alarms.missing(key)
            late = missing and missing & SequenceRanges([(seq if first_seq is None else first_seq, seq)])
            return Arrival.NEXT if late else Arrival.DUPLICATE
        return Arrival.NEXT if (seq if first_seq is None else first_seq) <= seen + 1 else Arrival.GAP

    def is_new(self, key: Stream, seq: int) -> bool:
        """Whether this one number was never taken: it is above the watermark, or was jumped over."""
        return seq > self.watermarks.get(key, 0) or seq in self.alarms.missing(key)

    def take(self, key: Stream, first_seq: int, seq: int) -> SequenceRanges:
        """Note that numbers are settled; gives back the numbers before them that nobody has seen."""
        seen = self.watermarks.get(key, 0)
        self.watermarks[key] = max(seq, seen)
        self.alarms.fill(key, first_seq, seq)
        return SequenceRanges([(seen + 1, first_seq - 1)])

    def saw_epoch(self, run: str, region: str, lane: str, epoch: int) -> bool:
        """Note that an event of an epoch came from a region; False if a higher epoch had come from there before."""
        highest = self.epochs.get((run, region, lane), 0)
        self.epochs[run, region, lane] = max(epoch, highest)
        return epoch >= highest

    def changes_since(self, before: Ledger) -> tuple[Record, ...]:
        """The records that turn `before` into this."""
        marks = [
            Watermark(run=key[0], epoch=key[1], producer=key[2], lane=key[3], seq=seq)
            for key, seq in self.watermarks.items()
            if before.watermarks.get(key) != seq
        ]
        moved = [place for key, place in self.positions.items() if before.positions.get(key) != place]
        newer = [
            Watermark(run=run, epoch=0, producer=f"{_REGION}{region}", lane=lane, seq=epoch)
            for (run, region, lane), epoch in self.epochs.items()
            if before.epochs.get((run, region, lane)) != epoch
        ]
        return (*marks, *moved, *newer, *self.alarms.changes_since(before.alarms))


def stream(event: Event) -> Stream:
    """The stream of an event: its numbers have no holes."""
    return (event.run, event.epoch, event.producer, event.lane)


def region_of(record: Watermark) -> str | None:
    """The region whose highest epoch this is; None if it is the watermark of a stream."""
    is_of_region = record.epoch == 0 and record.producer.startswith(_REGION)
    return record.producer.removeprefix(_REGION) if is_of_region else None


def key_of(record: Record) -> bytes:
    """The compaction key of a ledger record."""
    if isinstance(record, Watermark):
        return f"watermark|{record.run}|{record.epoch}|{record.producer}|{record.lane}".encode()
    if isinstance(record, Position):
        return f"position|{record.cluster}|{record.topic_id}|{record.partition}".encode()
    if isinstance(record, Alarm):
        return alarms.key_of(record)
    raise TypeError(f"{type(record).__name__} does not belong in the ledger")
