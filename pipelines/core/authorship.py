"""Who may say it: the one judgement of I17, which copying, choosing, rebuilding, replaying and adopting all ask. Pure.

A signature shows which region made something, and no more: every region of the fleet has a key that all others trust.
What a record says of an epoch counts only if the region that signed it, the region that its manifest names and the
region that its event names are all the one that *holds* that epoch in the lineage. So a region that was superseded, or
whose key was stolen, can spoil its own epochs only.

Nothing is concluded from silence: of an epoch whose holder is not known here nothing counts, until it becomes known.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.core.lineage import LineageView, holder_of, may_become_known
from schemas.records import Manifest, Record

EVENT, MANIFEST, SIGNATURE = "its event", "its manifest", "its signature"
"""What may name a region as the author."""

FOREIGN_EPOCH = "foreign_epoch"
"""The reason of a dead letter, and of whatever else is refused because its author does not hold its epoch."""


def made_by(record: Record, signer: str) -> dict[str, str]:
    """Who is named as the author of a signed record, by what names it: a manifest names a region itself, too."""
    named = {MANIFEST: record.region} if isinstance(record, Manifest) else {}
    return {**named, SIGNATURE: signer}


def disagreement(claims: Mapping[str, str]) -> str:
    """Why some claims to be the author contradict each other; "" if all name one region.

    Args:
        claims: the region that is named, by what names it.
    """
    if len(set(claims.values())) <= 1:
        return ""
    return " and ".join(f"{who} names {region}" for who, region in claims.items())


def foreign(view: LineageView, epoch: int, claims: Mapping[str, str]) -> str:
    """Why something of an epoch does not count by who made it; "" if all that is named holds that epoch.

    Args:
        view: the lineage as it is known here.
        epoch: of which it says to be.
        claims: the region that is named as the author, by what names it; at least one.
    """
    holder = holder_of(view, epoch)
    if holder is None and may_become_known(view, epoch):
        return f"who holds epoch {epoch} is not known here"
    if holder is None:
        return f"nobody ever held epoch {epoch}"
    others = {who: region for who, region in claims.items() if region != holder}
    if not others and claims:
        return ""
    named = " and ".join(f"{who} names {region}" for who, region in others.items()) or "nobody is named"
    return f"{holder} holds epoch {epoch}, {named}"


def known_foreign(view: LineageView | None, epoch: int, region: str) -> str:
    """Why nothing that a region says of an epoch counts; "" if it holds it, or nobody here can tell yet."""
    if view is None or may_become_known(view, epoch):
        return ""
    return foreign(view, epoch, {EVENT: region})
