"""Record batches as kafka-python's consumer reads them, made safe: whatever is in one, the next is read.

The library stops at the first batch that it cannot decode, and stops there again each time it is asked: an unknown
codec, a header's name that is no UTF-8, a gigabyte of zeros in a kilobyte of gzip. Here such a record, or the batch, is
given as one record with its `Damage`, and reading goes on behind it. Source: Kafka's documentation, "Record Batch".

A checksum that is wrong may be the fault of the way, so such a batch is asked for once more before it is given up.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from pipelines.ports import Damage
from services.adapters.kafka.decompression import UnreadableError, unpacked

BATCH_MAX_BYTES = 16 * 1024 * 1024  # unpacked
RECORD_MAX_BYTES = 4 * 1024 * 1024  # of one record's value
HEADERS_MAX = 1_000  # of one record
KEPT_BYTES = 64 * 1024  # of what is damaged
LONG_OR_NEGATIVE = 0x81  # bits of a varint's first byte: more bytes follow; the number is negative
MAGIC = 2  # of the format that brokers write since Kafka 0.11

Doubted = set[tuple[str, int, int]]
"""Topic, partition and offset of the batches whose checksum was wrong once."""


class DamagedValue(bytes):
    """The first bytes of what is damaged, in the place of a record's value."""

    damage: Damage


def damaged(whole: bytes, reason: str, last_offset: int) -> DamagedValue:
    """The value of the record that stands for something damaged."""
    value = DamagedValue(whole[:KEPT_BYTES])
    value.damage = Damage(reason, len(whole), hashlib.sha256(whole).hexdigest(), last_offset)
    return value


def read_safely(consumer: Any, doubted: Doubted) -> None:  # noqa: ANN401 - kafka-python has no types
    """Have a consumer read every batch in this module's way.

    Args:
        consumer: a new KafkaConsumer.
        doubted: kept by the caller, since the consumer is made anew after an error.
    """
    consumer._fetcher.PartitionRecords = functools.partial(_SafeRecords, doubted=doubted)  # noqa: SLF001 - no other way


class _SafeRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """The records of one answer to a fetch."""

    def __init__(self, fetch_offset: int, place: Any, records: Any, *, doubted: Doubted, **more: Any) -> None:  # noqa: ANN401 - as above
        safe = _SafeBatches(records._buffer)  # noqa: SLF001 - it has no other way to its bytes
        safe.place, safe.doubted = (place.topic, place.partition), doubted
        super().__init__(fetch_offset, place, safe, **more)


class _SafeBatches(MemoryRecords):  # type: ignore[misc]  # kafka-python has no types
    """The batches in one answer."""

    place: tuple[str, int]
    doubted: Doubted

    def next_batch(self) -> Any:  # noqa: ANN401 - kafka-python has no types
        """The next batch; None at the end."""
        batch = super().next_batch()
        if batch is None:
            return None
        if batch.magic != MAGIC:
            return _OldBatch(batch) if batch.compression_type else batch
        if batch.is_control_batch:
            return batch
        safe = SafeBatch(batch._buffer)  # noqa: SLF001 - it has no other way to its bytes
        safe.judge_checksum((*self.place, safe.base_offset), self.doubted)
        return safe


class _OldBatch:
    """A compressed batch of an older format: one damaged record in its place, since nothing bounds its unpacking."""

    def __init__(self, batch: Any) -> None:  # noqa: ANN401 - kafka-python has no types
        self.magic, self._batch = batch.magic, batch

    def validate_crc(self) -> bool:
        """Nothing of it is read."""
        return True

    def __iter__(self) -> Iterator[DefaultRecord]:
        """The record that stands for all of it."""
        offset = self._batch.base_offset  # that of its last record
        value = damaged(bytes(self._batch._buffer), "a compressed batch of a format before Kafka 0.11", offset)  # noqa: SLF001 - as above
        yield DefaultRecord(len(value), offset, 0, 0, None, value, [])


class SafeBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A batch that yields a record, or something damaged, for each of its places, and never raises."""

    def __init__(self, buffer: Any) -> None:  # noqa: ANN401 - bytes of some kind
        super().__init__(buffer)
        self._problem = ""
        self._is_doubted = False

    def judge_checksum(self, place: tuple[str, int, int], doubted: Doubted) -> None:
        """Compare the checksum: wrong at this place for the first time, the batch is asked for again."""
        if super().validate_crc():
            doubted.discard(place)
        elif place in doubted:
            self._problem = "its checksum is wrong, each time that it is read"
        else:
            doubted.add(place)
            self._is_doubted = True

    def validate_crc(self) -> bool:
        """Whether it may be read; False makes the consumer raise."""
        return not self._is_doubted

    @property
    def next_offset(self) -> int:
        """Where reading goes on: never at this batch again, whatever its header says."""
        return int(max(self.last_offset, self.base_offset)) + 1

    def __iter__(self) -> Iterator[DefaultRecord]:
        """Its records."""
        data = bytes(memoryview(self._buffer)[self._pos :])
        if not self._problem and self.compression_type:
            try:
                data = unpacked(self.compression_type, data, BATCH_MAX_BYTES)
            except UnreadableError as error:
                self._problem = str(error)
        if self._problem:
            yield self._stand_in(bytes(self._buffer), self._problem, self.base_offset, self.next_offset - 1)
            return
        yield from self._records(data)

    def _records(self, data: bytes) -> Iterator[DefaultRecord]:
        at, due, places = 0, self.base_offset, self.next_offset - self.base_offset
        if self.records_count > places:
            reason = f"the batch's header is wrong: {self.records_count} records in {places} places"
            yield self._stand_in(data, reason, due, self.next_offset - 1)
            return
        for left in reversed(range(self.records_count)):
            begin = at
            try:
                at, end = _extent(data, at)
            except (ValueError, IndexError) as error:
                reason = f"the batch's structure is broken here: {error}"
                yield self._stand_in(data[begin:], reason, due, self.next_offset - 1)
                return
            try:
                record = self._record(data, at, end, range(due, self.next_offset - left))
            except (ValueError, IndexError) as error:
                record = self._stand_in(data[at:end], f"the record's structure is broken: {error}", due, due)
            yield record
            at, due = end, record.offset + 1
        if at != len(data) and due < self.next_offset:
            yield self._stand_in(data[at:], "these bytes follow its last record", due, self.next_offset - 1)

    def _record(self, data: bytes, at: int, end: int, places: range) -> DefaultRecord:
        """One record in one of these places, which leave one to each behind it; ValueError or IndexError if not."""
        begin = at
        ts_delta, at = decode_varint(data, at + 1)  # behind the attributes, which say nothing
        offset_delta, at = decode_varint(data, at)
        offset = self.base_offset + offset_delta
        if offset not in places:
            raise ValueError(f"its offset would be {offset}, where {places.start} is due")
        key, at = _nullable(data, at, end)
        value, at = _nullable(data, at, end)
        headers, at = _headers(data, at, end)
        if at != end:
            raise ValueError(f"{end - at} bytes follow it")
        if value is not None and len(value) > RECORD_MAX_BYTES:
            value = damaged(value, f"its value is larger than {RECORD_MAX_BYTES} bytes", offset)
        time_ms = self.max_timestamp if self.timestamp_type == self.LOG_APPEND_TIME else self.first_timestamp + ts_delta
        return DefaultRecord(end - begin, offset, time_ms, self.timestamp_type, key, value, headers)

    def _stand_in(self, whole: bytes, reason: str, offset: int, last_offset: int) -> DefaultRecord:
        value = damaged(whole, reason, last_offset)
        return DefaultRecord(len(whole), offset, self.max_timestamp, self.timestamp_type, None, value, [])


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where a record begins and ends, by the length before it."""
    length, at = decode_varint(data, at)
    if not 0 < length <= len(data) - at:
        raise ValueError(f"a record of {length} bytes, where {len(data) - at} follow")
    return at, at + length


def _nullable(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(data, at)
    if length < 0:
        return None, at
    if length > end - at:
        raise ValueError(f"a part of {length} bytes, where {end - at} follow")
    return data[at : at + length], at + length


def _headers(data: bytes, at: int, end: int) -> tuple[list[tuple[str, bytes]], int]:
    """The headers; a name that is no UTF-8 is read as far as it is, and a value that is null is empty.

    Whoever calls sees by the place behind them whether one of them reached beyond the record.
    """
    count, at = decode_varint(data, at)
    if not 0 <= count <= HEADERS_MAX:
        raise ValueError(f"{count} headers, where {HEADERS_MAX} are permitted")
    headers = []
    for _ in range(count):  # the lengths are read here, as far as they fit into a byte: calls would cost as much again
        size = data[at]
        if size & LONG_OR_NEGATIVE:
            name, at = _nullable(data, at, end)
        else:
            name = data[at + 1 : (at := at + 1 + (size >> 1))]
        size = data[at]
        if size & LONG_OR_NEGATIVE:
            value, at = _nullable(data, at, end)
        else:
            value = data[at + 1 : (at := at + 1 + (size >> 1))]
        headers.append(((name or b"").decode(errors="replace"), value or b""))
    return headers, at
