"""Dead letters that fit into their topic: one that would not is cut, and names the whole by place and digest. Pure.

A record just below a topic's limit would make a dead letter above it, which no broker takes: the lane would offer it
for ever. So the value is cut to its beginning; the record itself stays where it is, at the place that the letter names,
and its SHA-256 tells whether what lies there is still the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from schemas.records import DeadLetter, Header

LETTER_MAX_BYTES = 1_000_000
VALUE_KEPT_BYTES = 64 * 1024
HEADERS_KEPT_BYTES = 16 * 1024
KEY_KEPT_BYTES = 1024
TEXT_KEPT = 4_000  # characters of the detail, and of the stack
CUT = "farside_cut"
"""The header of a letter that is cut: the size of the whole value in bytes and its SHA-256, with a space between."""

_OVERHEAD_BYTES = 256  # of the fixed fields, and the lengths of the others
_HEADER_BYTES = 10  # the lengths of its parts
_CUT = re.compile(rb"(\d{1,18}) ([0-9a-f]{64})")


def fitting(letter: DeadLetter, most_bytes: int = LETTER_MAX_BYTES) -> DeadLetter:
    """The letter, cut if its encoding could be larger than permitted.

    Args:
        letter: with the whole record in it.
        most_bytes: the bound of its encoding.
    """
    if _size(letter) <= most_bytes:
        return letter
    letter = dataclasses.replace(letter, detail=letter.detail[:TEXT_KEPT], stack=letter.stack[-TEXT_KEPT:])
    if _size(letter) <= most_bytes:
        return letter
    headers = _kept(letter.headers)
    return cut(
        dataclasses.replace(
            letter, key=letter.key[:KEY_KEPT_BYTES], value=letter.value[:VALUE_KEPT_BYTES], headers=headers
        ),
        len(letter.value),
        hashlib.sha256(letter.value).hexdigest(),
    )


def cut(letter: DeadLetter, size_bytes: int, sha256: str) -> DeadLetter:
    """Say in a letter that it holds the beginning of a value only, unless it says so already.

    Args:
        letter: holds the beginning.
        size_bytes: of the whole value.
        sha256: of the whole value, in hexadecimal.
    """
    if whole_of(letter) is not None:
        return letter
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    detail = (
        f"{letter.detail}; {len(letter.value)} of its {size_bytes} bytes are kept here, all of them (SHA-256 {sha256}) "
        f"are at {place}"
    )
    mark = Header(key=CUT, value=f"{size_bytes} {sha256}".encode())
    return dataclasses.replace(letter, detail=detail, headers=(*letter.headers, mark))


def whole_of(letter: DeadLetter) -> tuple[int, str] | None:
    """Size and SHA-256 of the whole value of a letter that is cut; None if it is not."""
    last = letter.headers[-1] if letter.headers else None
    found = _CUT.fullmatch(last.value) if last is not None and last.key == CUT else None
    return None if found is None else (int(found[1]), found[2].decode())


def _size(letter: DeadLetter) -> int:
    """No less than the bytes of its encoding."""
    texts = (letter.cluster, letter.topic, letter.reason, letter.detail, letter.stack)
    return (
        _OVERHEAD_BYTES
        + len(letter.key) * 2  # it is the message's key as well
        + len(letter.value)
        + sum(len(text.encode(errors="replace")) for text in texts)
        + sum(_HEADER_BYTES + len(one.key.encode(errors="replace")) + len(one.value) for one in letter.headers)
    )


def _kept(headers: Sequence[Header]) -> tuple[Header, ...]:
    """The headers from the first on, as far as they have room; one that has none is left out."""
    kept, left = [], HEADERS_KEPT_BYTES
    for header in headers:
        size = _HEADER_BYTES + len(header.key.encode(errors="replace")) + len(header.value)
        if size <= left:
            kept.append(header)
            left -= size
    return tuple(kept)
