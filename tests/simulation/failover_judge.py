"""Judges a finished world, whatever happened in it: the checkers see claims and writes, never the faults."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

from pipelines.flows.authority.planned_moves import ACKNOWLEDGE, CANCEL, PAUSE, RESUME, SWITCHOVER, MoveRequest
from tests.simulation.failover_world import World
from tests.simulation.lease_checker import faults_of_history, overlaps
from tests.simulation.register_checker import faults_of_register

if TYPE_CHECKING:
    from services.adapters.signer import Ed25519Signer

MOVES_LENGTH_S = 500.0
TO_WEST = MoveRequest(SWITCHOVER, "ann", "maintenance", "west")
TO_EAST = MoveRequest(SWITCHOVER, "bob", "back", "east")
WISHES = (
    TO_WEST,
    TO_EAST,
    MoveRequest(CANCEL, "ann"),
    TO_WEST,
    MoveRequest(PAUSE, "ann"),
    MoveRequest(RESUME, "bob"),
    MoveRequest(ACKNOWLEDGE, "ann"),
)


def faults(world: World) -> list[str]:
    """Every broken promise, in words; empty if all held."""
    found = [f"I1: {one}" for one in overlaps(world.claims)]
    found += [str(one) for one in faults_of_history(world.witness.history)]
    found += [
        f"I4: {one}" for one in faults_of_register(world.operations, [one.write_id for one in world.witness.history])
    ]
    epochs = {lease.epoch for lease in world.witness.history}
    if epochs != set(range(1, max(epochs, default=0) + 1)):
        found.append(f"I2: an epoch was skipped or repeated: {sorted(epochs)}")
    for name, region in world.regions.items():
        for at_s, epoch, step in region.job.commits:
            others = {one.region for one in world.claims if one.begin_s <= at_s <= one.end_s} - {name}
            if others:
                found.append(f"I8: {name} committed {epoch}/{step} at {at_s:.3f} while {others} held the lease")
    return found + _lost_in_planned_moves(world)


def hold(world: World) -> None:
    """Every promise held; else the seed and the end of its trace are shown."""
    trace = "\n".join(world.trace[-60:])
    assert faults(world) == [], f"replay with seed {world.seed}\n{trace}"


def _lost_in_planned_moves(world: World) -> list[str]:
    """A switchover's fork is the newest step that its giver had committed."""
    found = []
    chain = world.witness.history[-1].lineage if world.witness.history else ()
    for before, entry in itertools.pairwise(chain):
        commits = [step for _, epoch, step in world.regions[before.region].job.commits if epoch == before.epoch]
        if entry.reason == SWITCHOVER and max(commits, default=entry.fork_step) > entry.fork_step:
            found.append(
                f"epoch {entry.epoch} forked at {entry.fork_step}, {before.region} had committed {max(commits)}"
            )
    return found


def ask(world: World, region: str, request: MoveRequest) -> str:
    """Let a person ask one region's controller; its answer."""
    control = world.regions[region].control
    answer = "no controller runs" if control is None else control.ask(request)
    world.say(f"operator asks {region} for {request.kind}: {answer or 'heeded'}")
    return answer


def moving(seed: int, signer: Ed25519Signer) -> World:
    """A world in which people ask for moves, pauses and their end at moments that the seed decides."""
    world = World(seed, signer, trains=True, length_s=MOVES_LENGTH_S)
    for number in range(8):
        request = WISHES[(number + seed) % len(WISHES)]
        region = "west" if request.target == "east" else "east"
        if not request.target:
            region = ("east", "west")[(number + seed // 7) % 2]
        world.at(40.0 + 53 * number + seed % 37, partial(ask, world, region, request))
    return world
