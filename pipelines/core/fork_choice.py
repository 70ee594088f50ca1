"""Which checkpoint a takeover may begin from: the newest whose bytes were read back here lately enough (I20). Pure.

A copy is verified before it is written; what a disk does to it afterwards, only reading it back shows. So once a region
wants a run it reads its newest checkpoint back, in the time in which the lease must run out anyway
(`FailoverPolicy.verify_wait_s`). A checkpoint that cannot be read in this time counts if it was read in the last
`verified_age_s_max`, which the verifier's rounds are for; otherwise the next older one is taken. What was found damaged
is no candidate. With no candidate verified, nobody is promoted: the reading goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NEWEST_KEPT = 3  # so many of a region's newest checkpoints are read back in turn: the generations a takeover may need


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often a region's checkpoints are read back.

    Attributes:
        newest_s: each of the newest.
        old_s: every other one.
        damaged_s: a damaged one, which may have been repaired.
    """

    newest_s: float = 600.0
    old_s: float = 86_400.0
    damaged_s: float = 15.0


ROUNDS = Rounds()


@dataclass(frozen=True, slots=True)
class ForkChoice:
    """The candidate that a takeover would begin from.

    Attributes:
        place: which of the candidates, newest first.
        age_s: since the reading back began in which all its bytes matched; infinity: never.
        limit_s: the oldest reading that counts now.
    """

    place: int
    age_s: float
    limit_s: float


def choose_fork(
    verified_at_s: Sequence[float], wanted_since_s: float | None, now_s: float, *, wait_s: float, age_s_max: float
) -> ForkChoice | None:
    """The candidate to begin from, and whether its bytes are known well enough; None without candidates.

    Args:
        verified_at_s: of each candidate, newest first, when the last reading began that found all its bytes right;
            minus infinity: never.
        wanted_since_s: since when the region wants to take the run over; None: it does not; minus infinity: any
            reading will do, since the run was given to it.
        now_s: on the same clock.
        wait_s: how long the newest is waited for, after that moment.
        age_s_max: how old a reading may be after that.
    """
    if not verified_at_s:
        return None
    ages_s = [now_s - at_s for at_s in verified_at_s]
    fresh = math.isfinite(ages_s[0]) and (wanted_since_s is None or verified_at_s[0] >= wanted_since_s)
    if wanted_since_s is None or fresh:
        return ForkChoice(0, ages_s[0], age_s_max)
    waited_s = now_s - wanted_since_s
    if waited_s < wait_s:
        return ForkChoice(0, ages_s[0], waited_s)
    known = next((place for place, age_s in enumerate(ages_s) if age_s <= age_s_max), 0)
    return ForkChoice(known, ages_s[known], age_s_max)


@dataclass(frozen=True, slots=True)
class Reading:
    """One checkpoint as the verifier knows it.

    Attributes:
        key: of its manifest.
        newest: whether it is one of the region's newest on the lineage.
        asked_s: a reading that began before this is not enough; minus infinity: nobody asks.
        seen_at_s: when the verifier first heard of it.
        verified_at_s: when the last reading began that found all right.
        tried_at_s: when the last one began that found damage.
    """

    key: str
    newest: bool
    asked_s: float
    seen_at_s: float
    verified_at_s: float
    tried_at_s: float


def next_reading(readings: Sequence[Reading], now_s: float, rounds: Rounds = ROUNDS) -> Reading | None:
    """The checkpoint to read back now, the most urgent first; None if none is due.

    First what somebody waits for, then the newest that were never read, then what is due again; among equals the
    newer. An older checkpoint is first due a round after the verifier heard of it: a service that starts again must not
    read a whole bucket.

    Args:
        readings: the region's checkpoints, newest first.
        now_s: on the clock of the readings.
        rounds: how often each is due.
    """
    due = [(place, reading) for place, reading in enumerate(readings) if _due(reading, now_s, rounds)]
    if not due:
        return None
    return min(due, key=lambda placed: (*_rank(placed[1], now_s), placed[0]))[1]


def _due(reading: Reading, now_s: float, rounds: Rounds) -> bool:
    if reading.tried_at_s > reading.verified_at_s:
        return now_s - reading.tried_at_s >= rounds.damaged_s
    if reading.verified_at_s < reading.asked_s:
        return True
    if reading.newest:
        return now_s - reading.verified_at_s >= rounds.newest_s
    return now_s - max(reading.verified_at_s, reading.seen_at_s) >= rounds.old_s


def _rank(reading: Reading, now_s: float) -> tuple[bool, bool, float]:
    asked = reading.verified_at_s < reading.asked_s
    never = math.isinf(reading.verified_at_s)
    age_s = 0.0 if never else now_s - reading.verified_at_s
    return (not asked, not (never and reading.newest), -age_s)
