"""How surprising a silence is (phi-accrual), and how far an observer may trust itself (Lifeguard). Pure.

Both only say *when to try*: a lease that ran out and one conditional write decide whether it is allowed (I10).

Sources: Hayashibara et al., "The phi accrual failure detector", 2004; Dadgar, Phillips and Currey, "Lifeguard: local
health awareness for more accurate failure detection", 2018.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

WINDOW = 64  # intervals that are remembered
LEAST = 4  # with fewer, nothing is known of the rhythm, and only the floor counts
DEVIATION_LEAST_S = 0.1
PHI_MOST = 999.0  # as good as certain
PHI_LIMIT = 8.0  # a silence so long comes by chance once in 10^8 beats
PAUSE_MOST = 3.0  # floors: a longer pause was an outage, and the next outage must not pass for the rhythm
SCORE_MOST = 8  # as in the paper: the thresholds grow ninefold at most
LATE_FACTOR = 5.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When something repeated was heard last, and the intervals before that, in seconds."""

    at_s: float = float("-inf")
    intervals_s: tuple[float, ...] = ()

    def heard(self, now_s: float) -> Rhythm:
        """The rhythm after one more beat."""
        if not math.isfinite(self.at_s):
            return Rhythm(now_s)
        return Rhythm(now_s, (*self.intervals_s[-(WINDOW - 1) :], now_s - self.at_s))

    def phi(self, now_s: float, floor_s: float) -> float:
        """How surprising the silence is: -log10 of the chance that the next beat is only late; 0 below the floor.

        The floor is the pause that is always forgiven, whatever the rhythm was: a checkpoint, a garbage collection.
        PHI_MOST above it while too little was heard to know a rhythm.
        """
        silent_s = now_s - self.at_s
        if silent_s < floor_s:
            return 0.0
        if len(self.intervals_s) < LEAST:
            return PHI_MOST
        pauses_s = [min(one, PAUSE_MOST * floor_s) for one in self.intervals_s]
        mean_s = sum(pauses_s) / len(pauses_s)
        variance = sum((one - mean_s) ** 2 for one in pauses_s) / len(pauses_s)
        deviation_s = max(DEVIATION_LEAST_S, math.sqrt(variance))
        later = 0.5 * math.erfc((silent_s - mean_s) / (deviation_s * math.sqrt(2)))
        return min(PHI_MOST, -math.log10(later)) if later > 0 else PHI_MOST

    def late_after_s(self, floor_s: float) -> float:
        """The age from which on the next beat is late: LATE_FACTOR longest intervals; infinite without a rhythm."""
        if len(self.intervals_s) < LEAST:
            return math.inf
        return max(floor_s, LATE_FACTOR * max(self.intervals_s))


@dataclass(frozen=True, slots=True)
class SelfTrust:
    """The observer's own health: 0 is well; each trouble of its own makes it more patient with others."""

    score: int = 0
    changed_at_s: float = float("-inf")

    @property
    def patience(self) -> float:
        """The factor by which the detectors' thresholds grow."""
        return 1.0 + self.score

    def after(self, now_s: float, *, well: bool, every_s: float) -> SelfTrust:
        """One step up for a trouble of our own, one down for none; at most one in `every_s`."""
        if now_s - self.changed_at_s < every_s:
            return self
        score = max(0, self.score - 1) if well else min(SCORE_MOST, self.score + 1)
        return dataclasses.replace(self, score=score, changed_at_s=now_s)
