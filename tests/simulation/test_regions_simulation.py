"""All shipped flows of two to four regions, under every fault that a seed draws; and that the checkers can see."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from functools import partial

import pytest

from pipelines.core.newest_wins import lag_s_max
from tests.simulation.fault_plan import Fault, drawn
from tests.simulation.planted_faults import NAMES, Plant
from tests.simulation.regions_world import PROFILE, World
from tests.simulation.simulated_transfers import NARROW_BYTES_S
from tests.simulation.smallest_world import shrunk, smallest

SMOKE_SEEDS = range(6)
FULL_SEEDS = range(6, 126)


def _hold(seeds: Iterable[int]) -> int:
    """Every promise holds in every world; how many epochs were won over another."""
    moves = 0
    for seed in seeds:
        world = World(seed).run()
        trace = "\n".join(world.trace[-60:])
        assert world.judge.found == [], f"replay with seed {seed}\n{trace}"
        moves += sum(lease.epoch - 1 for lease in world.judge.authority.newest.values())
    return moves


def test_I5_I6_I13_I14_I15_hold_for_all_shipped_flows_in_every_smoke_seed() -> None:
    """Whatever the seed does to regions, links, servers and processes, and whatever people ask."""
    assert _hold(SMOKE_SEEDS) > 2, "the faults must lead to moves, or nothing was tested"


@pytest.mark.full
@pytest.mark.parametrize("block", range(8))
def test_I5_I6_I13_I14_I15_hold_for_all_shipped_flows_in_every_seed(block: int) -> None:
    """120 seeds; `make simulate WORLD=regions` runs as many as wanted."""
    assert _hold(FULL_SEEDS[block::8]) > 2


def test_I13_seed_3079_a_branch_is_not_visible_where_its_fork_is_not_known_yet() -> None:
    """Found by a long run: north, cut off from the witness, showed east's branch of epoch 1 without its bytes.

    East had heard of epoch 2 and said "branch"; north knew epoch 1 only, by which it was on the lineage, and did not
    copy what such an event names.
    """
    assert _hold([3079]) > 0


def test_I1_seed_5032_a_lost_region_that_a_person_calls_fenced_is_not_waited_for() -> None:
    """Found by a long run, a fault of the world's: the checker counted the claim of a region that was no more."""
    assert _hold([5032]) > 0


def test_I1_seed_300040_who_is_called_fenced_is_the_region_that_held_the_run_when_it_was_said() -> None:
    """Found by a long run: a person called the lost east fenced and asked for west; north won an epoch meanwhile.

    West then took that epoch over without waiting for north's lease, on the word that was given of east.
    """
    assert _hold([300_040]) > 0


@pytest.mark.parametrize("detail", ["chunk", "state", "manifest"])
def test_I20_a_bit_goes_bad_in_the_standby_and_the_primary_is_lost_a_moment_later(detail: str) -> None:
    """West takes over from the checkpoint before it, whichever kind of object it was."""
    faults = (Fault(1, 40.0, "flip", "west", detail=detail), Fault(2, 40.5, "lose", "east"))
    world = World(0, faults=faults).run()
    assert world.judge.found == []
    assert world.judge.damage.flips == 1
    bad = next(line for line in world.trace if "goes bad in west" in line)
    forks = [entry.fork_step for entry in world.judge.authority.newest["run1"].lineage[1:]]
    assert forks
    assert f"/s{forks[0]:010d}/" not in bad
    assert any("checkpoint.damaged" in line for line in world.trace)


@pytest.mark.parametrize("seed", [119, 132])
def test_I20_seeds_119_and_132_a_manifest_goes_bad_after_it_was_read_back(seed: int) -> None:
    """Found by a long run: the verifier kept the manifest in memory, and never saw that it had changed at rest."""
    assert _hold([seed]) > 0


def test_I21_over_a_narrow_link_checkpoints_go_on_to_become_visible() -> None:
    """A link of a third of the need, for 90 s: between two complete ones never passes more than the stated bound."""
    world = World(0, faults=(Fault(1, 8.0, "narrow", "east>west", 90.0),)).run()
    assert world.judge.found == []
    copied = [line for line in world.trace if "replicator@west replicate.copied" in line]
    during = [8.0, *(at_s for at_s in (float(line.split()[0]) for line in copied) if 8.0 < at_s < 98.0), 98.0]
    size_bytes, cadence_s = int(copied[0].partition("'size_bytes': ")[2].partition(",")[0]), 3 * 1.2 * 1.5
    bound_s = lag_s_max(size_bytes, NARROW_BYTES_S, cadence_s)
    assert max(later - before for before, later in itertools.pairwise(during)) < bound_s, (during, bound_s)


@pytest.mark.parametrize("how", ["in its own name", "in the holder's name"])
def test_I17_a_hostile_region_with_its_own_key_moves_nothing(how: str) -> None:
    """West and then the old primary sign what is of the other's epoch, far ahead: dead letters, nothing is copied.

    Nor does it hide what the holder says later under the numbers that were forged.
    """
    faults = (
        Fault(1, 20.0, "forge", "west", detail=how),
        Fault(2, 30.0, "operator", "west", detail="switchover run1"),
        Fault(3, 60.0, "forge", "east", detail=how),
        Fault(4, 61.0, "crash", "controller@west", 2.0, "before witness.write"),
    )
    world = World(0, faults=faults).run()
    assert world.judge.found == []
    assert world.judge.events.foreign >= 2
    assert [entry.region for entry in world.judge.authority.newest["run1"].lineage] == ["east", "west"]


def test_a_rank_state_that_rots_in_the_spool_is_never_committed() -> None:
    """Its checkpoint is abandoned by name, and the next one is whole."""
    world = World(0, faults=(Fault(1, 30.0, "rot", "east"),)).run()
    assert world.judge.found == []
    assert any("is not what the trainer wrote" in line for line in world.trace)


def test_I5_I9_a_branch_that_trained_on_in_isolation_is_adopted_after_the_run_was_moved_to_it() -> None:
    """East is cut off and trains on, west takes over; a person moves the run back to east and adopts what it did."""
    faults = (
        Fault(1, 15.0, "isolate", "east", 25.0),
        Fault(2, 55.0, "operator", "east", 0.0, "adopt run1"),
        Fault(3, 85.0, "operator", "east", 0.0, "adopt run1"),
    )
    world = World(0, faults=faults).run()
    assert world.judge.found == []
    chain = world.judge.authority.newest["run1"].lineage
    assert [(one.region, one.reason, one.parent_epoch) for one in chain] == [
        ("east", "creates_run", 0),
        ("west", "region_lost", 1),
        ("east", "switchover", 2),
        ("east", "adopted", 1),
    ]
    assert chain[3].fork_step > chain[1].fork_step


def test_without_faults_nothing_moves_and_everything_arrives() -> None:
    """One epoch, and what was accepted in the first region is visible in all of them."""
    world = World(7, faults=()).run()
    assert world.judge.found == []
    assert {lease.epoch for lease in world.judge.authority.newest.values()} == {1}
    assert world.judge.events.count_visible() > 50


def test_the_same_seed_gives_the_same_world_and_one_fault_less_leaves_the_others() -> None:
    """A seed alone replays a failure, and a fault can be left out of it."""
    traces = ["\n".join(World(3, length_s=60.0).run().trace) for _ in range(2)]
    assert len({hashlib.sha256(text.encode()).hexdigest() for text in traces}) == 1
    faults = drawn(3, ("east", "west"), ("run1",))
    assert faults == drawn(3, ("east", "west"), ("run1",))
    assert sorted(one.number for one in faults) == list(range(1, len(faults) + 1))
    less = World(3, faults=faults[1:], length_s=60.0).run()
    assert [line for line in less.trace if f"fault {faults[0].number} " in line] == []


FOUND_AT = {
    "published before it was copied": (0, "I13"),
    "the ledger is not consulted": (1, "I15"),
    "past a fork counts, too": (1, "I5"),
    "a grant that does not run out": (6, "I8"),
    "an unanswered write taken for a won one": (1, "I4"),
    "accepted taken for published": (1, "I14"),
    "bytes of long ago taken for those at rest": (4, "I20"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_checkers_see_a_planted_fault(name: str) -> None:
    """Each is found from the seed on that showed it first: a checker that finds nothing would prove nothing."""
    first, promise = FOUND_AT[name]
    worlds = (World(seed, planted=Plant(name)).run() for seed in range(first, first + 20))
    found = next((world.judge.found for world in worlds if world.judge.found), [])
    assert any(promise in text for text in found), found[:3]


def test_I1_clocks_that_differ_by_a_fifth_break_it_and_the_checkers_see_it() -> None:
    """The controllers' worlds, too: rates 20 % apart under a bound of 1 %; it shows in some of the worlds."""
    east_is_cut_off = (Fault(1, 20.0, "isolate", "east", 35.0),)
    broken = {
        drift: [
            text
            for seed in range(52, 56)
            for text in World(seed, faults=east_is_cut_off, length_s=60.0, drift=drift).run().judge.found
        ]
        for drift in (0.2, PROFILE.rho)
    }
    assert any("I1: " in text for text in broken[0.2])
    assert broken[PROFILE.rho] == []


def _planted(seed: int, faults: Sequence[Fault] | None, length_s: float | None) -> World:
    planted = Plant("the ledger is not consulted")
    return World(seed, faults=faults, planted=planted, length_s=50.0 if length_s is None else length_s)


@pytest.mark.full
def test_a_failing_seed_is_told_with_the_faults_that_it_needs() -> None:
    """Of the many faults of a seed in which a replicator forgets its ledger, the one that restarts it is left."""
    build = partial(_planted, 1)
    whole, small = build(None, None), smallest(build)
    assert len(small.faults or ()) < len(whole.faults or ())
    assert len(small.faults or ()) <= 2
    assert small.length_s < whole.length_s
    assert any("I15" in text for text in small.judge.found)


def test_a_seed_that_holds_is_not_shrunk_into_one_that_fails() -> None:
    """Nothing is broken, so nothing is told as if it were."""
    lines = shrunk(0)
    assert lines == ["seed 0 breaks no promise"]
