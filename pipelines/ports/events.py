"""Ports of a region's Kafka, for writing and for reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One record of a log, to be sent."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """One source partition, named so that a re-created topic is another one."""

    cluster: str
    topic_id: str
    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a record, or a whole batch of them, cannot be given: its bytes are named by size and digest."""

    reason: str
    size_bytes: int
    sha256: str
    last_offset: int  # a batch takes its own offset and all up to this one


@dataclass(frozen=True, slots=True)
class Fetched:
    """One record that was read, with its place. Of a damaged one, `value` holds the first bytes only."""

    partition: Partition
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    time_ms: int = 0
    damage: Damage | None = None


class EventLog(Protocol):
    """One region's Kafka, for writing (idempotent producer, acks=all)."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Append records, and return when all are acknowledged.

        Args:
            messages: in the order in which each topic gets them.

        Raises:
            RefusedError: some are refused for good, for instance as too large; the others may be there or not.
            RetryableError: not all were acknowledged; each of them may be there or not.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all records or none; read_committed readers see them together.

        The first one of a log, also an empty one, fences every older writer of the same transactional id.

        Args:
            messages: may be empty.

        Raises:
            FencedError: a newer writer of the same transactional id has begun; every later call raises it too.
            RefusedError: some are refused for good; nothing of it is visible, nor will be.
            UnknownOutcomeError: the commit was not answered: read the log before going on.
            RetryableError: nothing of it is visible, nor will be.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """


class EventSource(Protocol):
    """A reader of one region's Kafka: assigned partitions, read_committed, no auto-commit, no reset policy."""

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of some topics as they are now.

        Args:
            topics: those that do not exist are left out.

        Raises:
            RetryableError: Kafka does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset): end is the offset that the next record will get.

        Args:
            partition: of a topic that exists.

        Raises:
            RetryableError: Kafka does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset whose record was put there at a time or later; the end offset if there is none.

        Args:
            partition: of a topic that exists.
            time_ms: by the broker's clock.

        Raises:
            RetryableError: Kafka does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from an offset; the partition is assigned if it was not.

        Args:
            partition: of a topic that exists.
            offset: of the next record to be delivered.

        Raises:
            CorruptError: the offset is outside the partition's bounds.
            RetryableError: Kafka does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def position(self, partition: Partition) -> int:
        """The offset at which a partition is read next: past what was delivered and what was skipped.

        Args:
            partition: an assigned one.

        Raises:
            RetryableError: Kafka does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records of the assigned partitions that are not paused, in order per partition; maybe none.

        A record or a batch that no client can read, or that would unpack to more than is permitted, is one record with
        its `damage`; what follows it is read on. A header without a value has an empty one.

        Args:
            timeout_s: how long to wait for the first record.
            most: so many records at most.

        Raises:
            CorruptError: a partition's next record is no longer there.
            RetryableError: Kafka does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of some partitions until `resume`; polling goes on. Raises nothing, also with the link lost.

        Args:
            partitions: assigned ones.
        """

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`. Raises nothing.

        Args:
            partitions: those that are not paused may be among them.
        """
