"""The frame of one record: pure functions from bytes to records and back. The format is described in ``_spool``."""

from __future__ import annotations

import enum
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
MAGIC: Final = b"FS\x01"
LENGTH: Final = struct.Struct("<3sI")
_CHECKSUMS = struct.Struct("<II")
HEADER_BYTES: Final = LENGTH.size + _CHECKSUMS.size

Record = dict[str, Any]


class Verdict(enum.Enum):
    """The result of decoding the bytes at one offset."""

    WHOLE = "whole"
    END = "end"  # no byte there
    SHORT = "short"  # a good beginning that stops early
    DAMAGED = "damaged"  # cannot become a good frame, whatever is appended


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded position. ``end`` is where the next frame begins, or None where damage hides it."""

    verdict: Verdict
    end: int | None = None
    record: Record | None = None
    reason: str = ""


def encode_frame(record: Record) -> bytes:
    """The bytes of one record, ready to be appended in a single write."""
    payload = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a record of {len(payload)} bytes is larger than {PAYLOAD_BYTES_MAX}")
    start = LENGTH.pack(MAGIC, len(payload))
    return start + _CHECKSUMS.pack(zlib.crc32(start), zlib.crc32(payload)) + payload


def decode_frame(data: bytes | memoryview, offset: int = 0) -> Frame:
    """Decode the frame in ``data`` at ``offset``; never raises, whatever the bytes are."""
    header = bytes(data[offset : offset + HEADER_BYTES])
    if not header:
        return Frame(Verdict.END, end=offset)
    if header[:3] != MAGIC[: len(header)]:
        return Frame(Verdict.DAMAGED, reason="the frame does not start with its magic bytes")
    if len(header) < HEADER_BYTES:
        return Frame(Verdict.SHORT, reason="the frame's header stops early")
    return _decode_body(data, offset, header)


def _decode_body(data: bytes | memoryview, offset: int, header: bytes) -> Frame:
    _, length = LENGTH.unpack_from(header)
    header_sum, payload_sum = _CHECKSUMS.unpack_from(header, LENGTH.size)
    if zlib.crc32(header[: LENGTH.size]) != header_sum or length > PAYLOAD_BYTES_MAX:
        return Frame(Verdict.DAMAGED, reason="the frame's header does not match its checksum")
    end = offset + HEADER_BYTES + length
    payload = bytes(data[offset + HEADER_BYTES : end])
    if len(payload) < length:
        return Frame(Verdict.SHORT, reason="the frame's payload stops early")
    if zlib.crc32(payload) != payload_sum:
        return Frame(Verdict.DAMAGED, end=end, reason="the payload does not match its checksum")
    return _decode_payload(payload, end)


def _decode_payload(payload: bytes, end: int) -> Frame:
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError) as error:
        return Frame(Verdict.DAMAGED, end=end, reason=f"the payload is not JSON: {error}")
    if not isinstance(record, dict):
        return Frame(Verdict.DAMAGED, end=end, reason="the payload is not a JSON object")
    return Frame(Verdict.WHOLE, end=end, record=record)


def next_whole_frame(data: bytes, after: int, before: int | None = None) -> int | None:
    """The offset of the first whole frame past ``after`` (and before ``before``), or None."""
    at = data.find(MAGIC, after + 1)
    while at >= 0 and (before is None or at < before):
        if decode_frame(data, at).verdict is Verdict.WHOLE:
            return at
        at = data.find(MAGIC, at + 1)
    return None
