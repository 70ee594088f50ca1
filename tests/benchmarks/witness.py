"""`make bench-witness`: what an outage of the witness costs, on real processes, under soft fencing and under hard.

Real Kafka, stores and torch; only the way to the witness is cut: from the primary, from both regions, and, last, from
the primary while the standby does not hear it either. Then nothing may be reported committed for a while: how long, how
many steps are computed meanwhile, and what becomes of them. The fast profile is measured; for the default one, whose
lease is fifteen times as long, the same formula gives the bounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from infra.local.layout import WITNESS, LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines.core.lease_profiles import DEFAULT, FAST, LeaseProfile
from pipelines.flows.authority.controller import RETRY_S
from services.adapters.system_clock import SystemClock
from services.demo import figures, local_config
from services.demo.actors import Actors, Failed, read_lines
from services.demo.report import versions
from services.http.bodies import plain
from services.http.endpoints import controller_of
from services.settings import Settings, load

RUN, EAST, WEST = "gpt", "east", "west"
EVERY = 10
LIGHT = ("--width", "64", "--layers", "2", "--heads", "2", "--context", "64", "--corpus-bytes", "400000")
PACE = ("--min-step-s", "0.1", "--steps", "1000000", "--checkpoint-every", str(EVERY))
PRIMARY, BOTH, UNHEARD = "primary", "both", "unheard"
SOFT, HARD = "soft", "hard"
START_S, SETTLES_S = 240.0, 240.0
REQUESTS_S = 0.5  # a renewal that was under way, and a read before the first one: over the stack's link
DEFAULT_SECONDS = (2.0, 5.0, 10.0, 30.0)
FORMULA_SECONDS = (2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


def without_authority_s(profile: LeaseProfile, outage_s: float) -> tuple[float, float]:
    """The least and the most that an outage leaves the primary without authority, if nobody takes over.

    The last renewal before it was sent up to `renew_s` earlier; the first one after it goes out at most a retry later.
    Both take requests of their own.
    """
    beyond_s, retry_s = outage_s - profile.holder_validity_s, min(RETRY_S, profile.poll_s)
    return round(max(0.0, beyond_s), 2), round(max(0.0, beyond_s + profile.renew_s + retry_s + REQUESTS_S), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One outage and what it cost.

    Attributes:
        without_authority_s: between the end of the primary's validity and the sending of the write that renewed it;
            None if it never came back.
        uncommitted_s: the longest time around the outage in which no checkpoint was reported committed.
        steps: computed without authority.
        ratified: checkpoints saved without authority and reported committed afterwards.
        branch: those that were set aside.
        killed: the exit code of the trainer, if the guard ended it.
        steps_lost: computed, and to be computed again.
        back_s: from the last step before to the first one after, where the trainer was killed.
    """

    fencing: str
    cut: str
    seconds: float
    without_authority_s: float | None
    uncommitted_s: float
    steps: int
    ratified: tuple[int, ...] = ()
    branch: tuple[int, ...] = ()
    killed: int | None = None
    steps_lost: int = 0
    back_s: float | None = None
    holder: str = EAST
    epoch: int = 1
    broken: tuple[str, ...] = field(default=())


class Regions:
    """East trains, west stands by; one fencing policy."""

    def __init__(self, stack: Stack, actors: Actors, settings: Settings, fencing: str) -> None:
        self.stack, self.actors, self.settings, self.fencing = stack, actors, settings, fencing
        clock = SystemClock()
        self._boot_ms = clock.wall_ms() - 1000 * clock.boottime_s()
        self._clock, self._launch = clock, 0

    def begin(self) -> None:
        """Until west has a checkpoint of east's to take over from."""
        for region in (EAST, WEST):
            for name in ("controller", "agent"):
                self.actors.service(name, region)
        self.actors.service("replicator", WEST)
        self._train()
        self.actors.wait("a checkpoint in west", lambda: bool(self._status(WEST).get("recoverable_step")), START_S)

    def outage(self, cut: str, seconds: float) -> Outage:
        """One outage, from a settled state to a settled state."""
        self.actors.wait("a settled state", self._settled, SETTLES_S)
        trainer, cut_ms = self._name, self._clock.wall_ms()
        ways = [(EAST, WITNESS), *([(WEST, WITNESS)] if cut == BOTH else [])]
        ways += [(WEST, EAST)] if cut == UNHEARD else []
        for way in ways:
            self.stack.cut(*way)
        cut_s = self._clock.boottime_s()
        self.actors.wait("the outage's end", lambda: self._lasted(cut_s + seconds), seconds + SETTLES_S)
        for way in ways:
            self.stack.heal(*way)
        healed_ms = self._clock.wall_ms()
        # A guard hears of a renewal a little later than the controller: what it does about a short outage comes yet.
        heard_s = cut_s + FAST.challenger_wait_s
        self.actors.wait("the first validity's end", lambda: self._lasted(heard_s), SETTLES_S)
        self.actors.wait("a holder", lambda: bool(self._holder()), SETTLES_S)
        if self._holder() == EAST:
            self.actors.wait("a settled state", self._settled, SETTLES_S)
        self.actors.wait("what became of it", lambda: self._is_over(trainer, cut_ms, healed_ms), SETTLES_S)
        return self._judged(cut, seconds, trainer, cut_ms, healed_ms)

    # --- the trainer ---

    @property
    def _name(self) -> str:
        return f"trainer-{self._launch}"

    def _train(self) -> None:
        """A launch of its own, as a scheduler would make after a failure."""
        self._launch += 1
        node_dir = self.settings.region(EAST).node_dir
        node_dir.mkdir(parents=True, exist_ok=True)
        named = {"FARSIDE_RUN": RUN, "FARSIDE_NODE_DIR": str(node_dir), "FARSIDE_LAUNCH": self._name}
        hard = self.fencing == HARD
        self.actors.trainer(self._name, self._out(self._name), [*LIGHT, *PACE], named, guarded=hard, may_end=True)

    def _out(self, name: str) -> Path:
        return self.stack.folder / "out" / name

    def _steps(self, name: str) -> list[dict[str, Any]]:
        return read_lines(self._out(name) / "losses.jsonl")

    def _lasted(self, over_s: float) -> bool:
        if self.actors.ended(self._name) is not None:
            self._train()  # at once: it waits in run.start() until there is authority again
        return self._clock.boottime_s() >= over_s

    # --- what is seen ---

    def seen(self) -> dict[str, Any]:
        """Everything that tells why the story does not go on."""
        keys = ("primary", "epoch", "attempt", "is_holder", "valid_s", "action", "reason", "committed_step", "troubles")
        views = {region: {key: self._status(region).get(key) for key in keys} for region in (EAST, WEST)}
        return {
            **views,
            "trainer": self._name,
            "ended": self.actors.ended(self._name),
            "steps": len(self._steps(self._name)),
        }

    def _status(self, region: str) -> dict[str, Any]:
        status = controller_of(self.settings, region).status_of(RUN)
        return {} if status is None else dict(plain(status))

    def _holder(self) -> str:
        """Who holds the run, if both regions say the same."""
        views = [self._status(region) for region in (EAST, WEST)]
        named = {one.get("primary") for one in views}
        held = any(one.get("is_holder") and one.get("valid_s", 0) > 0 for one in views)
        return str(named.pop()) if held and len(named) == 1 else ""

    def _settled(self) -> bool:
        """East has authority, west hears it, and the newest launch trains and commits."""
        if self._lasted(float("inf")) or self._holder() != EAST or self._status(WEST).get("reason") != "primary_well":
            return False
        steps = self._steps(self._name)
        committed = self._status(EAST).get("committed_step") or -1
        return bool(steps) and committed > steps[0]["step"]

    def _is_over(self, trainer: str, cut_ms: int, healed_ms: int) -> bool:
        """Whatever was saved without authority has an outcome; renewals and commits go on if east still holds."""
        moved = self._holder() != EAST
        if self.fencing == SOFT:
            saved = {one["step"] for one in self._between(trainer, cut_ms, healed_ms) if one["step"] % EVERY == 0}
            if not saved <= self._outcomes("committed") | self._outcomes("branch"):
                return False
        signs = ("checkpoint.committed", "lease.written")
        went_on = all(any(int(one["time_ms"]) > healed_ms for one in self._said(event)) for event in signs)
        return moved or went_on

    def _said(self, event: str, region: str = EAST) -> list[dict[str, Any]]:
        timeline = figures.timeline(self.settings.state_dir)
        return [one for one in timeline if one["event"] == event and one["at"] == region]

    def _outcomes(self, state: str) -> set[int]:
        return {int(one["step"]) for one in self._said(f"checkpoint.{state}")}

    def _between(self, trainer: str, begin_ms: float, end_ms: float) -> list[dict[str, Any]]:
        return [one for one in self._steps(trainer) if begin_ms <= one["time_ms"] <= end_ms]

    def _gap_ms(self, cut_ms: int) -> tuple[float, float | None]:
        """When east's validity ended after the cut, and when the write was sent that gave it back."""
        ended_ms = 0.0
        for one in self._said("lease.written"):
            from_ms = self._boot_ms + 1000 * one["from_s"]
            if from_ms > cut_ms and from_ms > ended_ms:
                return ended_ms, from_ms
            ended_ms = max(ended_ms, self._boot_ms + 1000 * (one["until_s"] or 0.0))
            if from_ms > cut_ms:
                return 0.0, 0.0  # renewed while it was valid: there was no such time
        return ended_ms, None

    def _judged(self, cut: str, seconds: float, trainer: str, cut_ms: int, healed_ms: int) -> Outage:
        holder, ends = self._status(self._holder()), self._gap_ms(cut_ms)
        until_ms = ends[1] if ends[1] is not None else float("inf")
        computed = self._between(trainer, ends[0], until_ms) if until_ms else []
        saved = {one["step"] for one in computed if one["step"] % EVERY == 0}
        reported = [int(one["time_ms"]) for one in self._said("checkpoint.committed")]
        around = [at_ms for at_ms in reported if at_ms <= cut_ms][-1:] + [at_ms for at_ms in reported if at_ms > cut_ms]
        around += [self._clock.wall_ms()] if holder["primary"] != EAST else []
        gaps = [after - before for before, after in itertools.pairwise(around) if before <= healed_ms]
        last, code = self._steps(trainer)[-1], self.actors.ended(trainer)
        again = self._steps(self._name) if self._name != trainer else []
        fork = holder["lineage"][-1]["fork_step"] if holder["primary"] != EAST else None
        resumed = fork if fork is not None else again[0]["step"] - 1 if again else None
        overlap_s = figures.overlap_s(figures.timeline(self.settings.state_dir))
        broken = [f"I1: two regions held the lease for {overlap_s:.3f} s"] if overlap_s else []
        broken += [f"{holder['primary']} took over"] if cut != UNHEARD and holder["primary"] != EAST else []
        return Outage(
            fencing=self.fencing,
            cut=cut,
            seconds=seconds,
            without_authority_s=None if ends[1] is None else round((ends[1] - ends[0]) / 1000, 2),
            uncommitted_s=round(max(gaps, default=0.0) / 1000, 2),
            steps=len(computed),
            ratified=tuple(sorted(saved & self._outcomes("committed"))),
            branch=tuple(sorted(saved & self._outcomes("branch"))),
            killed=code if self.fencing == HARD else None,
            steps_lost=0 if resumed is None else max(0, last["step"] - resumed),
            back_s=round((again[0]["time_ms"] - last["time_ms"]) / 1000, 1) if again else None,
            holder=str(holder["primary"]),
            epoch=int(holder["epoch"]),
            broken=tuple(broken),
        )


def measure(fencing: str, lengths: tuple[float, ...], console: Console) -> list[Outage]:
    """All outages under one policy, on one stack; the one that moves the run comes last."""
    found: list[Outage] = []
    with (
        tempfile.TemporaryDirectory(prefix="farside-bench-") as place,
        Stack(Path(place) / "stack", Tools.cached(), (EAST, WEST), LinkShape()) as stack,
    ):
        stack.start()
        config = local_config.write(stack.layout)
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace(f"[runs.{RUN}]\n", f'[runs.{RUN}]\nfencing = "{fencing}"\n'), encoding="utf-8")
        settings = load(config, {})
        actors = Actors(stack.folder, config, settings.service_ports())
        try:
            regions = Regions(stack, actors, settings, fencing)
            regions.begin()
            wanted = [(cut, seconds) for cut in (PRIMARY, BOTH) for seconds in lengths]
            for cut, seconds in [*wanted, (UNHEARD, 3 * FAST.challenger_wait_s)]:
                try:
                    found.append(regions.outage(cut, seconds))
                except Failed:
                    console.print(f"{fencing}, {cut}, {seconds} s:", regions.seen(), highlight=False, soft_wrap=True)
                    raise
                console.print(json.dumps(asdict(found[-1])), highlight=False, soft_wrap=True)
        finally:
            actors.stop()
            local_config.clean(stack.folder)
    return found


def table(found: list[Outage]) -> Table:
    """For people, in 80 columns."""
    shown = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title="The witness is away (unheld, gap, back: seconds)"
    )
    for name in ("cut from", "for", "unheld", "formula", "gap", "steps", "kept", "aside", "lost", "back"):
        shown.add_column(name, no_wrap=True)
    for one in found:
        least_s, most_s = without_authority_s(FAST, one.seconds)
        shown.add_row(
            f"{one.fencing}: {one.cut}",
            f"{one.seconds:.0f}",
            "ever" if one.without_authority_s is None else f"{one.without_authority_s:.1f}",
            f"{least_s:.1f}-{most_s:.1f}" if one.cut != UNHEARD else "-",
            f"{one.uncommitted_s:.1f}",
            str(one.steps),
            str(len(one.ratified)),
            str(len(one.branch)),
            str(one.steps_lost),
            "-" if one.back_s is None else f"{one.back_s:.0f}",
        )
    moved = [f"{one.fencing}: {one.cut}: {one.holder} holds epoch {one.epoch}" for one in found if one.holder != EAST]
    killed = [f"{one.fencing}: {one.cut}, {one.seconds:.0f} s: the guard ended it" for one in found if one.killed]
    shown.caption = "\n".join([*moved, *killed])
    return shown


def report_of(found: list[Outage]) -> Mapping[str, Any]:
    """As JSON, with the formula's bounds for both profiles."""
    formula = {
        profile.name: {f"{seconds:.0f}": without_authority_s(profile, seconds) for seconds in FORMULA_SECONDS}
        for profile in (FAST, DEFAULT)
    }
    outages = [asdict(one) for one in found]
    return {
        "day": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "profile": "fast",
        "checkpoint_every_steps": EVERY,
        "outages": outages,
        "without_authority_s_by_formula": formula,
    }


def main() -> int:
    """0 if every promise held, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.witness", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=DEFAULT_SECONDS, help="lengths of the outages")
    parser.add_argument("--fencing", choices=(SOFT, HARD), action="append", help="default: both")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/witness.json"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    wanted = parser.parse_args()
    console = Console(stderr=True)
    found = [one for name in wanted.fencing or (SOFT, HARD) for one in measure(name, tuple(wanted.seconds), console)]
    report = report_of(found)
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps(report))
    else:
        Console().print(table(found))
    return 1 if any(one.broken for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
