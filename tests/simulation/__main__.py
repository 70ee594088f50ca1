"""`python -m tests.simulation --seeds N [--world W] [--shrink]`: as many seeds as wanted; a failing one is printed."""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.simulation import failover_judge, failover_world, lease_world, regions_world
from tests.simulation.lease_checker import faults_of_history, overlaps
from tests.simulation.smallest_world import shrunk

Verdict = tuple[list[str], list[str]]  # broken promises, trace
Failure = tuple[int, list[str], list[str]]  # seed, broken promises, trace
BLOCK = 10
_OF_PROCESS: list[tuple[tempfile.TemporaryDirectory[str], Callable[[int], Verdict]]] = []


def main() -> int:
    """Run the seeds on all cores; 0 if all held, 1 with the first failing seed and its trace."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate authority under faults.")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--minutes", type=float, help="go on for so long instead, however many seeds that makes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--world",
        choices=("lease", "failover", "moves", "regions"),
        default="lease",
        help="lease: the core alone, fast; failover: the shipped controllers; moves: and people who ask for moves; "
        "regions: all services of two to four regions",
    )
    parser.add_argument("--shrink", action="store_true", help="regions: leave out every fault that is not needed")
    wanted = parser.parse_args()
    if wanted.shrink and wanted.world != "regions":
        parser.error("--shrink: only the faults of the world of regions can be left out one by one")
    began_s = time.monotonic()
    until_s = None if wanted.minutes is None else began_s + 60 * wanted.minutes
    seeds = itertools.count(wanted.first) if until_s else range(wanted.first, wanted.first + wanted.seeds)
    total = None if until_s else wanted.seeds
    done = 0
    with ProcessPoolExecutor(wanted.jobs, initializer=_prepare, initargs=(wanted.world,)) as pool, _progress() as shown:
        task = shown.add_task("simulating", total=total)
        for failure, count in _judged(pool, wanted.jobs, iter(seeds), until_s):
            done += count
            shown.update(task, completed=done)
            if failure is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                seed, broken, trace = failure
                print(f"seed {seed} of world {wanted.world} fails:", *broken, *trace, sep="\n  ")
                print(f"replay: python -m tests.simulation --world {wanted.world} --from {seed} --seeds 1")
                if wanted.shrink:
                    print(*shrunk(seed), sep="\n  ")
                return 1
    took_s = time.monotonic() - began_s
    print(f"{done} seeds of world {wanted.world} held in {took_s:.0f} s, {done / took_s:.1f} seeds/s")
    return 0


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _judged(
    pool: ProcessPoolExecutor, jobs: int, seeds: Iterator[int], until_s: float | None
) -> Iterator[tuple[Failure | None, int]]:
    """The seeds in blocks, a few ahead of the processes, until there are none or the time is over."""
    waiting: set[Future[tuple[Failure | None, int]]] = set()
    while True:
        over = until_s is not None and time.monotonic() >= until_s
        while not over and len(waiting) < 2 * jobs and (block := tuple(itertools.islice(seeds, BLOCK))):
            waiting.add(pool.submit(_judge, block))
        if not waiting:
            return
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for one in ended:
            yield one.result()


def _prepare(world: str) -> None:
    """Each process makes its own worlds; its folder ends with it."""
    gc.set_threshold(100_000)  # a world is thrown away as a whole: looking for garbage in it costs a tenth of its time
    folder = tempfile.TemporaryDirectory(prefix="farside-simulation-")
    _OF_PROCESS.append((folder, _worlds(Path(folder.name))[world]))


def _judge(seeds: tuple[int, ...]) -> tuple[Failure | None, int]:
    """The first of some seeds that fails, and how many were run."""
    _, judged = _OF_PROCESS[0]
    for number, seed in enumerate(seeds, 1):
        broken, trace = judged(seed)
        if broken:
            return (seed, broken, trace), number
    return None, len(seeds)


def _worlds(folder: Path) -> dict[str, Callable[[int], Verdict]]:
    signer = failover_world.signer_in(folder)

    def lease(seed: int) -> Verdict:
        world = lease_world.World(seed)
        world.run()
        return [*map(str, overlaps(world.claims)), *faults_of_history(world.witness.history)], world.trace

    def failover(seed: int) -> Verdict:
        world = failover_world.World(seed, signer).run()
        return failover_judge.faults(world), world.trace

    def moves(seed: int) -> Verdict:
        world = failover_judge.moving(seed, signer).run()
        return failover_judge.faults(world), world.trace

    def regions(seed: int) -> Verdict:
        world = regions_world.World(seed).run()
        return world.judge.found, world.trace

    return {"lease": lease, "failover": failover, "moves": moves, "regions": regions}


if __name__ == "__main__":
    sys.exit(main())
