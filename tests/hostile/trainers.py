"""Trainers of hostile cases: one in this process, whose files are spoilt before its agent reads them; a lost region."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
from farside import _spool
from farside._session import Identity, Session
from schemas.records import Checkpoint
from tests.hostile.live import PATIENT_S, REGIONS, SOON_S, Live, trainer_of
from tests.integration import light_trainer

SERVICES = ("controller", "agent", "replicator")
FLUSH_S = 10.0
Body = dict[str, Any]
Alter = Callable[[Body, Path], Body]
"""Given an intent's body and the checkpoint's folder, before the intent is appended; the body that is appended."""


def unaltered(body: Body, _folder: Path) -> Body:
    """As it was."""
    return body


_NUMBERS = itertools.count(1)


class Hand(Session):
    """A trainer of one rank in this process: it does as every client does, but for what a case alters."""

    def __init__(self, live: Live, run: str, region: str, launch: str) -> None:
        self.live, self.region = live, region
        self.alter: Alter = unaltered
        super().__init__(Identity(run, live.settings.region(region).node_dir, launch, 0, 0, 1))
        self.public = farside.Run(self, "warn")

    def begin(self) -> None:
        """Ask for the start, and wait until it is granted."""
        self.request("exact")
        self.beat(0, "waiting", 60.0)
        granted = _spool.grant_path(self.launch_folder)
        self.live.wait(granted.exists, f"run {self.who.run} is granted in {self.region}", PATIENT_S)
        self.wait_for_grant(0.05)

    def intent(self, step: int, body: Body) -> None:
        """As the client's, once everything is on the disk and the case has altered it."""
        folder = self.checkpoint_folder(step)
        assert folder is not None, "a checkpoint is written under a grant"
        self.background.flush(FLUSH_S)
        super().intent(step, self.alter(body, folder))

    def save(self, ahead: int, alter: Alter = unaltered) -> int:
        """A checkpoint, so many steps after the start; its step."""
        assert self.grant is not None, "a checkpoint is written under a grant"
        step = self.grant.step + ahead
        self.beat(step, "train", 60.0)
        self.alter = alter
        light_trainer.save(self, step, light_trainer.state_at(step))
        return step

    def commits(self, ahead: int) -> str:
        """A checkpoint as it should be is committed, and becomes visible in the other region; AssertionError if not."""
        step = self.save(ahead)
        after = self.outcome(step, PATIENT_S)
        assert after.state == "committed", f"the next one is {after.state}: {after.reason}"
        self.live.sees(self.who.run, step, other_than(self.region), PATIENT_S)
        return "the next one is committed and visible"

    def outcome(self, step: int, deadline_s: float = SOON_S) -> Checkpoint:
        """How this attempt's checkpoint of a step ended, in the log of its region."""
        assert self.grant is not None, "a checkpoint is written under a grant"
        attempt = self.grant.attempt
        found: list[Checkpoint] = []

        def there() -> bool:
            events = self.live.logs[self.region].events(self.who.run)
            mine = [one for one in events if isinstance(one, Checkpoint) and one.attempt == attempt]
            found[:] = [one for one in mine if one.step == step]
            return bool(found)

        self.live.wait(there, f"an outcome of run {self.who.run}, step {step}, is published", deadline_s)
        return found[0]


@contextlib.contextmanager
def hand(live: Live, run: str) -> Iterator[Hand]:
    """A trainer in the region that holds the run, granted; closed with the block."""
    region = live.held_by(run)
    one = Hand(live, run, region, f"hand-{next(_NUMBERS):03d}")
    try:
        one.begin()
        yield one
    finally:
        one.close()


def other_than(region: str) -> str:
    """The other region."""
    return next(one for one in REGIONS if one != region)


@contextlib.contextmanager
def lost_region(live: Live, region: str) -> Iterator[None]:
    """The block, in which a region is lost: its services and trainers are killed, its Kafka and store do not answer."""
    names = [f"{service}-{region}" for service in SERVICES]
    trainers = [trainer_of(run, where) for run, where in live.trained if where == region]
    servers = [f"kafka-{region}", f"s3-{region}"]
    live.kill(*names, *trainers)
    for server in servers:
        live.stack.freeze(server)
    try:
        yield
    finally:
        for server in servers:
            live.stack.thaw(server)
        live.keep(region)
