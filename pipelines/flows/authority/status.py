"""A controller's beliefs, decision and reasons, in the words of `status`, `explain` and the history."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.core.diagnosis import Diagnosis
from pipelines.core.failover_decision import Decision, FailoverPolicy, RunView, steps_lost
from pipelines.core.lineage import view_of
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.standby.recoverable import RecoverableCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything of one controller at one moment that status shows."""

    run: str
    policy: FailoverPolicy
    view: RunView
    decision: Decision
    peer_states: Mapping[str, PeerState]
    recovered: RecoverableCheckpoint | None
    committed_step: int
    operator_pending: bool
    troubles: Mapping[str, str]
    diagnosis: Diagnosis | None
    now_s: float
    wall_ms: int


def status_of(one: Situation) -> dict[str, object]:
    """The situation as JSON."""
    belief, decision, now_s, profile = one.view.belief, one.decision, one.now_s, one.policy.profile
    lease = None if belief.held is None else belief.held.lease
    left_s, found = belief.valid_until_s(profile) - now_s, one.recovered
    readiness = one.peer_states[belief.region].readiness
    shown = ("step", "proof", "grade", "predicted_rto_s")
    return {
        "run": one.run,
        "region": belief.region,
        "profile": profile.name,
        "fencing": one.policy.fencing,
        "primary": None if lease is None else lease.holder,
        "epoch": 0 if lease is None else lease.epoch,
        "attempt": 0 if lease is None else lease.attempt,
        "committed_step": None if lease is None else max(lease.committed_step, one.committed_step),
        "is_holder": belief.is_holder,
        "valid_s": max(0.0, left_s) if math.isfinite(left_s) else 0.0,
        "recoverable_step": None if found is None else found.manifest.step,
        "recoverable_epoch": None if found is None else found.manifest.epoch,
        "mode": None if lease is None else lease.mode,
        "acknowledged": 0 if lease is None else lease.acknowledged,
        "lineage": [] if lease is None else [dataclasses.asdict(entry) for entry in lease.lineage],
        "target": "" if lease is None else lease.target,
        "scheduled_ms": 0 if lease is None else lease.scheduled_ms,
        "note": "" if lease is None else lease.note,
        "promise": promise_of(one),
        "action": decision.action.value,
        "reason": decision.reason.value,
        "diagnosis": None if one.diagnosis is None else one.diagnosis.plain(),
        "next": next_of(one),
        "gates": [gate.plain() for gate in decision.gates],
        "operator_pending": one.operator_pending,
        "witness_age_s": finite(now_s - belief.read_at_s),
        "regions": {name: _heard(listener, now_s) for name, listener in one.peer_states.items()},
        "readiness": None if readiness is None else {name: getattr(readiness, name) for name in shown},
        "forks": [] if lease is None else [list(fork) for fork in view_of(lease.lineage).forks],
        "troubles": dict(one.troubles),
    }


def next_of(one: Situation) -> str:
    """The next thing that would happen, and when, in words."""
    belief, decision, profile = one.view.belief, one.decision, one.policy.profile
    if belief.held is None or belief.releases:
        return decision.reason.value
    if belief.is_holder:
        lease = belief.held.lease
        planned = (
            f"moves to {lease.target} in {(lease.scheduled_ms - one.wall_ms) / 1000:.0f} s; "
            if lease.scheduled_ms
            else ""
        )
        due_s = max(0.0, belief.won_at_s + profile.renew_s - one.now_s)
        left_s = max(0.0, belief.valid_until_s(profile) - one.now_s)
        return f"{planned}renews in {due_s:.1f} s; without a renewal our authority ends in {left_s:.1f} s"
    closed = ", ".join(gate.name for gate in decision.closed) or "no gate"
    left_s = max(0.0, belief.may_try_at_s(profile) - one.now_s)
    return f"may try to take over in {left_s:.1f} s unless the record changes; closed now: {closed}"


def promise_of(one: Situation) -> dict[str, object]:
    """The cost of a failover to us now, beside the run's objectives; a primary promises nothing."""
    held, policy = one.view.belief.held, one.policy
    readiness = one.peer_states[one.view.belief.region].readiness
    if held is None or held.lease.holder == one.view.belief.region:
        return {"kept": True, "broken": []}
    lost = steps_lost(one.view, held.lease)
    predicted_s = None if readiness is None else readiness.predicted_rto_s
    broken = []
    if policy.rpo_steps is not None and lost > policy.rpo_steps:
        broken.append(f"{lost} steps would be lost, {policy.rpo_steps} are promised")
    if policy.rto_s is not None and (predicted_s is None or predicted_s > policy.rto_s):
        predicted = "an unknown time" if predicted_s is None else f"{predicted_s:.1f} s"
        broken.append(f"recovery would take {predicted}, {policy.rto_s:.1f} s are promised")
    return {"steps_lost": lost, "predicted_rto_s": predicted_s, "kept": not broken, "broken": broken}


def finite(value: float) -> float | None:
    """JSON knows no infinity: what never happened has no age."""
    return value if math.isfinite(value) else None


def _heard(one: PeerState, now_s: float) -> dict[str, object]:
    steps = [node.step for node in one.pulse.nodes.values()]
    return {
        "heard_age_s": finite(now_s - one.pulse.nodes_at_s),
        "step": max(steps, default=None),
        "waiting_ranks": None if one.readiness is None else one.readiness.waiting_ranks,
        "phases": sorted({node.phase for node in one.pulse.nodes.values()}),
    }
