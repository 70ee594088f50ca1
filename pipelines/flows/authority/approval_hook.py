"""Asks somebody outside before a run is moved: an answer may veto, silence may not. On a thread of its own (I10).

The lease's thread names its question each turn and reads the verdict; it never waits. Who does not answer within the
time that was promised to them has no objection: a broken hook must not keep a lost run from going on.
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

REST_S = 1.0  # with nothing to ask; a question wakes
HOLDS_S = 60.0  # a verdict is good for so long; then the same question is asked again


class Verdict(enum.Enum):
    """What came of a question."""

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
        poster: how the one outside is reached.
        timeout_s: who has not answered after so long has no objection.
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
        """What is known of a question by now; the first call asks it."""
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
        """What speaks against the move that is asked about; "" if nothing does."""
        asked = self._asked
        return asked.why if asked is not None and asked.verdict is Verdict.VETO else ""

    def weigh(self, decision: Decision, belief: Belief) -> Decision:
        """An automatic takeover, or a planned move, as the hook lets it; a person's failover does not ask."""
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
        """Ask what is to be asked; seconds until the next turn."""
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
