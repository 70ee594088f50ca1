"""Every interrupted step of a promotion, on either side: the process dies there and is started again.

A first world counts the calls of the ports that the process makes until it is over; then it dies before and after
each of them, in a world of its own. The judge is the one of the random worlds. For the side that is superseded, the
short form dies once at each kind of call, the long form at all the others.
"""

from __future__ import annotations

from functools import partial

import pytest

from pipelines.paths import CheckpointId
from schemas.codec import Codec, digest
from schemas.records import EpochEntry
from services.adapters.signer import Ed25519Signer
from tests.manifests import manifest_of
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
from tests.simulation.simulated_job import EVERY

BEGINS_S = 19.0
LOST_FOR_S = 60.0


def _lost(signer: Ed25519Signer, rewound: bool, plan: Interruption) -> InterruptedWorld:
    """East is lost. While west's controller is away, a newer checkpoint of east, which was on its way, is verified.

    It is the next one of the same attempt, or the first one of an attempt that had begun again from further back.
    """
    world = InterruptedWorld(1, signer, interruption=plan)
    east, west = world.regions["east"], world.regions["west"]

    def arrives() -> None:
        last = max(step for _, _, step in east.job.commits)
        step, attempt = (last - EVERY, 2) if rewound else (last + EVERY, 1)
        own = CheckpointId("gpt", 1, attempt, step)
        payload = Codec().encode(manifest_of(own, lineage_seq=last // EVERY + 2, shards=(), rank_states=()))
        world.say(f"west has verified step {step} of epoch 1")
        west.job.arrived(own, signer.sign(payload), digest(payload))

    def look() -> None:
        if world.trains_in("west"):
            world.finish()
        else:
            world.at(0.1, look)

    world.meanwhile = arrives
    world.at(BEGINS_S, east.die)
    world.at(BEGINS_S, partial(setattr, plan, "armed", True))
    world.at(BEGINS_S, look)
    return world


def _promoted_once(world: InterruptedWorld) -> list[str]:
    found = goes_on_in(world, "west")
    if chain(world) != [("east", "creates_run"), ("west", "region_lost")]:
        return [*found, f"the chain is {chain(world)}"]
    won, grant = (
        next(one for one in world.witness.history if one.epoch == 2).lineage[-1],
        world.regions["west"].job._grant,
    )
    if world.lease.lineage[-1] != won:
        found.append(f"I9: the fork that was won is {won}, it became {world.lease.lineage[-1]}")
    if grant is None or (grant.start_step, grant.start_manifest_digest) != (won.fork_step, won.fork_manifest_digest):
        found.append(f"I9: the launch starts from {grant}, the fork is {won.fork_step}")
    return found + _newest_when_won(world, won) + unrecorded(world)


def _newest_when_won(world: InterruptedWorld, won: EpochEntry) -> list[str]:
    """A checkpoint verified before the winning write is the fork, and one that came after it does not count."""
    arrived = {
        int(line.split(" step ")[1].split()[0]): float(line.split()[0])
        for line in world.trace
        if "has verified" in line
    }
    landed_s = next(float(line.split()[0]) for line in world.trace if "wrote epoch 2 " in line)
    last = max(step for _, _, step in world.regions["east"].job.commits)
    newest = next((step for step, at_s in arrived.items() if at_s < landed_s), last)
    return [] if won.fork_step == newest else [f"I9: step {newest} was newest when epoch 2 was won at {won.fork_step}"]


@pytest.mark.parametrize("rewound", [False, True])
def test_I7_I9_I12_a_promoter_that_dies_at_any_call_while_a_newer_checkpoint_arrives_keeps_the_fork_that_it_won(
    signer: Ed25519Signer, rewound: bool
) -> None:
    """The conditional write fixes it: whoever comes after launches from there, claims the epoch and notes it."""
    moments = die_everywhere("west", partial(_lost, signer, rewound), _promoted_once)
    for what in ("(region_lost)", "lease.claim", "lease.note", "store.create", "(launch)"):
        assert any(what in one for one in moments), f"{what} is a moment to die at"
    assert len(moments) > 40, "every call is two moments"


def _cut_off(signer: Ed25519Signer, plan: Interruption) -> InterruptedWorld:
    """East lives, and neither reaches the witness nor is heard for a while; its controller is restarted meanwhile."""
    world = InterruptedWorld(2, signer, interruption=plan)
    east, west = world.regions["east"], world.regions["west"]
    world.at(BEGINS_S, partial(setattr, plan, "armed", True))
    world.at(BEGINS_S, partial(setattr, east, "cut_until_s", BEGINS_S + LOST_FOR_S))
    world.at(BEGINS_S, partial(setattr, west, "deaf_until_s", BEGINS_S + LOST_FOR_S))
    world.at(BEGINS_S + LOST_FOR_S + 2 * EVERY, world.finish)
    return world


def _zombie_stood_down(world: InterruptedWorld) -> list[str]:
    found = goes_on_in(world, "west")
    if chain(world) != [("east", "creates_run"), ("west", "region_lost")]:
        found.append(f"the chain is {chain(world)}")
    late = [one for one in world.witness.history if one.epoch == 2 and one.holder == "east"]
    return found + [f"I1: east wrote {one.reason} in epoch 2" for one in late] + unrecorded(world)


@pytest.mark.parametrize("choose", [first_of_each_kind, pytest.param(the_others, marks=pytest.mark.full)])
def test_I1_I5_a_superseded_region_whose_controller_dies_at_any_call_comes_back_as_a_standby(
    choose: Choice, signer: Ed25519Signer
) -> None:
    """The other side of a promotion: the one that is cut off forgets, at every moment, all that was in its memory."""
    moments = die_everywhere("east", partial(_cut_off, signer), _zombie_stood_down, choose)
    assert len(moments) > 40, "every call is two moments"
