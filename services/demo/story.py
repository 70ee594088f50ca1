"""The story, scene by scene: train, lose the region, go on in the other, bring the lost one back, compare."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farside import _spool
from infra.local.layout import LinkShape
from infra.local.stack import Stack, remove
from infra.local.tools import Tools
from pipelines.core.audit import Settled, settled
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.standby.recoverable import RecoverableFinder
from schemas.codec import Codec
from services.adapters.arena import write_index_folder
from services.adapters.system_clock import SystemClock
from services.demo import figures, local_config
from services.demo.actors import Actors, read_lines
from services.operations.run_status import Overview, RunOverview, gather
from services.runtime.clients import cluster_of, store_of
from services.runtime.wiring import verifier_of
from services.settings import Settings, load

RUN, EAST, WEST = "gpt", "east", "west"
EVERY_STEPS = 10
THIRD_CHECKPOINT = 3 * EVERY_STEPS
START_S, TRAIN_S = 120.0, 240.0
Say = Callable[[str], None]


@dataclass(slots=True)
class Facts:
    """The figures that are collected while the story runs."""

    killed_at_step: int = 0
    recoverable_at_loss: int = -1
    predicted_rto_s: float | None = None
    warm_before_loss: bool = False
    zombie_step: int = 0
    zombie_set_aside: bool = False
    link_bytes: int = 0


class Story:
    """Owns the stack, the services and the trainers; `play` runs all scenes once.

    Args:
        folder: everything that runs lies here; begins empty.
        seed: of the training, and of the step at which the region is lost.
        steps: optimizer steps in all.
        say: takes the story, line by line.
    """

    def __init__(self, folder: Path, seed: int, steps: int, say: Say) -> None:
        self.folder, self.seed, self.steps, self._say = folder, seed, steps, say
        self.facts = Facts()
        self.pace: dict[str, tuple[str, ...]] = {}  # words for a region's first trainer
        self.profile = "fast"
        self.clock = SystemClock()
        self.events = Settled(0, 0, 0, 0)
        self.all_events: list[dict[str, Any]] = []
        self._loss_at = random.Random(seed).randint(THIRD_CHECKPOINT + 3, steps - 15)  # noqa: S311 - a story's die
        self._settings: Settings | None = None
        self._seen: dict[str, float] = {}

    @property
    def settings(self) -> Settings:
        """The local stack's settings."""
        if self._settings is None:
            raise RuntimeError("the stack has not been started")
        return self._settings

    def play(self) -> None:
        """Run all scenes; at the end, whatever happened, no process is left running."""
        remove(self.folder)
        self.folder.mkdir(parents=True)
        with Stack(self.folder, Tools.cached(), (EAST, WEST), LinkShape()) as stack:
            stack.start()
            config = local_config.write(stack.layout, profile=self.profile)
            self._settings = load(config, {})
            actors = Actors(self.folder, config, self._settings.service_ports())
            try:
                self._scenes(actors, stack)
            finally:
                actors.stop()
                local_config.clean(self.folder)

    def status(self) -> Overview | None:
        """The answer of `farside status`; None before the stack is up."""
        return None if self._settings is None else gather(self._settings, self._seen)

    def overview(self) -> RunOverview:
        """The run's part of it, once the stack is up."""
        return gather(self.settings, self._seen).runs[RUN]

    def losses(self, name: str) -> list[dict[str, Any]]:
        """The losses that a trainer wrote to its file, a line for each step."""
        return read_lines(self.folder / "out" / name / "losses.jsonl")

    def final(self, name: str) -> dict[str, Any] | None:
        """A trainer's final result; None before it has ended."""
        path = self.folder / "out" / name / "final.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def timeline(self) -> list[dict[str, Any]]:
        """The journal entries of all services, ordered by time."""
        return figures.timeline(self.settings.state_dir)

    # --- the scenes ---

    def _scenes(self, actors: Actors, stack: Stack) -> None:
        self._train(actors)
        self._lose(actors, stack)
        self._go_on(actors)
        self._bring_back(actors, stack)
        self._settle(actors, stack)

    def _train(self, actors: Actors) -> None:
        self._say(
            f"two regions on loopback, {LinkShape().latency_ms} ms and {LinkShape().bandwidth_mbit_s} Mbit/s apart"
        )
        for region in (EAST, WEST):
            for name in ("controller", "agent", "replicator"):
                actors.service(name, region)
        actors.service("warmer", WEST)
        for region in (EAST, WEST):
            actors.trainer(
                f"trainer-{region}",
                self._out(region),
                self._args(*self.pace.get(region, ())),
                self._farside(region, f"{region}-1"),
            )
        actors.wait("the first training step in east", lambda: bool(self.losses(EAST)), START_S)
        self._say("east trains; west's own ranks wait in run.start(), groups up")
        actors.wait(f"step {self._loss_at}", lambda: self._step(EAST) >= self._loss_at, TRAIN_S)

    def _lose(self, actors: Actors, stack: Stack) -> None:
        west = self.overview().regions[WEST]
        standby = west.standby
        self.facts.recoverable_at_loss = -1 if west.recoverable_step is None else west.recoverable_step
        self.facts.predicted_rto_s = None if standby is None else standby.predicted_rto_s
        self.facts.warm_before_loss = standby is not None and standby.ready
        actors.kill("trainer-east", "agent-east", "controller-east", "replicator-east")
        stack.kill("kafka-east", "s3-east")
        self.facts.killed_at_step = self._step(EAST)
        self._say(
            f"region east is lost at step {self.facts.killed_at_step}: trainer, agent, controller, Kafka and store "
            f"killed; west has step {self.facts.recoverable_at_loss}"
        )

    def _go_on(self, actors: Actors) -> None:
        actors.wait("west's promotion", lambda: self._promoted() is not None, START_S)
        promoted = self._promoted() or {}
        self._say(f"west won epoch {promoted['epoch']}, forked at step {promoted['fork_step']}")
        actors.wait("west's first step", lambda: bool(self.losses(WEST)), START_S)
        self._say(f"west's first new step: {self.losses(WEST)[0]['step']}")

    def _bring_back(self, actors: Actors, stack: Stack) -> None:
        """East comes back with its disks, servers and services, and with a trainer that still acts under epoch 1."""
        for name in ("kafka-east", "s3-east"):
            stack.restart(name)
        self._forge()
        for name in ("controller", "agent", "replicator"):
            actors.service(name, EAST)
        self._say("east's disks are back: Kafka, store, agent, controller")
        actors.wait("the run's end in west", lambda: self.final(WEST) is not None, TRAIN_S)
        self._say(f"west finished step {self.steps}")
        wanted = ["--on-superseded", "warn", "--steps", str(self.facts.zombie_step)]
        actors.trainer("zombie", self._out("zombie"), self._args(*wanted), self._farside(EAST, "zombie-1"))
        actors.trainer("control", self._out("control"), self._args(), {})
        self._say(f"in east a trainer wakes up and goes on to step {self.facts.zombie_step} under its old grant")
        actors.wait("the zombie's branch", self._is_set_aside, TRAIN_S)
        self.facts.zombie_set_aside = True
        self._say(
            f"east's step {self.facts.zombie_step} is a branch: kept in east, set aside in west, chosen by nobody"
        )
        actors.wait("the control run", lambda: self.final("control") is not None, TRAIN_S)
        self._say("the control run, never interrupted, has finished")

    def _settle(self, actors: Actors, stack: Stack) -> None:
        """Wait until late events have arrived, then count."""
        primary = self._primary()
        view = EpochStore(store_of(self.settings.region(primary)))(RUN)
        if view is None:
            raise RuntimeError(f"{primary}'s store knows no epoch")
        taken = figures.accepted([region.node_dir for region in self.settings.regions.values()], RUN, view)
        region = self.settings.region(primary)
        kafka = cluster_of(region, region.operator_kafka_credentials_file)

        def arrived() -> bool:
            seen, events = figures.visible(kafka, RUN, self.clock)
            self.events = settled(taken, seen)
            self.all_events = [
                {"time_ms": event.time_ms, "event": f"visible.{event.lane}", **asdict(event)} for event in events
            ]
            return self.events.lost == 0

        actors.wait(f"every accepted event in {primary}'s log", arrived, START_S)
        self.facts.link_bytes = sum(path.total for path in stack.link_bytes().values())

    # --- small things ---

    def _primary(self) -> str:
        """The region that holds the run in the end."""
        return WEST

    def _promoted(self) -> dict[str, Any] | None:
        return figures.first_of(self.timeline(), "failover.promoted", at=WEST)

    def _step(self, name: str) -> int:
        return max((int(row["step"]) for row in self.losses(name)), default=0)

    def _out(self, name: str) -> Path:
        return self.folder / "out" / name

    def _args(self, *more: str) -> list[str]:
        return ["--steps", str(self.steps), "--checkpoint-every", str(EVERY_STEPS), "--seed", str(self.seed), *more]

    def _farside(self, region: str, launch: str) -> dict[str, str]:
        node_dir = self.settings.region(region).node_dir
        node_dir.mkdir(parents=True, exist_ok=True)
        return {"FARSIDE_RUN": RUN, "FARSIDE_NODE_DIR": str(node_dir), "FARSIDE_LAUNCH": launch}

    def _forge(self) -> None:
        """Put a grant of epoch 1 from before the loss into the spool, as if the trainer had slept since."""
        here = self.settings.region(EAST)
        store, codec = store_of(here), Codec()
        view = EpochStore(store)(RUN)
        newest = None if view is None else RecoverableFinder(store, verifier_of(self.settings), codec).newest(RUN, view)
        if newest is None:
            raise RuntimeError("east has no checkpoint to go on from")
        manifest = newest.manifest
        index = write_index_folder(store, manifest, newest.digest, self.folder / "zombie-start")
        last = self.facts.killed_at_step
        self.facts.zombie_step = (last // EVERY_STEPS + 1) * EVERY_STEPS
        launch = _spool.launch_folder(here.node_dir, RUN, "zombie-1")
        launch.mkdir(parents=True)
        grant = {"launch": "zombie-1", "epoch": manifest.epoch, "attempt": manifest.attempt, "step": manifest.step}
        grant |= {"mode": "exact", "exact": True, "manifest_digest": newest.digest, "folder": str(index)}
        _spool.write_json_atomically(_spool.grant_path(launch), grant)

    def _is_set_aside(self) -> bool:
        """East committed it as a branch, west's replicator met it and set it aside, and nothing of it is in west."""
        timeline, step = self.timeline(), self.facts.zombie_step
        branch = figures.first_of(timeline, "checkpoint.branch", at=EAST, step=step)
        aside = [
            entry
            for entry in timeline
            if entry["event"] == "replicate.branch" and entry["at"] == WEST and entry["lane"] == "checkpoints"
        ]
        if branch is None or not any(f"step {step} " in str(entry["detail"]) for entry in aside):
            return False
        keys = store_of(self.settings.region(WEST)).list(f"runs/{RUN}/e000001/")
        return not any(f"/s{step:010d}/" in key for key in keys)
