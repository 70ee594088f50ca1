"""A controller's decisions, by table: every gate, both sides, and that detectors alone never promote."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import heartbeats as beats
from pipelines.core import lease as core
from pipelines.core.failover_decision import Action, Gate, Reason, RunView, decide, policy_of
from pipelines.core.failure_detector import PHI_LIMIT, PHI_MOST
from pipelines.core.fork_choice import ForkChoice
from pipelines.core.lease import Author, Belief, Fork, Held
from pipelines.core.lease_profiles import FAST
from schemas.records import Heartbeat

POLICY = policy_of(FAST)
NOW_S = 1_000.0
FIRST = core.first("gpt", Author("east", "e1", "w0", "created", "controller", 0), FAST)
RECORD = dataclasses.replace(FIRST, committed_step=30, attempt=1)


def belief_of(region: str, seen_at_s: float, read_at_s: float = NOW_S) -> Belief:
    """A region that saw east's record change at `seen_at_s` and read it at `read_at_s`."""
    seen = core.was_read(Belief(region=region, incarnation=f"{region[0]}1"), Held(RECORD, "etag"), seen_at_s)
    return dataclasses.replace(seen, read_at_s=read_at_s)


LOST = RunView(
    belief=belief_of("west", NOW_S - 10),
    heard_at_s=NOW_S - 9,
    log_ack_at_s=NOW_S - 1,
    store_put_at_s=NOW_S - 1,
    recoverable_step=30,
)
HOLDING = RunView(
    belief=dataclasses.replace(belief_of("east", NOW_S - 2), won_at_s=NOW_S - 2),
    works_at_s=NOW_S - 1,
    log_ack_at_s=NOW_S - 1,
    store_put_at_s=NOW_S - 1,
)


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        (Gate("heartbeat_silence_s", 4.81, 3.0, open=True, rule=">="), "heartbeat_silence_s 4.8 >= 3.0: open"),
        (Gate("heartbeat_silence_s", 2.97, 3.0, open=False, rule=">="), "heartbeat_silence_s 2.97 < 3.00: closed"),
        (Gate("heartbeat_phi", PHI_MOST, PHI_LIMIT, open=True, rule=">="), "heartbeat_phi certain >= 8.0: open"),
        (Gate("heartbeat_phi", 6.25, PHI_LIMIT, open=False, rule=">="), "heartbeat_phi 6.2 < 8.0: closed"),
        (Gate("witness_age_s", math.inf, 1.5, open=False), "witness_age_s never > 1.5: closed"),
        (Gate("heard_elsewhere_s", math.inf, 3.0, open=True, rule=">="), "heard_elsewhere_s never >= 3.0: open"),
        (Gate("lease_left_s", -0.4, 0, open=True), "lease_left_s -0.4 <= 0.0: open"),
        (Gate("mode_paused", 1.0, 0, open=False, rule="=="), "mode_paused 1 != 0: closed"),
        (Gate("mode_paused", 1.0, 0, open=False, advisory=True, rule="=="), "mode_paused 1 != 0: noted"),
        (Gate("recoverable_step", 30, 30, open=True, rule=">="), "recoverable_step 30 >= 30: open"),
        (Gate("handover_left_s", 12.0, 0, open=True, rule=">"), "handover_left_s 12.0 > 0.0: open"),
        (Gate("released_for_s", 8.0, 8.0, open=False, rule="<"), "released_for_s 8.0 >= 8.0: closed"),
    ],
)
def test_a_gate_says_in_words_how_it_stands_and_which_way_its_limit_goes(gate: Gate, text: str) -> None:
    """At 3 a.m. nobody looks up whether more is better; explain, log, status and history show this very text."""
    assert gate.text == text
    assert gate.status().text == text
    assert gate.status().rule == gate.rule


def test_I20_the_gate_of_the_bytes_stands_in_every_takeover_also_in_an_operators() -> None:
    """Closed while the fork was not read back lately enough; open once it was."""
    for operator in (False, True):
        view = dataclasses.replace(LOST, operator=operator, fork=ForkChoice(0, math.inf, 3600.0))
        refused = decide(view, NOW_S, POLICY)
        assert (refused.action, refused.reason) == (Action.WAIT, Reason.REFUSED)
        assert [gate.text for gate in refused.closed] == ["fork_verified_age_s never > 3600.0: closed"]
        read = dataclasses.replace(view, fork=ForkChoice(0, 1.0, 3600.0))
        assert decide(read, NOW_S, POLICY).action is Action.TAKE_OVER


def test_a_gates_rule_says_when_it_is_open() -> None:
    """For every gate that decides by its figures alone: its text never claims the opposite of its verdict."""
    views = [LOST, dataclasses.replace(LOST, heard_at_s=NOW_S, pool_ready=True, recoverable_step=20), HOLDING]
    gates = [gate for view in views for gate in decide(view, NOW_S, policy_of(FAST, rpo_steps=3)).gates]
    assert {gate.rule for gate in gates} == {"<=", ">=", "=="}
    for gate in gates:
        true = {"<=": gate.value <= gate.limit, ">=": gate.value >= gate.limit, "==": gate.value == gate.limit}
        assert gate.open == true[gate.rule], gate.text


def test_a_silent_region_whose_lease_ran_out_is_taken_over() -> None:
    """Both must be: silence, and an expired lease; then every gate is shown as open."""
    decision = decide(LOST, NOW_S, POLICY)
    assert (decision.action, decision.reason) == (Action.TAKE_OVER, Reason.REGION_LOST)
    assert decision.closed == ()
    assert {gate.name for gate in decision.gates} >= {"lease_left_s", "heartbeat_silence_s", "witness_age_s"}
    assert all("closed" not in gate.text for gate in decision.gates)


@pytest.mark.parametrize(
    ("change", "action", "reason"),
    [
        ({"candidate": False}, Action.WAIT, Reason.NOT_CANDIDATE),
        ({"heard_at_s": NOW_S - 1}, Action.ALARM, Reason.HOLDER_NOT_RENEWING),
        ({"belief": belief_of("west", NOW_S - 1)}, Action.ALARM, Reason.LINK_LOST),
        ({"belief": belief_of("west", NOW_S - 3.5), "heard_at_s": NOW_S - 3.2}, Action.WAIT, Reason.PRIMARY_SILENT),
        ({"belief": belief_of("west", NOW_S - 1), "controller_at_s": NOW_S - 1}, Action.WAIT, Reason.NODES_SILENT),
        ({"belief": belief_of("west", NOW_S - 1), "heard_at_s": NOW_S - 1}, Action.WAIT, Reason.PRIMARY_WELL),
        ({"belief": belief_of("west", NOW_S - 60, NOW_S - 50)}, Action.WAIT, Reason.WITNESS_UNREACHABLE),
        ({"recoverable_step": None}, Action.WAIT, Reason.REFUSED),
        ({"phi": 7.9}, Action.ALARM, Reason.HOLDER_NOT_RENEWING),
        ({"patience": 4.0}, Action.ALARM, Reason.HOLDER_NOT_RENEWING),
        ({"elsewhere_at_s": NOW_S - 1}, Action.WAIT, Reason.REFUSED),
        ({"log_ack_at_s": NOW_S - 60}, Action.WAIT, Reason.REFUSED),
        ({"store_put_at_s": NOW_S - 60}, Action.WAIT, Reason.REFUSED),
        ({"epochs_known": False}, Action.WAIT, Reason.EPOCHS_UNKNOWN),
        ({"read_since_stall": False}, Action.WAIT, Reason.STALLED),
    ],
)
def test_I10_every_gate_can_stop_a_takeover(change: dict[str, Any], action: Action, reason: Reason) -> None:
    """One thing changed in a case that would be promoted, and it is not."""
    decision = decide(dataclasses.replace(LOST, **change), NOW_S, POLICY)
    assert (decision.action, decision.reason) == (action, reason)


def test_I11_a_witness_that_went_back_or_lost_its_record_promotes_nobody() -> None:
    """Neither a detector nor a person gets past a broken witness."""
    back = dataclasses.replace(LOST.belief, epoch_max=2)
    gone = core.was_missing(LOST.belief, NOW_S)
    forgotten = Belief(region="west", incarnation="w1", epoch_max=1, missing=True, read_at_s=NOW_S)
    for belief, reason in [
        (back, Reason.RECORD_WENT_BACK),
        (gone, Reason.RECORD_MISSING),
        (forgotten, Reason.RECORD_MISSING),
    ]:
        for operator in (False, True):
            decision = decide(dataclasses.replace(LOST, belief=belief, operator=operator), NOW_S, POLICY)
            assert (decision.action, decision.reason) == (Action.ALARM, reason)


def test_a_person_skips_the_detectors_and_nothing_else() -> None:
    """A live primary that beats can be taken over once its lease ran out, never before; nor without a checkpoint."""
    asked = dataclasses.replace(LOST, operator=True, heard_at_s=NOW_S, log_ack_at_s=0.0)
    assert decide(asked, NOW_S, POLICY).reason is Reason.OPERATOR
    leased = dataclasses.replace(asked, belief=belief_of("west", NOW_S - 1))
    assert decide(leased, NOW_S, POLICY).action is Action.WAIT
    assert [gate.name for gate in decide(leased, NOW_S, POLICY).closed] == ["lease_left_s"]
    empty = dataclasses.replace(asked, recoverable_step=None)
    assert [gate.name for gate in decide(empty, NOW_S, POLICY).closed] == ["recoverable_step"]


@pytest.mark.parametrize(
    ("change", "action", "reason"),
    [
        ({}, Action.RENEW, Reason.RENEWAL_DUE),
        ({"works_at_s": NOW_S - 60}, Action.WAIT, Reason.NO_EVIDENCE),
        ({"log_ack_at_s": NOW_S - 60}, Action.WAIT, Reason.NO_EVIDENCE),
        ({"store_put_at_s": NOW_S - 60}, Action.WAIT, Reason.NO_EVIDENCE),
        ({"belief": belief_of("west", NOW_S), "was_holder": True}, Action.STAND_DOWN, Reason.LOST),
    ],
)
def test_a_holder_renews_only_on_evidence_that_its_region_works(
    change: dict[str, Any], action: Action, reason: Reason
) -> None:
    """6.7: progress, a Kafka acknowledgement and a store write, each fresh."""
    decision = decide(dataclasses.replace(HOLDING, **change), NOW_S, POLICY)
    assert (decision.action, decision.reason) == (action, reason)


def test_a_restarted_controller_takes_its_own_record_over_and_only_the_first_region_creates() -> None:
    """Same epoch, a new incarnation; an absent record is created by nobody else."""
    restarted = dataclasses.replace(HOLDING, belief=dataclasses.replace(belief_of("east", NOW_S - 1), incarnation="e2"))
    assert decide(restarted, NOW_S, POLICY).reason is Reason.NEW_INCARNATION
    empty = core.was_missing(Belief(region="east", incarnation="e1"), NOW_S)
    fresh = RunView(belief=empty, may_create=True)
    assert decide(fresh, NOW_S, POLICY).action is Action.CREATE
    assert decide(dataclasses.replace(fresh, may_create=False), NOW_S, POLICY).reason is Reason.RUN_NOT_CREATED


@given(
    heard_s=st.floats(0, 100),
    seen_s=st.floats(0, 100),
    read_s=st.floats(0, 100),
    step=st.one_of(st.none(), st.integers(0, 100)),
    operator=st.booleans(),
    candidate=st.booleans(),
)
def test_I1_nothing_takes_over_before_the_lease_has_run_out(
    heard_s: float, seen_s: float, read_s: float, step: int | None, operator: bool, candidate: bool
) -> None:
    """Whatever else is seen: a takeover implies an expired lease, a fresh look at the witness and a checkpoint."""
    belief = belief_of("west", NOW_S - seen_s, NOW_S - read_s)
    view = dataclasses.replace(
        LOST, belief=belief, heard_at_s=NOW_S - heard_s, recoverable_step=step, operator=operator, candidate=candidate
    )
    if decide(view, NOW_S, POLICY).action is Action.TAKE_OVER:
        assert seen_s >= FAST.challenger_wait_s - 1e-9
        assert read_s <= POLICY.witness_age_s
        assert step is not None
        assert operator or (candidate and heard_s >= POLICY.silence_s)


def _beat(step: int, phase: str = "train", node: str = "n0", budget_s: float = 5.0) -> Heartbeat:
    return Heartbeat(
        event_id="x",
        run="gpt",
        region="east",
        epoch=1,
        attempt=1,
        producer="agent",
        seq=1,
        step=step,
        time_ms=0,
        node=node,
        phase=phase,
        budget_s=budget_s,
        last_seqs=(),
    )


def test_progress_is_a_step_that_moves_within_its_budget_and_beats_alone_are_not() -> None:
    """An agent that beats beside a stuck trainer is heard, and its evidence ends with the phase's budget."""
    pulse = beats.RegionHeartbeats()
    for second in range(20):
        pulse = beats.heard(pulse, _beat(7), float(second))
    assert pulse.nodes_at_s == 19.0
    assert pulse.works_at_s == 5.0
    assert beats.heard(pulse, _beat(8), 20.0).works_at_s == 20.0
    assert beats.heard(pulse, _beat(7, "waiting"), 21.0).works_at_s == 21.0
    assert beats.heard_unreadable(pulse, 30.0).nodes_at_s == 30.0
    controller = beats.heard(pulse, _beat(0, node=beats.CONTROLLER_NODE), 40.0)
    assert (controller.nodes_at_s, controller.controller_at_s) == (19.0, 40.0)


def test_the_fork_of_a_takeover_is_a_value_of_the_record() -> None:
    """The lease's one write carries the takeover that `decide` permits (I9)."""
    taken = core.takeover(RECORD, Author("west", "w1", "t1", "region_lost", "controller", 0), Fork(30, "d", 3), FAST)
    assert (taken.lineage[-1].fork_step, taken.lineage[-1].reason) == (30, "region_lost")
