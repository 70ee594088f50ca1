"""Replay: delivers a part of a log once more, to handlers, a topic or a file. Planning changes nothing.

**In the order in which the records were put into the log**, across lanes, at the pace that is asked for. A bookmark
notes what was delivered, so a replay that was stopped or killed goes on where it was; its ends are those that the plan
saw.
Heartbeats and control reach no handler: an old sign of life is none (6.11, I10).
"""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipelines import paths
from pipelines.core.ledger import Ledger
from pipelines.core.lineage import LineageView
from pipelines.core.record_filter import Facts, RecordFilter, facts_of, identity_of
from pipelines.core.replay_rules import Bound, Edge, Fate, Known, Tempo, fate
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.log.log_reader import SILENCE_S, Decoding, OnProgress, Seen, quiet, scan
from pipelines.flows.replication.replay_requests import BATCH_MAX
from pipelines.ports import Clock, EventSource, Fetched, Partition
from schemas.records import Checkpoint, DataVersion

POLL_S = 0.2
HELD_MAX = 2_000  # records of one partition that wait for their turn
SPAN_MAX = 5_000  # offsets of one partition that a batch spans
NOTE_S = 1.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of one partition: from `begin` on, up to and without `end`, and of that what is not older or newer."""

    partition: Partition
    begin: int
    end: int
    since_ms: int | None = None
    before_ms: int | None = None

    @property
    def lane(self) -> str:
        """The lane's name."""
        return self.partition.topic.removeprefix(paths.topic(""))

    @property
    def place(self) -> str:
        """The partition's name for people and bookmarks."""
        return f"{self.lane}/{self.partition.number}"

    def has_time(self, time_ms: int) -> bool:
        """Whether a record of such a time is meant."""
        return (self.since_ms is None or self.since_ms <= time_ms) and (
            self.before_ms is None or time_ms < self.before_ms
        )


def check_lane(lane: str) -> None:
    """Refuse a lane that no handler takes again.

    Raises:
        MisconfiguredError: it is such a lane.
    """
    if lane not in paths.REPLAYABLE_LANES:
        raise MisconfiguredError(
            f"lane {lane!r} cannot be replayed into handlers; these can: {', '.join(paths.REPLAYABLE_LANES)}"
        )


def stretches(
    source: EventSource, topics: Sequence[str], chosen: RecordFilter, begin: Bound, until: Bound, decoding: Decoding
) -> tuple[Stretch, ...]:
    """Where a replay begins and ends in each partition. `until` is not replayed any more; a checkpoint named there is.

    Raises:
        MisconfiguredError: a bound is not in this log.
        RetryableError: the log does not answer.
    """
    partitions = [(one, *source.bounds(one)) for one in source.partitions(topics)]
    if Edge.OFFSET in {begin.edge, until.edge} and len(partitions) > 1:
        raise MisconfiguredError("offset: counts in one partition; name one lane with --lane")
    edges = {
        bound: _checkpoint(source, chosen, bound.number, decoding)
        for bound in (begin, until)
        if bound.edge is Edge.CHECKPOINT
    }
    result = []
    for partition, first, end in partitions:
        low, since_ms = _offset(source, partition, begin, (first, end), edges.get(begin))
        high, before_ms = _offset(source, partition, until, (first, end), edges.get(until), is_end=True)
        result.append(Stretch(partition, low, max(low, high), since_ms, before_ms))
    return tuple(result)


def _offset(
    source: EventSource,
    partition: Partition,
    bound: Bound,
    ends: tuple[int, int],
    checkpoint: Fetched | None,
    *,
    is_end: bool = False,
) -> tuple[int, int | None]:
    """A bound's offset, and the time that the records of the stretch are compared with, where it is one.

    Producers set the times, so a log is not ordered by them: behind the first later record earlier ones may follow. So
    a stretch goes to the log's end, and each of its records is compared.
    """
    first, end = ends
    if bound.edge is Edge.EARLIEST:
        return first, None
    if bound.edge is Edge.LATEST:
        return end, None
    if bound.edge is Edge.OFFSET:
        if not first <= bound.number <= end:
            raise MisconfiguredError(f"offset:{bound.number} is outside {first}..{end} of {partition.topic}")
        return bound.number, None
    if checkpoint is not None and partition == checkpoint.partition:
        return checkpoint.offset + is_end, None
    time_ms = bound.number if checkpoint is None else checkpoint.time_ms + is_end
    return end if is_end else source.offset_at(partition, time_ms), time_ms


def _checkpoint(source: EventSource, chosen: RecordFilter, step: int, decoding: Decoding) -> Fetched:
    """The newest record of a step's checkpoint in this log."""
    if len(chosen.runs) != 1:
        raise MisconfiguredError("checkpoint: is of one run; name it with --run")
    newest: Fetched | None = None
    for fetched in scan(source, [paths.CHECKPOINTS], decoding.clock):
        event = decoding.see(fetched).record
        if isinstance(event, Checkpoint) and event.run in chosen.runs and event.step == step:
            newest = fetched
    if newest is None:
        raise MisconfiguredError(f"checkpoint:{step}: this log has none of {next(iter(chosen.runs))} at this step")
    return newest


@dataclass(slots=True)
class Merged:
    """The records of some stretches in the order of their time; of a partition always in its own."""

    source: EventSource
    stretches: Sequence[Stretch]
    clock: Clock
    _held: dict[Partition, deque[Fetched]] = field(default_factory=dict)
    _at: dict[Partition, int] = field(default_factory=dict)
    _ends: dict[Partition, int] = field(default_factory=dict)
    _meant: dict[Partition, Stretch] = field(default_factory=dict)
    _paused: set[Partition] = field(default_factory=set)

    def begin(self) -> None:
        """Go to the beginning of each stretch."""
        for stretch in self.stretches:
            self._held[stretch.partition], self._at[stretch.partition] = deque(), stretch.begin
            self._ends[stretch.partition], self._meant[stretch.partition] = stretch.end, stretch
            if stretch.begin < stretch.end:
                self.source.seek(stretch.partition, stretch.begin)
                self.source.resume([stretch.partition])

    @property
    def done(self) -> bool:
        """Whether everything was taken."""
        return not any(self._held.values()) and not self._unread()

    def peek(self) -> Fetched | None:
        """The next record; None if it is not known yet, or if there is none."""
        if any(not self._held[one] for one in self._unread()):
            self._poll()
        if any(not self._held[one] for one in self._unread()):
            return None
        heads = [queue[0] for queue in self._held.values() if queue]
        return min(heads, key=_turn) if heads else None

    def take(self) -> Fetched:
        """Take the record that `peek` showed."""
        item = self.peek()
        if item is None:
            raise LookupError("nothing is there to be taken")
        self._held[item.partition].popleft()
        return item

    def position(self, partition: Partition) -> int:
        """The offset from which to read on, had nothing been taken after this."""
        queue = self._held[partition]
        return queue[0].offset if queue else self._at[partition]

    def _unread(self) -> list[Partition]:
        return [one for one, end in self._ends.items() if self._at[one] < end]

    def _poll(self) -> None:
        for partition, queue in self._held.items():
            if partition in self._paused and len(queue) < HELD_MAX // 2:
                self.source.resume([partition])
                self._paused.discard(partition)
        for item in self.source.poll(POLL_S):
            if item.offset < self._ends.get(item.partition, 0) and self._meant[item.partition].has_time(item.time_ms):
                self._held[item.partition].append(item)
        for partition in self._unread():
            self._at[partition] = min(self.source.position(partition), self._ends[partition])
            if self._at[partition] >= self._ends[partition] or len(self._held[partition]) >= HELD_MAX:
                self.source.pause([partition])
                self._paused.add(partition)


def _turn(item: Fetched) -> tuple[int, str, int, int]:
    return (item.time_ms, item.partition.topic, item.partition.number, item.offset)


@dataclass(slots=True)
class Row:
    """The plan of one partition: how many records a replay would take of it, and which."""

    stretch: Stretch
    records: int = 0
    size_bytes: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    first_id: str = ""
    last_id: str = ""
    steps: tuple[int, int] | None = None
    epochs: set[int] = field(default_factory=set)
    fates: Counter[Fate] = field(default_factory=Counter)

    def take(self, seen: Seen, facts: Facts) -> None:
        """Count one record in."""
        self.records += 1
        self.size_bytes += len(seen.fetched.value)
        name = dict(seen.fetched.headers).get("ce_id", b"").decode(errors="replace")
        if self.first_ms is None:
            self.first_ms, self.first_id = seen.fetched.time_ms, name
        self.last_ms, self.last_id = seen.fetched.time_ms, name
        if facts.step is not None:
            low, high = self.steps or (facts.step, facts.step)
            self.steps = (min(low, facts.step), max(high, facts.step))
        if facts.epoch is not None:
            self.epochs.add(facts.epoch)

    def plain(self) -> dict[str, object]:
        """As JSON."""
        return {
            "lane": self.stretch.lane,
            "partition": self.stretch.partition.number,
            "begin": self.stretch.begin,
            "end": self.stretch.end,
            "records": self.records,
            "size_bytes": self.size_bytes,
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "steps": None if self.steps is None else list(self.steps),
            "epochs": sorted(self.epochs),
            "fates": {one.value: count for one, count in sorted(self.fates.items(), key=lambda pair: pair[0].value)},
        }


@dataclass(slots=True)
class Handlers:
    """Predicts what a region's handlers would do with an event; each lineage is read once.

    Args:
        peer: the region whose lanes are replayed.
        ledger: this region's.
        known: the visible and the dead numbers of a stream.
        lineage: reads a run's lineage; None while it is not known.
        whole: whether everything that a visible event names is here.
    """

    peer: str
    ledger: Ledger
    known: Callable[[tuple[str, int, str, str]], Known]
    lineage: Callable[[str], LineageView | None]
    whole: Callable[[Checkpoint | DataVersion], bool]

    def __post_init__(self) -> None:
        self.lineage = functools.cache(self.lineage)

    def fate(self, seen: Seen, facts: Facts) -> Fate:
        """The fate of a record."""
        identity = identity_of(facts)
        if identity is None:
            return Fate.UNDECODABLE if seen.record is None else Fate.OTHER
        outcome = fate(facts, self.peer, self.ledger, self.known(identity[0]), self.lineage(identity[0][0]))
        if outcome is Fate.DONE and isinstance(seen.record, Checkpoint | DataVersion) and not self.whole(seen.record):
            return Fate.DAMAGED
        return outcome


def plan(
    source: EventSource,
    parts: Sequence[Stretch],
    chosen: RecordFilter,
    decoding: Decoding,
    handlers: Handlers | None = None,
    on_progress: OnProgress = quiet,
) -> list[Row]:
    """Read the stretches and count what is chosen; with `handlers`, also what they would do with it.

    Raises:
        RetryableError: the log does not answer.
    """
    rows = {one.partition: Row(one) for one in parts}
    total = sum(one.end - one.begin for one in parts)
    for done, fetched in enumerate(_all(source, parts, decoding.clock), 1):
        on_progress(done, total)
        seen = decoding.see(fetched)
        facts = facts_of(seen.record, fetched.headers)
        if chosen.admits(facts, fetched.headers, fetched.time_ms, decoded=seen.record is not None):
            row = rows[fetched.partition]
            row.take(seen, facts)
            if handlers is not None:
                row.fates[handlers.fate(seen, facts)] += 1
    return list(rows.values())


def _all(source: EventSource, parts: Sequence[Stretch], clock: Clock) -> Iterator[Fetched]:
    merged = Merged(source, parts, clock)
    merged.begin()
    moved_s, at = clock.boottime_s(), -1
    while not merged.done:
        if merged.peek() is not None:
            yield merged.take()
        read = sum(merged.position(part.partition) for part in parts)
        if read != at:  # also past records that are not meant
            moved_s, at = clock.boottime_s(), read
        elif clock.boottime_s() - moved_s > SILENCE_S:
            raise RetryableError(f"the log gave nothing for {SILENCE_S:.0f} s, before the end was reached")


class ReplayTarget(Protocol):
    """Where a replay's records go."""

    def deliver(self, records: Sequence[Fetched]) -> Counter[str] | None:
        """Deliver records: the count of each outcome, or None while they are under way: ask again with the same ones.

        Raises:
            RetryableError: nobody answered; ask again.
            MisconfiguredError: it will never take them.
        """

    def mark(self) -> int:
        """How much of the target is durable: its length, or its end; kept in the bookmark."""

    def waits(self) -> str:
        """The reason why it waits; "" if it does not."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a replay is: the next offset, the end and the times of each stretch, by its place."""

    replay_id: str
    at: dict[str, int]
    ends: dict[str, int]
    counts: dict[str, int]
    target: int = 0
    done: bool = False
    since_ms: dict[str, int | None] = field(default_factory=dict)
    before_ms: dict[str, int | None] = field(default_factory=dict)


class Bookmark(Protocol):
    """Where one replay's mark is kept, durably."""

    def read(self) -> Mark | None:
        """The mark; None if the replay was never begun."""

    def write(self, mark: Mark) -> None:
        """Replace it."""


class Drive:
    """Delivers the chosen records of some stretches; one thread turns it.

    Args:
        merged: the records of the stretches, in order.
        chosen: which of them are delivered.
        decoding: decodes them for the filter.
        target: where they go.
        bookmark: where the position is kept.
        begun: the position from which to go on.
        tempo: when each record is due.
        clock: this process's.
    """

    def __init__(
        self,
        *,
        merged: Merged,
        chosen: RecordFilter,
        decoding: Decoding,
        target: ReplayTarget,
        bookmark: Bookmark,
        begun: Mark,
        tempo: Tempo,
        clock: Clock,
    ) -> None:
        self._merged, self._chosen, self._decoding = merged, chosen, decoding
        self._target, self._bookmark, self._tempo, self._clock = target, bookmark, tempo, clock
        self._begun = begun
        self._batch: list[Fetched] = []
        self._at = dict(begun.at)
        self._noted_s = float("-inf")
        self.counts: Counter[str] = Counter(begun.counts)
        self.passed = 0  # records that were read, chosen or not

    @property
    def done(self) -> bool:
        """Whether everything was delivered."""
        return not self._batch and self._merged.done

    def turn(self) -> float:
        """Deliver the records that are due; seconds until the next turn.

        Raises:
            RetryableError: nobody answers; turn it again.
        """
        wait_s = 0.0 if self._batch else self._gather()
        if self._batch:
            outcomes = self._target.deliver(self._batch)
            if outcomes is None:
                return POLL_S
            self.counts += outcomes
            self._batch = []
        for stretch in self._merged.stretches:
            self._at[stretch.place] = self._merged.position(stretch.partition)
        if self.done or self._clock.boottime_s() - self._noted_s >= NOTE_S:
            self.note()
        return wait_s

    def note(self) -> None:
        """Keep the position, unless a batch is under way: then it is the one before it."""
        self._noted_s = self._clock.boottime_s()
        begun = self._begun
        mark = replace(begun, at=self._at, counts=dict(self.counts), target=self._target.mark(), done=self.done)
        self._bookmark.write(mark)

    def waits(self) -> str:
        """The reason why it waits; "" if it does not."""
        return self._target.waits()

    def _gather(self) -> float:
        """Fill the batch with what is due; seconds until the next record is, if none is now."""
        begins: dict[Partition, int] = {}
        began_s = self._clock.boottime_s()
        while len(self._batch) < BATCH_MAX:
            item, now_s = self._merged.peek(), self._clock.boottime_s()
            if item is None or now_s - began_s > NOTE_S:
                break
            if item.offset - begins.setdefault(item.partition, item.offset) > SPAN_MAX and self._batch:
                break
            wanted = self._wants(item)
            due_s = self._tempo.due_s(item.time_ms, now_s) if wanted else now_s
            if due_s > now_s:
                return 0.0 if self._batch else min(due_s - now_s, POLL_S)
            self._merged.take()
            self.passed += 1
            if wanted:
                self._tempo.went(item.time_ms, now_s)
                self._batch.append(item)
        return 0.0

    def _wants(self, item: Fetched) -> bool:
        seen = self._decoding.see(item)
        return self._chosen.matches(seen.record, item.headers, item.time_ms)
