"""A new launch takes the run from the trainer before it: only if it is meant, and not while that works elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.core.heartbeats import RegionHeartbeats
from pipelines.flows.authority.launches import GRANTED_MAX, WAITING_MAX, Launch, Launches, fix_launch
from schemas.records import Checkpoint
from services.adapters.memory.object_store import MemoryObjectStore
from tests.manual_world import ManualRegion, ManualWorld, signer_in, world_with_step_10

PATIENCE_S = 5.0


@pytest.fixture
def world(tmp_path: Path) -> ManualWorld:
    """Attempt 1 trains in east, on node n0."""
    found = world_with_step_10(signer_in(tmp_path))
    found.turns_agent = lambda: None  # from here on the test asks
    return found


def _works(region: ManualRegion, node: str, attempt: int) -> None:
    """A node's trainer of an attempt is heard to work."""
    pulse = region.peer_states["east"].pulse
    beat = dataclasses.replace(pulse.nodes["n0"], epoch=1, attempt=attempt)
    region.peer_states["east"].pulse = RegionHeartbeats(
        {**pulse.nodes, node: beat}, pulse.nodes_at_s, pulse.controller_at_s
    )


def _asked(
    world: ManualWorld, launch: str, node: str, *, begins: bool = True, works_on: str = "", attempt: int = 1
) -> str:
    """The standing of a launch after its agent has asked for a while."""
    state, until_s = "", world.clock.now_s + PATIENCE_S
    while world.clock.now_s < until_s and state != "granted":
        world.turn()
        state = world.east.control.grant(launch, -1, node=node, begins=begins).state
        if works_on:
            _works(world.east, works_on, attempt)
            world.east.control.turn()
    return state


def test_whoever_asks_about_an_unknown_launch_begins_none(world: ManualWorld) -> None:
    """A name that nobody waits under superseded the trainer."""
    assert _asked(world, "launch-x", "n0", begins=False) == "wait"
    assert (world.lease.attempt, world.lease.launch) == (1, "launch-1")
    assert world.east.control.grant("launch-1", -1, node="n0", begins=False).state == "granted"


def test_a_launch_waits_while_the_trainer_works_on_another_node(world: ManualWorld) -> None:
    """A credential of node n9 does not take the run from n1; once n1 is silent, it may begin."""
    assert _asked(world, "launch-x", "n9", works_on="n1") == "wait"
    reply = world.east.control.grant("launch-x", -1, node="n9", begins=True)
    assert reply.reason == "the run's trainer works on n1: end it there first"
    assert world.lease.attempt == 1
    assert _asked(world, "launch-x", "n9") == "granted"
    assert world.lease.attempt == 2


def test_a_launch_on_the_trainers_own_node_begins_at_once(world: ManualWorld) -> None:
    """Its agent could stop it anyway: a restart must not wait."""
    assert _asked(world, "launch-x", "n1", works_on="n1") == "granted"
    assert (world.lease.attempt, world.lease.launch) == (2, "launch-x")


def test_an_agents_word_on_a_committed_step_counts_once_log_or_store_name_it(world: ManualWorld) -> None:
    """Else one number would keep every later failover from happening."""
    control = world.east.control
    before = world.lease.committed_step
    control.grant("launch-1", 10**12, node="n0", begins=False)
    renewed = world.lease.renew_seq
    world.until(lambda: world.lease.renew_seq > renewed + 2, "it renews")
    assert world.lease.committed_step == max(before, 10)
    own = world.east.peer_states["east"]
    (event,) = world.east.checkpoints()
    assert isinstance(event, Checkpoint)
    own.heard_outcome(dataclasses.replace(event, step=40))
    world.until(lambda: world.lease.committed_step == 40, "the log names step 40")


def test_launches_are_remembered_within_bounds(world: ManualWorld) -> None:
    """Names cost the asker nothing; the newest grant is never forgotten for them."""
    store = MemoryObjectStore()
    fakes = {"clock": world.clock, "journal": world.east}
    launches = Launches(run="gpt", store=store, start=lambda _lease: None, **fakes)  # type: ignore[arg-type] # fakes
    for number in range(10 * WAITING_MAX):
        launches.ask(f"l{number}", 1.0, holds=False, node="n0")
    launches.settle(lambda _name: None)
    assert len(launches.waiting) == WAITING_MAX
    for number in range(GRANTED_MAX + 50):
        name = f"g{number}"
        fix_launch(store, "gpt", Launch(name, 1, 1_000 if number == 0 else number))
        launches.ask(name, 2.0, holds=True, node="n0")
        launches.settle(lambda _name: None)
    kept = [number for number in range(GRANTED_MAX + 50) if launches.granted(f"g{number}") is not None]
    assert len(kept) <= GRANTED_MAX + 1
    assert kept[0] == 0


def test_an_old_trainer_that_was_superseded_holds_nobody_up(world: ManualWorld) -> None:
    """It may go on beating for as long as it likes."""
    assert _asked(world, "launch-x", "n9", works_on="n1", attempt=7) == "granted"
