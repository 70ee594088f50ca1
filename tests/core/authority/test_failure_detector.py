"""Phi-accrual with a floor, and the observer's own health: when a silence is surprising, and who may say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import heartbeats as beats
from pipelines.core.failure_detector import (
    LATE_FACTOR,
    LEAST,
    PHI_LIMIT,
    PHI_MOST,
    SCORE_MOST,
    WINDOW,
    Rhythm,
    SelfTrust,
)
from schemas.records import Heartbeat

FLOOR_S = 3.0


def rhythm_of(intervals_s: list[float]) -> Rhythm:
    """Beats with these pauses between them, the first at 0."""
    rhythm, now_s = Rhythm().heard(0.0), 0.0
    for pause_s in intervals_s:
        now_s += pause_s
        rhythm = rhythm.heard(now_s)
    return rhythm


def beat_of(node: str) -> Heartbeat:
    """A heartbeat of a node; only its name matters here."""
    return Heartbeat(
        event_id="id", run="gpt", region="east", epoch=1, attempt=1, producer="p", seq=1, step=1, time_ms=0,
        node=node, phase="train", budget_s=5.0, last_seqs=(),
    )  # fmt: skip


def test_a_pause_below_the_floor_is_always_forgiven() -> None:
    """However regular the beats were: a checkpoint or a collection of garbage is no death."""
    steady = rhythm_of([1.0] * 20)
    assert steady.phi(steady.at_s + FLOOR_S - 0.01, FLOOR_S) == 0.0
    assert steady.phi(steady.at_s + FLOOR_S, FLOOR_S) > PHI_LIMIT


def test_a_noisy_link_earns_patience_that_a_steady_one_does_not() -> None:
    """The same silence: certain after beats each second, plausible after beats that came in bursts."""
    steady, noisy = rhythm_of([1.0] * 20), rhythm_of([0.2, 4.0] * 10)
    assert steady.phi(steady.at_s + 5.0, FLOOR_S) > PHI_LIMIT
    assert noisy.phi(noisy.at_s + 5.0, FLOOR_S) < PHI_LIMIT
    assert noisy.phi(noisy.at_s + 60.0, FLOOR_S) > PHI_LIMIT, "but not for ever"


def test_an_outage_that_is_over_does_not_make_the_next_one_look_normal() -> None:
    """An hour without the link, or asleep ourselves: a region lost soon after it is not waited for in hours."""
    healed = rhythm_of([1.0] * 20 + [3600.0] + [1.0] * 4)
    assert healed.phi(healed.at_s + 4 * FLOOR_S, FLOOR_S) > PHI_LIMIT
    assert healed.phi(healed.at_s + FLOOR_S, FLOOR_S) < PHI_LIMIT, "but it earns some patience"


def test_without_a_rhythm_only_the_floor_counts() -> None:
    """A region that was lost just after we began to listen must not be waited for in vain."""
    few = rhythm_of([1.0] * (LEAST - 1))
    assert (few.phi(few.at_s + FLOOR_S, FLOOR_S), Rhythm().phi(0.0, FLOOR_S)) == (PHI_MOST, PHI_MOST)


@given(st.lists(st.floats(0.01, 10), max_size=80), st.floats(0, 60), st.floats(0, 60))
def test_phi_never_falls_while_nothing_is_heard(intervals_s: list[float], early_s: float, more_s: float) -> None:
    """Whatever was heard, longer silence is not less surprising."""
    rhythm = rhythm_of(intervals_s)
    at_s = rhythm.at_s + early_s
    assert rhythm.phi(at_s, FLOOR_S) <= rhythm.phi(at_s + more_s, FLOOR_S)
    assert len(rhythm.intervals_s) <= WINDOW


def test_a_region_is_as_silent_as_its_liveliest_node() -> None:
    """One node of two is lost: it is surprising, the region's silence is not."""
    pulse = beats.RegionHeartbeats()
    for second in range(20):
        pulse = beats.heard(pulse, beat_of("n0"), float(second))
        if second < 10:
            pulse = beats.heard(pulse, beat_of("n1"), float(second))
    assert pulse.nodes["n1"].rhythm.phi(20.0, FLOOR_S) > PHI_LIMIT
    assert pulse.phi(20.0, FLOOR_S) == 0.0
    assert pulse.phi(40.0, FLOOR_S) > PHI_LIMIT
    assert beats.RegionHeartbeats().phi(0.0, FLOOR_S) == PHI_MOST


def test_a_commit_is_late_after_some_times_the_longest_pause() -> None:
    """And never before the floor, nor while the rhythm is not known."""
    commits = rhythm_of([10.0, 30.0, 10.0, 10.0])
    assert commits.late_after_s(60.0) == pytest.approx(LATE_FACTOR * 30.0)
    assert commits.late_after_s(500.0) == 500.0
    assert rhythm_of([10.0]).late_after_s(60.0) == float("inf")


def test_an_observer_with_troubles_of_its_own_grows_patient_and_recovers() -> None:
    """One step a second, ninefold at most, and back again."""
    trust = SelfTrust()
    for second in range(20):
        trust = trust.after(float(second), well=False, every_s=1.0)
        trust = trust.after(second + 0.5, well=False, every_s=1.0)
    assert (trust.score, trust.patience) == (SCORE_MOST, 1.0 + SCORE_MOST)
    for second in range(20, 40):
        trust = trust.after(float(second), well=True, every_s=1.0)
    assert trust.patience == 1.0
