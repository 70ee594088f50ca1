"""The agent renews a guard's validity while the controller says so, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import RetryableError
from pipelines.flows.agent.grant_renewal import ASK_S, GrantRenewal, authority_of
from pipelines.ports import Beat, GrantReply
from services.adapters.memory.spool import MemorySpool
from tests.manual_clock import ManualClock

GRANTED = GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, fencing="hard", margin_s=0.5)
DRAINING = GrantReply("granted", epoch=1, attempt=1, valid_s=0.0, fencing="hard", draining=True)
SUPERSEDED = GrantReply("superseded", epoch=2, reason="west holds epoch 2")


class _World(ManualClock):
    """Implements Clock, Grants and Journal: a controller whose answer takes a while."""

    def __init__(self) -> None:
        super().__init__(100.0)
        self.spool = MemorySpool("gpt")
        self.reply: GrantReply | None = GRANTED
        self.answer_s = 0.0
        self.said: list[str] = []
        fake: Any = self
        self.grant_renewal = GrantRenewal(node="n0", spool=self.spool, grants=fake, clock=self, journal=fake)

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        del run, launch, node, committed_step, begins
        self.now_s += self.answer_s
        if self.reply is None:
            raise RetryableError("no controller")
        return self.reply

    def say(self, event: str, **fields: object) -> None:
        del fields
        self.said.append(event)

    def grant(self, launch: str, attempt: int = 1, fencing: str = "hard") -> None:
        self.spool.grant("gpt", launch, {"launch": launch, "epoch": 1, "attempt": attempt, "fencing": fencing})

    def beat(self, phase: str) -> None:
        self.spool.beat(Beat("gpt-r0", 10, phase, 60.0, 0, 1, 1))

    def turn(self) -> list[dict[str, Any]]:
        """One step; everything that launch l1 was told."""
        assert self.grant_renewal.turn() == ASK_S
        return self.spool.validities.get("l1", [])


@pytest.fixture
def world() -> _World:
    """One hard launch that trains."""
    found = _World()
    found.grant("l1")
    found.beat("train")
    return found


def test_I8_a_validity_counts_from_before_the_agent_asked(world: _World) -> None:
    """An answer that took a second has used up one."""
    world.answer_s = 1.0
    (validity,) = world.turn()
    assert (validity["state"], validity["valid_until_s"], validity["held"]) == ("granted", 103.0, False)


@pytest.mark.parametrize("reply", [None, GrantReply("wait"), GrantReply("granted", epoch=1, attempt=2, valid_s=3.0)])
def test_without_an_answer_about_this_very_attempt_nothing_is_renewed(world: _World, reply: GrantReply | None) -> None:
    """A controller that is away, has not read the record, or speaks of another attempt."""
    before = len(world.turn())
    world.reply = reply
    world.now_s += 10
    assert len(world.turn()) == before


def test_a_soft_launch_and_a_dead_old_one_cost_nothing(world: _World) -> None:
    """Only the newest launch, and those whose ranks live, are asked about."""
    world.spool.ends("gpt-r0")
    world.grant("l2", attempt=2)
    world.grant("l3", attempt=3, fencing="soft")
    assert world.turn() == []
    assert "l3" not in world.spool.validities


def test_a_superseded_launch_is_told_once(world: _World) -> None:
    """And the journal names it."""
    world.turn()
    world.reply = SUPERSEDED
    assert [one["state"] for one in (world.turn(), world.turn())[1]] == ["granted", "superseded"]
    assert world.said == ["grant_renewal.superseded"]
    assert world.turn()[-1]["reason"] == "west holds epoch 2"


def test_ranks_that_hold_for_a_planned_move_are_held_until_it_is_called_off(world: _World) -> None:
    """The move ends the validity by itself; that must cost nobody's job, whether it happens or not."""
    world.reply = DRAINING
    assert world.turn()[-1]["held"] is False, "it trains towards its last checkpoint"
    world.beat("drained")
    assert world.turn()[-1]["held"] is True
    world.reply = SUPERSEDED
    assert (world.turn()[-1]["state"], world.turn()[-1]["held"]) == ("superseded", True), "it leaves by itself"
    world.spool.ends("gpt-r0")
    assert world.turn()[-1]["held"] is True


def test_a_drained_beat_that_is_old_does_not_excuse_a_run_that_goes_on(world: _World) -> None:
    """The move was called off; the ranks' newest beat may still be the one from before."""
    world.reply = DRAINING
    world.beat("drained")
    world.turn()
    world.reply = GRANTED
    assert world.turn()[-1]["held"] is False


def test_what_a_grant_says_of_the_policy() -> None:
    """Soft: its name. Hard: also until when, from before it was asked, and the margin."""
    assert authority_of(GrantReply("granted"), 5.0) == {"fencing": "soft"}
    expected = {"fencing": "hard", "valid_s": 3.0, "valid_until_s": 8.0, "margin_s": 0.5}
    assert authority_of(GRANTED, 5.0) == expected
