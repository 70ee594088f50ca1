"""Two regions with all services and a light trainer each, kept alive as a supervisor would; their clocks can jump."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from services.demo import local_config
from services.demo.actors import Actors
from services.http.bodies import plain
from services.http.endpoints import controller_of
from services.runtime.child_processes import tail
from services.settings import Settings, load
from tests.integration import light_trainer
from tests.integration.fault_clocks import Clocks
from tests.waiting import wait_until

RUN, REGIONS = "gpt", ("east", "west")
TRAINER = "trainer"
SERVICES = ("controller", "agent", "replicator", "warmer")
ACTORS = (*SERVICES, TRAINER)
EVERY_STEPS, STEP_S = 20, 0.2
SETTLES_S = 90.0
# What may end by itself, and is started again: a superseded trainer, a replicator that another one has fenced.
MAY_END = {TRAINER: {light_trainer.SUPERSEDED_EXIT}, "replicator": {3}}


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays, where that is not as usual.

    Attributes:
        every_steps: how often the trainer saves.
        step_s: how long a step takes.
        values: how many more values each of its metrics has.
        modules: services that another program runs, started as `python -m MODULE SERVICE REGION CONFIG`.
        environment: what everybody gets.
        profile: of the lease.
    """

    every_steps: int = EVERY_STEPS
    step_s: float = STEP_S
    values: int = 0
    modules: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: str = "fast"


class Pair:
    """A running pair of regions."""

    def __init__(self, stack: Stack, actors: Actors, settings: Settings, cast: Cast) -> None:
        self.cast = cast
        self.stack, self.actors, self.settings = stack, actors, settings
        self.clocks = Clocks(stack.folder / "clocks")
        self.down: set[str] = set()  # killed on purpose: nobody starts them again yet
        self.restarted: list[str] = []
        self._launches = 0

    @property
    def config(self) -> Path:
        """The settings' file."""
        return self.stack.folder / "farside.toml"

    def status(self, region: str) -> dict[str, Any]:
        """A controller's status of the run; empty if it does not answer."""
        status = controller_of(self.settings, region).status_of(RUN)
        return {} if status is None else dict(plain(status))

    def settled(self) -> dict[str, Any] | None:
        """The holder's status if exactly one region holds the run and the other sees that; None before."""
        views = [self.status(region) for region in REGIONS]
        holders = [one for one in views if one.get("is_holder") and one.get("valid_s", 0) > 0]
        agreed = len({(one.get("primary"), one.get("epoch")) for one in views}) == 1
        return holders[0] if len(holders) == 1 and agreed and all(views) else None

    def holding(self) -> dict[str, Any]:
        """The holder's status; waits until it is clear who that is."""
        found: list[dict[str, Any]] = []

        def clear() -> bool:
            view = self.settled()
            found[:] = [] if view is None else [view]
            return bool(found)

        self.wait(clear, "one holder")
        return found[0]

    def holder(self) -> tuple[str, int]:
        """Who holds the run, and the epoch."""
        found = self.holding()
        return str(found["primary"]), int(found["epoch"])

    def why(self) -> dict[str, str]:
        """Each controller's present action, its reason, and the gates that are closed."""
        found = {}
        for region in REGIONS:
            view = self.status(region)
            closed = [one["name"] for one in view.get("gates", ()) if not one["open"] and not one["advisory"]]
            gates = f" ({', '.join(closed)} closed)" if closed else ""
            found[region] = f"{view['reason']}{gates}" if view else "does not answer"
        return found

    def start(self, name: str, region: str) -> None:
        """Start one service or trainer; each trainer is a launch of its own."""
        full = f"{name}-{region}"
        self.down.discard(full)
        environment = {**self.cast.environment, **self.clocks.environment(full)}
        if name in self.cast.modules:
            argv = [sys.executable, "-m", self.cast.modules[name], name, region, str(self.config)]
            self.actors.program(full, argv, environment)
            return
        if name != TRAINER:
            self.actors.service(name, region, environment)
            return
        self._launches += 1
        here = {"FARSIDE_RUN": RUN, "FARSIDE_NODE_DIR": str(self.settings.region(region).node_dir)}
        here["FARSIDE_LAUNCH"] = f"{region}-{self._launches:06d}"
        argv = [sys.executable, str(Path(light_trainer.__file__).absolute())]
        argv += ["--every", str(self.cast.every_steps), "--step-s", str(self.cast.step_s)]
        argv += ["--values", str(self.cast.values)]
        self.actors.program(full, argv, environment | here)

    def kill(self, *names: str) -> None:
        """SIGKILL, until `start`."""
        self.keep()
        self.down.update(names)
        self.actors.kill(*names)

    def keep(self) -> None:
        """Start what ended, as a supervisor would; AssertionError for what should not have ended."""
        for region in REGIONS:
            for name in ACTORS:
                full = f"{name}-{region}"
                code = None if full in self.down else self.actors.ended(full)
                if code is None:
                    continue
                last_lines = tail(self.stack.folder / "logs" / f"{full}.log")
                self.restarted.append(full)
                self.start(name, region)  # in any case: what comes after must not fail for it too
                if code not in MAY_END.get(name, set()):
                    raise AssertionError(f"{full} ended with {code}:\n{last_lines}")

    def resources(self) -> dict[str, dict[str, int]]:
        """Memory and open files of each service now, and the whole folder's size: what must not grow without end."""
        found = {}
        for region in REGIONS:
            for name in SERVICES:
                process = Path(f"/proc/{self.actors.pids(f'{name}-{region}')[0]}")
                pages = int((process / "statm").read_text(encoding="utf-8").split()[1])
                megabytes = pages * os.sysconf("SC_PAGE_SIZE") >> 20
                found[f"{name}-{region}"] = {"mb": megabytes, "files": len(list((process / "fd").iterdir()))}
        found["folder"] = self._folder()
        return found

    def _folder(self) -> dict[str, int]:
        size, files = 0, 0
        for folder, _, names in os.walk(self.stack.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # what is uploaded is cleared away meanwhile
                    size += Path(folder, name).stat().st_size
                    files += 1
        return {"mb": size >> 20, "files": files}

    def wait(self, condition: Callable[[], bool], what: str, deadline_s: float = SETTLES_S) -> None:
        """Wait for something while everything is kept alive."""

        def looked() -> bool:
            self.keep()
            return condition()

        try:
            wait_until(looked, deadline_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.why()}") from error


@contextlib.contextmanager
def running(folder: Path, cast: Cast | None = None) -> Iterator[Pair]:
    """Two regions that train and replicate; nothing is left of them."""
    cast = cast or Cast()
    with Stack(folder, Tools.cached(), REGIONS, LinkShape()) as stack:
        stack.start()
        config = local_config.write(stack.layout, profile=cast.profile)
        settings = load(config, {"FARSIDE_RUNS__GPT__SETTLE_S": "0"})
        os.environ["FARSIDE_RUNS__GPT__SETTLE_S"] = "0"  # faults come faster than the hour between two moves
        actors = Actors(stack.folder, config, settings.service_ports())
        try:
            pair = Pair(stack, actors, settings, cast)
            for region in REGIONS:
                settings.region(region).node_dir.mkdir(parents=True, exist_ok=True)
                for name in ACTORS:
                    pair.start(name, region)
            yield pair
        finally:
            del os.environ["FARSIDE_RUNS__GPT__SETTLE_S"]
            actors.stop()
            local_config.clean(stack.folder)
