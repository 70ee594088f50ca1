"""A person's failovers of one run to this region: noted, tried for a while, and answered for to whoever asks again.

One is tried at a time. It is about the epoch that the person saw: once another one is won, by whomever, it is over, so
that of two people who ask in two regions one wins, and the other is told who did. `ask` may be called from another
thread; the rest belongs to the lease's.
"""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass

from pipelines.core.failover_decision import Decision, FailoverPolicy, Gate, RunView
from pipelines.core.lease import Belief
from pipelines.core.remembering import forget_oldest
from pipelines.ports import Clock, Journal
from schemas.http_bodies import FailoverAnswer
from schemas.records import Lease

WAITS, WON, LOST, REFUSED, EXPIRED = "waits", "won", "lost", "refused", "expired"
WAITS_S = 2.0  # beyond the challenger's wait
KEPT_MAX = 256  # outcomes that are remembered for whoever asked


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverRequest:
    """One request.

    Attributes:
        actor: who asks.
        note: why, for the history.
        key: by which it is known when it is asked again; "": it is never asked again.
        epoch: that the person wants to be replaced; 0: the newest.
        fenced: the person states that the region which holds the run cannot write any more: its lease is not waited
            for.
        fenced_epoch: the person repeats this for an epoch, though its region seems to live; 0: does not.
    """

    actor: str
    note: str = ""
    key: str = ""
    epoch: int = 0
    fenced: bool = False
    fenced_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Operator:
    """The request that is being tried: about which epoch, and how long the controller tries."""

    request: TakeoverRequest
    epoch: int
    seen_at_s: float  # after its record was seen to change last
    until_s: float

    def has_fenced(self, belief: Belief) -> bool:
        """Whether the statement is about the region that holds the run now, and nothing has shown it to be false."""
        held, request = belief.held, self.request
        if held is None or held.lease.epoch != self.epoch:
            return False
        unchanged = belief.seen_at_s == self.seen_at_s  # else its holder has renewed it since: it is not fenced
        return request.fenced_epoch == self.epoch or (request.fenced and unchanged)


class TakeoverRequests:
    """The requests of one run in one region.

    Args:
        run: which run.
        region: this region.
        policy: the lease's times.
        clock: the controller's own.
        journal: hears of each request and its end.
    """

    def __init__(self, *, run: str, region: str, policy: FailoverPolicy, clock: Clock, journal: Journal) -> None:
        self._run, self._region, self._policy = run, region, policy
        self._clock, self._journal = clock, journal
        self._lock = threading.Lock()
        self._known: dict[str, tuple[TakeoverRequest, FailoverAnswer]] = {}  # by key
        self.pending: Operator | None = None

    def ask(self, request: TakeoverRequest, view: RunView) -> FailoverAnswer:
        """Note a request, or say what has become of it."""
        with self._lock:
            known = self._known.get(request.key)
            if known is not None:
                same = known[0] == request
                return known[1] if same else FailoverAnswer(state=REFUSED, why="this key was used for another request")
            now_s = self._clock.boottime_s()
            held = view.belief.held
            if held is None:
                answer = FailoverAnswer(state=REFUSED, why="the lease record has not been read yet")
            else:
                answer = self._tried(request, view, held.lease, now_s)
            self._remember(request, answer)
        self._journal.say(
            "failover.asked",
            run=self._run,
            region=self._region,
            actor=request.actor,
            note=request.note,
            fenced=request.fenced,
            fenced_epoch=request.fenced_epoch,
            state=answer.state,
            why=answer.why,
        )
        return answer

    def _tried(self, request: TakeoverRequest, view: RunView, lease: Lease, now_s: float) -> FailoverAnswer:
        """The answer to a new request: it is tried from now on, unless something speaks against it."""
        if (request.epoch and request.epoch != lease.epoch) or lease.holder == self._region:
            return FailoverAnswer(state=LOST, why=_who_won(lease))
        if self.pending is not None:
            other, left_s = self.pending.request, self.pending.until_s - now_s
            why = f"{other.actor} has asked for the same, and that is tried for {max(0.0, left_s):.0f} s more"
            return FailoverAnswer(state=REFUSED, why=why)
        why = fence_refusal(request, view, now_s, self._policy)
        if why:
            return FailoverAnswer(state=REFUSED, why=why)
        until_s = now_s + self._policy.profile.challenger_wait_s + WAITS_S
        self.pending = Operator(request, lease.epoch, view.belief.seen_at_s, until_s)
        return FailoverAnswer(state=WAITS)

    def settle(self, lease: Lease | None, decision: Decision) -> None:
        """End the request that is being tried, if it is over.

        Args:
            lease: the record as it is now.
            decision: the one of this turn: its closed gates say why the request did not win.
        """
        operator = self.pending
        if operator is None:
            return
        if lease is not None and lease.epoch != operator.epoch and lease.holder != self._region:
            self._end(LOST, _who_won(lease), ())
        elif self._clock.boottime_s() > operator.until_s:
            self._end(EXPIRED, "the gates stayed closed", decision.gates)

    def won(self, lease: Lease) -> None:
        """This region has won an epoch."""
        operator = self.pending
        if operator is not None:
            own = lease.lineage[-1].actor == operator.request.actor
            self._end(WON, "" if own else _who_won(lease), ())  # the controller may have wanted the same

    def _end(self, state: str, why: str, gates: tuple[Gate, ...]) -> None:
        answer = FailoverAnswer(state=state, why=why, gates=tuple(gate.status() for gate in gates))
        with self._lock:
            operator, self.pending = self.pending, None
            if operator is None:
                return
            self._remember(operator.request, answer)
        if state != WON:
            closed = [gate.text for gate in gates if not gate.open and not gate.advisory]
            actor = operator.request.actor
            self._journal.say("failover.refused", run=self._run, actor=actor, state=state, why=why, closed=closed)

    def _remember(self, request: TakeoverRequest, answer: FailoverAnswer) -> None:
        if request.key:
            self._known[request.key] = (request, answer)
            forget_oldest(self._known, KEPT_MAX)


def fence_refusal(request: TakeoverRequest, view: RunView, now_s: float, policy: FailoverPolicy) -> str:
    """Why a person's statement that the old region is fenced is not taken, in words; "" if it is, or there is none.

    A region that renews, or whose heartbeats are heard, can write. Whoever knows better names the epoch that is fenced.

    Args:
        request: the person's.
        view: of the run.
        now_s: on the controller's clock.
        policy: the lease's times.
    """
    held = view.belief.held
    if held is None or not (request.fenced or request.fenced_epoch):
        return ""
    lease = held.lease
    if request.fenced_epoch and not request.fenced:
        return "an epoch is named as fenced, and not said to be: --i-have-fenced-the-old-region says it"
    if request.fenced_epoch:
        other = request.fenced_epoch != lease.epoch
        return f"epoch {request.fenced_epoch} is said to be fenced; {lease.holder} holds epoch {lease.epoch}" * other
    renewed_s = now_s - view.belief.seen_at_s
    heard_s = now_s - max(view.heard_at_s, view.controller_at_s)
    signs = []
    if renewed_s <= policy.profile.renew_s + 2 * policy.profile.poll_s:
        signs.append(f"its record changed {renewed_s:.1f} s ago")
    if heard_s < policy.silence_s * view.patience:
        signs.append(f"it was heard {heard_s:.1f} s ago")
    if not signs:
        return ""
    return (
        f"{lease.holder} does not look fenced: {' and '.join(signs)}. If it is all the same, say which epoch: "
        f"--fenced-epoch {lease.epoch}"
    )


def view_with(view: RunView, operator: Operator | None) -> RunView:
    """The view of a run with the person's request that is being tried, if it is about the epoch as it is now."""
    held = view.belief.held
    if operator is None or held is None or held.lease.epoch != operator.epoch:
        return view
    return dataclasses.replace(view, operator=True, fenced=operator.has_fenced(view.belief))


def _who_won(lease: Lease) -> str:
    """Who holds a run, since when and why, in words."""
    entry = lease.lineage[-1]
    note = f": {entry.note}" if entry.note else ""
    return f"{lease.holder} holds epoch {lease.epoch}, won by {entry.actor} ({entry.reason}){note}"
