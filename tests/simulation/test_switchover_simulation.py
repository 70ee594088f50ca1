"""Planned moves with the shipped controllers: nothing is lost, nobody overlaps, and a sick target calls it off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial

import pytest

from pipelines.core.lease import ACTIVE
from pipelines.flows.authority.planned_moves import ACKNOWLEDGE, CANCEL, PAUSE, RESUME, SWITCHOVER, MoveRequest
from pipelines.flows.authority.takeover_requests import TakeoverRequest
from services.adapters.signer import Ed25519Signer
from tests.simulation.failover_judge import TO_WEST, ask, hold, moving
from tests.simulation.failover_world import World


def _take_over(world: World, actor: str, note: str) -> None:
    control = world.regions["west"].control
    assert control is not None
    control.ask_takeover(TakeoverRequest(actor=actor, note=note))


def _planned_moves(world: World) -> list[tuple[str, str]]:
    chain = world.witness.history[-1].lineage
    return [(entry.region, entry.reason) for entry in chain]


def test_a_switchover_loses_no_step_and_is_much_faster_than_a_lease(signer: Ed25519Signer) -> None:
    """East saves, holds and gives away; west goes on from that very step."""
    for seed in range(6):
        world = World(seed, signer, faults=False, trains=True, length_s=200.0)
        world.at(60.0, partial(ask, world, "east", TO_WEST))
        world.run()
        hold(world)
        assert _planned_moves(world) == [("east", "creates_run"), ("west", "switchover")], f"seed {seed}"
        entry = world.witness.history[-1].lineage[-1]
        last = max(step for _, _, step in world.regions["east"].job.commits)
        assert (entry.fork_step, entry.actor, entry.note) == (last, "ann", "maintenance")
        assert min(step for _, _, step in world.regions["west"].job.commits) == last + 10
        released = next(one for one in world.witness.history if one.mode == "released")
        seen = world.regions["west"].store.list("runs/gpt/epochs/")
        assert len(seen) == 2, "I2: every epoch is written down in the region"
        assert entry.time_ms - released.time_ms < 10_000, "the target does not wait for the lease to run out"


def test_I1_I3_I8_hold_when_people_ask_for_moves_at_bad_moments(signer: Ed25519Signer) -> None:
    """Pauses, cuts, lost replies, deafness and late writes beside switchovers both ways, cancelled or not."""
    assert _at_bad_moments(range(8), signer) > 2, "planned moves must come about, or nothing was tested"


def test_I1_seed_10555_a_release_whose_sender_stands_still_before_its_answer_overlaps_with_nobody(
    signer: Ed25519Signer,
) -> None:
    """Found by a long run: east stood still for 4 s in the write that gives the run away, while west took it.

    The controller acted rightly (it holds nothing from before the send); the world had counted its claim until the
    answer came.
    """
    world = moving(10_555, signer).run()
    hold(world)
    assert ("west", "switchover") in _planned_moves(world)


@pytest.mark.full
@pytest.mark.parametrize("block", range(4))
def test_I1_I3_I8_hold_when_people_ask_at_worse_moments(block: int, signer: Ed25519Signer) -> None:
    """More seeds of the same."""
    assert _at_bad_moments(range(8 + block, 108, 4), signer) > 2


def _at_bad_moments(seeds: Iterable[int], signer: Ed25519Signer) -> int:
    """Judge each world; how many planned moves there were."""
    moves = 0
    for seed in seeds:
        world = moving(seed, signer).run()
        hold(world)
        moves += sum(reason == "switchover" for _, reason in _planned_moves(world))
    return moves


def test_a_switchover_whose_target_falls_silent_is_called_off_and_training_goes_on(signer: Ed25519Signer) -> None:
    """Before the release nothing is lost by staying."""
    world = World(3, signer, faults=False, trains=True, length_s=200.0)
    world.at(62.0, lambda: ask(world, "east", TO_WEST))
    world.at(62.0, world.regions["west"].die)
    world.run()
    hold(world)
    assert _planned_moves(world) == [("east", "creates_run")]
    assert world.witness.history[-1].mode == ACTIVE
    assert any(one.reason == "handover_target_sick" for one in world.witness.history)
    assert max(at_s for at_s, _, _ in world.regions["east"].job.commits) > 180


def test_a_wish_that_waited_until_the_run_was_lost_is_refused_and_does_not_come_back(signer: Ed25519Signer) -> None:
    """East is asked while it cannot reach the witness; when it can, west holds the run."""
    world = World(6, signer, faults=False, trains=True, length_s=200.0)
    east, west = world.regions["east"], world.regions["west"]
    world.at(30.0, partial(setattr, east, "cut_until_s", 100.0))
    world.at(30.0, partial(setattr, west, "deaf_until_s", 100.0))
    world.at(52.0, partial(ask, world, "east", MoveRequest(PAUSE, "ann")))
    world.run()
    hold(world)
    assert _planned_moves(world)[-1] == ("west", "region_lost")
    assert east.control is not None
    assert east.control.status().operator_pending is False
    assert any("operator.refused" in line and "west holds the run" in line for line in world.trace)
    assert "pause" not in {lease.reason for lease in world.witness.history}


def test_nothing_new_begins_where_a_run_is_leaving(signer: Ed25519Signer) -> None:
    """A trainer that is started while the run is on its way waits for what comes of it."""
    world = World(10, signer, faults=False, trains=True, length_s=90.0)
    answers: list[str] = []

    def look() -> None:
        held = world.witness.read("gpt")
        if held is not None and held.lease.mode == "handover":
            answers.append(world.regions["east"].grant("a-new-one").state)
        world.at(0.2, look)

    world.at(60.0, partial(ask, world, "east", TO_WEST))
    world.at(60.0, look)
    world.run()
    hold(world)
    assert len(answers) > 5
    assert set(answers) == {"wait"}


def test_a_released_run_that_nobody_takes_is_taken_back(signer: Ed25519Signer) -> None:
    """The target dies right after the release: its old holder goes on, under the same epoch."""
    world = World(4, signer, faults=False, trains=True, length_s=260.0)
    world.at(60.0, lambda: ask(world, "east", TO_WEST))
    west = world.regions["west"]

    def die_when_released() -> None:
        held = world.witness.read("gpt")
        if held is not None and held.lease.mode == "released":
            west.die()
        else:
            world.at(0.01, die_when_released)

    world.at(60.0, die_when_released)
    world.run()
    hold(world)
    assert west.dead
    assert _planned_moves(world) == [("east", "creates_run")]
    assert world.witness.history[-1].mode == ACTIVE
    assert max(at_s for at_s, _, _ in world.regions["east"].job.commits) > 200


def test_a_restarted_controller_waits_out_its_predecessor_before_it_gives_the_run_away(
    signer: Ed25519Signer,
) -> None:
    """The process before it may stand still and still trust a lease: I1 of a planned move."""
    world = World(5, signer, faults=False, trains=True, length_s=200.0)
    east = world.regions["east"]
    world.at(58.0, east.begin)  # a second process; the first one goes on until it reads that it was replaced
    world.at(61.0, lambda: ask(world, "east", TO_WEST))
    world.run()
    hold(world)
    taken = next(one for one in world.witness.history if one.reason == "new_incarnation")
    released = next(one for one in world.witness.history if one.mode == "released")
    assert released.time_ms - taken.time_ms > 20_000
    assert _planned_moves(world)[-1] == ("west", "switchover")


def test_I10_a_pause_holds_back_automatic_moves_and_a_person_still_can(signer: Ed25519Signer) -> None:
    """Paused, east dies, west waits; a failover by hand goes through the same gates and write."""
    world = World(7, signer, faults=False, trains=True, length_s=300.0, east_dies_at_s=80.0)
    world.at(60.0, lambda: ask(world, "east", MoveRequest(PAUSE, "ann", "link works")))
    world.at(200.0, partial(_take_over, world, "ann", "east burnt down"))
    world.run()
    hold(world)
    assert _planned_moves(world)[-1] == ("west", "operator")
    assert world.witness.history[-1].lineage[-1].time_ms >= 200_000
    assert world.witness.history[-1].lineage[-1].note == "east burnt down"
    assert world.witness.history[-1].mode == ACTIVE, "a new epoch is not paused"
    noted = [(one.reason, one.actor, one.note) for one in world.witness.noted("gpt")]
    assert ("pause", "ann", "link works") in noted, "I12: it is in the history"


def test_a_second_automatic_move_waits_for_a_person_or_its_time(signer: Ed25519Signer) -> None:
    """Anti-flap: after a takeover west is cut off in its turn; east takes it back only once acknowledged."""
    for acknowledged in (False, True):
        world = World(8, signer, faults=False, trains=True, length_s=260.0, settle_s=3600.0)
        east, west = world.regions["east"], world.regions["west"]
        for region, at_s in ((east, 30.0), (west, 130.0)):
            world.at(at_s, partial(setattr, region, "cut_until_s", at_s + 60))
        world.at(30.0, partial(setattr, west, "deaf_until_s", 90.0))
        world.at(130.0, partial(setattr, east, "deaf_until_s", 190.0))
        if acknowledged:
            world.at(110.0, partial(ask, world, "west", MoveRequest(ACKNOWLEDGE, "ann", "seen")))
        world.run()
        hold(world)
        regions = [region for region, _ in _planned_moves(world)]
        assert regions == (["east", "west", "east"] if acknowledged else ["east", "west"])


def test_a_standby_says_before_anything_happens_that_it_could_not_keep_the_promise(signer: Ed25519Signer) -> None:
    """Both objectives, in words; the primary itself promises nothing."""
    world = World(11, signer, faults=False, trains=True, length_s=45.0, objectives={"rpo_steps": 2, "rto_s": 0.5}).run()
    east, west = (world.regions[name].control for name in ("east", "west"))
    assert east is not None
    assert west is not None
    promise = west.status().promise
    assert promise.kept is False
    assert "2 are promised" in promise.broken[0]
    assert "recovery would take 1.0 s, 0.5 s are promised" in promise.broken
    assert east.status().promise.kept is True


def test_a_run_is_not_given_to_a_region_in_which_nobody_waits(signer: Ed25519Signer) -> None:
    """Nothing would train there: the operator is told before anything begins."""
    world = World(12, signer, faults=False, trains=True, length_s=60.0).run()
    ready = world.regions["west"].job.readiness
    east = world.regions["east"].control
    assert ready is not None
    assert east is not None
    east._peer_states["west"].readiness = dataclasses.replace(ready, waiting_ranks=0)
    assert ask(world, "east", TO_WEST) == "no ranks wait in west: start the trainer there first"


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (MoveRequest(RESUME, "ann"), "nothing is paused"),
        (MoveRequest(CANCEL, "ann"), "no planned move"),
        (MoveRequest(SWITCHOVER, "ann", target="mars"), "no other region; there are west"),
        (MoveRequest(SWITCHOVER, "ann", target="west"), "is its warmer running"),
    ],
)
def test_a_request_that_cannot_be_is_refused_with_what_to_do(
    signer: Ed25519Signer, move: MoveRequest, why: str
) -> None:
    """At once, and nothing is written."""
    world = World(9, signer, faults=False, length_s=30.0).run()
    assert why in ask(world, "east", move)
    assert "east holds the run" in ask(world, "west", move)
