"""The headers of the dead letter of a spool's record that never became an event."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.records import Header

_NAMES = ("run", "epoch", "attempt", "producer", "seq", "step")


def headers_of_identity(identity: Mapping[str, object], lane: str) -> tuple[Header, ...]:
    """The headers that the event would have had, so that its number is accounted for (`core.audit`)."""
    pairs = {f"farside_{name}": identity[name] for name in _NAMES} | {"farside_lane": lane}
    pairs |= {"ce_id": identity["event_id"], "ce_source": f"/farside/{identity['region']}/{identity['run']}"}
    return tuple(Header(key=key, value=str(value).encode()) for key, value in pairs.items())
