"""Reads what a region did from its own lanes, where its ledger is not the one that it was.

A watermark is what makes an event visible once. If the ledger's topic is deleted, or made anew by whatever means, the
watermarks are gone while the events still stand in the lanes; each of them, and each dead letter, carries its identity
in its headers. So before a lane is followed on a ledger that it did not write to before, the lane and its dead letters
are read to their ends, and whatever stands there counts as done.

**The mark.** A flow leaves one record in each ledger that it begins on: a position "in the ledger", under the ledger's
own topic id. A ledger without it is new to the flow, also if another flow has written to it meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.ledger import Ledger, Stream
from pipelines.core.record_filter import Facts, facts_of, facts_of_letter, identity_of
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.log.log_reader import scan
from pipelines.flows.replication.lane_alarms import LaneAlarms
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.ports import Fetched, Partition
from schemas.codec import DecodeError
from schemas.records import DeadLetter, Position, Record

_CAUSE = "somebody deleted the ledger's topic, or the broker lost its disk"


@dataclass(slots=True)
class _DoneHere:
    """The numbers that stand in this region's lanes, by stream."""

    certain: dict[Stream, SequenceRanges] = field(default_factory=dict)
    claimed: dict[Stream, SequenceRanges] = field(default_factory=dict)  # by the headers of what cannot be decoded
    is_whole: bool = True  # nothing was removed from them yet

    def done(self) -> Iterator[tuple[Stream, SequenceRanges]]:
        """The settled numbers; one that is only claimed counts where it does not leap (`core.sequence_numbers`)."""
        for stream in dict.fromkeys((*self.certain, *self.claimed)):
            certain = self.certain.get(stream, SequenceRanges())
            both = certain | self.claimed.get(stream, SequenceRanges())
            following = certain.last or 1
            ends = [last for first, last in both.ranges() if first <= following <= last]
            yield stream, both.up_to(ends[0] if ends else certain.last)


class LedgerRecovery:
    """Recovers the ledger of one lane of one peer.

    Args:
        lane: the lane, and whose.
        ports: the lane's; this region's own log is read.
        lane_alarms: gets the alarm that a ledger was lost.
    """

    def __init__(self, lane: PeerLane, ports: LanePorts, lane_alarms: LaneAlarms) -> None:
        self._peer, self._lane = lane.peer, lane.name
        self._own, self._codec, self._clock = ports.own_source, ports.codec, ports.clock
        self._alarms = lane_alarms
        self._begun: tuple[Partition, ...] = ()
        self._is_anew = False  # seen while it was in use

    def begin(self, ledger: Ledger) -> Ledger:
        """The ledger to go on with: the one that was read if it has this lane's mark, else completed from the lanes."""
        self._begun = self._own.partitions([paths.LEDGER])
        marks = [self._mark(mark) for mark in self._begun]
        if marks and all((mark.cluster, mark.topic_id, mark.partition) in ledger.positions for mark in marks):
            return ledger
        after = ledger.copy()
        done_here = self._read()
        raised = sum(
            self._learn(after, stream, numbers, is_whole=done_here.is_whole) for stream, numbers in done_here.done()
        )
        if raised or self._is_anew:
            kept = "all of it" if done_here.is_whole else "as far back as this region's log goes"
            cause = f"{_CAUSE}; {raised} events that were done were found in the lanes, {kept}"
            place = f"{self._begun[0].topic_id if self._begun else 'none'}/{self._peer}"
            self._alarms.ledger_lost(after, place, cause)
        for mark in marks:
            after.learn(mark)
        self._is_anew = False
        return after

    def check(self) -> None:
        """See whether the ledger's topic is still the one that was read.

        Raises:
            CorruptError: it is another one: the replicator has to begin again.
        """
        now: tuple[Partition, ...] = ()
        with contextlib.suppress(RetryableError):  # the next transaction meets it, if it lasts; copies go on till then
            now = self._own.partitions([paths.LEDGER])
        if self._begun and now and now != self._begun:
            self._is_anew = True
            raise CorruptError(f"{paths.LEDGER} was deleted and made anew")

    def _mark(self, ledger: Partition) -> Position:
        return Position(
            cluster=f"{self._peer}/{self._lane}@{ledger.cluster}",
            topic_id=ledger.topic_id,
            topic=paths.LEDGER,
            partition=ledger.number,
            offset=0,
        )

    def _learn(self, after: Ledger, stream: Stream, numbers: SequenceRanges, *, is_whole: bool) -> int:
        """Take numbers into the ledger; how many of them it did not know."""
        seen = after.watermarks.get(stream, 0)
        new = numbers.above(seen)
        run, epoch, _, lane = stream
        after.saw_epoch(run, self._peer, lane, epoch)
        if new:
            after.watermarks[stream] = new.last
            if is_whole:
                self._alarms.absent(after, stream, SequenceRanges([(seen + 1, new.last)]) - new)
        return len(new)

    def _read(self) -> _DoneHere:
        done_here = _DoneHere()
        topics = [paths.topic(self._lane), paths.DEAD_LETTERS]
        for partition in self._own.partitions(topics):
            done_here.is_whole &= self._own.bounds(partition)[0] == 0
        for item in scan(self._own, topics, self._clock):
            facts, is_claimed = self._facts(item)
            identity = identity_of(facts)
            if identity is not None and facts.region == self._peer and identity[0][3] == self._lane:
                stream, numbers = identity
                kept = done_here.claimed if is_claimed else done_here.certain
                kept[stream] = kept.get(stream, SequenceRanges()) | numbers
        return done_here

    def _facts(self, item: Fetched) -> tuple[Facts, bool]:
        """The facts of a record, and whether they are only claimed by the headers of one that cannot be decoded."""
        facts = facts_of(None, item.headers)
        is_letter = item.partition.topic == paths.DEAD_LETTERS
        if identity_of(facts) is not None and facts.region is not None and not is_letter:
            return facts, False
        record = self._decoded(item.value)
        if not isinstance(record, DeadLetter):
            return facts_of(record, item.headers), False
        facts = facts_of_letter(record)
        if identity_of(facts) is None:
            facts = facts_of(self._decoded(record.value), ())
        return facts, record.reason == "undecodable"

    def _decoded(self, value: bytes) -> Record | None:
        try:
            return self._codec.decode(value)
        except DecodeError:
            return None
