"""The status of one run as its region's controller answers it; `farside status` and `farside explain` show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.core.diagnosis import Diagnosis
from pipelines.core.failover_decision import Decision, FailoverPolicy, RunView, steps_lost
from pipelines.core.lineage import view_of
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.run_watch import RunWatch
from pipelines.flows.standby.damage_notes import Damage
from pipelines.flows.standby.recoverable import RecoverableCheckpoint
from schemas.http_bodies import DamageStatus, HeardStatus, PromiseStatus, ReadinessStatus, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that a controller knows of one run at one moment."""

    run: str
    policy: FailoverPolicy
    view: RunView
    decision: Decision
    peer_states: Mapping[str, PeerState]
    recovered: RecoverableCheckpoint | None
    damages: tuple[Damage, ...]
    committed_step: int
    operator_pending: bool
    troubles: Mapping[str, str]
    diagnosis: Diagnosis | None
    watch: RunWatch
    now_s: float
    wall_ms: int


def status_of(situation: Situation) -> RunStatus:
    """The run as `/status` answers it."""
    belief, decision, now_s = situation.view.belief, situation.decision, situation.now_s
    profile, recovered = situation.policy.profile, situation.recovered
    lease = None if belief.held is None else belief.held.lease
    left_s = belief.valid_until_s(profile) - now_s
    lag = situation.watch.lag(belief, recovered)
    return RunStatus(
        run=situation.run,
        region=belief.region,
        profile=profile.name,
        fencing=situation.policy.fencing,
        primary=None if lease is None else lease.holder,
        epoch=0 if lease is None else lease.epoch,
        attempt=0 if lease is None else lease.attempt,
        committed_step=None if lease is None else max(lease.committed_step, situation.committed_step),
        is_holder=belief.is_holder,
        valid_s=max(0.0, left_s) if math.isfinite(left_s) else 0.0,
        recoverable_step=None if recovered is None else recovered.manifest.step,
        recoverable_epoch=None if recovered is None else recovered.manifest.epoch,
        fork_verified_age_s=None if situation.view.fork is None else finite(situation.view.fork.age_s),
        damages=tuple(DamageStatus(key=one.key, why=one.why, seen_ms=one.seen_ms) for one in situation.damages),
        mode=None if lease is None else lease.mode,
        acknowledged=0 if lease is None else lease.acknowledged,
        lineage=() if lease is None else lease.lineage,
        target="" if lease is None else lease.target,
        scheduled_ms=0 if lease is None else lease.scheduled_ms,
        note="" if lease is None else lease.note,
        promise=promise_of(situation),
        action=decision.action.value,
        reason=decision.reason.value,
        diagnosis=None if situation.diagnosis is None else situation.diagnosis.status(),
        next=next_of(situation),
        gates=tuple(gate.status() for gate in decision.gates),
        operator_pending=situation.operator_pending,
        witness_age_s=finite(now_s - belief.read_at_s),
        regions={name: _heard(peer, now_s) for name, peer in situation.peer_states.items()},
        readiness=_readiness(situation.peer_states[belief.region]),
        forks=() if lease is None else view_of(lease.lineage).forks,
        troubles=dict(situation.troubles),
        lag=None if lag is None else lag.status(),
        findings=tuple(finding.status() for finding in situation.watch.findings),
        skipped=situation.watch.skipped,
        alarms=situation.watch.alarms(),
    )


def next_of(situation: Situation) -> str:
    """The controller's next act, and when it comes, in words."""
    belief, decision, profile = situation.view.belief, situation.decision, situation.policy.profile
    if belief.held is None or belief.releases:
        return decision.reason.value
    if belief.is_holder:
        lease = belief.held.lease
        planned = (
            f"moves to {lease.target} in {(lease.scheduled_ms - situation.wall_ms) / 1000:.0f} s; "
            if lease.scheduled_ms
            else ""
        )
        due_s = max(0.0, belief.won_at_s + profile.renew_s - situation.now_s)
        left_s = max(0.0, belief.valid_until_s(profile) - situation.now_s)
        return f"{planned}renews in {due_s:.1f} s; without a renewal our authority ends in {left_s:.1f} s"
    closed = ", ".join(gate.name for gate in decision.closed) or "no gate"
    left_s = max(0.0, belief.may_try_at_s(profile) - situation.now_s)
    return f"may try to take over in {left_s:.1f} s unless the record changes; closed now: {closed}"


def promise_of(situation: Situation) -> PromiseStatus:
    """The cost of a failover to this region now, beside what the run was promised; a primary promises nothing."""
    held, policy = situation.view.belief.held, situation.policy
    readiness = situation.peer_states[situation.view.belief.region].readiness
    if held is None or held.lease.holder == situation.view.belief.region:
        return PromiseStatus(kept=True)
    lost = steps_lost(situation.view, held.lease)
    predicted_s = None if readiness is None else readiness.predicted_rto_s
    broken = []
    if policy.rpo_steps is not None and lost > policy.rpo_steps:
        broken.append(f"{lost} steps would be lost, {policy.rpo_steps} are promised")
    if policy.rto_s is not None and (predicted_s is None or predicted_s > policy.rto_s):
        predicted = "an unknown time" if predicted_s is None else f"{predicted_s:.1f} s"
        broken.append(f"recovery would take {predicted}, {policy.rto_s:.1f} s are promised")
    return PromiseStatus(kept=not broken, broken=tuple(broken), steps_lost=lost, predicted_rto_s=predicted_s)


def finite(value: float) -> float | None:
    """JSON knows no infinity: what never happened has no age."""
    return value if math.isfinite(value) else None


def _heard(peer: PeerState, now_s: float) -> HeardStatus:
    steps = [node.step for node in peer.pulse.nodes.values()]
    return HeardStatus(
        heard_age_s=finite(now_s - peer.pulse.nodes_at_s),
        step=max(steps, default=None),
        waiting_ranks=None if peer.readiness is None else peer.readiness.waiting_ranks,
        phases=tuple(sorted({node.phase for node in peer.pulse.nodes.values()})),
    )


def _readiness(own: PeerState) -> ReadinessStatus | None:
    event = own.readiness
    if event is None:
        return None
    return ReadinessStatus(step=event.step, proof=event.proof, grade=event.grade, predicted_rto_s=event.predicted_rto_s)
