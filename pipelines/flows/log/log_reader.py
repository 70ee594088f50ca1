"""Reads a region's logs: every record once, decoded where that is possible; nothing is changed.

Only the region's own Kafka and store are asked, so it works when every peer is gone. The reader belongs to no group and
commits nothing: no service notices it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.record_filter import RecordFilter
from pipelines.errors import CorruptError, MisconfiguredError, RetryableError
from pipelines.flows.log.writer_schemas import learn
from pipelines.ports import Clock, EventSource, Fetched, Partition
from schemas.codec import Codec, DecodeError, UnknownSchemaError
from schemas.records import DeadLetter, Event, Record

SILENCE_S = 60.0  # an open transaction of a writer that died holds a reader back for 15 s
POLL_S = 0.2
ASK_AGAIN_S = 30.0
REFRESH_S = 10.0
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """One record of a log; `problem` says why it could not be decoded."""

    fetched: Fetched
    record: Record | None
    problem: str = ""


def quiet(done: int, total: int) -> None:
    """Show no progress."""
    del done, total


@dataclass(slots=True)
class Decoding:
    """Decodes what is read; a writer's schema that we lack is asked of the region's store, if it answers."""

    codec: Codec
    clock: Clock
    stored: Callable[[str], bytes | None] | None = None  # the store's `get`
    _missing: dict[str, tuple[float, str]] = field(default_factory=dict)  # fingerprint -> when it was asked for, answer

    def see(self, fetched: Fetched) -> Seen:
        """A record of a log decoded, or with the reason why it cannot be."""
        if fetched.damage is not None:
            return Seen(fetched, None, fetched.damage.reason)
        return Seen(fetched, *self.read(fetched.value))

    def read(self, value: bytes) -> tuple[Record | None, str]:
        """The record in some bytes; None if they cannot be decoded, and why."""
        try:
            return self._decode(value), ""
        except DecodeError as error:
            return None, error.reason

    def _decode(self, value: bytes) -> Record:
        try:
            return self.codec.decode(value)
        except UnknownSchemaError as error:
            why = self._fetch(error.fingerprint, value)
            if why:
                raise DecodeError(f"unknown schema fingerprint {error.fingerprint}: {why}", value) from error
            return self.codec.decode(value)

    def _fetch(self, fingerprint: str, value: bytes) -> str:
        """Fetch a schema from the store and learn it; "" if that went well, else why it did not."""
        if self.stored is None:
            return "there is no store to ask for it"
        asked_s, why = self._missing.get(fingerprint, (float("-inf"), ""))
        if self.clock.boottime_s() - asked_s < ASK_AGAIN_S:
            return why
        try:
            text = self.stored(paths.schema(fingerprint))
            why = f"the region's store has no {paths.schema(fingerprint)}"
        except (RetryableError, MisconfiguredError) as error:
            text, why = None, f"the region's store does not give it: {error}"
        if text is not None:
            learn(self.codec, text, value)
            return ""
        self._missing[fingerprint] = (self.clock.boottime_s(), why)
        return why


def scan(
    source: EventSource, topics: Sequence[str], clock: Clock, on_progress: OnProgress = quiet
) -> Iterator[Fetched]:
    """Every record of some topics, from the first that is still there to the ends seen at the beginning.

    Raises:
        RetryableError: nothing came for too long, or what was to be read was removed meanwhile.
    """
    try:
        yield from _scan(source, topics, clock, on_progress)
    except CorruptError as error:
        raise RetryableError(f"records were removed while they were read, look again: {error}") from error


def _scan(source: EventSource, topics: Sequence[str], clock: Clock, on_progress: OnProgress) -> Iterator[Fetched]:
    ends: dict[Partition, int] = {}
    at: dict[Partition, int] = {}
    for partition in source.partitions(topics):
        at[partition], ends[partition] = source.bounds(partition)
        source.seek(partition, at[partition])
        source.resume([partition])
    total, begun = sum(ends.values()) - sum(at.values()), sum(at.values())
    moved_s = clock.boottime_s()
    while waiting := [one for one, end in ends.items() if at[one] < end]:
        yield from (one for one in source.poll(POLL_S) if one.offset < ends.get(one.partition, 0))
        for partition in waiting:
            position = min(source.position(partition), ends[partition])
            if position > at[partition]:
                at[partition], moved_s = position, clock.boottime_s()
            if position == ends[partition]:
                source.pause([partition])
        on_progress(sum(at.values()) - begun, total)
        if clock.boottime_s() - moved_s > SILENCE_S:
            raise RetryableError(f"{waiting[0].topic} gave nothing for {SILENCE_S:.0f} s, before its end was reached")


def select(
    source: EventSource,
    chosen: RecordFilter,
    decoding: Decoding,
    on_progress: OnProgress = quiet,
) -> Iterator[Seen]:
    """The records of a log that a filter chooses, as the log is now."""
    for fetched in scan(source, chosen.topics(), decoding.clock, on_progress):
        seen = decoding.see(fetched)
        if chosen.matches(seen.record, fetched.headers, fetched.time_ms):
            yield seen


def newest(records: Iterator[Seen], limit: int) -> tuple[list[Seen], int]:
    """The last `limit` by the log's time, in its order, and how many there were; memory does not grow with the log."""
    kept: list[Seen] = []
    count = 0
    for seen in records:
        count += 1
        kept.append(seen)
        if len(kept) >= 2 * limit:
            kept = sorted(kept, key=_when)[-limit:]
    return sorted(kept, key=_when)[-limit:], count


def at_place(source: EventSource, topic: str, number: int, offset: int, clock: Clock) -> Fetched:
    """The record at one place.

    Raises:
        RetryableError: there is none yet, or there never will be; the text says which.
    """
    place = f"{topic}/{number}/{offset}"
    partitions = [fetched for fetched in source.partitions([topic]) if fetched.number == number]
    if not partitions:
        raise RetryableError(f"{place}: this region has no such partition")
    try:
        source.seek(partitions[0], offset)
    except CorruptError as error:
        raise RetryableError(str(error)) from error
    _, end = source.bounds(partitions[0])
    began_s = clock.boottime_s()
    while offset < end and source.position(partitions[0]) <= offset and clock.boottime_s() - began_s < SILENCE_S:
        for fetched in source.poll(POLL_S, 1):
            if fetched.partition == partitions[0] and fetched.offset == offset:
                return fetched
    raise RetryableError(f"{place}: no record has this offset (the end is {end}; a commit takes one too)")


def event_ids(seen: Seen) -> set[str]:
    """The id of the event that a record is or, as a dead letter, holds."""
    record = seen.record
    headers = [(one.key, one.value) for one in record.headers] if isinstance(record, DeadLetter) else []
    ids = {value.decode(errors="replace") for name, value in (*seen.fetched.headers, *headers) if name == "ce_id"}
    return ids | ({record.event_id} if isinstance(record, Event) else set())


@dataclass(slots=True)
class Following:
    """The records that come in from now on, also of topics that are made or made anew meanwhile."""

    source: EventSource
    topics: Sequence[str]
    clock: Clock
    from_first: bool = False
    _next: dict[Partition, int] = field(default_factory=dict)  # the offset that follows what was given
    _followed: set[Partition] = field(default_factory=set)
    _refreshed_s: float = float("-inf")
    _begun: bool = False

    def poll(self) -> tuple[Fetched, ...]:
        """The records that have come since the last call; maybe none.

        Raises:
            RetryableError: the log does not answer, or records were removed before they were read; poll again.
        """
        now_s = self.clock.boottime_s()
        if now_s - self._refreshed_s >= REFRESH_S:
            for partition in self.source.partitions(self.topics):
                if partition not in self._followed:
                    self._begin(partition)
            self._refreshed_s, self._begun = now_s, True
        try:
            records = self.source.poll(POLL_S)
        except CorruptError as error:
            self._followed.clear()
            self._refreshed_s = float("-inf")
            raise RetryableError(f"records were removed before they were read: {error}") from error
        self._next.update({one.partition: one.offset + 1 for one in records})
        return records

    def _begin(self, partition: Partition) -> None:
        """Read on where a partition was left, else from its end; one that was made meanwhile is read from the start."""
        first, end = self.source.bounds(partition)
        begin = first if self._begun or self.from_first else end
        at = min(max(first, self._next.get(partition, begin)), end)
        try:
            self.source.seek(partition, at)
        except CorruptError as error:
            raise RetryableError(str(error)) from error
        self._next[partition] = at
        self._followed.add(partition)


def _when(seen: Seen) -> tuple[int, str, int, int]:
    place = seen.fetched.partition
    return (seen.fetched.time_ms, place.topic, place.number, seen.fetched.offset)
