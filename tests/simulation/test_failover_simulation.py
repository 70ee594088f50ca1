"""The shipped controllers under drift, pauses, cuts, deafness, lost replies and late writes, by seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from services.adapters.signer import Ed25519Signer
from tests.simulation.failover_judge import hold
from tests.simulation.failover_world import World, signer_in
from tests.simulation.lease_checker import overlaps

SMOKE_SEEDS = range(15)
FULL_SEEDS = range(15, 1_015)


def test_I1_I2_I3_hold_for_the_shipped_controllers_in_every_smoke_seed(signer: Ed25519Signer) -> None:
    """Whatever the seed does, at most one region is valid at an instant."""
    takeovers = 0
    for seed in SMOKE_SEEDS:
        world = World(seed, signer).run()
        hold(world)
        takeovers += world.witness.history[-1].epoch - 1
    assert takeovers > 0, "the faults must lead to takeovers, or nothing was tested"


@pytest.mark.full
@pytest.mark.parametrize("block", range(8))
def test_I1_I2_I3_hold_for_the_shipped_controllers_in_every_seed(block: int, signer: Ed25519Signer) -> None:
    """1,000 seeds; `make simulate` runs as many as wanted."""
    for seed in FULL_SEEDS[block::8]:
        hold(World(seed, signer).run())


def test_the_same_seed_gives_the_same_failover_history(signer: Ed25519Signer) -> None:
    """A seed alone replays a failure."""
    traces = ["\n".join(World(3, signer).run().trace) for _ in range(2)]
    assert len({hashlib.sha256(text.encode()).hexdigest() for text in traces}) == 1


def test_without_faults_nobody_is_promoted_while_the_holder_renews(signer: Ed25519Signer) -> None:
    """6.7, for the shipped flow."""
    world = World(1, signer, faults=False).run()
    assert {lease.holder for lease in world.witness.history} == {"east"}


def test_a_lost_region_is_taken_over_within_the_bound_that_is_printed(signer: Ed25519Signer) -> None:
    """From its death: what is left of the lease in a challenger's eyes, plus a poll and a few turns."""
    for seed in range(8):
        world = World(seed, signer, faults=False, east_dies_at_s=100.0).run()
        hold(world)
        last = world.witness.history[-1]
        assert (last.holder, last.epoch) == ("west", 2)
        won = next(lease for lease in world.witness.history if lease.epoch == 2)
        assert won.lineage[-1].reason == "region_lost"
        assert won.time_ms / 1000 < 100 + 20 * 1.01 / 0.99 + 1 + 2 + 2, f"seed {seed}"
        assert ("gpt", 2) in world.witness.claims, "I12: the epoch's audit copy is there"


def test_I12_a_takeover_is_told_with_who_why_and_every_gate(signer: Ed25519Signer) -> None:
    """The event that west publishes, the lease record and the audit copy agree."""
    world = World(2, signer, faults=False, east_dies_at_s=100.0).run()
    control = world.regions["west"].control
    assert control is not None
    (change,) = control._self_evidence.outbox
    assert (change.holder_before, change.holder, change.epoch) == ("east", "west", 2)
    assert (change.reason, change.actor) == ("region_lost", "controller")
    assert {text.partition(" ")[0] for text in change.gates} >= {"lease_left_s", "heartbeat_silence_s", "epoch"}
    entry = world.witness.history[-1].lineage[-1]
    assert (entry.reason, entry.actor, entry.epoch) == (change.reason, change.actor, change.epoch)


def test_a_lost_region_is_taken_over_although_replies_are_lost(signer: Ed25519Signer) -> None:
    """Decision 2: a pending write is repeated, or one lost request would leave the run without a primary."""
    for seed in range(8):
        world = World(seed, signer, east_dies_at_s=100.0, length_s=900.0).run()
        hold(world)
        assert world.witness.history[-1].holder == "west", f"seed {seed}"


def test_I8_I9_a_launch_is_granted_under_the_epoch_that_was_won_and_not_before(signer: Ed25519Signer) -> None:
    """A standby's launch waits; after the takeover it gets epoch 2, attempt 1; east's own is superseded."""
    world = World(5, signer, faults=False, length_s=60.0)
    east, west = world.regions["east"], world.regions["west"]
    answers: list[tuple[str, str, int, int]] = []

    def ask() -> None:
        for region, launch in ((east, "launch-east"), (west, "launch-west")):
            if not region.dead and region.control is not None:
                reply = region.grant(launch)
                answers.append((region.name, reply.state, reply.epoch, reply.attempt))
        world.at(0.5, ask)

    world.at(1.0, ask)
    world.at(30.0, east.die)
    world.length_s = 100.0
    world.run()
    granted = [one for one in answers if one[1] == "granted"]
    assert granted[0] == ("east", "granted", 1, 1)
    assert granted[-1] == ("west", "granted", 2, 1)
    before = answers[: answers.index(("west", "granted", 2, 1))]
    assert {state for region, state, _, _ in before if region == "west"} == {"wait"}


def test_a_stopped_region_that_comes_back_stands_down_and_calls_its_launch_superseded(signer: Ed25519Signer) -> None:
    """The zombie: it read nothing for a while, and acts on nothing until it has."""
    world = World(6, signer, faults=False, length_s=150.0)
    east = world.regions["east"]
    world.at(20.0, lambda: east.grant("launch-east"))
    world.at(30.0, lambda: setattr(east, "cut_until_s", 100.0))
    world.at(30.0, lambda: setattr(world.regions["west"], "deaf_until_s", 100.0))
    world.run()
    hold(world)
    assert world.witness.history[-1].holder == "west"
    reply = east.grant("launch-east")
    assert (reply.state, reply.epoch) == ("superseded", 2)
    assert any("failover.stood_down" in line for line in world.trace)


def test_the_checker_sees_clocks_that_differ_by_more_than_the_bound(signer: Ed25519Signer) -> None:
    """A planted fault: rates 30 % apart under a bound of 1 %; a checker that found nothing would prove nothing."""
    first = 36  # the first seed that shows it
    assert any(overlaps(World(seed, signer, drift=0.3).run().claims) for seed in range(first, first + 60))


def test_keys_are_made_once(tmp_path: Path) -> None:
    """The worlds' signer signs what it verifies."""
    made = signer_in(tmp_path)
    assert made.verify(made.sign(b"x")) == b"x"
