"""A region's objects and topics for a drill: read as they are, written under a prefix that nobody else reads (I10).

Keys are written under a prefix of their own and read from there first, then from the region's real objects; topics have
a prefix in their names. The flows on top are the ones that ship, and do not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from pipelines.core.retention import Listed
from pipelines.ports import EventLog, EventSource, Fetched, Message, ObjectStore, Partition


class OverlayStore:
    """Implements ObjectStore: reads through to `base`, writes under `prefix` with `own` only.

    Args:
        base: the region's objects; never written.
        own: the same bucket, for a user who may write under the prefix only.
        prefix: ends with a slash.
    """

    def __init__(self, base: ObjectStore, own: ObjectStore, prefix: str) -> None:
        self._base, self._own, self._prefix = base, own, prefix

    def get(self, key: str) -> bytes | None:
        """The object's bytes, ours before the real ones."""
        body = self._own.get(self._prefix + key)
        return self._base.get(key) if body is None else body

    def create(self, key: str, body: bytes) -> bool:
        """Put beside, unless there is one already, ours or real."""
        return self._base.size(key) is None and self._own.create(self._prefix + key, body)

    def put(self, key: str, body: bytes) -> None:
        """Put beside, whatever was there."""
        self._own.put(self._prefix + key, body)

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, ours and real ones, sorted."""
        ours = (key.removeprefix(self._prefix) for key in self._own.list(self._prefix + prefix))
        return tuple(sorted({*ours, *self._base.list(prefix)}))

    def size(self, key: str) -> int | None:
        """The object's length in bytes."""
        size = self._own.size(self._prefix + key)
        return self._base.size(key) if size is None else size

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written, ours before the real ones."""
        entries = {entry.key: entry for entry in self._base.entries(prefix)}
        for entry in self._own.entries(self._prefix + prefix):
            plain = dataclasses.replace(entry, key=entry.key.removeprefix(self._prefix))
            entries[plain.key] = plain
        return tuple(entries[key] for key in sorted(entries))

    def delete(self, key: str) -> None:
        """Remove what lies beside; a real object stays."""
        self._own.delete(self._prefix + key)


class OverlayLog:
    """Implements EventLog: every topic has the prefix in its name."""

    def __init__(self, log: EventLog, prefix: str) -> None:
        self._log, self._prefix = log, prefix

    def publish(self, messages: Sequence[Message]) -> None:
        """Append to the topics beside."""
        self._log.publish(self._beside(messages))

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none to the topics beside."""
        self._log.transaction(self._beside(messages))

    def _beside(self, messages: Sequence[Message]) -> list[Message]:
        return [dataclasses.replace(message, topic=self._prefix + message.topic) for message in messages]


class OverlaySource:
    """Implements EventSource: reads the topics with the prefix, under their plain names."""

    def __init__(self, source: EventSource, prefix: str) -> None:
        self._source, self._prefix = source, prefix

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of the topics beside."""
        return tuple(map(self._plain, self._source.partitions([self._prefix + name for name in topics])))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset)."""
        return self._source.bounds(self._beside(partition))

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset of a time or later."""
        return self._source.offset_at(self._beside(partition), time_ms)

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from an offset."""
        self._source.seek(self._beside(partition), offset)

    def position(self, partition: Partition) -> int:
        """The offset at which a partition is read next."""
        return self._source.position(self._beside(partition))

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records."""
        records = self._source.poll(timeout_s, most)
        return tuple(dataclasses.replace(record, partition=self._plain(record.partition)) for record in records)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._source.pause([self._beside(partition) for partition in partitions])

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        self._source.resume([self._beside(partition) for partition in partitions])

    def _plain(self, partition: Partition) -> Partition:
        return dataclasses.replace(partition, topic=partition.topic.removeprefix(self._prefix))

    def _beside(self, partition: Partition) -> Partition:
        return dataclasses.replace(partition, topic=self._prefix + partition.topic)
