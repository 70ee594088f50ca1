"""The size of a record of the log: one figure for topics, producers, and what an agent publishes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MESSAGE_BYTES_MAX = 1_048_588
"""`max.message.bytes` of every topic that Farside creates, and what its producers send at most. Kafka's own default."""

EVENT_BYTES_MAX = 900_000
"""The most that an agent publishes as one event: its dead letter, with headers and reason, still fits in a topic."""

RECORD_BYTES, HEADER_BYTES = 100, 10  # what Kafka adds to a record, and to each of its headers, at most


def size_bytes(key: bytes, value: bytes, headers: Iterable[tuple[str, bytes]]) -> int:
    """How large a record is for Kafka, not compressed, a few bytes more rather than less."""
    plain = sum(len(name.encode(errors="replace")) + len(content) + HEADER_BYTES for name, content in headers)
    return RECORD_BYTES + len(key) + len(value) + plain
