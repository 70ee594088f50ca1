"""The second story: lost and back. East is killed, west goes on, east rejoins as a standby and gets the run back.

The way there may lose steps, the way back loses none; the end is bit for bit that of a run which was never moved.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from infra.local.stack import Stack
from pipelines.errors import RetryableError
from services.demo import figures, picture
from services.demo.actors import Actors
from services.demo.report import compared, keep
from services.demo.story import EAST, RUN, START_S, TRAIN_S, WEST, Say, Story
from services.http.endpoints import controller_of
from services.runtime.clients import store_of

REJOIN_S = 180.0
WEST_PACE = ("--min-step-s", "1.0")  # so that west still trains when east is back, on a busy machine too
EAST_PACE = ("--min-step-s", "0.5")  # so that it still trains when the drill is over
LATEST_LOSS = 60
BACK = "east-again"
DRILLED = ("good", "from_step", "first_step", "predicted_rto_s", "measured_rto_s", "measured_parts_s")


class Roundtrip(Story):
    """East to west by failover, back by failback."""

    def __init__(self, folder: Path, seed: int, steps: int, say: Say) -> None:
        super().__init__(folder, seed, steps, say)
        self.pace = {WEST: WEST_PACE, EAST: EAST_PACE}
        self._loss_at = min(self._loss_at, LATEST_LOSS)
        self.answers: dict[str, Any] = {}
        self.lines: list[str] = []

    def _scenes(self, actors: Actors, stack: Stack) -> None:
        self._train(actors)
        self._drill(actors)
        self._lose(actors, stack)
        self._go_on(actors)
        self._rejoin(actors, stack)
        self._fail_back(actors)
        self._compare(actors)
        self._settle(actors, stack)

    def _drill(self, actors: Actors) -> None:
        """West rehearses the loss of east in a drill, beside its real pool, while east trains."""
        actors.wait("a proven checkpoint in west", self._warm_in_west, START_S)
        command = actors.trainer_argv(self._out("drill"), self._args())
        output = self._farside_says("drill", "--region", WEST, "--json", "--", *command)
        self.answers["drill"] = done = json.loads(output)
        self._say(
            f"west drilled the loss of {done['holder']}: first step {done['first_step']} after "
            f"{done['measured_rto_s']:.2f} s, {done['predicted_rto_s']:.2f} s were predicted"
        )
        self.answers["left_by_drill"] = list(store_of(self.settings.region(WEST)).list("drills/now/"))
        self.answers["drills"] = json.loads(self._farside_says("drill", "--region", WEST, "--history", "--json"))
        lease = self.overview()
        if (lease.primary, lease.epoch) != (EAST, 1):
            raise RetryableError(f"the drill moved the real lease: {lease.primary} holds epoch {lease.epoch}")

    def _warm_in_west(self) -> bool:
        standby = self.overview().regions[WEST].standby
        return standby is not None and standby.ready and bool(standby.predicted_parts_s.get("first_step"))

    def _rejoin(self, actors: Actors, stack: Stack) -> None:
        """East comes back with its disks: its ranks wait again, and its warmer stages what west has committed since."""
        for name in ("kafka-east", "s3-east"):
            stack.restart(name)
        for name in ("controller", "agent", "replicator", "warmer"):
            actors.service(name, EAST)
        launch = self._farside(EAST, "east-2")
        actors.trainer(BACK, self._out(BACK), self._args(), launch)
        self._say("east is back as a standby: Kafka, store, services and ranks that wait")
        actors.wait("a proven checkpoint of west's in east", self._caught_up, REJOIN_S)
        self._say("east has caught up and is warm")

    def _fail_back(self, actors: Actors) -> None:
        """Run `farside failback`, as an operator does; it returns when east holds the run."""
        branches = json.loads(self._farside_says("lineage", "--json"))["branches"][EAST]
        for epoch in sorted({branch["epoch"] for branch in branches}):
            self._farside_says(
                "discard", "--region", EAST, "--epoch", str(epoch), "--reason", "west went on without it", "--yes"
            )
            self._say(f"what east did past the fork under epoch {epoch} is a branch; it is discarded, not overwritten")
        output = self._farside_says("failback", "--to", EAST, "--reason", "east is repaired", "--yes", "--json")
        self.answers["failback"] = json.loads(output)
        if self.final(WEST) is not None:
            raise RetryableError(f"west finished step {self.steps} before it could be moved: take more --steps")
        actors.wait("east's first step after the way back", lambda: bool(self.losses(BACK)), START_S)
        first, last = self.losses(BACK)[0], self.losses(WEST)[-1]
        self._say(f"west saved step {last['step']}, held and gave the run away; east's first step: {first['step']}")

    def _compare(self, actors: Actors) -> None:
        actors.trainer("control", self._out("control"), self._args(), {})
        actors.wait("the run's end in east", lambda: self.final(BACK) is not None, TRAIN_S)
        self._say(f"east finished step {self.steps}")
        actors.wait("the control run", lambda: self.final("control") is not None, TRAIN_S)
        self._say("the control run, never interrupted, has finished")
        self.lines = self._farside_says("lineage").splitlines()
        self.answers["history"] = json.loads(self._farside_says("history", "--json"))

    def _primary(self) -> str:
        return EAST

    def _caught_up(self) -> bool:
        standby = self.overview().regions[EAST].standby
        holder = controller_of(self.settings, WEST).status_of(RUN)
        if standby is None or holder is None:
            return False
        return (
            standby.ready
            and (holder.regions[EAST].waiting_ranks or 0) > 0  # the holder gives a run to nobody but waiting ranks
            and standby.staged_epoch == (self._promoted() or {}).get("epoch")
        )

    def _farside_says(self, *words: str) -> str:
        config = str(self.folder / "farside.toml")
        argv = [sys.executable, "-m", "services.cli", words[0], "--run", RUN, "--config", config, *words[1:]]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=REJOIN_S)
        if done.returncode:
            raise RetryableError(f"farside {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout


def report(story: Roundtrip) -> dict[str, Any]:
    """The report: the figures of both moves."""
    timeline = story.timeline()
    there = figures.first_of(timeline, "failover.promoted", at=WEST)
    back = figures.first_of(timeline, "failover.promoted", at=EAST, epoch=3)
    if there is None or back is None:
        raise RuntimeError("the timeline lacks a promotion: there is nothing to report")
    west, east = story.losses(WEST), story.losses(BACK)
    return {
        "seed": story.seed,
        "steps": story.steps,
        "moves": [
            {
                "epoch": move["epoch"],
                "from": move["holder_before"],
                "to": move["at"],
                "reason": move["reason"],
                "actor": move["actor"],
                "fork_step": move["fork_step"],
                "steps_lost": lost,
                "pause_s": round((first["time_ms"] - last["time_ms"]) / 1000, 3),
            }
            for move, lost, last, first in (
                (there, story.facts.killed_at_step - there["fork_step"], story.losses(EAST)[-1], west[0]),
                (back, west[-1]["step"] - back["fork_step"], west[-1], east[0]),
            )
        ],
        "drill": {key: story.answers["drill"][key] for key in DRILLED},
        "lineage": story.lines,
        "events": story.events.plain(),
        **compared(story, BACK),
        "holders_overlap_s": round(figures.overlap_s(timeline), 3),
    }


def passed(outcome: dict[str, Any]) -> bool:
    """Whether the drill was good, the loss bit-identical, nothing lost on the way back, the lease never held twice."""
    return bool(
        outcome["drill"]["good"]
        and outcome["bit_identical"]
        and outcome["moves"][1]["steps_lost"] == 0
        and outcome["events"]["lost"] == 0
        and outcome["holders_overlap_s"] == 0
    )


def write(story: Roundtrip, folder: Path) -> dict[str, Any]:
    """Write report.json, timeline.jsonl and loss.png into a folder, and return the report."""
    outcome = report(story)
    keep(story, folder, outcome)
    picture.draw(
        folder / "loss.png",
        primary=story.losses(EAST),
        standby=story.losses(WEST),
        again=story.losses(BACK),
        control=story.losses("control"),
        killed_at=story.facts.killed_at_step,
        resumed_from=outcome["moves"][0]["fork_step"],
    )
    return outcome


def table(outcome: dict[str, Any]) -> Table:
    """The report as a table for people: a line for each move, then the verdicts."""
    shown = Table("figure", "value", title="Lost, and back")
    drill = outcome["drill"]
    parts = ", ".join(f"{name} {took_s:.2f}" for name, took_s in drill["measured_parts_s"].items())
    shown.add_row(
        "drill in west",
        f"first step after {drill['measured_rto_s']:.2f} s ({parts}), {drill['predicted_rto_s']:.2f} s predicted",
    )
    for move in outcome["moves"]:
        cost = f"{move['steps_lost']} steps lost, {move['pause_s']:.2f} s without a step"
        shown.add_row(
            f"{move['from']} -> {move['to']}", f"{move['reason']} by {move['actor']}, epoch {move['epoch']}: {cost}"
        )
    shown.add_row("events", ", ".join(f"{count} {name}" for name, count in outcome["events"].items()))
    shown.add_row("held twice for", f"{outcome['holders_overlap_s']} s")
    shown.add_row("bit-identical", "yes" if outcome["bit_identical"] else "NO")
    shown.add_row("lineage", "\n".join(outcome["lineage"]))
    return shown
