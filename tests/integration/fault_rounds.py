"""Random faults on real processes: what is drawn, how it is done and undone, and what must hold after each round.

Two regions with controllers, agents and replicators, real Kafka and stores, the links and the witness behind proxies.
`python -m tests.integration.fault_rounds --rounds 200` is the long run; `test_random_faults.py` runs ten.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.local.layout import WITNESS, LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines.core.lease import FAST
from pipelines.flows.lineages import Lineages
from pipelines.flows.recoverable import Recoverable
from pipelines.paths import CheckpointId
from schemas.codec import Codec
from services import local_config
from services.cli.ask import ask
from services.clients import store_of
from services.demo import figures
from services.demo.actors import Actors
from services.parts import signer_of
from services.settings import Settings, load
from tests.manifests import manifest_of
from tests.waiting import wait_until

RUN, REGIONS, SERVICES = "gpt", ("east", "west"), ("controller", "agent", "replicator")
SETTLES_S = 90.0
LASTS_S = 2 * FAST.challenger_wait_s  # long enough for a takeover, if there is a reason for one
HOLDER_SHARE = 0.6  # faults of the holder are the ones that move a run
Undo = Callable[[], None]


@dataclass
class Rounds:
    """A running pair of regions, and the faults that are done to it."""

    stack: Stack
    actors: Actors
    settings: Settings

    def status(self, region: str) -> dict[str, Any]:
        """What a controller says of the run; empty if it does not answer."""
        found: dict[str, Any] = (ask(self.settings.region(region).ports.controller, "/status") or {}).get(RUN, {})
        return found

    def start(self, name: str, region: str) -> None:
        """Start one service."""
        self.actors.service(name, region)

    def begin(self) -> None:
        """Both regions run, and have one checkpoint: without any, nobody could take over."""
        for region in REGIONS:
            here = self.settings.region(region)
            (here.node_dir / "runs" / RUN).mkdir(parents=True, exist_ok=True)
            own = CheckpointId(RUN, 1, 1, 10)
            payload = Codec().encode(manifest_of(own, lineage_seq=1, shards=(), rank_states=()))
            store_of(here).create(own.manifest, signer_of(self.settings, "east").sign(payload))
            for name in SERVICES:
                self.start(name, region)
        wait_until(lambda: self.settled() is not None, SETTLES_S, "a first holder")

    def settled(self) -> dict[str, Any] | None:
        """The holder's status if exactly one region holds the run and the other sees that; None before."""
        views = [self.status(region) for region in REGIONS]
        holders = [one for one in views if one.get("is_holder") and one.get("valid_s", 0) > 0]
        agreed = len({(one.get("primary"), one.get("epoch")) for one in views}) == 1
        return holders[0] if len(holders) == 1 and agreed and all(views) else None

    def play(self, die: random.Random) -> str:
        """One round: a fault, its time, its end, and the checks; what was done, in words."""
        fault, undo = self._draw(die)
        over_s = time.monotonic() + die.uniform(0.5, LASTS_S)
        try:
            wait_until(lambda: time.monotonic() >= over_s, SETTLES_S, "the fault's time")
        finally:
            undo()
        wait_until(lambda: self.settled() is not None, SETTLES_S, f"one holder after: {fault}")
        broken = self.broken()
        if broken:
            raise AssertionError(f"after {fault}: {'; '.join(broken)}")
        return fault

    def _draw(self, die: random.Random) -> tuple[str, Undo]:
        kind = die.choice(("kill", "stop", "cut", "witness", "server", "both", "region"))
        holder = str((self.settled() or {}).get("primary", REGIONS[0]))
        region = holder if die.random() < HOLDER_SHARE else die.choice(REGIONS)
        if kind == "kill":
            name = die.choice(SERVICES)
            self.actors.kill(f"{name}-{region}")
            return f"kill -9 of {region}'s {name}", lambda: self.start(name, region)
        if kind == "both":
            self.actors.kill("controller-east", "controller-west")
            return "kill -9 of both controllers", self._start_controllers
        if kind == "stop":
            name = die.choice(SERVICES)
            return f"SIGSTOP of {region}'s {name}", self._stop([name], region, servers=False)
        if kind == "region":
            return f"SIGSTOP of all of {region}", self._stop(list(SERVICES), region, servers=True)
        if kind == "server":
            name = f"{die.choice(('kafka', 's3'))}-{region}"
            self.stack.kill(name)
            return f"kill -9 of {name}", lambda: self.stack.restart(name)
        ends = [(region, WITNESS)] if kind == "witness" else [die.choice((("east", "west"), ("west", "east")))]
        if kind == "witness" and die.random() < 1 / 3:
            ends = [(one, WITNESS) for one in REGIONS]
        for end in ends:
            self.stack.cut(*end)
        return f"cut of {ends}", lambda: self._heal(ends)

    def _start_controllers(self) -> None:
        for region in REGIONS:
            self.start("controller", region)

    def _heal(self, ends: list[tuple[str, str]]) -> None:
        for end in ends:
            self.stack.heal(*end)

    def _stop(self, names: list[str], region: str, *, servers: bool) -> Undo:
        pids = [pid for name in names for pid in self.actors.pids(f"{name}-{region}")]
        frozen = [f"kafka-{region}", f"s3-{region}"] if servers else []
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for name in frozen:
            self.stack.freeze(name)

        def undo() -> None:
            for name in frozen:
                self.stack.thaw(name)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

        return undo

    def broken(self) -> list[str]:
        """Every promise that does not hold, seen from outside: journals, the witness's history, the stores."""
        found = []
        timeline = figures.timeline(self.settings.state_dir)
        overlap_s = figures.overlap_s(timeline)
        if overlap_s > 0:
            found.append(f"I1: two regions held the lease for {overlap_s:.3f} s")
        holder = self.settled() or {}
        lineage = holder.get("lineage", [])
        for before, after in itertools.pairwise(lineage):
            if (after["epoch"], after["parent_epoch"]) != (before["epoch"] + 1, before["epoch"]):
                found.append(f"I2: epoch {after['epoch']} follows {before['epoch']}")
        history = next((one for one in map(self._history, REGIONS) if one), [])
        forks: dict[int, tuple[int, str]] = {}
        for record in history:
            for entry in record["lineage"]:
                fork = (entry["fork_step"], entry["fork_manifest_digest"])
                if forks.setdefault(entry["epoch"], fork) != fork:
                    found.append(f"I9: epoch {entry['epoch']} has two forks")
        if not history:
            found.append("I12: the history cannot be read")
        return found + self._partial(lineage)

    def _partial(self, lineage: list[dict[str, Any]]) -> list[str]:
        """I7: what an epoch forked from is whole in the region that won it."""
        found = []
        for entry in lineage:
            here = self.settings.region(entry["region"])
            if entry["fork_step"] >= 0:
                view = Lineages(store_of(here))(RUN)
                signer = signer_of(self.settings, entry["region"])
                newest = None if view is None else Recoverable(store_of(here), signer, Codec()).newest(RUN, view)
                if newest is None or newest.digest != entry["fork_manifest_digest"]:
                    found.append(f"I7: epoch {entry['epoch']} forked from what {entry['region']} does not have")
        return found

    def _history(self, region: str) -> list[dict[str, Any]]:
        answer = ask(self.settings.region(region).ports.controller, f"/v1/history?run={RUN}")
        return [] if answer is None else list(answer["records"])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Rounds]:
    """Two regions that run; nothing is left of them."""
    with Stack(folder, Tools.cached(), REGIONS, LinkShape()) as stack:
        stack.start()
        config = local_config.write(stack.layout)
        settings = load(config, {"FARSIDE_RUNS__GPT__SETTLE_S": "0"})
        os.environ["FARSIDE_RUNS__GPT__SETTLE_S"] = "0"  # faults come faster than the hour between two moves
        actors = Actors(stack.folder, config, settings.service_ports())
        try:
            rounds = Rounds(stack, actors, settings)
            rounds.begin()
            yield rounds
        finally:
            del os.environ["FARSIDE_RUNS__GPT__SETTLE_S"]
            actors.stop()
            local_config.clean(stack.folder)


def main() -> int:
    """0 if every round held, 1 with the first that did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.fault_rounds", description="Random faults.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    wanted = parser.parse_args()
    console, die, done = Console(stderr=True), random.Random(wanted.seed), list[str]()
    with tempfile.TemporaryDirectory(prefix="farside-faults-") as name, running(Path(name) / "stack") as rounds:
        for number in range(wanted.rounds):
            try:
                done.append(rounds.play(die))
            except AssertionError as error:
                print(f"seed {wanted.seed}, round {number + 1}: {error}")
                return 1
            console.print(f"{number + 1} of {wanted.rounds}: {done[-1]}: held", highlight=False)
        epoch = (rounds.settled() or {}).get("epoch")
    print(json.dumps({"rounds": done, "epoch": epoch}) if wanted.json else f"{len(done)} rounds held, epoch {epoch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
