"""Bytes that were good once: what disks, wires and strangers make of them. Every change follows from the generator."""

from __future__ import annotations

import random

INTERESTING = (b"", b"\x00", b"\xff", b"\x7f", b"\x80", b"FS\x01", b"\xc3\x01", b"\xff" * 9 + b"\x01", b"\x00" * 16)


def mutated(generator: random.Random, data: bytes, most: int = 4) -> bytes:
    """`data` after one to `most` changes."""
    for _ in range(generator.randint(1, most)):
        data = generator.choice(_CHANGES)(generator, data)
    return data


def _flip(generator: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\x01"
    at = generator.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << generator.randrange(8))]) + data[at + 1 :]


def _overwrite(generator: random.Random, data: bytes) -> bytes:
    at, piece = generator.randrange(len(data) + 1), _piece(generator)
    return data[:at] + piece + data[at + len(piece) :]


def _insert(generator: random.Random, data: bytes) -> bytes:
    at = generator.randrange(len(data) + 1)
    return data[:at] + _piece(generator) + data[at:]


def _remove(generator: random.Random, data: bytes) -> bytes:
    begin, end = _span(generator, data)
    return data[:begin] + data[end:]


def _repeat(generator: random.Random, data: bytes) -> bytes:
    begin, end = _span(generator, data)
    return data[:end] + data[begin:end] + data[end:]


def _blank(generator: random.Random, data: bytes) -> bytes:
    begin, end = _span(generator, data)
    return data[:begin] + bytes(end - begin) + data[end:]


def _cut(generator: random.Random, data: bytes) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _span(generator: random.Random, data: bytes) -> tuple[int, int]:
    begin = generator.randrange(len(data) + 1)
    return begin, min(len(data), begin + generator.choice((1, 2, 8, 64, 512)))


def _piece(generator: random.Random) -> bytes:
    return generator.choice((generator.choice(INTERESTING), generator.randbytes(generator.choice((1, 2, 8, 40)))))


_CHANGES = (_flip, _flip, _overwrite, _insert, _remove, _repeat, _blank, _cut)
