"""A failing seed of the world of regions, told with as few faults and in as little time as it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tests.simulation.fault_minimizer import fewest, shortest
from tests.simulation.fault_plan import Fault
from tests.simulation.regions_world import World

TRACE_LINES = 80

Build = Callable[[Sequence[Fault] | None, float | None], World]


def of_seed(seed: int, faults: Sequence[Fault] | None, length_s: float | None) -> World:
    """The seed's world with some of its faults, and cut short."""
    return World(seed, faults=faults) if length_s is None else World(seed, faults=faults, length_s=length_s)


def smallest(build: Build) -> World:
    """The smallest world that still breaks the promise that the whole one breaks."""
    whole = build(None, None).run()
    if not whole.judge.found:
        return whole
    broken = {_kind(text) for text in whole.judge.found}

    def fails(length_s: float | None, faults: Sequence[Fault]) -> bool:
        return bool(broken & {_kind(text) for text in build(faults, length_s).run().judge.found})

    faults = fewest(whole.faults or (), partial(fails, None))
    length_s = shortest(whole.length_s, lambda length_s: fails(length_s, faults))
    return build(faults, length_s).run()


def shrunk(seed: int) -> list[str]:
    """The lines that a person reads: the few faults, what they break, and the end of the trace."""
    world = smallest(partial(of_seed, seed))
    if not world.judge.found:
        return [f"seed {seed} breaks no promise"]
    few = [one for one in world.faults or () if one.at_s < world.length_s]
    return [
        f"seed {seed} still fails with {len(few)} faults in {world.length_s:.0f} s:",
        *map(str, few),
        *world.judge.found,
        *world.trace[-TRACE_LINES:],
    ]


def _kind(found: str) -> str:
    """Which promise: the number that begins the text behind the time."""
    return found.split(" ", 1)[1].partition(":")[0]
