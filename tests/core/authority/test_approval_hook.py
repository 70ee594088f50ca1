"""The before-hook: an objection holds a move back, silence does not, and a person's failover does not ask."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.core import lease as core
from pipelines.core.failover_decision import Action, Decision, Reason
from pipelines.core.lease import FAST, Author, Belief, Held
from pipelines.errors import RetryableError
from pipelines.flows.authority.approval_hook import HOLDS_S, ApprovalHook
from tests.manual_clock import ManualClock

LEASE = core.first("gpt", Author("east", "e1", "w0", "created", "controller", 0), FAST)
WEST = core.was_read(Belief(region="west", incarnation="w1"), Held(LEASE, "etag"), 0.0)
LOST = Decision(Action.TAKE_OVER, Reason.REGION_LOST)


class _Outside(ManualClock):
    """Somebody who is asked: what they answer, and what they were asked."""

    def __init__(self, answer: str | None) -> None:
        super().__init__(100.0)
        self.answer, self.keys = answer, list[str]()
        self.hook = ApprovalHook(poster=self, timeout_s=3.0, clock=self, journal=self)

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal: nobody reads it."""

    def post(self, key: str, body: bytes) -> None:
        """Implements Poster."""
        self.judge(key, body)

    def judge(self, key: str, body: bytes) -> str:
        """Implements Poster."""
        assert b'"holder": "east"' in body
        self.keys.append(key)
        if self.answer is None:
            raise RetryableError("no answer")
        return self.answer

    def weighed(self, decision: Decision = LOST) -> Reason:
        """What becomes of a decision."""
        return self.hook.weigh(decision, WEST).reason


def test_a_move_waits_for_the_answer_and_then_happens() -> None:
    """The first look asks; without an objection the decision is as it was."""
    outside = _Outside("")
    assert outside.weighed() is Reason.HOOK_ASKED
    outside.hook.turn()
    assert (outside.weighed(), outside.keys) == (Reason.REGION_LOST, ["gpt/2/take_over"])
    outside.hook.turn()
    assert len(outside.keys) == 1, "one question, one answer"


def test_an_objection_holds_until_it_is_asked_again() -> None:
    """A veto is no gate for ever: the same question is put again later."""
    outside = _Outside("maintenance of west")
    outside.weighed()
    outside.hook.turn()
    assert outside.weighed() is Reason.VETOED
    assert outside.hook.why == "maintenance of west"
    assert outside.hook.weigh(LOST, WEST).closed[-1].name == "before_hook"
    outside.answer = ""
    outside.now_s += HOLDS_S
    assert outside.weighed() is Reason.HOOK_ASKED
    outside.hook.turn()
    assert outside.weighed() is Reason.REGION_LOST
    assert outside.hook.why == ""


@pytest.mark.parametrize("asked", [True, False])
def test_who_does_not_answer_in_time_has_no_objection(asked: bool) -> None:
    """Whether the connection fails or hangs: a broken hook must not keep a lost run from going on."""
    outside = _Outside(None)
    outside.weighed()
    if asked:
        outside.hook.turn()
    else:
        outside.now_s += 3.0
    assert outside.weighed() is Reason.REGION_LOST


def test_only_automatic_takeovers_and_planned_moves_ask() -> None:
    """A person's failover, what was released to us, renewals and waiting go through."""
    outside = _Outside("no")
    for action, reason in (
        (Action.TAKE_OVER, Reason.OPERATOR),
        (Action.TAKE_OVER, Reason.SWITCHOVER),
        (Action.RENEW, Reason.RENEWAL_DUE),
        (Action.WAIT, Reason.PRIMARY_WELL),
    ):
        assert outside.weighed(Decision(action, reason)) is reason
    assert outside.weighed(Decision(Action.RELEASE, Reason.DRAINED)) is Reason.HOOK_ASKED
    empty = dataclasses.replace(WEST, held=None)
    assert outside.hook.weigh(LOST, empty) == LOST
