"""What a region remembers of a peer's log: watermarks and positions (design 6.8), as values without I/O.

A watermark per (run, epoch, producer, lane) makes effects happen once; a position per source partition says where to
read on. Both are written in the transaction that publishes, so they never disagree with what is visible.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from pipelines.core.metric_batches import first_number
from schemas.records import Event, Position, Record, Watermark

Stream = tuple[str, int, str, str]
Source = tuple[str, str, int]


class Arrival(enum.Enum):
    """What an event's number says about it."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    GAP = "gap"  # numbers before it are missing: it is taken, and the gap is reported


@dataclass(slots=True)
class Ledger:
    """Watermarks and positions; `copy` it, change the copy, and keep the copy once the transaction is through."""

    watermarks: dict[Stream, int] = field(default_factory=dict)
    positions: dict[Source, Position] = field(default_factory=dict)

    def copy(self) -> Ledger:
        """One to change."""
        return Ledger(dict(self.watermarks), dict(self.positions))

    def learn(self, record: Record) -> None:
        """Take one record of the ledger's topic in; the last position wins, and a watermark never falls."""
        if isinstance(record, Watermark):
            key = (record.run, record.epoch, record.producer, record.lane)
            self.watermarks[key] = max(record.seq, self.watermarks.get(key, 0))
        elif isinstance(record, Position):
            self.positions[record.cluster, record.topic_id, record.partition] = record

    def arrival(self, event: Event) -> Arrival:
        """Whether the event is new here."""
        return self.arrival_of(stream(event), event.seq, first_number(event))

    def arrival_of(self, key: Stream, seq: int, first_seq: int | None = None) -> Arrival:
        """Whether a number of a stream is new here, or some of those from `first_seq` on."""
        seen = self.watermarks.get(key, 0)
        if seq <= seen:
            return Arrival.DUPLICATE
        return Arrival.NEXT if (seq if first_seq is None else first_seq) <= seen + 1 else Arrival.GAP

    def changes_since(self, before: Ledger) -> tuple[Record, ...]:
        """The records that turn `before` into this."""
        marks = [
            Watermark(run=key[0], epoch=key[1], producer=key[2], lane=key[3], seq=seq)
            for key, seq in self.watermarks.items()
            if before.watermarks.get(key) != seq
        ]
        moved = [one for key, one in self.positions.items() if before.positions.get(key) != one]
        return (*marks, *moved)


def stream(event: Event) -> Stream:
    """The stream whose numbers have no holes."""
    return (event.run, event.epoch, event.producer, event.lane)


def key_of(record: Record) -> bytes:
    """The compaction key of a ledger record."""
    if isinstance(record, Watermark):
        return f"watermark|{record.run}|{record.epoch}|{record.producer}|{record.lane}".encode()
    if isinstance(record, Position):
        return f"position|{record.cluster}|{record.topic_id}|{record.partition}".encode()
    raise TypeError(f"{type(record).__name__} does not belong in the ledger")
