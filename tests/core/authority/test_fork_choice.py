"""The checkpoint that a takeover begins from, for every mix of readings (I20)."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.fork_choice import ROUNDS, Reading, choose_fork, next_reading

NEVER = -math.inf
WAIT_S, AGE_S_MAX = 4.5, 3600.0
times = st.one_of(st.just(NEVER), st.floats(0, 10_000))


def choose(verified_at_s: list[float], wanted_since_s: float | None, now_s: float) -> tuple[int, bool] | None:
    """Which candidate, and whether an epoch may begin from it."""
    choice = choose_fork(verified_at_s, wanted_since_s, now_s, wait_s=WAIT_S, age_s_max=AGE_S_MAX)
    return None if choice is None else (choice.place, choice.age_s <= choice.limit_s)


@given(st.lists(times, max_size=4), st.one_of(st.none(), st.just(NEVER), st.floats(0, 10_000)), st.floats(0, 3000))
def test_I20_nothing_is_begun_from_bytes_that_were_not_read_back_in_the_stated_time(
    verified: list[float], wanted: float | None, later_s: float
) -> None:
    """Whatever was read when: an open choice was read at most `verified_age_s_max` ago."""
    now_s = max([0.0, *(at for at in [*verified, wanted or 0.0] if math.isfinite(at))]) + later_s
    choice = choose(verified, wanted, now_s)
    if choice is None:
        assert not verified
    elif choice[1]:
        assert now_s - verified[choice[0]] <= AGE_S_MAX
        waited_s = math.inf if wanted is None else now_s - wanted
        assert waited_s >= WAIT_S or verified[0] >= (wanted or 0.0), "it waited, or the newest was read since"


def test_the_newest_is_waited_for_as_long_as_the_lease_runs_out_and_then_an_older_one_is_taken() -> None:
    """A checkpoint too large to be read in that time counts by its last round; one never read does not."""
    assert choose([NEVER, 50.0], 100.0, 101.0) == (0, False)
    assert choose([NEVER, 50.0], 100.0, 105.0) == (1, True)
    assert choose([60.0, 50.0], 100.0, 101.0) == (0, False), "it was read before the silence: once more"
    assert choose([60.0, 50.0], 100.0, 105.0) == (0, True)
    assert choose([101.0, 50.0], 100.0, 101.5) == (0, True)


def test_without_a_verified_candidate_nobody_is_promoted_however_long_it_takes() -> None:
    """The reading goes on; the gate stays closed."""
    assert choose([NEVER, NEVER], 100.0, 100_000.0) == (0, False)


def test_a_run_that_was_given_to_this_region_needs_no_second_reading() -> None:
    """Its last holder lives, and waits."""
    assert choose([60.0], NEVER, 101.0) == (0, True)
    assert choose([NEVER], NEVER, 101.0) == (0, False)


def reading(key: str, **changes: Any) -> Reading:  # noqa: ANN401 - fields of the record
    """One of the newest, verified at 0, seen at 0, which nobody asks for."""
    plain: dict[str, Any] = {"newest": True, "asked_s": NEVER, "seen_at_s": 0.0}
    plain |= {"verified_at_s": 0.0, "tried_at_s": NEVER}
    return Reading(key, **(plain | changes))


def test_what_somebody_waits_for_is_read_first_then_what_was_never_read() -> None:
    """And among equals the newest."""
    never = reading("never", verified_at_s=NEVER)
    stale = reading("stale", verified_at_s=-9000.0)
    asked = reading("asked", asked_s=5.0)
    for expected, readings in (
        ("asked", [stale, never, asked]),
        ("never", [stale, never]),
        ("stale", [reading("sound"), stale]),
    ):
        due = next_reading(readings, 10.0)
        assert due is not None
        assert due.key == expected
    assert next_reading([reading("sound")], 10.0) is None


def test_the_newest_have_their_rounds_and_the_others_a_longer_one() -> None:
    """A service that starts again does not read a whole bucket."""
    assert next_reading([reading("a")], ROUNDS.newest_s - 1) is None
    assert next_reading([reading("a")], ROUNDS.newest_s) is not None
    old = reading("a", newest=False, verified_at_s=NEVER, seen_at_s=0.0)
    assert next_reading([old], ROUNDS.old_s - 1) is None
    assert next_reading([old], ROUNDS.old_s) is not None


def test_a_damaged_checkpoint_is_tried_again_soon_and_not_at_once() -> None:
    """It may be repaired; asking does not hurry that."""
    damaged = reading("a", tried_at_s=100.0, asked_s=101.0)
    assert next_reading([damaged], 100.0 + ROUNDS.damaged_s - 1) is None
    assert next_reading([damaged], 100.0 + ROUNDS.damaged_s) is not None
