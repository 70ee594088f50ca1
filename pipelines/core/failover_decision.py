"""Decides what a controller should do now, and why: a pure function of what it sees.

Detectors decide *when to try*, the expired lease and the conditional write decide *whether it is allowed*, the epoch
decides *whether it counts* (I10). Each decision carries the gates that were looked at, so that log, history and people
read the same words. All ages are on the controller's own clock.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
from dataclasses import dataclass
from typing import Literal

from pipelines.core.failure_detector import PHI_LIMIT, PHI_MOST
from pipelines.core.fork_choice import ForkChoice
from pipelines.core.lease import NEVER_S, PAUSED, RELEASED, Belief, Held, released_to
from pipelines.core.lease_profiles import LeaseProfile
from schemas.http_bodies import GateStatus
from schemas.records import Lease

SILENCE_LEAST_S = 3.0
EVIDENCE_LEAST_S = 5.0
SETTLE_S = 3600.0
HANDOVER_LEAST_S = 120.0
VERIFIED_AGE_S_MAX = 3600.0


class Action(enum.Enum):
    """The next act of a controller."""

    WAIT = "wait"
    RENEW = "renew"
    CREATE = "create"
    TAKE_OVER = "take_over"
    STAND_DOWN = "stand_down"
    ALARM = "alarm"
    RELEASE = "release"  # give the run away
    CALL_OFF = "call_off"  # end a planned move without giving the run away


class Reason(enum.Enum):
    """The reason for a decision, as status shows it."""

    ADOPTED = "adopted"  # a person made a branch the run's own line
    CREATES_RUN = "creates_run"
    DRAINED = "drained"  # a planned move: nothing would be lost any more
    EPOCHS_UNKNOWN = "epochs_unknown"  # the epochs that were seen here have not been read from our store yet
    HOOK_ASKED = "hook_asked"  # the before-hook has not answered yet
    HANDING_OVER = "handing_over"
    HOLDER_NOT_RENEWING = "holder_not_renewing"  # its nodes beat, its controller does not renew
    HOLDING = "holding"
    LINK_LOST = "link_lost"  # no heartbeats, but renewals: the primary lives
    LOST = "lost"  # another region has taken over
    NEW_INCARNATION = "new_incarnation"
    NO_EVIDENCE = "no_evidence"  # we hold the lease, but cannot show that our region works
    NODES_SILENT = "nodes_silent"  # its controller is heard, its nodes are not: nothing trains there
    NOT_CANDIDATE = "not_candidate"
    OPERATOR = "operator"
    PRIMARY_SILENT = "primary_silent"
    PRIMARY_WELL = "primary_well"
    RECORD_MISSING = "record_missing"
    RECORD_WENT_BACK = "record_went_back"
    REFUSED = "refused"  # a gate is closed
    RELEASED = "released"  # its holder gave it away, to another region than ours
    REGION_LOST = "region_lost"
    RENEWAL_DUE = "renewal_due"
    REPLACED = "replaced"  # a newer controller of our own region holds it
    RUN_NOT_CREATED = "run_not_created"
    STALLED = "stalled"  # we stood still: the witness must be read first
    SWITCHOVER = "switchover"  # released to us
    TARGET_SICK = "target_sick"
    VETOED = "vetoed"  # the before-hook said no
    TOO_LONG = "too_long"  # the move was not ready in its time
    WITNESS_UNREACHABLE = "witness_unreachable"


Rule = Literal["<=", ">=", "<", ">", "=="]
_HOLDS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
_OTHERWISE = {"<=": ">", ">=": "<", "<": ">=", ">": "<=", "==": "!="}


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: the measured value, the limit, and the rule by which the value must stand to the limit.

    An advisory gate is shown and never stops anything.
    """

    name: str
    value: float
    limit: float
    open: bool
    advisory: bool = False
    rule: Rule = "<="

    @property
    def text(self) -> str:
        """For the log, the history and people: how value and limit really stand, and what that means."""
        stands = self.rule if _HOLDS[self.rule](self.value, self.limit) else _OTHERWISE[self.rule]
        value, limit = _figures(self.name, self.value, self.limit)
        return (
            f"{self.name} {value} {stands} {limit}: {'open' if self.open else 'noted' if self.advisory else 'closed'}"
        )

    def status(self) -> GateStatus:
        """The gate as `/status` answers it; JSON knows no infinity."""
        return GateStatus(
            name=self.name,
            value=self.value if math.isfinite(self.value) else None,
            rule=self.rule,
            limit=self.limit,
            open=self.open,
            advisory=self.advisory,
            text=self.text,
        )


def _figures(name: str, value: float, limit: float) -> tuple[str, str]:
    """As few decimals as keep the two apart; what never happened is `never`, and so is a silence beyond all chance."""
    counts = not name.endswith(("_s", "_phi"))
    if math.isinf(value) or (name.endswith("_phi") and value >= PHI_MOST):
        return "certain" if name.endswith("_phi") else "never", f"{limit:.0f}" if counts else f"{limit:.1f}"
    if counts:
        return f"{value:.0f}", f"{limit:.0f}"
    digits = next((some for some in (1, 2) if value == limit or f"{value:.{some}f}" != f"{limit:.{some}f}"), 3)
    return f"{value:.{digits}f}", f"{limit:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, its reason, and the gates that were looked at."""

    action: Action
    reason: Reason
    gates: tuple[Gate, ...] = ()

    @property
    def begins(self) -> bool:
        """Whether a process would begin to act on a record that it has not written itself."""
        return self.action in {Action.CREATE, Action.TAKE_OVER} or (
            self.action is Action.RENEW and self.reason is Reason.NEW_INCARNATION
        )

    @property
    def closed(self) -> tuple[Gate, ...]:
        """The gates that speak against it."""
        return tuple(gate for gate in self.gates if not gate.open and not gate.advisory)


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """How long is too long.

    Attributes:
        profile: the lease's times.
        silence_s: no heartbeat of any node for so long is silence.
        evidence_s: a sign that our own region works counts for so long (6.7).
        witness_age_s: the record must have been read so recently to be challenged.
        settle_s: no second automatic move within so long, unless a person has acknowledged the last one.
        rpo_steps: an automatic move that would lose more steps waits for an operator; None: none waits.
        rto_s: the promised recovery time; shown and alarmed, never a gate.
        handover_s: a planned move that is not ready in so long is called off.
        target_age_s: so is one whose target was not heard for so long.
        takes_release_s: a released run that nobody took in so long is taken back.
        fencing: soft, or hard: a guard kills the trainer when its grant's validity ends. Never a gate.
        verify_wait_s: once this region wants the run, it waits so long for its newest checkpoint to be read back.
        verified_age_s_max: after that, a reading that began no longer ago counts (I20).
        in_step: renewals and reads of the witness are due at the multiples of their periods on the controller's clock,
            never later than otherwise, so that those of a lease group fall together.
    """

    profile: LeaseProfile
    silence_s: float
    evidence_s: float
    witness_age_s: float
    settle_s: float = SETTLE_S
    rpo_steps: int | None = None
    rto_s: float | None = None
    handover_s: float = HANDOVER_LEAST_S
    target_age_s: float = SILENCE_LEAST_S
    takes_release_s: float = SILENCE_LEAST_S
    fencing: str = "soft"
    in_step: bool = False
    verify_wait_s: float = SILENCE_LEAST_S
    verified_age_s_max: float = VERIFIED_AGE_S_MAX

    def due_at_s(self, last_s: float, every_s: float) -> float:
        """When what was done at `last_s` is due again."""
        if not self.in_step or not math.isfinite(last_s):
            return last_s + every_s
        return (math.floor(last_s / every_s) + 1) * every_s

    @property
    def renewals_seen_s(self) -> float:
        """Within so long after a change of the record its holder counts as renewing."""
        return 2 * self.profile.renew_s + 2 * self.profile.poll_s


def policy_of(
    profile: LeaseProfile,
    *,
    rpo_steps: int | None = None,
    rto_s: float | None = None,
    settle_s: float = SETTLE_S,
    fencing: str = "soft",
    in_step: bool = False,
) -> FailoverPolicy:
    """The policy that goes with a profile and a run's objectives."""
    return FailoverPolicy(
        profile=profile,
        silence_s=max(SILENCE_LEAST_S, profile.lease_s / 4),
        evidence_s=max(EVIDENCE_LEAST_S, profile.lease_s / 2),
        witness_age_s=3 * profile.poll_s,
        settle_s=settle_s,
        rpo_steps=rpo_steps,
        rto_s=rto_s,
        handover_s=max(HANDOVER_LEAST_S, 60 * profile.lease_s),
        target_age_s=max(2 * SILENCE_LEAST_S, profile.lease_s / 2),
        takes_release_s=max(2 * SILENCE_LEAST_S, 2 * profile.lease_s),
        fencing=fencing,
        in_step=in_step,
        verify_wait_s=profile.challenger_wait_s,  # in which the lease has to run out in any case
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run as a controller sees it. Times are on its own clock; NEVER_S: it never happened."""

    belief: Belief
    candidate: bool = True  # may take the run over
    may_create: bool = False  # the region in which the run begins
    epochs_known: bool = True
    read_since_stall: bool = True
    was_holder: bool = False  # until a turn ago
    stood_down: bool = False  # gave way to another controller of this region
    heard_at_s: float = NEVER_S  # the holder's nodes; the listener's start, if never
    controller_at_s: float = NEVER_S  # the holder's controller was heard: its Kafka and the link work
    works_at_s: float = NEVER_S  # our own nodes
    log_ack_at_s: float = NEVER_S
    store_put_at_s: float = NEVER_S
    recoverable_step: int | None = None  # of the checkpoint that a takeover would begin from
    fork: ForkChoice | None = None  # how lately its bytes were read back here; None: there is no checkpoint
    pool_ready: bool = False
    operator: bool = False  # a person asks: detectors are skipped, nothing else
    fenced: bool = False  # and says that the old region cannot write any more: the wait for its lease is skipped
    moved_ago_s: float = math.inf  # since the last automatic move that nobody has acknowledged
    primary_step: int | None = None  # the newest heard of the holder's nodes
    phi: float = PHI_MOST  # how surprising the silence of its liveliest node is
    elsewhere_at_s: float = NEVER_S  # when somebody else heard the holder's nodes
    patience: float = 1.0  # what our own troubles multiply the silence with (Lifeguard)


def decide(view: RunView, now_s: float, policy: FailoverPolicy) -> Decision:
    """The decision of this region's controller about the run now, with the gates that were looked at."""
    belief = view.belief
    unable = _unable(view, now_s, policy)
    if unable is not None:
        return unable
    if belief.held is None:
        return _without_record(view, now_s, policy)
    if belief.held.lease.holder == belief.region:
        return _as_primary(view, belief.held.lease, now_s, policy)
    if view.was_holder:
        return Decision(Action.STAND_DOWN, Reason.LOST, (_epoch_gate(belief),))
    return _as_standby(view, belief.held.lease, now_s, policy)


def _unable(view: RunView, now_s: float, policy: FailoverPolicy) -> Decision | None:
    """Why nothing at all may be decided: the witness is broken (I2, I11), or we do not know enough yet."""
    belief = view.belief
    if belief.gone_backwards:
        return Decision(Action.ALARM, Reason.RECORD_WENT_BACK, (_epoch_gate(belief),))
    if belief.missing and (belief.held is not None or belief.epoch_max > 0):
        return Decision(Action.ALARM, Reason.RECORD_MISSING, (_epoch_gate(belief),))
    if not view.epochs_known:
        return Decision(Action.WAIT, Reason.EPOCHS_UNKNOWN)
    if not view.read_since_stall:
        return Decision(Action.WAIT, Reason.STALLED, (_witness_gate(view, now_s, policy),))
    return None


def _without_record(view: RunView, now_s: float, policy: FailoverPolicy) -> Decision:
    gates = (_witness_gate(view, now_s, policy),)
    if not view.belief.missing or not gates[0].open:
        return Decision(Action.WAIT, Reason.WITNESS_UNREACHABLE, gates)
    if not view.may_create:
        return Decision(Action.WAIT, Reason.RUN_NOT_CREATED, gates)
    return Decision(Action.CREATE, Reason.CREATES_RUN, gates)


def _as_primary(view: RunView, lease: Lease, now_s: float, policy: FailoverPolicy) -> Decision:
    belief = view.belief
    evidence = _evidence_gates(view, lease, now_s, policy)
    if not belief.is_holder:
        if view.was_holder:
            return Decision(Action.STAND_DOWN, Reason.REPLACED)
        expired = _expiry_gate(view, now_s, policy)
        if view.stood_down and not expired.open:  # or two controllers of a region would take turns for ever
            return Decision(Action.WAIT, Reason.REPLACED, (expired,))
        return _if_open(Action.RENEW, Reason.NEW_INCARNATION, Reason.NO_EVIDENCE, evidence)
    if now_s < policy.due_at_s(belief.won_at_s, policy.profile.renew_s):
        return Decision(Action.WAIT, Reason.HOLDING, evidence)
    return _if_open(Action.RENEW, Reason.RENEWAL_DUE, Reason.NO_EVIDENCE, evidence)


def _as_standby(view: RunView, lease: Lease, now_s: float, policy: FailoverPolicy) -> Decision:
    gates = takeover_gates(view, lease, now_s, policy)
    given = released_to(lease, view.belief.region)
    if given or view.operator:
        return _if_open(Action.TAKE_OVER, Reason.SWITCHOVER if given else Reason.OPERATOR, Reason.REFUSED, gates)
    if not view.candidate:
        return Decision(Action.WAIT, Reason.NOT_CANDIDATE, gates)
    if not _witness_gate(view, now_s, policy).open:
        return Decision(Action.WAIT, Reason.WITNESS_UNREACHABLE, gates)
    silent = is_silent(view, now_s, policy)
    if not _expiry_gate(view, now_s, policy).open:
        return (
            _while_leased(view, now_s, policy, gates) if silent else Decision(Action.WAIT, Reason.PRIMARY_WELL, gates)
        )
    if not silent:
        waits = lease.mode == RELEASED
        return Decision(
            Action.WAIT if waits else Action.ALARM, Reason.RELEASED if waits else Reason.HOLDER_NOT_RENEWING, gates
        )
    return _if_open(Action.TAKE_OVER, Reason.REGION_LOST, Reason.REFUSED, gates)


def is_silent(view: RunView, now_s: float, policy: FailoverPolicy) -> bool:
    """No node of the holder for longer than is forgiven, and longer than its rhythm explains."""
    return all(gate.open for gate in _silence_gates(view, now_s, policy, advisory=False))


def _silence_gates(view: RunView, now_s: float, policy: FailoverPolicy, *, advisory: bool) -> tuple[Gate, Gate]:
    silence_s, limit_s = now_s - view.heard_at_s, policy.silence_s * view.patience
    return (
        Gate("heartbeat_silence_s", silence_s, limit_s, silence_s >= limit_s, advisory, rule=">="),
        Gate("heartbeat_phi", view.phi, PHI_LIMIT, view.phi >= PHI_LIMIT, advisory, rule=">="),
    )


def _while_leased(view: RunView, now_s: float, policy: FailoverPolicy, gates: tuple[Gate, ...]) -> Decision:
    """Silence under a lease that has not run out: the link is lost if renewals were seen since (6.7)."""
    if now_s - view.controller_at_s < policy.silence_s:
        return Decision(Action.WAIT, Reason.NODES_SILENT, gates)
    renews = now_s - view.belief.seen_at_s < policy.renewals_seen_s
    if renews and view.belief.seen_at_s > view.heard_at_s:
        return Decision(Action.ALARM, Reason.LINK_LOST, gates)
    return Decision(Action.WAIT, Reason.PRIMARY_SILENT, gates)


def takeover_gates(view: RunView, lease: Lease, now_s: float, policy: FailoverPolicy) -> tuple[Gate, ...]:
    """Every gate of a takeover, in the order in which they are shown. An operator's failover skips the detectors only.

    A run that was released to us has no detectors to pass, and must not lose a step.
    """
    elsewhere_s = now_s - view.elsewhere_at_s
    step = -1 if view.recoverable_step is None else view.recoverable_step
    given = released_to(lease, view.belief.region)
    asked = view.operator or given
    # With nothing ever committed there is nothing to lose; otherwise a start from zero would throw a run away.
    least = 0 if lease.committed_step >= 0 or len(lease.lineage) > 1 else -1
    least = lease.committed_step if given else least
    detectors = (
        *_silence_gates(view, now_s, policy, advisory=asked),
        Gate("heard_elsewhere_s", elsewhere_s, policy.silence_s, elsewhere_s >= policy.silence_s, asked, rule=">="),
        Gate("mode_paused", float(lease.mode == PAUSED), 0, lease.mode != PAUSED, asked, rule="=="),
        Gate("moved_ago_s", view.moved_ago_s, policy.settle_s, view.moved_ago_s >= policy.settle_s, asked, rule=">="),
        *_loss_gate(view, lease, policy, advisory=asked),
        *_own_gates(view, now_s, policy, advisory=asked),
    )
    return (
        _witness_gate(view, now_s, policy),
        _epoch_gate(view.belief),
        dataclasses.replace(_expiry_gate(view, now_s, policy), advisory=view.operator and view.fenced),
        Gate("unread_writes", view.belief.unread_writes, 0, view.belief.unread_writes == 0, rule="=="),
        Gate("recoverable_step", step, least, step >= least, rule=">="),
        *_fork_gate(view),
        *detectors,
        Gate("pool_ready", float(view.pool_ready), 1, view.pool_ready, advisory=True, rule="=="),
    )


def _fork_gate(view: RunView) -> tuple[Gate, ...]:
    """The gate of the bytes: nobody is promoted from what was not read back here lately enough (I20)."""
    if view.fork is None:
        return ()
    age_s, limit_s = view.fork.age_s, view.fork.limit_s
    return (Gate("fork_verified_age_s", age_s, limit_s, age_s <= limit_s),)


def wanted_since_s(view: RunView, before_s: float | None, now_s: float, policy: FailoverPolicy) -> float | None:
    """Since when this region wants to take the run over, so that its newest checkpoint is read back; None: it does not.

    Args:
        view: of the run.
        before_s: the answer of the turn before.
        now_s: on the controller's clock.
        policy: of the run.
    """
    held = view.belief.held
    if held is None or held.lease.holder == view.belief.region:
        return None
    if released_to(held.lease, view.belief.region):
        return NEVER_S  # its bytes are read back as they arrive, and its last holder lives
    if view.operator or (view.candidate and is_silent(view, now_s, policy)):
        return before_s if before_s is not None and before_s != NEVER_S else now_s
    return None


def steps_lost(view: RunView, lease: Lease) -> int:
    """How many steps a takeover now would have to repeat, as far as we can see."""
    newest = max(lease.committed_step, -1 if view.primary_step is None else view.primary_step)
    return max(0, newest - max(0, -1 if view.recoverable_step is None else view.recoverable_step))


def moved_ago_s(held: Held | None, wall_ms: int) -> float:
    """Seconds since the last automatic move that nobody acknowledged, by wall time; it only holds moves back (I10)."""
    if held is None:
        return math.inf
    entry = held.lease.lineage[-1]
    if entry.reason != Reason.REGION_LOST.value or held.lease.acknowledged >= entry.epoch:
        return math.inf
    return max(0.0, (wall_ms - entry.time_ms) / 1000)


def _loss_gate(view: RunView, lease: Lease, policy: FailoverPolicy, *, advisory: bool) -> tuple[Gate, ...]:
    """The gate of a run's objective: an automatic move that would lose more steps waits for an operator."""
    if policy.rpo_steps is None:
        return ()
    lost = steps_lost(view, lease)
    return (Gate("steps_lost", lost, policy.rpo_steps, lost <= policy.rpo_steps, advisory),)


def _if_open(action: Action, reason: Reason, otherwise: Reason, gates: tuple[Gate, ...]) -> Decision:
    decision = Decision(action, reason, gates)
    return Decision(Action.WAIT, otherwise, gates) if decision.closed else decision


def _epoch_gate(belief: Belief) -> Gate:
    epoch = 0 if belief.held is None or belief.missing else belief.held.lease.epoch
    kept = not belief.gone_backwards and epoch >= belief.epoch_max
    return Gate("epoch", epoch, belief.epoch_max, kept, rule=">=")


def _witness_gate(view: RunView, now_s: float, policy: FailoverPolicy) -> Gate:
    age_s = now_s - view.belief.read_at_s
    return Gate("witness_age_s", age_s, policy.witness_age_s, age_s <= policy.witness_age_s)


def _expiry_gate(view: RunView, now_s: float, policy: FailoverPolicy) -> Gate:
    left_s = view.belief.may_try_at_s(policy.profile) - now_s
    return Gate("lease_left_s", left_s, 0, left_s <= 0)


def _evidence_gates(view: RunView, lease: Lease, now_s: float, policy: FailoverPolicy) -> tuple[Gate, ...]:
    """6.7: step progress or a declared hold, a Kafka acknowledgement, a store write. Before a launch all is on hold."""
    age_s = now_s - view.works_at_s
    works = Gate("progress_age_s", age_s, policy.evidence_s, lease.attempt == 0 or age_s <= policy.evidence_s)
    return (works, *_own_gates(view, now_s, policy, advisory=False))


def _own_gates(view: RunView, now_s: float, policy: FailoverPolicy, *, advisory: bool) -> tuple[Gate, ...]:
    ages = {"log_ack_age_s": now_s - view.log_ack_at_s, "store_put_age_s": now_s - view.store_put_at_s}
    return tuple(Gate(name, age, policy.evidence_s, age <= policy.evidence_s, advisory) for name, age in ages.items())
