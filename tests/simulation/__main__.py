"""`python -m tests.simulation --seeds N [--from SEED]`: as many seeds as wanted; a failing one is printed."""

from __future__ import annotations

import argparse
import sys
import time

from rich.progress import track

from tests.simulation.lease_checker import faults_of_history, overlaps
from tests.simulation.lease_world import World


def main() -> int:
    """Run the seeds; 0 if all held, 1 with the first failing seed and its trace."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate the lease.")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    wanted = parser.parse_args()
    began_s = time.monotonic()
    for seed in track(range(wanted.first, wanted.first + wanted.seeds), description="simulating"):
        world = World(seed)
        world.run()
        faults = [*map(str, overlaps(world.claims)), *faults_of_history(world.witness.history)]
        if faults:
            print(f"seed {seed} fails:", *faults, *world.trace, sep="\n  ")
            return 1
    took_s = time.monotonic() - began_s
    print(f"{wanted.seeds} seeds held, {wanted.seeds / took_s:.0f} seeds/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
