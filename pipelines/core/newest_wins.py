"""Newest wins: when an older checkpoint's copy gives way to a newer one (design 6.9), and why that never starves (I21).

Preferring whatever is newer livelocks on a slow link: while the first object of a checkpoint crosses, the next one is
committed, and so on for ever. Preferring what has fewer bytes left does the same as long as bytes that crossed are not
counted. So:

1. A copy that has not begun gives way to a newer checkpoint that is not larger: nothing is lost by it.
2. A copy that has begun gives way only to one that is complete sooner by the measured rate, its start included; bytes
   of objects that are still crossing count as crossed.
3. A run whose copy gave way after it had begun does not do so again before one of its checkpoints is complete.

**The bound.** Let S be the largest checkpoint, R the rate, T the time between two commits, D = S / R. A copy that has
begun is complete after D at the latest: what it gives way to is complete sooner than itself (2). Whatever begins is the
newest then, so at most T old (1). What is visible was therefore committed at most T + 2 D ago: T before its copy began,
D until it was complete, and D until the next one is. If the rate falls meanwhile, rule 3 bounds each D by 2 S / R with
the lowest rate. `lag_s_max` is that formula; turns and round trips come on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

START_S = 0.5  # reading the manifest and asking for the first objects, over a long link


@dataclass(frozen=True, slots=True)
class Candidate:
    """A committed checkpoint on the lineage, and how much of it has still to cross.

    `missing_bytes` leaves out what has crossed of objects that are under way. `has_begun`: its copy is under way.
    """

    run: str
    epoch: int
    lineage_seq: int
    missing_bytes: int
    has_begun: bool = False


def giving_way_to(
    head: Candidate, queued: Iterable[Candidate], *, rate_bytes_s: float | None, has_given_way: bool
) -> Candidate | None:
    """The newest checkpoint of the same run that the one in copy gives way to; None to go on.

    Args:
        head: the checkpoint whose turn it is.
        queued: those behind it.
        rate_bytes_s: of the link, as measured; None before anything crossed.
        has_given_way: whether a copy of this run gave way after it had begun, and none was completed since.
    """
    if head.has_begun and (has_given_way or not rate_bytes_s):
        return None
    start_bytes = START_S * rate_bytes_s if head.has_begun and rate_bytes_s else 0.0
    best: Candidate | None = None
    for newer in queued:
        if newer.run != head.run or (newer.epoch, newer.lineage_seq) <= (head.epoch, head.lineage_seq):
            continue
        ahead_bytes = head.missing_bytes - newer.missing_bytes - start_bytes
        is_sooner = ahead_bytes > 0 if head.has_begun else ahead_bytes >= 0
        if is_sooner and (best is None or (newer.epoch, newer.lineage_seq) > (best.epoch, best.lineage_seq)):
            best = newer
    return best


def lag_s_max(size_bytes: int, rate_bytes_s: float, cadence_s: float) -> float:
    """For how long, at most, the newest visible checkpoint was committed already: T + 2 S / R.

    Args:
        size_bytes: of the largest checkpoint (S).
        rate_bytes_s: of the link (R), above 0; it does not change meanwhile.
        cadence_s: between two commits (T).
    """
    return cadence_s + 2.0 * size_bytes / rate_bytes_s
