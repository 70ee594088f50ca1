"""One Kafka cluster in memory, with its log and reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pipelines.core.message_size import MESSAGE_BYTES_MAX, size_bytes
from pipelines.errors import CorruptError, FencedError, RefusedError
from pipelines.ports import Fetched, Message, Partition


class MemoryKafka:
    """One cluster: topics of one partition, made at first use. A commit takes one offset, as Kafka's marker does.

    `wall_ms` is its clock; without one every record is of the time 0.
    """

    def __init__(self, cluster: str, wall_ms: Callable[[], int] = lambda: 0) -> None:
        self.cluster = cluster
        self.times: dict[str, dict[int, int]] = {}  # topic -> offset -> when it was put there, if not at 0
        self._wall_ms = wall_ms
        self.bytes_max: dict[str, int] = {}  # topic -> the largest record that it takes, if not the stated one
        self.writers: dict[str, int] = {}  # transactional id -> newest writer
        self._topics: dict[str, list[Message | None]] = {}
        self._ids: dict[str, int] = {}
        self._firsts: dict[str, int] = {}

    def topic(self, name: str) -> list[Message | None]:
        """The records of a topic by offset; None is a marker."""
        self._ids.setdefault(name, 1)
        return self._topics.setdefault(name, [])

    def append(self, message: Message) -> None:
        """Put a record at the end of its topic."""
        records, now_ms = self.topic(message.topic), self._wall_ms()
        if now_ms:
            self.times.setdefault(message.topic, {})[len(records)] = now_ms
        records.append(message)

    def refused(self, messages: Sequence[Message]) -> dict[int, str]:
        """The records that are too large for their topics, by their places, and why."""
        sizes = enumerate((one.topic, size_bytes(one.key, one.value, one.headers)) for one in messages)
        return {
            at: f"topic {topic} refuses a record of {size} bytes for good"
            for at, (topic, size) in sizes
            if size > self.bytes_max.get(topic, MESSAGE_BYTES_MAX)
        }

    def time_ms(self, name: str, offset: int) -> int:
        """When a record was put there."""
        return self.times.get(name, {}).get(offset, 0)

    def create_again(self, name: str) -> None:
        """Delete a topic and make it anew, under another id."""
        self._topics[name] = []
        self.times.pop(name, None)
        self._ids[name] = self._ids.get(name, 0) + 1
        self._firsts.pop(name, None)

    def first(self, name: str) -> int:
        """The first offset that is still there."""
        return self._firsts.get(name, 0)

    def trim(self, name: str, first: int) -> None:
        """Remove the records before an offset, as retention does."""
        self._firsts[name] = first
        self._topics[name][:first] = [None] * first

    def cut(self, name: str, end: int) -> None:
        """Remove the records from an offset on, as an unclean election does."""
        del self._topics[name][end:]

    def has(self, name: str) -> bool:
        """Whether the topic exists."""
        return name in self._topics

    def partition(self, name: str) -> Partition:
        """The one partition of a topic."""
        return Partition(self.cluster, f"{name}#{self._ids[name]}", name, 0)


class MemoryLog:
    """Implements EventLog."""

    def __init__(self, kafka: MemoryKafka, transactional_id: str | None = None) -> None:
        self._kafka = kafka
        self._id = transactional_id
        self._writer: int | None = None

    def publish(self, messages: Sequence[Message]) -> None:
        """Append; what is beside a record that is refused is there, as Kafka does it."""
        refused = self._kafka.refused(messages)
        for at, message in enumerate(messages):
            if at not in refused:
                self._kafka.append(message)
        if refused:
            raise RefusedError(refused, too_large=refused)

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none; FencedError if a newer log of this id has begun."""
        if self._id is None:
            raise ValueError("this log has no transactional id")
        if self._writer is None:
            self._writer = self._kafka.writers[self._id] = self._kafka.writers.get(self._id, 0) + 1
        if self._kafka.writers[self._id] != self._writer:
            raise FencedError(f"transactional id {self._id}: a newer writer has begun")
        refused = self._kafka.refused(messages)
        if refused:
            raise RefusedError(refused, too_large=refused)
        self.publish(messages)
        for name in {message.topic for message in messages}:
            self._kafka.topic(name).append(None)


class MemorySource:
    """Implements EventSource."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of these topics as they are now."""
        return tuple(self._kafka.partition(name) for name in topics if self._kafka.has(name))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset)."""
        return self._kafka.first(partition.topic), len(self._kafka.topic(partition.topic))

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset of a time or later; the end if there is none."""
        records = self._kafka.topic(partition.topic)
        later = (
            at
            for at, record in enumerate(records)
            if record is not None and self._kafka.time_ms(partition.topic, at) >= time_ms
        )
        return next(later, len(records))

    def seek(self, partition: Partition, offset: int) -> None:
        """Assign the partition if need be and read on from an offset; CorruptError if it is out of range."""
        first, end = self.bounds(partition)
        if not first <= offset <= end:
            raise CorruptError(f"{partition.topic}/{partition.number}: offset {offset} is outside {first}..{end}")
        self._positions = {key: at for key, at in self._positions.items() if key.topic != partition.topic}
        self._positions[partition] = offset

    def position(self, partition: Partition) -> int:
        """The offset at which an assigned partition is read next."""
        return self._positions[partition]

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:  # noqa: ARG002 - never waits
        """The next records of the assigned partitions that are not paused."""
        fetched: list[Fetched] = []
        for partition, offset in self._positions.items():
            if partition in self._paused:
                continue
            records, at = self._kafka.topic(partition.topic), offset
            if at < self._kafka.first(partition.topic):
                raise CorruptError(f"{partition.topic}/{partition.number}: offset {at} is gone")
            if offset == len(records):
                continue
            for item in records[offset:]:
                if len(fetched) == most:
                    break
                if item is not None:
                    put_ms = self._kafka.time_ms(partition.topic, at)
                    fetched.append(Fetched(partition, at, item.key, item.value, item.headers, put_ms))
                at += 1
            self._positions[partition] = at
        return tuple(fetched)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        self._paused.difference_update(partitions)
