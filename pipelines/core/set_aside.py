"""A record that was set aside at its source: its dead letter, and what fills its place in the lane. Pure.

The place is filled by a short text that is no event, under the headers of the event that it would have been. So the
numbers of its stream have no hole in any region, also for readers that are older than this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from pipelines import paths
from pipelines.core.sequence_numbers import number_of
from schemas.records import DeadLetter, Header

MARK = "farside_set_aside"
VALUE_AT = "farside_value_at"
TOO_LARGE, SPOOL_RECORD, REFUSED = "too_large", "spool_record", "refused"
TEXT_MAX = 2_000
_NAMES = ("run", "epoch", "attempt", "producer", "seq", "step")

Headers = Sequence[tuple[str, bytes]]


def headers_of_identity(identity: Mapping[str, object], lane: str) -> tuple[tuple[str, bytes], ...]:
    """The headers that a spool's record would have had as an event, so that its number is accounted for."""
    pairs = {f"farside_{name}": identity[name] for name in _NAMES} | {"farside_lane": lane}
    pairs |= {"ce_id": identity["event_id"], "ce_source": f"/farside/{identity['region']}/{identity['run']}"}
    return tuple((name, str(value).encode()) for name, value in pairs.items())


def clipped(text: object, most: int = TEXT_MAX) -> str:
    """As text that every encoding can hold and that is not longer than `most` characters."""
    whole = str(text).encode(errors="backslashreplace").decode()
    return whole if len(whole) <= most else f"{whole[: most - 20]}... ({len(whole)} long)"


def place_of(headers: Headers, reason: str, detail: str) -> tuple[str, bytes, tuple[tuple[str, bytes], ...]] | None:
    """(topic, value, headers) of the record that fills the place of one; None if it has none in a replicated lane."""
    numbered = number_of(headers)
    if numbered is None or numbered.stream[3] not in paths.REPLICATED_LANES:
        return None
    kept = tuple((name, value) for name, value in headers if name != "ce_type")
    filled = (*kept, ("ce_type", b"farside.set_aside"), (MARK, reason.encode()))
    return paths.topic(numbered.stream[3]), detail.encode(), filled


def why_set_aside(headers: Iterable[tuple[str, bytes]], value: bytes) -> tuple[str, str] | None:
    """(reason, detail) of a record that only fills the place of one; None if it is not such a record."""
    mark = dict(headers).get(MARK)
    if mark is None:
        return None
    return clipped(mark.decode(errors="replace"), 40), clipped(f"at its source: {value.decode(errors='replace')}")


def by_reference(letter: DeadLetter, key: str) -> DeadLetter:
    """The same letter with its bytes elsewhere: no topic could take them."""
    named = Header(key=VALUE_AT, value=key.encode())
    detail = f"{letter.detail} (its {len(letter.value)} bytes are in the region's store: {key})"
    return dataclasses.replace(letter, value=b"", headers=(*letter.headers, named), detail=detail)
