"""Newest wins: when an older checkpoint's copy gives way to a newer one (design 6.9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A committed checkpoint on the lineage, and how much of it is still to be copied."""

    run: str
    epoch: int
    lineage_seq: int
    missing_bytes: int
    moved_bytes: int = 0


def giving_way_to(head: Candidate, queued: Iterable[Candidate]) -> Candidate | None:
    """The newer checkpoint of the same run that can be complete sooner than the one in copy; None to go on.

    Fewer missing bytes are sooner. With equal bytes the newer one wins only while nothing of the older was moved:
    otherwise two checkpoints of one size would take turns and neither would ever be complete.
    """
    best: Candidate | None = None
    for other in queued:
        newer = other.run == head.run and (other.epoch, other.lineage_seq) > (head.epoch, head.lineage_seq)
        sooner = other.missing_bytes < head.missing_bytes or (
            other.missing_bytes == head.missing_bytes and head.moved_bytes == 0
        )
        if newer and sooner and (best is None or (other.epoch, other.lineage_seq) > (best.epoch, best.lineage_seq)):
            best = other
    return best
