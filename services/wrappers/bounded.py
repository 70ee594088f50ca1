"""A log that is read up to an end that was noted before, and no faster than allowed: for replays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipelines.core.replay_rules import Tempo
from pipelines.ports import Clock, EventSource, Fetched, Partition


class BoundedSource:
    """Implements EventSource: another one's, up to and without its ends.

    Args:
        source: the log.
        ends: the offset before which each partition ends; partitions that are not named are left out.
        tempo: how fast records are given on.
        clock: waits for the tempo.
    """

    def __init__(self, source: EventSource, ends: Mapping[Partition, int], tempo: Tempo, clock: Clock) -> None:
        self._source, self._ends, self._tempo, self._clock = source, ends, tempo, clock
        self._sought: set[Partition] = set()
        self.given = 0

    def at_ends(self) -> bool:
        """Whether everything before the ends was read."""
        return all(place in self._sought and self.position(place) >= end for place, end in self._ends.items())

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """Those that have an end."""
        return tuple(partition for partition in self._source.partitions(topics) if partition in self._ends)

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset, the end that was seen)."""
        first, end = self._source.bounds(partition)
        return first, max(first, min(end, self._ends[partition]))

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset of a time or later, within the end."""
        return min(self._source.offset_at(partition, time_ms), self._ends[partition])

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from an offset."""
        self._source.seek(partition, offset)
        self._sought.add(partition)

    def position(self, partition: Partition) -> int:
        """The offset at which a partition is read next."""
        return min(self._source.position(partition), self._ends[partition])

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records before the ends; as many as the tempo lets through, and at least one of what was read."""
        limited = self._tempo.rate > 0
        records = self._source.poll(timeout_s, min(most, max(1, int(self._tempo.rate / 5))) if limited else most)
        wanted = tuple(record for record in records if record.offset < self._ends[record.partition])
        for record in wanted:
            now_s = self._clock.boottime_s()
            self._clock.sleep(max(0.0, self._tempo.due_s(record.time_ms, now_s) - now_s))
            self._tempo.went(record.time_ms, self._clock.boottime_s())
        self.given += len(wanted)
        return wanted

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._source.pause(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        self._source.resume(partitions)
