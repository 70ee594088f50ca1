"""Every interrupted step of a switchover and the failback: the process dies there and is started again.

A first world counts the calls of the ports that the process makes until it is over; then it dies before and after
each of them, in a world of its own. The judge is the one of the random worlds. The short form dies once at each kind
of call, the long form at all the others.
"""

from __future__ import annotations

from functools import partial

import pytest

from services.adapters.signer import Ed25519Signer
from tests.simulation.failover_judge import TO_EAST, TO_WEST
from tests.simulation.interruptions import (
    Choice,
    InterruptedWorld,
    Interruption,
    chain,
    die_everywhere,
    first_of_each_kind,
    goes_on_in,
    the_others,
    unrecorded,
)

BEGINS_S = 19.0


def _round_trip(signer: Ed25519Signer, plan: Interruption) -> InterruptedWorld:
    """A switchover to west and the failback; the process may die from the first wish until the last grant."""
    world = InterruptedWorld(0, signer, interruption=plan)
    world.at(BEGINS_S, partial(setattr, plan, "armed", True))
    world.at(BEGINS_S, partial(world.until_moved, [TO_WEST, TO_EAST]))
    return world


def _went_and_came_back(world: InterruptedWorld) -> list[str]:
    found = goes_on_in(world, "east")
    if chain(world) != [("east", "creates_run"), ("west", "switchover"), ("east", "switchover")]:
        found.append(f"the chain is {chain(world)}")
    return found + unrecorded(world)


@pytest.mark.parametrize("choose", [first_of_each_kind, pytest.param(the_others, marks=pytest.mark.full)])
@pytest.mark.parametrize("region", ["east", "west"])
def test_I1_I2_I3_I12_a_planned_move_and_the_way_back_survive_a_death_at_any_call(
    region: str, choose: Choice, signer: Ed25519Signer
) -> None:
    """East gives and takes back, west takes and gives back: drain, release, take and first grant, on either side."""
    moments = die_everywhere(region, partial(_round_trip, signer), _went_and_came_back, choose)
    for what in ("(switchover)", "(handover_drained)", "(launch)"):
        assert any(what in one for one in moments), f"{what} is a moment to die at"
    assert len(moments) > 100, "every call is two moments"
