"""Launches that wait in a standby for their region to win: granted in the turn that wins, if they are still there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.manual_world import ManualWorld, signer_in, world_with_step_10

LAUNCH = "west-1"


@pytest.fixture
def world(tmp_path: Path) -> ManualWorld:
    """East trained and is cut from everybody; west will take over."""
    world = world_with_step_10(signer_in(tmp_path))
    world.east.witness.away, world.link = True, False
    return world


def test_a_launch_that_waits_is_granted_in_the_turn_that_wins(world: ManualWorld) -> None:
    """Its agent asks a few times a second: until it would ask again is time in which nobody trains."""
    control = world.west.control

    def won() -> bool:
        return bool(control.status().is_holder) or control.grant(LAUNCH, -1).state != "wait"

    world.until(won, "west takes over")
    reply = control.grant(LAUNCH, -1)
    assert (reply.state, reply.epoch, reply.start_step) == ("granted", 2, 10)
    assert (world.lease.holder, world.lease.launch) == ("west", LAUNCH)


def test_a_launch_that_asks_no_more_gets_no_attempt(world: ManualWorld) -> None:
    """Its trainer may be gone: an attempt of its own would supersede whoever asks now."""
    control = world.west.control
    assert control.grant(LAUNCH, -1).state == "wait"
    world.until(lambda: control.status().is_holder, "west takes over")
    assert (world.lease.epoch, world.lease.reason, world.lease.launch) == (2, "region_lost", "")
