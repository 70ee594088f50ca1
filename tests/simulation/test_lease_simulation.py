"""The lease core under drift, pauses, cuts, lost replies and late writes: seeds decide, the checker judges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from tests.simulation.lease_checker import faults_of_history, overlaps
from tests.simulation.lease_world import PROFILE, Protocol, World, believes_unanswered_writes

SMOKE_SEEDS = range(40)
FULL_SEEDS = range(40, 2_040)


def _worlds(seeds: Iterable[int], **settings: object) -> Iterable[World]:
    for seed in seeds:
        world = World(seed, **settings)  # type: ignore[arg-type] # the tests pass World's own fields
        world.run()
        yield world


def _judge(world: World) -> None:
    trace = "\n".join(world.trace[-40:])
    assert overlaps(world.claims) == [], f"I1 broken; replay with World({world.seed}).run()\n{trace}"
    assert faults_of_history(world.witness.history) == [], f"seed {world.seed}\n{trace}"


def test_I1_I2_I3_I9_hold_in_every_smoke_seed() -> None:
    """One holder, one chain, epochs that rise and forks that stay, whatever the seed does."""
    epochs = 0
    for world in _worlds(SMOKE_SEEDS):
        _judge(world)
        epochs += world.witness.history[-1].epoch
    assert epochs > 2 * len(SMOKE_SEEDS), "the faults must lead to takeovers, or nothing was tested"


@pytest.mark.full
@pytest.mark.parametrize("block", range(8))
def test_I1_I2_I3_I9_hold_in_every_seed(block: int) -> None:
    """2,000 seeds, in blocks so that both cores work."""
    for world in _worlds(FULL_SEEDS[block::8]):
        _judge(world)


def test_the_same_seed_gives_the_same_history() -> None:
    """A seed alone replays a failure."""
    digests = set()
    for _ in range(2):
        world = World(7)
        world.run()
        digests.add(hashlib.sha256("\n".join(world.trace).encode()).hexdigest())
    assert len(digests) == 1


def test_without_faults_the_first_region_keeps_the_lease() -> None:
    """Renewals alone: nobody is promoted while the holder renews (6.7)."""
    for world in _worlds(range(10), faults=False):
        _judge(world)
        assert {lease.holder for lease in world.witness.history} == {"east"}
        assert len(world.witness.history) > world.length_s / PROFILE.renew_s / 2


MUTANTS: dict[str, dict[str, object]] = {
    "clocks that differ by 10 %": {"drift": 0.1},
    "a challenger at 0.9 L": {
        "protocol": Protocol(may_try_at_s=lambda belief: belief.seen_at_s + 0.9 * PROFILE.lease_s)
    },
    "validity counted from the answer, without its margin": {
        "protocol": Protocol(
            valid_until_s=lambda belief: (
                belief.seen_at_s + PROFILE.lease_s * (1 + PROFILE.rho) + 2 * PROFILE.margin_s
                if belief.valid_until_s(PROFILE) > 0
                else belief.valid_until_s(PROFILE)
            )
        )
    },
    "an unanswered write taken for a won one": {"protocol": Protocol(unanswered=believes_unanswered_writes)},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checker_sees_what_it_is_there_to_see(mutant: str) -> None:
    """Each planted fault is found within 300 seeds: a checker that finds nothing would prove nothing."""
    found = any(
        overlaps(world.claims) or faults_of_history(world.witness.history)
        for world in _worlds(range(300), **MUTANTS[mutant])
    )
    assert found, f"{mutant}: not seen"
