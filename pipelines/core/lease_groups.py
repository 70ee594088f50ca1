"""Lease groups: many runs' lease records in one object, each still a register of its own. Pure.

The object changes by compare-and-set as a whole, so a member that changed with it was compared and set as well: a write
of a member is *applied* to the object that was read if the member is still in the version that the write names, and
takes effect if that very object is replaced. So every member is linearizable, and all that is proven of a record of its
own (`pipelines.core.lease`) holds for a member: its version is named by its write id, which is never used twice.

A write of the object that was not answered leaves each member's write in it unknown (I4). It may land as long as the
object has not moved, which is longer than the member stands still or shorter, never past the member's own next version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import LeaseGroup, LeaseMember

MEMBERS_MAX = 64  # one write holds them all


@dataclass(frozen=True, slots=True)
class Change:
    """One conditional write of a member: its new version, and the ETag of the one that it replaces (None: create)."""

    member: LeaseMember
    expected_etag: str | None


def etag_of(member: LeaseMember) -> str:
    """The name of a member's version."""
    return f'"{member.write_id}"'


def member_of(group: LeaseGroup | None, run: str) -> LeaseMember | None:
    """One run's record; None if the group has none."""
    return None if group is None else next((one for one in group.members if one.run == run), None)


def applied(
    before: LeaseGroup | None, changes: Sequence[Change], name: str, write_id: str
) -> tuple[LeaseGroup, tuple[Change, ...]]:
    """The group after the changes that its members allow, in their order, and those that they allow.

    Args:
        before: as it is; None if there is none.
        changes: of several members, or of one.
        name: of the group.
        write_id: a fresh one, so that no two bodies are equal.
    """
    members = {member.run: member for member in (before.members if before is not None else ())}
    allowed = []
    for change in changes:
        member = members.get(change.member.run)
        if (None if member is None else etag_of(member)) == change.expected_etag:
            members[change.member.run] = change.member
            allowed.append(change)
    after = LeaseGroup(group=name, write_id=write_id, members=tuple(members[run] for run in sorted(members)))
    return after, tuple(allowed)
