"""Judges who claims authority and what is written at the witness, as it happens. Knows nothing of the faults.

It has its own words for the rule of lineage, so that a fault in the shipped ones shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from schemas.records import GENESIS, EpochEntry, Lease

Chain = Mapping[int, EpochEntry]  # by epoch


def counts(chain: Chain, newest: int, epoch: int, step: int) -> bool:
    """Whether a step of an epoch lies on the way from the newest epoch back to the first."""
    at, limit = newest, math.inf
    while at != epoch:
        entry = chain.get(at)
        if entry is None:
            return False
        at, limit = entry.parent_epoch, min(limit, entry.fork_step)
    return step <= limit


@dataclass(frozen=True, slots=True)
class Standing:
    """A region claims a run, under an epoch, until a true instant."""

    region: str
    epoch: int
    until_s: float


class AuthorityChecker:
    """I1, I2, I3, I9, I10, I11, I12, over every claim and every write that lands."""

    def __init__(self, now_s: Callable[[], float], fail: Callable[[str], None]) -> None:
        self._now_s, self._fail = now_s, fail
        self.newest: dict[str, Lease] = {}  # of each run
        self.chains: dict[str, dict[int, EpochEntry]] = {}
        self.attempts: dict[tuple[str, int, int], tuple[str, str]] = {}  # run, epoch, attempt: region, launch
        self._landed: set[str] = set()
        self._claims: dict[str, dict[str, Standing]] = {}  # of each run, by the process that claims

    def claims(self, process: str, run: str, standing: Standing | None, write_id: str) -> None:
        """A controller's belief changed: it claims the run until then, or not at all."""
        of_run = self._claims.setdefault(run, {})
        of_run.pop(process, None)
        if standing is None:
            return
        if write_id not in self._landed:
            self._fail(f"I4, I11: {process} claims {run} by write {write_id}, which never landed")
        for name in self.holders(run) - {standing.region}:
            self._fail(f"I1: {standing.region} claims {run} in epoch {standing.epoch} while {name} still does")
        of_run[process] = standing

    def holders(self, run: str) -> set[str]:
        """The regions that claim a run at this instant."""
        now_s = self._now_s()
        return {one.region for one in self._claims.get(run, {}).values() if one.until_s > now_s}

    def counts(self, run: str, epoch: int, step: int, newest: int | None = None) -> bool:
        """Whether something lies on the run's lineage, as it is or as it was up to some epoch."""
        chain = self.chains.get(run, {})
        return counts(chain, max(chain, default=0) if newest is None else newest, epoch, step)

    def landed(self, lease: Lease) -> Lease | None:
        """One more write of a run's record; what it replaced."""
        before = self.newest.get(lease.run)
        self._landed.add(lease.write_id)
        self.newest[lease.run] = lease
        if before is None:
            if lease.predecessor != GENESIS or lease.epoch != 1:
                self._fail(f"I3: the first record of {lease.run} has a predecessor, or epoch {lease.epoch}")
        else:
            self._follows(before, lease)
        chain = self.chains.setdefault(lease.run, {})
        for entry in lease.lineage[len(chain) :]:
            chain[entry.epoch] = entry
            if not (entry.region and entry.reason and entry.actor):
                self._fail(f"I12: epoch {entry.epoch} of {lease.run} does not say who won it and why")
        if lease.attempt:
            self.attempts.setdefault((lease.run, lease.epoch, lease.attempt), (lease.holder, lease.launch))
        return before

    def _follows(self, before: Lease, after: Lease) -> None:
        run = after.run
        if after.predecessor != before.write_id:
            self._fail(f"I3: {after.write_id} names {after.predecessor}, it replaced {before.write_id}")
        if after.lineage[: len(before.lineage)] != before.lineage:
            self._fail(f"I9: {after.write_id} changed a fork of {run} that was fixed")
        wins = after.epoch - before.epoch
        if wins not in {0, 1} or len(after.lineage) - len(before.lineage) != wins:
            self._fail(f"I2: epoch {after.epoch} of {run} after {before.epoch}, with {len(after.lineage)} entries")
        if after.holder != before.holder and wins != 1:
            self._fail(f"I2: {after.holder} took epoch {after.epoch} of {run} over without a new one")
        launch = (after.attempt, after.launch)
        if not wins and after.attempt == before.attempt and launch != (before.attempt, before.launch):
            self._fail(f"I6: attempt {after.attempt} of {run} was given to {before.launch} and to {after.launch}")
        if not wins:
            return
        reason = after.lineage[-1].reason
        if reason == "region_lost" and before.mode == "paused":
            self._fail(f"I10: {after.holder} took {run} by itself while it was paused")
        if reason == "switchover" and (before.mode, before.target) != ("released", after.holder):
            self._fail(f"I1: {after.holder} took {run} by a planned move, which was not released to it")
