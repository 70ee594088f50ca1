"""Asks a hook outside before a run is moved: its answer may veto the move, its silence may not (I10).

The hook is called on a thread of its own. The lease's thread names its question each turn and reads the verdict; it
never waits. A hook that does not answer within its time has no objection: a broken hook must not keep a lost run from
going on.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.core.failover_decision import Action, Decision, Gate, Reason
from pipelines.core.lease import NEVER_S, Belief
from pipelines.errors import RetryableError
from pipelines.ports import Clock, Journal, Poster

REST_S = 1.0  # between two turns; a new question wakes the flow before
HOLDS_S = 60.0  # how long a verdict counts; then the same question is asked again


class Verdict(enum.Enum):
    """The state of a question."""

    ASKED = "asked"
    FREE = "free"  # no objection, or no answer in time
    VETO = "veto"


@dataclass(frozen=True, slots=True)
class _Asked:
    key: str
    body: bytes
    since_s: float
    verdict: Verdict = Verdict.ASKED
    why: str = ""
    at_s: float = NEVER_S


class ApprovalHook:
    """Asks about one run's moves, one question at a time. `verdict` and `weigh` may be called from another thread.

    Args:
        poster: sends the question to the hook.
        timeout_s: a hook that has not answered after so long has no objection.
        clock: the machine's own.
        journal: hears each answer.
        wake: called when there is something to ask.
    """

    def __init__(
        self,
        *,
        poster: Poster,
        timeout_s: float,
        clock: Clock,
        journal: Journal,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._wake = wake
        self._poster, self._timeout_s, self._clock, self._journal = poster, timeout_s, clock, journal
        self._asked: _Asked | None = None

    def verdict(self, key: str, **what: object) -> Verdict:
        """The verdict on a question by now; the first call asks it."""
        now_s, asked = self._clock.boottime_s(), self._asked
        over = asked is not None and asked.verdict is not Verdict.ASKED and now_s - asked.at_s >= HOLDS_S
        if asked is None or asked.key != key or over:
            self._asked = _Asked(key, json.dumps({"key": key, **what}, sort_keys=True).encode(), now_s)
            self._wake()
            return Verdict.ASKED
        if asked.verdict is Verdict.ASKED and now_s - asked.since_s >= self._timeout_s:
            return Verdict.FREE
        return asked.verdict

    @property
    def why(self) -> str:
        """The hook's objection to the move that was asked about; "" if it has none."""
        asked = self._asked
        return asked.why if asked is not None and asked.verdict is Verdict.VETO else ""

    def weigh(self, decision: Decision, belief: Belief) -> Decision:
        """Hold an automatic takeover or a planned move back until the hook has no objection.

        A failover that an operator asked for is not held back.
        """
        lease = None if belief.held is None else belief.held.lease
        if lease is None or not (decision.action is Action.RELEASE or decision.reason is Reason.REGION_LOST):
            return decision
        verdict = self.verdict(
            f"{lease.run}/{lease.epoch + 1}/{decision.action.value}",
            run=lease.run,
            holder=lease.holder,
            target=lease.target if decision.action is Action.RELEASE else belief.region,
            reason=decision.reason.value,
            gates=[gate.text for gate in decision.gates],
        )
        if verdict is Verdict.FREE:
            return decision
        vetoed = verdict is Verdict.VETO
        gate = Gate("before_hook", 0, 1, open=False, rule="==")
        return Decision(Action.WAIT, Reason.VETOED if vetoed else Reason.HOOK_ASKED, (*decision.gates, gate))

    def turn(self) -> float:
        """Send the question that has no answer yet; seconds until the next turn."""
        asked = self._asked
        if asked is None or asked.verdict is not Verdict.ASKED:
            return REST_S
        try:
            why = self._poster.judge(asked.key, asked.body)
        except RetryableError as error:
            verdict, why = Verdict.FREE, str(error)
        else:
            verdict = Verdict.VETO if why else Verdict.FREE
        if self._asked is asked:  # else the question has changed meanwhile
            self._asked = _Asked(asked.key, asked.body, asked.since_s, verdict, why, self._clock.boottime_s())
            self._journal.say("approval_hook.answered", key=asked.key, verdict=verdict.value, why=why)
        return REST_S
