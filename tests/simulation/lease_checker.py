"""Judges a lease history. Knows nothing of the faults that made it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from schemas.records import GENESIS, Lease
from tests.simulation.claims import Claim


def overlaps(claims: Sequence[Claim]) -> list[tuple[Claim, Claim]]:
    """I1: the pairs of claims of different regions that share a true instant."""
    ordered = sorted(claims, key=lambda claim: claim.begin_s)
    found = []
    latest: dict[str, Claim] = {}
    for claim in ordered:
        found += [
            (other, claim) for region, other in latest.items() if region != claim.region and claim.begin_s < other.end_s
        ]
        before = latest.get(claim.region)
        if before is None or claim.end_s > before.end_s:
            latest[claim.region] = claim
    return found


def faults_of_history(history: Sequence[Lease]) -> list[str]:
    """I2, I3 and I9 over the writes that landed, in order."""
    found = []
    for before, after in itertools.pairwise(history):
        if after.predecessor != before.write_id:
            found.append(f"I3: {after.write_id} names {after.predecessor}, it replaced {before.write_id}")
        if after.epoch < before.epoch:
            found.append(f"I2: epoch {after.epoch} after {before.epoch}")
        if after.lineage[: len(before.lineage)] != before.lineage:
            found.append(f"I9: {after.write_id} changed a fork that was fixed")
        if after.holder != before.holder and after.epoch != before.epoch + 1:
            found.append(f"I2: {after.holder} took epoch {after.epoch} over without a new one")
    if history and history[0].predecessor != GENESIS:
        found.append("I3: the first record has a predecessor")
    return found
