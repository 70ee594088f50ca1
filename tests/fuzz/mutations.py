"""Bytes that were good once: what disks, wires and strangers make of them. Every change follows from the generator."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

INTERESTING = (b"", b"\x00", b"\xff", b"\x7f", b"\x80", b"FS\x01", b"\xc3\x01", b"\xff" * 9 + b"\x01", b"\x00" * 16)
NASTY: tuple[Any, ...] = (
    10**30,
    -(10**30),
    1e400,
    float("nan"),
    None,
    [],
    {},
    "\ud800",
    "x" * 70_000,
    "../../etc",
    True,
    -1,
    2**63,
)


def mutated(generator: random.Random, data: bytes, most: int = 4) -> bytes:
    """`data` after one to `most` changes."""
    for _ in range(generator.randint(1, most)):
        data = generator.choice(_CHANGES)(generator, data)
    return data


def changed(generator: random.Random, plain: Any, most: int = 3) -> Any:  # noqa: ANN401 - JSON
    """A copy of some JSON in which one to `most` values are others, are twice there, or are missing."""
    plain = copy.deepcopy(plain)
    for _ in range(generator.randint(1, most)):
        places = list(_places(plain))
        if not places:
            return generator.choice(NASTY)
        holder, key = generator.choice(places)
        chance = generator.random()
        if chance < 0.1:
            del holder[key]
        elif chance < 0.2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            near = (holder[key] + 1, holder[key] - 1, -holder[key]) if isinstance(holder[key], int) else ()
            holder[key] = copy.deepcopy(generator.choice((*NASTY, *near, str(holder[key]))))
    return plain


def _places(plain: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    """Every (holder, key) in a tree of JSON."""
    pairs = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in pairs:
        yield plain, key
        yield from _places(value)


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
