"""When a controller has to look at a run again: the first moment at which its decision could change. Pure.

With a thousand runs in a process, looking ten times a second at each would be all that it does. Everything that changes
with time alone is listed here; news from outside (a request, a launch, a pool that became ready, a checkpoint) wakes
the controller, and the witness is read at every poll in any case, so a moment missing here costs one poll of delay.
"""

from __future__ import annotations

from pipelines.core.failover_decision import Decision, FailoverPolicy, Reason, RunView, is_silent

LEAST_S = 0.01
SOON_S = 0.1  # what changes any moment: a rhythm that grows surprising, an answer that is waited for
RECHECK_S = 1.0  # a closed gate that evidence may open, and our own health, which is counted by the second
_CLOSED = frozenset({Reason.NO_EVIDENCE, Reason.REFUSED, Reason.EPOCHS_UNKNOWN, Reason.VETOED})


def next_in_s(view: RunView, decision: Decision, asked_witness_s: float, now_s: float, policy: FailoverPolicy) -> float:
    """Seconds until the run should be looked at again; `asked_witness_s` is when the witness was asked last."""
    profile, belief = policy.profile, view.belief
    moments = [now_s + RECHECK_S] if decision.reason in _CLOSED or view.patience > 1 else []
    if decision.reason is Reason.HOOK_ASKED:
        moments.append(now_s + SOON_S)
    if belief.is_holder:
        moments.append(policy.due_at_s(belief.won_at_s, profile.renew_s))
    elif belief.held is not None:
        moments += [
            belief.may_try_at_s(profile),
            belief.seen_at_s + policy.renewals_seen_s,
            view.heard_at_s + policy.silence_s * view.patience,
            view.controller_at_s + policy.silence_s,
            view.elsewhere_at_s + policy.silence_s,
            now_s + policy.settle_s - view.moved_ago_s,
        ]
        over_floor = now_s - view.heard_at_s >= policy.silence_s * view.patience
        if over_floor and not is_silent(view, now_s, policy):
            moments.append(now_s + SOON_S)
    ahead = [at_s for at_s in moments if at_s > now_s]
    return max(LEAST_S, min([policy.due_at_s(asked_witness_s, profile.poll_s), *ahead]) - now_s)
