"""Scheduled moves and adopted branches, with the shipped controllers."""

from __future__ import annotations

from functools import partial

from pipelines.flows.authority.planned_moves import ADOPT, CANCEL, PAUSE, SCHEDULE, MoveRequest
from pipelines.paths import CheckpointId
from schemas.codec import Codec
from services.adapters.signer import Ed25519Signer
from tests.manifests import manifest_of
from tests.simulation.failover_judge import TO_WEST, ask, hold
from tests.simulation.failover_world import World


def _planned_moves(world: World) -> list[tuple[str, str, int]]:
    return [(entry.region, entry.reason, entry.parent_epoch) for entry in world.witness.history[-1].lineage]


def test_a_scheduled_move_begins_at_its_time_and_loses_no_step(signer: Ed25519Signer) -> None:
    """It is in the record, so a restarted controller keeps it; its author and words go with it."""
    world = World(0, signer, faults=False, trains=True, length_s=260.0)
    world.at(40.0, partial(ask, world, "east", MoveRequest(SCHEDULE, "ann", "quiet hours", "west", at_ms=100_000)))
    world.at(70.0, world.regions["east"].begin)  # another controller process of the same region
    world.run()
    hold(world)
    assert _planned_moves(world) == [("east", "creates_run", 0), ("west", "switchover", 1)]
    entry = world.witness.history[-1].lineage[-1]
    assert 100_000 <= entry.time_ms < 160_000
    assert (entry.actor, entry.note) == ("ann", "quiet hours")
    assert entry.fork_step == max(step for _, _, step in world.regions["east"].job.commits)
    assert world.witness.history[-1].scheduled_ms == 0


def test_a_scheduled_move_can_be_cancelled_and_one_that_cannot_begin_is_taken_off(signer: Ed25519Signer) -> None:
    """Cancelled: nothing happens. Paused meanwhile: the reason is in the history, and nothing is tried again."""
    cancelled = World(1, signer, faults=False, trains=True, length_s=200.0)
    cancelled.at(40.0, partial(ask, cancelled, "east", MoveRequest(SCHEDULE, "ann", "", "west", at_ms=100_000)))
    cancelled.at(60.0, partial(ask, cancelled, "east", MoveRequest(CANCEL, "bob")))
    cancelled.run()
    hold(cancelled)
    assert _planned_moves(cancelled) == [("east", "creates_run", 0)]
    gone = World(2, signer, faults=False, trains=True, length_s=200.0)
    gone.at(40.0, partial(ask, gone, "east", MoveRequest(SCHEDULE, "ann", "", "west", at_ms=100_000)))
    gone.at(60.0, partial(ask, gone, "east", MoveRequest(PAUSE, "bob")))
    gone.run()
    hold(gone)
    refused = [one for one in gone.witness.history if one.reason == "schedule_refused"]
    assert len(refused) == 1
    assert (refused[0].actor, refused[0].note) == ("bob", "the run is paused: resume it first")
    assert gone.witness.history[-1].mode == "paused"
    assert gone.witness.history[-1].scheduled_ms == 0
    assert _planned_moves(gone) == [("east", "creates_run", 0)]


def test_I5_I9_an_adopted_branch_is_the_line_and_what_came_after_the_old_fork_is_a_branch(
    signer: Ed25519Signer,
) -> None:
    """West holds epoch 2; a person adopts epoch 1's checkpoint past the fork: epoch 3, whose parent is epoch 1."""
    world = World(3, signer, faults=False, trains=True, length_s=200.0)
    west = world.regions["west"]
    world.at(50.0, partial(ask, world, "east", TO_WEST))
    adopted: list[int] = []

    def adopt() -> None:
        held = world.witness.read("gpt")
        assert held is not None
        fork_step = held.lease.lineage[-1].fork_step
        assert ask(world, "west", MoveRequest(ADOPT, "ann", "", f"1:{fork_step + 10}")) == ""
        own = CheckpointId("gpt", 1, 1, fork_step + 10)
        payload = Codec().encode(manifest_of(own, lineage_seq=fork_step // 10 + 2, shards=(), rank_states=()))
        world.at(3.0, partial(west.store.create, own.manifest, signer.sign(payload)))
        world.at(5.0, partial(ask, world, "west", MoveRequest(ADOPT, "ann", "east was further", f"1:{fork_step + 10}")))
        adopted.append(fork_step + 10)

    world.at(110.0, adopt)
    world.run()
    hold(world)
    assert _planned_moves(world) == [("east", "creates_run", 0), ("west", "switchover", 1), ("west", "adopted", 1)]
    entry = world.witness.history[-1].lineage[-1]
    assert (entry.fork_step, entry.note) == (adopted[0], "east was further")
    assert any("no whole checkpoint of branch" in line for line in world.trace), "the first wish came too early"
    later = [step for at_s, epoch, step in west.job.commits if epoch == 3]
    assert later[0] == adopted[0] + 10, "the next launch resumes from the branch"
