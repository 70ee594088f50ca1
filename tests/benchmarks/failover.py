"""`make bench-failover`: kill the primary region again and again, and measure the recovery by part; warm against cold.

Each kill is the demo's: real Kafka, stores, torch and a shaped link, on a stack of its own. Warm is what the standby
does after the decision, with ranks that wait and a checkpoint in memory. Cold is measured right after it in the same
region: the arena is emptied, the warmer ended, and a fresh process starts, asks, fetches the checkpoint from the store,
loads it and makes a step. Figures of one machine on one day; the ratio is what can be compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.local.stack import Stack
from services.demo.actors import Actors
from services.demo.report import recovery_s, versions
from services.demo.story import START_S, WEST, Say, Story

PARTS = ("detect", "fence", "restore", "first_step")
GOALS_S = {"fast": 10.0, "default": 80.0}
COLD_RATIO_GOAL = 0.2
COLD = "west-cold"


class Kill(Story):
    """One loss of the region, and one cold start after it."""

    def __init__(self, folder: Path, seed: int, profile: str, say: Say) -> None:
        super().__init__(folder, seed, 400, say)
        self.profile = profile
        self._loss_at = min(self._loss_at, 40)
        self.cold_s = 0.0

    def _scenes(self, actors: Actors, stack: Stack) -> None:
        self._train(actors)
        self._lose(actors, stack)
        self._go_on(actors)
        actors.kill("trainer-west", "warmer-west")
        shutil.rmtree(self.settings.region(WEST).arena_dir)
        began_ms = self.clock.wall_ms()
        actors.trainer(COLD, self._out(COLD), self._args(), self._farside(WEST, "west-2"))
        actors.wait("the cold start's first step", lambda: bool(self.losses(COLD)), START_S)
        self.cold_s = (self.losses(COLD)[0]["time_ms"] - began_ms) / 1000


def measure(profile: str, kills: int, console: Console) -> list[dict[str, float]]:
    """One row a kill: its parts in seconds, their sum, and the cold start."""
    rows = []
    for number in range(kills):
        with tempfile.TemporaryDirectory(prefix="farside-bench-") as folder, console.status("") as shown:

            def say(text: str, number: int = number) -> None:
                shown.update(f"{profile} kill {number + 1} of {kills}: {text}")

            story = Kill(Path(folder) / "stack", number, profile, say)
            story.play()
            parts = recovery_s(story, story.timeline())
            rows.append({**parts, "whole": sum(parts.values()), "cold": story.cold_s})
        console.print(f"{profile} {number + 1}: " + ", ".join(f"{name} {took:.2f}" for name, took in rows[-1].items()))
    return rows


def summary(profile: str, rows: list[dict[str, float]]) -> dict[str, Any]:
    """p50 and p95 of every part, and the ratio of warm to cold."""
    names = (*PARTS, "whole", "cold")
    quantiles = {name: _quantiles([row[name] for row in rows]) for name in names}
    ratios = [(row["restore"] + row["first_step"]) / row["cold"] for row in rows]
    return {
        "profile": profile,
        "day": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "kills": len(rows),
        "seconds": quantiles,
        "warm_to_cold": _quantiles(ratios),
        "whole_goal_s": GOALS_S[profile],
        "whole_goal_met": quantiles["whole"]["p95"] <= GOALS_S[profile],
        "ratio_goal": COLD_RATIO_GOAL,
        "ratio_goal_met": statistics.median(ratios) <= COLD_RATIO_GOAL,
    }


def table(found: list[dict[str, Any]]) -> Table:
    """For people: a column for each profile."""
    shown = Table("s, p50 / p95", *(f"{one['profile']}, {one['kills']} kills" for one in found), title="Recovery time")
    for name in (*PARTS, "whole", "cold"):
        shown.add_row(
            name, *(f"{one['seconds'][name]['p50']:.2f} / {one['seconds'][name]['p95']:.2f}" for one in found)
        )
    shown.add_row("warm / cold", *(f"{one['warm_to_cold']['p50']:.3f}" for one in found))
    goals = (f"{one['whole_goal_s']:.0f} s {'met' if one['whole_goal_met'] else 'MISSED'}" for one in found)
    shown.add_row("goal: whole, p95", *goals)
    ratios = (f"{one['ratio_goal']} {'met' if one['ratio_goal_met'] else 'MISSED'}" for one in found)
    shown.add_row("goal: warm / cold, p50", *ratios)
    return shown


def _others(path: Path, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recorded results of profiles that were not measured now."""
    if not path.exists():
        return []
    measured = {one["profile"] for one in found}
    before: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["profiles"]
    return [one for one in before if one["profile"] not in measured]


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3),
    }


def main() -> int:
    """0 if every goal is met, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.failover", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each profile")
    parser.add_argument("--profile", choices=tuple(GOALS_S), action="append", help="default: both")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/failover.json"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    wanted = parser.parse_args()
    console = Console(stderr=True)
    found = [summary(name, measure(name, wanted.kills, console)) for name in wanted.profile or tuple(GOALS_S)]
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"profiles": sorted([*_others(wanted.out, found), *found], key=lambda one: str(one["profile"]))}
    wanted.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps(report))
    else:
        Console().print(table(found))
    return 0 if all(one["whole_goal_met"] and one["ratio_goal_met"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
