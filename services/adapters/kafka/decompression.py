"""Compressed record batches, unpacked within a bound: no more than that is ever written to memory.

A megabyte of zeros takes a kilobyte, and a batch of the permitted size may claim gigabytes. So each codec is asked for
one byte more than the bound, and a batch that has it is refused. Sources: Kafka's documentation, "Record Batch"; the
framing of snappy is Xerial's, which Kafka's own client writes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import cramjam
import lz4.frame
import zstandard

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
_GZIP_WBITS = 31  # zlib's way to say: with gzip's header
_ZSTD_WINDOW_BYTES = 1 << 27  # the largest that a zstd encoder uses unless it is told to
_XERIAL, _XERIAL_HEADER_BYTES = b"\x82SNAPPY\x00", 16
_PREAMBLE_BYTES = 5  # of a snappy block: its length, as a varint of 32 bits
_BLOCK = struct.Struct(">i")


class UnreadableError(Exception):
    """These bytes cannot be unpacked, or only to more than is permitted."""


def unpacked(codec: int, packed: bytes, most_bytes: int) -> bytes:
    """The bytes in a compressed batch.

    Args:
        codec: as it stands in the batch's attributes.
        packed: what is compressed.
        most_bytes: the bound.

    Raises:
        UnreadableError: the codec is unknown, the bytes are damaged, or they unpack to more than the bound.
    """
    unpack = _UNPACK.get(codec)
    if unpack is None:
        raise UnreadableError(f"compressed by an unknown codec, number {codec}")
    try:
        plain = unpack(packed, most_bytes)
    except UnreadableError:
        raise
    except Exception as error:  # each codec has errors of its own; all mean the same here
        raise UnreadableError(f"{NAMES[codec]} cannot unpack it: {type(error).__name__}: {error}") from error
    if len(plain) > most_bytes:
        raise _more_than(codec, most_bytes)
    return plain


def _more_than(codec: int, most_bytes: int) -> UnreadableError:
    return UnreadableError(f"{NAMES[codec]} would unpack it to more than {most_bytes} bytes")


def _gzip(packed: bytes, most_bytes: int) -> bytes:
    plain = bytearray()
    while packed and len(plain) <= most_bytes:  # several members may follow each other
        member = zlib.decompressobj(_GZIP_WBITS)
        plain += member.decompress(packed, most_bytes + 1 - len(plain))
        if not member.eof and len(plain) <= most_bytes:
            raise EOFError("it ends in the middle")
        packed = member.unused_data
    return bytes(plain)


def _snappy(packed: bytes, most_bytes: int) -> bytes:
    """One block, or several in Xerial's frame; each says how long it will be, and the codec holds it to that."""
    blocks = _xerial_blocks(packed) if packed.startswith(_XERIAL) else iter((packed,))
    plain = bytearray()
    for block in blocks:
        if len(plain) + _snappy_length(block) > most_bytes:
            raise _more_than(SNAPPY, most_bytes)
        plain += cramjam.snappy.decompress_raw(block)
    return bytes(plain)


def _xerial_blocks(packed: bytes) -> Iterator[bytes]:
    at = _XERIAL_HEADER_BYTES
    while at < len(packed):
        (size,) = _BLOCK.unpack_from(packed, at)
        at += _BLOCK.size
        if not 0 < size <= len(packed) - at:
            raise ValueError(f"a block of {size} bytes, where {len(packed) - at} follow")
        yield packed[at : at + size]
        at += size


def _snappy_length(packed: bytes) -> int:
    length = 0
    for at, byte in enumerate(packed[:_PREAMBLE_BYTES]):
        length |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:  # noqa: PLR2004 - a varint's last byte
            return length
    raise ValueError("it does not begin with its length")


def _lz4(packed: bytes, most_bytes: int) -> bytes:
    plain = bytearray()
    while packed and len(plain) <= most_bytes:  # several frames may follow each other
        frame = lz4.frame.LZ4FrameDecompressor()
        plain += frame.decompress(packed, most_bytes + 1 - len(plain))
        if not frame.eof and len(plain) <= most_bytes:
            raise EOFError("it ends in the middle")
        packed = frame.unused_data or b""
    return bytes(plain)


def _zstd(packed: bytes, most_bytes: int) -> bytes:
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).stream_reader(
        io.BytesIO(packed), read_across_frames=True
    )
    plain = bytearray()
    while len(plain) <= most_bytes and (piece := reader.read(most_bytes + 1 - len(plain))):
        plain += piece
    return bytes(plain)


_UNPACK: dict[int, Callable[[bytes, int], bytes]] = {GZIP: _gzip, SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}
