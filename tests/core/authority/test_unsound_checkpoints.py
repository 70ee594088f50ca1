"""A takeover and checkpoints whose bytes went bad in the winning region's store (I20)."""

from __future__ import annotations

from functools import partial

from services.adapters.signer import Ed25519Signer
from tests.manual_world import ManualRegion, ManualWorld, world_with_step_10


def with_step_20(signer: Ed25519Signer) -> ManualWorld:
    """Steps 10 and 20 are committed in east and verified in west."""
    world = world_with_step_10(signer)
    world.save(20)
    world.until(lambda: 20 in world.outcomes(), "step 20")
    world.replicate()
    world.until(lambda: world.west.control.status().recoverable_step == 20, "west sees step 20")
    return world


def flip(region: ManualRegion, world: ManualWorld, step: int) -> None:
    """One bit of a chunk of that step goes bad."""
    del world
    key = next(key for key in region.store.objects if f"s{step:010d}/" in key and "chunk" in key)
    body = region.store.objects[key]
    region.store.objects[key] = bytes([body[0] ^ 1]) + body[1:]


def taken_over(world: ManualWorld) -> bool:
    """West holds the run."""
    return world.lease.holder == "west"


def lost(world: ManualWorld) -> None:
    """East falls silent, for good."""
    world.link = False
    world.east.witness.away = True


def test_I20_one_flipped_byte_in_the_newest_checkpoint_and_the_next_older_one_is_promoted(
    signer: Ed25519Signer,
) -> None:
    """It was flipped after the last reading; the silence has it read once more, and nothing is lost in time."""
    whole, damaged = with_step_20(signer), with_step_20(signer)
    flip(damaged.west, damaged, 20)
    took = []
    for world in (whole, damaged):
        lost(world)
        took.append(world.until(partial(taken_over, world), "west takes over"))
    assert whole.lease.lineage[-1].fork_step == 20
    assert damaged.lease.lineage[-1].fork_step == 10
    assert took[1] <= took[0] + 1.0
    status = damaged.west.control.status()
    assert [damage.why for damage in status.damages]
    assert status.recoverable_step == 10


def test_I20_with_every_checkpoint_damaged_nobody_is_promoted_and_status_says_which_objects(
    signer: Ed25519Signer,
) -> None:
    """The gate stays closed; once one is put back, the region takes over from it."""
    world = with_step_20(signer)
    for step in (10, 20):
        flip(world.west, world, step)
    lost(world)
    for _ in range(600):
        world.turn()
    assert world.lease.holder == "east"
    status = world.west.control.status()
    assert len(status.damages) == 2
    assert [gate.name for gate in status.gates if not gate.open and not gate.advisory] == ["recoverable_step"]
    flip(world.west, world, 10)
    world.until(lambda: world.lease.holder == "west", "west takes over")
    assert world.lease.lineage[-1].fork_step == 10


def test_a_launch_starts_from_no_damaged_checkpoint_and_says_what_a_person_can_do(signer: Ed25519Signer) -> None:
    """Damage after the promotion: the fork is fixed (I9), so the launch waits for the repair, loudly."""
    world = with_step_20(signer)
    lost(world)
    world.until(lambda: world.lease.holder == "west", "west takes over")
    flip(world.west, world, 20)
    (verifier,) = world.west.verifiers
    world.clock.now_s += 3601.0
    world.until(lambda: verifier.damaged, "the round finds it")
    world.until(lambda: world.lease.holder == "west" and world.west.control.status().is_holder, "west renews")

    def asks() -> bool:
        world.west.control.grant("launch-w", -1)
        return "launches" in world.west.control.status().troubles

    world.until(asks, "the launch's trouble is said")
    assert world.west.control.grant("launch-w", -1).state == "wait"
    trouble = world.west.control.status().troubles["launches"]
    assert "step 20 of epoch 1 is damaged in this region's store" in trouble
    assert "backup" in trouble
    assert world.lease.attempt == 0, "a launch that cannot start is no attempt"
    flip(world.west, world, 20)
    world.until(lambda: world.west.control.grant("launch-w", -1).state == "granted", "the launch is granted")
