"""A planned move (switchover, failback): when the holder may give the run away, and when it calls that off. Pure.

The holder drains first: its trainers save at their next checkpoint and hold. It releases the record only when nothing
would be lost: the last checkpoint is committed here and proven there, no grant of ours is out, and no other process of
our region can trust an older lease. Until the release it can call the move off, and does when the target falls silent.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.core.failover_decision import Action, Decision, FailoverPolicy, Gate, Reason
from pipelines.core.lease import MOVING, NEVER_S, RELEASED, Belief

GRANT_S = 2.0  # how far ahead an agent is granted while its region gives the run away


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverView:
    """A planned move as the holder sees it. Times are on its own clock.

    Attributes:
        belief: of the lease.
        since_s: since when the record says that the run is on its way.
        held_step: the step at which all of our nodes hold; None while a node trains.
        committed_step: the newest that our agents report as committed.
        target_step: the newest that the target says it has proven; None if it says nothing.
        target_waits: whether ranks wait for their grant there.
        target_at_s: when the target's controller was heard last.
        granted_until_s: until when the longest grant that we gave is good.
    """

    belief: Belief
    since_s: float
    held_step: int | None = None
    committed_step: int = -1
    target_step: int | None = None
    target_waits: bool = False
    target_at_s: float = NEVER_S
    granted_until_s: float = NEVER_S


def drained(view: HandoverView) -> bool:
    """Whether our trainers hold and the target has proven their last checkpoint: then grants may run out."""
    held = view.held_step is not None and view.committed_step >= view.held_step
    return held and view.target_step is not None and view.target_step >= view.committed_step


def combined(decision: Decision, moving: Decision | None) -> Decision:
    """The decision with a planned move in it: the move comes first; while it waits, renewals go on."""
    if moving is None or decision.action not in {Action.WAIT, Action.RENEW}:
        return decision
    renews = decision.action is Action.RENEW and moving.reason is Reason.HANDING_OVER
    return decision if renews else moving


def hand_over(view: HandoverView, now_s: float, policy: FailoverPolicy) -> Decision | None:
    """Release, call off, or go on waiting; None if the record is not on its way anywhere."""
    lease = None if view.belief.held is None else view.belief.held.lease
    if lease is None or not view.belief.is_holder or lease.mode not in MOVING:
        return None
    if lease.mode == RELEASED:
        waited_s = now_s - view.belief.seen_at_s
        gate = Gate("released_for_s", waited_s, policy.takes_release_s, waited_s < policy.takes_release_s, rule="<")
        return Decision(Action.WAIT if gate.open else Action.CALL_OFF, Reason.RELEASED, (gate,))
    gates = handover_gates(view, now_s, policy)
    time_left, target_heard, *_ = gates
    if not target_heard.open or not time_left.open:
        return Decision(Action.CALL_OFF, Reason.TOO_LONG if target_heard.open else Reason.TARGET_SICK, gates)
    if all(gate.open for gate in gates):
        return Decision(Action.RELEASE, Reason.DRAINED, gates)
    return Decision(Action.WAIT, Reason.HANDING_OVER, gates)


def handover_gates(view: HandoverView, now_s: float, policy: FailoverPolicy) -> tuple[Gate, ...]:
    """The gates that must open before the run is given away, in the order in which they open."""
    held = -1 if view.held_step is None else view.held_step
    there = -1 if view.target_step is None else view.target_step
    target_age_s = now_s - view.target_at_s
    left_s = view.since_s + policy.handover_s - now_s
    older_s = view.belief.release_after_s(policy.profile) - now_s
    grants_s = view.granted_until_s - now_s
    committed = view.held_step is not None and view.committed_step >= held
    return (
        Gate("handover_left_s", left_s, 0, left_s > 0, rule=">"),
        Gate("target_age_s", target_age_s, policy.target_age_s, target_age_s <= policy.target_age_s),
        Gate("held_step", held, 0, view.held_step is not None, rule=">="),
        Gate("committed_step", view.committed_step, held, committed, rule=">="),
        Gate("target_step", there, view.committed_step, drained(view), rule=">="),
        Gate("target_waits", float(view.target_waits), 1, view.target_waits, rule="=="),
        Gate("older_lease_left_s", older_s, 0, older_s <= 0),
        Gate("grants_left_s", grants_s, 0, grants_s <= 0),
    )
