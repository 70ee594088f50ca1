"""When a planned move releases, goes on waiting, or is called off: by table, both sides of every gate."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines.core import lease as core
from pipelines.core.failover_decision import Action, Decision, Reason, RunView, decide, policy_of
from pipelines.core.handover import HandoverView, combined, hand_over
from pipelines.core.lease import Author, Belief, Fork, Held
from pipelines.core.lease_profiles import FAST
from pipelines.flows.authority.planned_moves import PlannedMoves
from schemas.records import Lease

POLICY = policy_of(FAST)
NOW_S = 1_000.0
AUTHOR = Author("east", "e1", "w1", "switchover", "ann", 0, "maintenance")
FIRST = core.first("gpt", dataclasses.replace(AUTHOR, write_id="w0"), FAST)
MOVING = core.in_mode(FIRST, AUTHOR, 40, core.HANDOVER, "west")
RELEASED = core.in_mode(MOVING, dataclasses.replace(AUTHOR, write_id="w2"), 40, core.RELEASED, "west")


def holding(lease: Lease, since_s: float = NOW_S - 30) -> Belief:
    """East, which won this record a second ago and has held the run for a while."""
    belief = core.was_read(Belief(region="east", incarnation="e1"), Held(FIRST, "etag0"), since_s)
    return dataclasses.replace(
        core.was_read(belief, Held(lease, "etag1"), NOW_S - 1), won_at_s=NOW_S - 1, own_since_s=since_s
    )


READY = HandoverView(
    belief=holding(MOVING),
    since_s=NOW_S - 20,
    held_step=40,
    committed_step=40,
    target_step=40,
    target_waits=True,
    target_at_s=NOW_S - 1,
    granted_until_s=NOW_S - 0.1,
)


@pytest.mark.parametrize(
    ("change", "action", "reason"),
    [
        ({}, Action.RELEASE, Reason.DRAINED),
        ({"held_step": None}, Action.WAIT, Reason.HANDING_OVER),
        ({"held_step": 50}, Action.WAIT, Reason.HANDING_OVER),
        ({"target_step": 30}, Action.WAIT, Reason.HANDING_OVER),
        ({"target_waits": False}, Action.WAIT, Reason.HANDING_OVER),
        ({"target_step": None}, Action.WAIT, Reason.HANDING_OVER),
        ({"granted_until_s": NOW_S + 0.1}, Action.WAIT, Reason.HANDING_OVER),
        ({"belief": holding(MOVING, NOW_S - 4)}, Action.WAIT, Reason.HANDING_OVER),
        ({"target_at_s": NOW_S - POLICY.target_age_s - 1}, Action.CALL_OFF, Reason.TARGET_SICK),
        ({"since_s": NOW_S - POLICY.handover_s - 1}, Action.CALL_OFF, Reason.TOO_LONG),
    ],
)
def test_a_run_is_given_away_only_when_nothing_would_be_lost(
    change: dict[str, Any], action: Action, reason: Reason
) -> None:
    """Each gate alone holds it back, and only a sick target or the clock calls it off."""
    decision = hand_over(dataclasses.replace(READY, **change), NOW_S, POLICY)
    assert decision is not None
    assert (decision.action, decision.reason) == (action, reason)
    assert (decision.closed == ()) == (action is Action.RELEASE)


def test_I1_who_gives_a_run_away_acts_no_more_from_before_the_write_is_sent() -> None:
    """Whether the answer comes, is lost, or says that the record had moved on."""
    belief = holding(MOVING)
    assert belief.valid_until_s(FAST) > NOW_S
    sent = core.sent(belief, RELEASED, "etag1", NOW_S)
    assert sent.valid_until_s(FAST) == core.NEVER_S
    unchanged = core.was_read(sent, Held(MOVING, "etag1"), NOW_S + 1)
    assert unchanged.valid_until_s(FAST) == core.NEVER_S, "it may still land"
    won = core.answered(sent, RELEASED, "etag2", NOW_S)
    assert won.valid_until_s(FAST) == core.NEVER_S
    taken_back = core.in_mode(RELEASED, dataclasses.replace(AUTHOR, write_id="w3"), 40, core.ACTIVE)
    back = core.answered(core.sent(won, taken_back, "etag2", NOW_S), taken_back, "etag3", NOW_S)
    assert back.valid_until_s(FAST) > NOW_S


def test_only_the_named_region_may_try_before_the_lease_is_over() -> None:
    """The others wait as ever."""
    for region, at_once in (("west", True), ("north", False)):
        seen = core.was_read(Belief(region=region, incarnation="x"), Held(RELEASED, "etag2"), NOW_S)
        assert (seen.may_try_at_s(FAST) <= NOW_S) is at_once


@pytest.mark.parametrize(("recoverable", "action"), [(40, Action.TAKE_OVER), (30, Action.WAIT), (None, Action.WAIT)])
def test_what_was_released_is_taken_without_losing_a_step_or_not_at_all(
    recoverable: int | None, action: Action
) -> None:
    """Heartbeats are still heard: no detector has a say in a planned move."""
    seen = core.was_read(Belief(region="west", incarnation="w1"), Held(RELEASED, "etag2"), NOW_S)
    view = RunView(belief=seen, heard_at_s=NOW_S, recoverable_step=recoverable)
    assert decide(view, NOW_S, POLICY).action is action


def test_a_released_run_is_taken_back_after_its_time_and_not_before() -> None:
    """And never renewed meanwhile."""
    renew = Decision(Action.RENEW, Reason.RENEWAL_DUE)
    for waited_s, action in ((1.0, Action.WAIT), (POLICY.takes_release_s + 1, Action.CALL_OFF)):
        belief = dataclasses.replace(holding(RELEASED), seen_at_s=NOW_S - waited_s)
        moving = hand_over(dataclasses.replace(READY, belief=belief), NOW_S, POLICY)
        assert moving is not None
        assert combined(renew, moving).action is action
    on_its_way = hand_over(dataclasses.replace(READY, held_step=None), NOW_S, POLICY)
    assert combined(renew, on_its_way) == renew, "while it drains the lease is renewed"
    assert hand_over(dataclasses.replace(READY, belief=holding(FIRST)), NOW_S, POLICY) is None


def test_a_new_epoch_is_active_and_keeps_who_moved_it_and_why() -> None:
    """Mode and target end with the epoch; the note stays in the lineage."""
    author = dataclasses.replace(AUTHOR, region="west", write_id="t1")
    taken = core.takeover(RELEASED, author, Fork(40, "digest", 4), FAST)
    assert (taken.mode, taken.target, taken.epoch) == (core.ACTIVE, "", 2)
    assert (taken.lineage[-1].actor, taken.lineage[-1].note) == ("ann", "maintenance")
    renewed = core.renewal(MOVING, dataclasses.replace(AUTHOR, write_id="w9"), 50)
    assert (renewed.mode, renewed.target) == (core.HANDOVER, "west"), "a renewal changes no mode"


def test_I8_grants_shrink_while_a_run_is_given_away_and_end_with_its_release() -> None:
    """So the holder waits for seconds, not for a lease, until no agent can report a commit."""
    moves = PlannedMoves("east", POLICY)
    assert moves.granted(FIRST, 3.0, NOW_S) == 3.0
    assert moves.granted(MOVING, 3.0, NOW_S) == 2.0
    assert moves.granted(RELEASED, 3.0, NOW_S) == 0.0


@pytest.mark.parametrize(("fenced", "action"), [(True, Action.TAKE_OVER), (False, Action.WAIT)])
def test_only_the_explicit_statement_that_the_old_region_is_fenced_skips_the_wait(
    *, fenced: bool, action: Action
) -> None:
    """And even then the witness must be fresh and the checkpoint there."""
    seen = core.was_read(Belief(region="west", incarnation="w1"), Held(FIRST, "etag0"), NOW_S - 0.5)
    view = RunView(belief=seen, recoverable_step=40, operator=True, fenced=fenced)
    assert decide(view, NOW_S, POLICY).action is action
    stale = dataclasses.replace(view, belief=dataclasses.replace(seen, read_at_s=NOW_S - 60))
    assert decide(stale, NOW_S, POLICY).action is Action.WAIT


@pytest.mark.parametrize(("heard", "action"), [(45, Action.TAKE_OVER), (46, Action.WAIT)])
def test_an_automatic_move_that_would_lose_more_than_was_promised_waits_for_a_person(
    heard: int, action: Action
) -> None:
    """At the limit it goes on; past it only a person may."""
    record = dataclasses.replace(FIRST, committed_step=40)
    seen = core.was_read(Belief(region="west", incarnation="w1"), Held(record, "etag0"), NOW_S - 10)
    view = RunView(
        belief=dataclasses.replace(seen, read_at_s=NOW_S),
        heard_at_s=NOW_S - 9,
        log_ack_at_s=NOW_S,
        store_put_at_s=NOW_S,
        recoverable_step=40,
        primary_step=heard,
    )
    policy = policy_of(FAST, rpo_steps=5)
    assert decide(view, NOW_S, policy).action is action
    assert decide(dataclasses.replace(view, operator=True), NOW_S, policy).action is Action.TAKE_OVER
