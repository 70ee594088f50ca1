"""Reading a peer's lane into queues by run, bounded, so that no run ever waits for another (6.9).

A run whose queue is full is *spilled*: its further records are passed over, and the offset of the first of them is all
that is remembered. The other runs are read on. When the run has room again, its records are read once more from that
offset, up to where the others are; what is not its own is passed over. Readings take turns with the head of the log, so
neither waits for the other for longer than `AGAIN_RECORDS` take.

**Bounds.** At most `RUN_QUEUED_MAX` records wait of a run, `QUEUED_MAX` of all of them, and beyond that `SHARE` of each
run: however full it is, a run with less than that has room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pipelines.ports import EventSource, Fetched, Partition

RUN_QUEUED_MAX = 500
QUEUED_MAX = 2_000
SHARE = 20
AGAIN_RECORDS = 2_000
KEY_READ_BYTES = 200  # no run has a longer name


class Queue(Protocol):
    """The waiting records of a run, oldest first."""

    def __len__(self) -> int:
        """Their number."""


Q = TypeVar("Q", bound=Queue)


class Intake(Generic[Q]):
    """Sorts what is read into the flow's queues.

    Args:
        source: reads the peer's log.
        followed: the next offset of each partition at the head of the log; shared with the replicator.
        queues: the waiting records, by run; shared with the replicator.
        put: append a record to its run's queue.
    """

    def __init__(
        self,
        source: EventSource,
        followed: dict[Partition, int],
        queues: dict[str, Q],
        put: Callable[[str, Fetched], None],
    ) -> None:
        self._source, self._followed, self._queues, self._put = source, followed, queues, put
        self._spilled: dict[tuple[Partition, str], int] = {}  # the first offset that the run has still to be read from
        self._again: tuple[Partition, str] | None = None  # what is read once more now
        self._left = 0  # records of this reading
        self._head_is_due = False

    def clear(self) -> None:
        """Forget all spilled runs: the replicator seeks anew."""
        self._spilled.clear()
        self._again, self._head_is_due = None, False

    def drop(self, partition: Partition) -> None:
        """Forget a partition that no longer exists."""
        for place in [place for place in self._spilled if place[0] == partition]:
            del self._spilled[place]
        if self._again is not None and self._again[0] == partition:
            self._again = None

    def floor(self, partition: Partition, position: int) -> int:
        """The position, or the first offset that was passed over if that is earlier."""
        return min([position, *(at for (of, _), at in self._spilled.items() if of == partition)])

    def is_spilled(self, run: str) -> bool:
        """Whether records of the run were passed over that are not read again yet."""
        return any(of == run for _, of in self._spilled)

    def take(self, timeout_s: float) -> None:
        """Poll the source once, and queue the records for which there is room."""
        self._begin_again()
        total = sum(map(len, self._queues.values()))
        reading = self._again
        records = self._source.poll(timeout_s)
        for fetched in records:
            total += self._sort(fetched, total)
        if reading is not None:
            self._go_on(reading)
        elif records or self._at_end():
            self._head_is_due = False

    def _sort(self, fetched: Fetched, total: int) -> bool:
        """Queue a record if it is due; whether it was queued."""
        partition, run = fetched.partition, fetched.key[:KEY_READ_BYTES].decode(errors="replace")
        following = self._followed.get(partition)
        if following is None:
            return False
        if fetched.offset < following:
            return self._sort_again(fetched, run, total)
        if self._again is not None and self._again[0] == partition:
            self._caught_up()
        self._followed[partition] = fetched.offset + 1
        if (partition, run) in self._spilled:
            return False
        if not self._has_room(run, total):
            self._spilled[partition, run] = fetched.offset
            return False
        self._put(run, fetched)
        return True

    def _sort_again(self, fetched: Fetched, run: str, total: int) -> bool:
        place = self._again
        if place is None or place[0] != fetched.partition or fetched.offset < self._spilled.get(place, fetched.offset):
            return False
        self._left -= 1
        is_its = run == place[1]
        if is_its and not self._has_room(run, total):
            self._again = None
            return False
        self._spilled[place] = fetched.offset + 1
        if is_its:
            self._put(run, fetched)
        return is_its

    def _has_room(self, run: str, total: int) -> bool:
        queue = self._queues.get(run)
        queued = 0 if queue is None else len(queue)
        return queued < SHARE or (queued < RUN_QUEUED_MAX and total < QUEUED_MAX)

    # --- reading a spilled run again ---

    def _begin_again(self) -> None:
        """Seek back for the spilled run that has the most room, unless the head is due."""
        if self._again is not None or self._head_is_due or not self._spilled:
            return
        waiting = {place: self._length(place[1]) for place in self._spilled if place[0] in self._followed}
        place = min(waiting, key=lambda one: (waiting[one], self._spilled[one]), default=None)
        if place is None or waiting[place] > RUN_QUEUED_MAX // 2:
            return
        total = sum(map(len, self._queues.values()))
        if not self._has_room(place[1], total):
            return
        self._source.seek(place[0], self._spilled[place])
        self._again, self._left = place, AGAIN_RECORDS

    def _go_on(self, reading: tuple[Partition, str]) -> None:
        """Seek back to the head, if the run is full again, has caught up or was read for long enough."""
        partition = reading[0]
        if self._again == reading and self._source.position(partition) >= self._followed[partition]:
            self._caught_up()
            return
        if self._again is None and reading not in self._spilled:
            return  # it caught up, and the head was read on from there
        if self._again is None or self._left <= 0:
            self._again = None
            self._head_is_due = True
            self._source.seek(partition, self._followed[partition])

    def _caught_up(self) -> None:
        if self._again is not None:
            self._spilled.pop(self._again, None)
        self._again = None

    def _length(self, run: str) -> int:
        queue = self._queues.get(run)
        return 0 if queue is None else len(queue)

    def _at_end(self) -> bool:
        """Whether the head is due, and was read to its end in every partition that has a spilled run."""
        partitions = {partition for partition, _ in self._spilled if partition in self._followed}
        return self._head_is_due and all(
            self._source.position(partition) >= self._source.bounds(partition)[1] for partition in partitions
        )
