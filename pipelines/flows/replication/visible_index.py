"""Reads from a region's own log which numbers of a lane are visible, are dead letters, or were redriven.

The ledger's watermark says how far a lane has come, not what was passed over on the way. Whoever handles an event out
of its turn (a redrive, a replay) asks here, in the thread of the flow that owns the lane, so nothing is made visible
twice.
"""

from __future__ import annotations

from pipelines import paths
from pipelines.core.authorship import FOREIGN_EPOCH
from pipelines.core.ledger import Stream
from pipelines.core.record_filter import facts_of, facts_of_letter, identity_of
from pipelines.core.replay_rules import Known
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import CorruptError
from pipelines.ports import Clock, EventSource, Fetched, Partition
from schemas.codec import Codec, DecodeError
from schemas.records import DeadLetter, Redriven

READ_S = 2.0  # of one turn; a long log is read in several
POLL_S = 0.2


class VisibleIndex:
    """The visible, dead and redriven numbers of one lane, as far as this region's log was read."""

    def __init__(self, lane: str, own: EventSource, codec: Codec, clock: Clock) -> None:
        self.marks: dict[tuple[int, int], Redriven] = {}  # by the letter's partition and offset
        self._topic = paths.topic(lane)
        self._own, self._codec, self._clock = own, codec, clock
        self._numbers: dict[Stream, SequenceRanges] = {}
        self._dead: dict[Stream, SequenceRanges] = {}
        self._at: dict[Partition, int] = {}
        self._reading: Partition | None = None  # left in the middle, with what is fetched of it

    def forget(self) -> None:
        """Forget everything: the log is read again from its beginning."""
        self.marks = {}
        self._numbers, self._dead, self._at = {}, {}, {}
        self._reading = None

    def read_on(self) -> bool:
        """Read the records that were added since; False if that takes longer than a turn may.

        Raises:
            RetryableError: the region's own log does not answer.
        """
        deadline_s = self._clock.boottime_s() + READ_S
        for partition in self._own.partitions([paths.DEAD_LETTERS, self._topic]):
            first, end = self._own.bounds(partition)
            at = self._at.setdefault(partition, first)
            if at >= end:
                continue
            if partition != self._reading:  # to seek throws away what is fetched
                self._own.seek(partition, max(at, first))
                self._own.resume([partition])
                self._reading = partition
            while (position := self._own.position(partition)) < end:
                if self._clock.boottime_s() > deadline_s:
                    self._at[partition] = position
                    return False
                for item in self._own.poll(POLL_S):
                    self._learn(item)
            self._at[partition] = self._own.position(partition)
            self._own.pause([partition])
            self._reading = None
        return True

    def known(self, stream: Stream) -> Known:
        """The visible and the dead numbers of a stream."""
        return Known(self._numbers.get(stream, SequenceRanges()), self._dead.get(stream, SequenceRanges()))

    def see(self, stream: Stream, numbers: SequenceRanges) -> None:
        """Note numbers that were just made visible, before they are read back."""
        self._numbers[stream] = self._numbers.get(stream, SequenceRanges()) | numbers

    def letter(self, partition_number: int, offset: int) -> DeadLetter:
        """The dead letter at a place.

        Raises:
            CorruptError: there is none, or it cannot be decoded.
        """
        place = f"dead-letters/{partition_number}/{offset}"
        for partition in self._at:
            if (partition.topic, partition.number) != (paths.DEAD_LETTERS, partition_number):
                continue
            self._own.seek(partition, offset)
            self._own.resume([partition])
            records = [one for one in self._own.poll(READ_S, 1) if one.partition == partition]
            self._own.pause([partition])
            if records and records[0].offset == offset:
                try:
                    return self._codec.decode_as(DeadLetter, records[0].value)
                except DecodeError as error:
                    raise CorruptError(f"{place}: {error.reason}") from error
        raise CorruptError(f"{place}: there is no letter at this place")

    def _learn(self, item: Fetched) -> None:
        try:
            record = self._codec.decode(item.value)
        except DecodeError:
            record = None
        if isinstance(record, Redriven):
            self.marks[record.partition, record.offset] = record
        elif isinstance(record, DeadLetter) and record.topic == self._topic:
            identity = identity_of(facts_of_letter(record))
            if identity is not None and record.reason != FOREIGN_EPOCH:  # that names numbers of another region
                self._dead[identity[0]] = self._dead.get(identity[0], SequenceRanges()) | identity[1]
        elif item.partition.topic == self._topic:
            identity = identity_of(facts_of(record, item.headers))
            if identity is not None:
                self.see(*identity)
