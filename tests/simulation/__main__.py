"""`python -m tests.simulation --seeds N [--world W]`: as many seeds as wanted; a failing one is printed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.simulation import failover_world, judge, lease_world
from tests.simulation.lease_checker import faults_of_history, overlaps

Verdict = tuple[list[str], list[str]]  # broken promises, trace


def main() -> int:
    """Run the seeds; 0 if all held, 1 with the first failing seed and its trace."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate authority under faults.")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument(
        "--world",
        choices=("lease", "failover", "moves"),
        default="lease",
        help="lease: the core alone, fast; failover: the shipped controllers; moves: and people who ask for moves",
    )
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farside-simulation-") as folder:
        judged = _worlds(Path(folder))[wanted.world]
        began_s = time.monotonic()
        seeds = range(wanted.first, wanted.first + wanted.seeds)
        for seed in track(seeds, description="simulating", console=Console(stderr=True)):
            broken, trace = judged(seed)
            if broken:
                print(f"seed {seed} of world {wanted.world} fails:", *broken, *trace, sep="\n  ")
                return 1
        took_s = time.monotonic() - began_s
    print(f"{wanted.seeds} seeds of world {wanted.world} held, {wanted.seeds / took_s:.1f} seeds/s")
    return 0


def _worlds(folder: Path) -> dict[str, Callable[[int], Verdict]]:
    signer = failover_world.signer_in(folder)

    def lease(seed: int) -> Verdict:
        world = lease_world.World(seed)
        world.run()
        return [*map(str, overlaps(world.claims)), *faults_of_history(world.witness.history)], world.trace

    def failover(seed: int) -> Verdict:
        world = failover_world.World(seed, signer).run()
        return judge.faults(world), world.trace

    def moves(seed: int) -> Verdict:
        world = judge.moving(seed, signer).run()
        return judge.faults(world), world.trace

    return {"lease": lease, "failover": failover, "moves": moves}


if __name__ == "__main__":
    sys.exit(main())
