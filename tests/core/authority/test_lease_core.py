"""The lease core by table and by algebra."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import lease as core
from pipelines.core.lease import NEVER_S, Author, Belief, Fork, Held
from pipelines.core.lease_profiles import DEFAULT, FAST, PROFILES, LeaseProfile
from pipelines.errors import MisconfiguredError

EAST, WEST = Belief(region="east", incarnation="e1"), Belief(region="west", incarnation="w1")


def _author(region: str, write_id: str) -> Author:
    return Author(region, f"{region[0]}1", write_id, "test", "test", 0)


RECORD = core.first("gpt", _author("east", "w0"), FAST)


def test_the_default_profile_outlives_a_cut_of_43_seconds() -> None:
    """The design's numbers: valid to +54.4 s, challenged after 65.6 s."""
    assert DEFAULT.holder_validity_s == pytest.approx(54.4)
    assert DEFAULT.challenger_wait_s == pytest.approx(65.6)
    for profile in PROFILES.values():
        profile.check()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"rho": 1.0}, "0 <= rho < 1"),
        ({"margin_s": 0.0}, "margin_s > 0"),
        ({"poll_s": 30.0}, "poll_s <= renew_s"),
        ({"renew_s": 30.0}, "2 \\* renew_s"),
    ],
)
def test_an_unsafe_profile_is_refused_with_the_inequality_that_fails(change: dict[str, Any], rule: str) -> None:
    """The broken inequality is named, so that an operator can put it right."""
    with pytest.raises(MisconfiguredError, match=rule):
        dataclasses.replace(DEFAULT, **change).check()


@given(
    holder_rate=st.floats(0.99, 1.01),
    challenger_rate=st.floats(0.99, 1.01),
    transit_s=st.floats(0, 1e4),
    profile=st.sampled_from([FAST, DEFAULT]),
)
def test_I1_for_all_rates_within_rho_the_holder_stops_before_the_challenger_tries(
    holder_rate: float, challenger_rate: float, transit_s: float, profile: LeaseProfile
) -> None:
    """In true time, from the holder's send: its end lies before the challenger's first try, however long the way."""
    holder_ends_s = profile.holder_validity_s / holder_rate
    challenger_tries_s = transit_s + profile.challenger_wait_s / challenger_rate
    assert holder_ends_s < challenger_tries_s


def test_validity_counts_from_before_the_send_and_the_challenge_from_after_the_look() -> None:
    """A slow answer shortens the holder's time, a slow look lengthens the challenger's wait."""
    holder = core.answered(core.sent(EAST, RECORD, None, 10.0), RECORD, "etag", 12.0)
    assert holder.valid_until_s(FAST) == pytest.approx(10.0 + FAST.holder_validity_s)
    challenger = core.was_read(WEST, Held(RECORD, "etag"), 15.0)
    assert challenger.may_try_at_s(FAST) == pytest.approx(15.0 + FAST.challenger_wait_s)
    assert challenger.valid_until_s(FAST) == NEVER_S
    again = core.was_read(challenger, Held(RECORD, "etag"), 99.0)
    assert again.may_try_at_s(FAST) == challenger.may_try_at_s(FAST), "an unchanged record starts no new wait"
    assert again.read_at_s == 99.0


def test_I4_an_unanswered_write_is_pending_until_the_record_moves() -> None:
    """Read unchanged: neither won nor lost. Read as ours: won, from its own send time."""
    base = core.was_read(WEST, Held(RECORD, "e0"), 0.0)
    lease = core.takeover(RECORD, _author("west", "t1"), Fork(30, "digest", 3), FAST)
    waiting = core.was_read(core.sent(base, lease, "e0", 5.0), Held(RECORD, "e0"), 9.0)
    assert [one.lease.write_id for one in waiting.pending] == ["t1"]
    assert not waiting.is_holder
    assert waiting.valid_until_s(FAST) == NEVER_S
    won = core.was_read(waiting, Held(lease, "e1"), 50.0)
    assert won.pending == ()
    assert won.valid_until_s(FAST) == pytest.approx(5.0 + FAST.holder_validity_s)


def test_I4_a_write_that_was_overtaken_is_lost_for_good() -> None:
    """The record moved past the version that it named, to somebody else's: it can never land."""
    base = core.was_read(WEST, Held(RECORD, "e0"), 0.0)
    lease = core.takeover(RECORD, _author("west", "t1"), Fork(), FAST)
    renewed = core.renewal(RECORD, _author("east", "w1"), 20)
    after = core.was_read(core.sent(base, lease, "e0", 5.0), Held(renewed, "e1"), 9.0)
    assert after.pending == ()
    assert not after.is_holder


def test_I2_a_record_older_than_the_highest_epoch_seen_gives_nobody_authority() -> None:
    """A witness restored from a backup is broken, also for the region that it names."""
    belief = dataclasses.replace(EAST, epoch_max=2)
    back = core.was_read(core.sent(belief, RECORD, None, 1.0), Held(RECORD, "e0"), 2.0)
    assert back.gone_backwards
    assert back.valid_until_s(FAST) == NEVER_S


def test_another_incarnation_of_the_same_region_is_not_the_holder() -> None:
    """A restarted controller must take the record over by a write before it acts."""
    restarted = core.was_read(dataclasses.replace(EAST, incarnation="e2"), Held(RECORD, "e0"), 0.0)
    assert not restarted.is_holder


def test_I3_I9_each_record_names_its_predecessor_and_a_takeover_fixes_its_fork() -> None:
    """One chain; the lineage grows by exactly the epoch that was won."""
    attempt = core.new_attempt(RECORD, _author("east", "w1"), "launch-1")
    taken = core.takeover(attempt, _author("west", "t1"), Fork(30, "digest", 3), FAST)
    renewed = core.renewal(taken, _author("west", "t2"), 40)
    assert [attempt.predecessor, taken.predecessor, renewed.predecessor] == ["w0", "w1", "t1"]
    assert (attempt.attempt, attempt.launch) == (1, "launch-1")
    assert (taken.epoch, taken.attempt, taken.launch, taken.holder) == (2, 0, "", "west")
    assert taken.lineage[:-1] == RECORD.lineage
    assert (taken.lineage[-1].parent_epoch, taken.lineage[-1].fork_step) == (1, 30)
    assert renewed.lineage == taken.lineage
    assert renewed.committed_step == 40


def test_I2_a_record_whose_renewals_fell_back_gives_nobody_authority() -> None:
    """The epoch alone does not show a backup of the same epoch; the count of writes does."""
    newer = core.renewal(RECORD, _author("east", "w1"), 20)
    seen = core.was_read(EAST, Held(newer, "e1"), 1.0)
    assert not seen.gone_backwards
    assert core.was_read(seen, Held(RECORD, "e0"), 2.0).gone_backwards


def test_I11_a_missing_record_settles_nothing() -> None:
    """The belief stays, pending writes stay pending, and the absence is noted."""
    base = core.sent(core.was_read(WEST, Held(RECORD, "e0"), 0.0), RECORD, "e0", 1.0)
    gone = core.was_missing(base, 3.0)
    assert (gone.missing, gone.held, gone.pending) == (True, base.held, base.pending)
    assert not core.was_read(gone, Held(RECORD, "e0"), 4.0).missing


def test_I4_of_two_unanswered_writes_the_one_that_landed_counts_from_its_own_send_time() -> None:
    """The repeat won: the first one's time is not its time."""
    belief = core.was_read(core.Belief(region="east", incarnation="e1"), core.Held(RECORD, "etag0"), 0.0)
    first, again = (core.renewal(RECORD, _author("east", name), 20) for name in ("w1", "w2"))
    belief = core.sent(core.sent(belief, first, "etag0", 10.0), again, "etag0", 15.0)
    settled = core.was_read(belief, core.Held(again, "etag2"), 17.0)
    assert (settled.won_at_s, settled.pending) == (15.0, ())
