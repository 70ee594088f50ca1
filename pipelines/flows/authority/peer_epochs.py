"""The epochs that the other regions have written down: evidence against a lease record that was put back (I2, I11).

A restored record looks like a true one to whoever has not seen a newer one: a controller that begins, say. But the
region that won a later epoch left its create-only object in its own store. This flow asks the peers' stores, on a
thread of its own, so that no turn of a controller waits for a region that is lost. It decides nothing, and can only
hold back (I10).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines import paths
from pipelines.errors import FarsideError
from pipelines.ports import Clock, ObjectStore

EVERY_S = 60.0  # each peer is asked for every run
TURN_S = 1.0


@dataclass(frozen=True, slots=True)
class EpochSeen:
    """An epoch that somebody has written down, and who."""

    epoch: int
    where: str


NEVER_SEEN = EpochSeen(0, "")


class PeerEpochs:
    """Asks the peers' stores which epochs of each run they know. One thread turns it; any thread may ask it.

    Args:
        peers: the other regions' buckets, through the links.
        runs: those that this region's controllers serve.
        clock: this process's.
    """

    def __init__(self, peers: Mapping[str, ObjectStore], runs: Iterable[str], clock: Clock) -> None:
        self._peers, self._runs, self._clock = dict(peers), tuple(runs), clock
        self._seen: dict[str, EpochSeen] = {}
        self._asked_s: dict[str, float] = {}

    def turn(self) -> float:
        """Ask the peer that was asked longest ago, if it is due; seconds until the next turn."""
        now_s = self._clock.boottime_s()
        due = [name for name in self._peers if now_s - self._asked_s.get(name, float("-inf")) >= EVERY_S]
        if not due:
            return TURN_S
        name = min(due, key=lambda one: self._asked_s.get(one, float("-inf")))
        try:
            for run in self._runs:
                self._ask(name, run)
        except FarsideError:  # a region that is away, or denies us, is no evidence: who is reachable is told elsewhere
            pass
        self._asked_s[name] = self._clock.boottime_s()
        return 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every peer was asked at least once, though it may not have answered."""
        return len(self._asked_s) == len(self._peers)

    def highest(self, run: str) -> EpochSeen:
        """The highest epoch of a run that a peer knows."""
        return self._seen.get(run, NEVER_SEEN)

    def _ask(self, name: str, run: str) -> None:
        prefix = paths.epochs_prefix(run)
        epoch = paths.highest_number(prefix, self._peers[name].list(prefix))
        if epoch > self.highest(run).epoch:
            self._seen[run] = EpochSeen(epoch, f"the store of {name}")
