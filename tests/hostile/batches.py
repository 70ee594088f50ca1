"""Record batches as no client of ours would write them: null headers, wrong times, a bomb; sent as they are.

Source: Kafka's record format, version 2 (the layout stands in `kafka.record.default_records`).
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crc32c import crc32c
from kafka.admin import KafkaAdminClient
from kafka.protocol.producer import ProduceRequest

from services.adapters.kafka.acls import COMMON
from services.adapters.kafka.clients import made
from services.adapters.kafka.connection import KafkaCluster

GZIP = 1
BLOCK_BYTES = 1 << 20
_NODE, _PATIENCE_MS = 1, 30_000
_MAGIC, _NONE = 2, -1
_HEAD = struct.Struct(">qiib")  # base offset, length, leader epoch, magic
_BODY = struct.Struct(">hiqqqhii")  # attributes, last offset delta, two times, producer (3), count


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record; a header's value may be None."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]] = ()
    time_ms: int = 0


def batch_of(records: Sequence[RawRecord]) -> bytes:
    """One uncompressed batch of these."""
    first_ms = records[0].time_ms
    body = b"".join(_record(at, record, first_ms) for at, record in enumerate(records))
    return _batch(body, len(records), 0, first_ms, max(one.time_ms for one in records))


def bomb(key: bytes, headers: Sequence[tuple[str, bytes | None]], size_bytes: int, time_ms: int) -> bytes:
    """A gzip batch of one record, whose value is so many zeros; it is never held unpacked."""
    packer = zlib.compressobj(9, wbits=31)
    before = b"\0" + _varint(0) + _varint(0) + _varint(len(key)) + key + _varint(size_bytes)
    after = _headers(headers)
    parts = [packer.compress(_varint(len(before) + size_bytes + len(after)) + before)]
    zeros = bytes(BLOCK_BYTES)
    parts += [packer.compress(zeros) for _ in range(size_bytes // BLOCK_BYTES)]
    parts += [packer.compress(bytes(size_bytes % BLOCK_BYTES) + after), packer.flush()]
    return _batch(b"".join(parts), 1, GZIP, time_ms, time_ms)


def send(cluster: KafkaCluster, topic: str, batch: bytes) -> None:
    """Append a batch to the topic's first partition; AssertionError if the broker does not take it."""
    topics = ProduceRequest.TopicProduceData
    part = topics.PartitionProduceData(index=0, records=batch)
    request = ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=_PATIENCE_MS,
        topic_data=[topics(name=topic, partition_data=[part])],
        min_version=3,
        max_version=9,
    )

    async def asked(manager: Any) -> Any:  # noqa: ANN401 - kafka-python has no types
        return await manager.send(request, node_id=_NODE)

    with contextlib.closing(made(KafkaAdminClient, **cluster.options(), **COMMON)) as admin:
        answer = admin._manager.run(asked, admin._manager)
    codes = [one.error_code for of in answer.responses for one in of.partition_responses]
    assert codes == [0], f"the broker refuses the batch for {topic}: {answer}"


def _batch(body: bytes, count: int, codec: int, first_ms: int, last_ms: int) -> bytes:
    tail = _BODY.pack(codec, count - 1, first_ms, last_ms, _NONE, _NONE, _NONE, count) + body
    length = _HEAD.size - struct.calcsize(">qi") + 4 + len(tail)  # 4: the checksum
    return _HEAD.pack(0, length, _NONE, _MAGIC) + struct.pack(">I", crc32c(tail)) + tail


def _record(at: int, record: RawRecord, first_ms: int) -> bytes:
    body = b"\0" + _varint(record.time_ms - first_ms) + _varint(at)
    body += _varint(len(record.key)) + record.key + _varint(len(record.value)) + record.value
    body += _headers(record.headers)
    return _varint(len(body)) + body


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    listed = list(headers)
    out = _varint(len(listed))
    for name, value in listed:
        out += _varint(len(name.encode())) + name.encode()
        out += _varint(_NONE) if value is None else _varint(len(value)) + value
    return out


def _varint(number: int) -> bytes:
    """Zigzag, as Kafka and Avro both write it."""
    left = (number << 1) ^ (number >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append((left & 0x7F) | 0x80)
        left >>= 7
    return bytes([*out, left])


def avro_long(number: int) -> bytes:
    """A number as Avro writes it: the same zigzag."""
    return _varint(number)
