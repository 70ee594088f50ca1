"""The witness is away from the primary only: the shipped controllers and agent, over a witness that can be cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.failover_decision import Action
from pipelines.core.lease_profiles import FAST
from tests.manual_world import TURN_S, ManualWorld, signer_in, world_with_step_10


@pytest.fixture
def world(tmp_path: Path) -> ManualWorld:
    """Step 10 is committed in east and verified in west."""
    return world_with_step_10(signer_in(tmp_path))


@pytest.mark.parametrize("lengths", [0.5, 1, 2, 4])
def test_I8_what_was_saved_without_the_witness_is_ratified_when_the_lease_comes_back_unchanged(
    world: ManualWorld, lengths: float
) -> None:
    """Nothing moves while the other region hears the primary, however long it lasts; no commit without validity."""
    world.east.witness.away = True
    cut_s = world.clock.now_s
    if lengths >= 1:
        world.until(lambda: world.trainer_state == "provisional", "the validity ends")
        assert world.clock.now_s - cut_s <= FAST.holder_validity_s + 2 * TURN_S
    own = world.save(20)
    world.until(lambda: world.clock.now_s >= cut_s + lengths * FAST.lease_s, "the outage lasts")
    assert world.east.store.size(own.receipt(0)) is not None, "uploads go on"
    assert (20 in world.outcomes()) == (lengths < 1)
    assert (world.east.store.get(own.manifest) is None) == (lengths >= 1)
    assert world.west.control.status().is_holder is False
    world.east.witness.away = False
    late_s = world.until(lambda: world.outcomes().get(20) == "committed", "ratified")
    assert late_s <= FAST.poll_s + FAST.renew_s
    assert (world.lease.epoch, world.lease.attempt, world.lease.holder) == (1, 1, "east")
    world.until(lambda: world.trainer_state == "granted", "the trainer is told")


def test_I5_what_was_saved_without_the_witness_is_a_branch_when_the_other_region_has_taken_over(
    world: ManualWorld,
) -> None:
    """The primary is cut from the witness and from the other region: it trains on, and reports nothing committed."""
    world.east.witness.away, world.link = True, False
    world.until(lambda: world.trainer_state == "provisional", "the validity ends")
    own = world.save(20)
    taken_s = world.until(lambda: world.west.control.status().is_holder, "west takes over")
    assert taken_s > 0, "after the validity's end, never before"
    assert (world.lease.epoch, world.lease.holder, world.lease.lineage[-1].fork_step) == (2, "west", 10)
    assert world.east.store.size(own.receipt(0)) is not None, "uploads go on"
    assert world.outcomes() == {10: "committed"}
    assert world.trainer_state == "provisional", "it cannot know yet"
    world.east.witness.away, world.link = False, True
    world.until(lambda: world.trainer_state == "superseded", "the trainer is told")
    world.until(lambda: 20 in world.outcomes(), "the outcome of step 20")
    assert world.outcomes() == {10: "committed", 20: "branch"}


def test_a_standby_that_reaches_the_witness_and_hears_the_primary_raises_an_alarm_and_takes_nothing(
    world: ManualWorld,
) -> None:
    """The lease has run out, the nodes beat: a person may ask for a failover, no detector does."""
    world.east.witness.away = True
    asked_s = world.clock.now_s
    world.until(lambda: world.clock.now_s > asked_s + 3 * FAST.lease_s, "three leases")
    status = world.west.control.status()
    assert (status.action, status.reason) == (Action.ALARM.value, "holder_not_renewing")
    assert world.lease.epoch == 1
