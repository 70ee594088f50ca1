"""Random faults on real processes, round after round: a fault, its time, its end, and what must hold after it.

Two regions with all their services and a light trainer each, real Kafka and stores, the links and the witness behind
proxies. `fault_kinds.py` disturbs, `fault_judge.py` judges. `make faults ROUNDS=200` is the long run;
`test_random_faults.py` runs ten.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from infra.local.errors import StackError
from pipelines.errors import RetryableError
from tests.integration import fault_pair
from tests.integration.fault_judge import Judge
from tests.integration.fault_kinds import Fault, Faults
from tests.integration.fault_pair import RUN, SETTLES_S, STEP_S, Cast, Pair

GOES_ON_RECORDS = 5
TRAINS_S = 10 * STEP_S  # a fault that lasts so long and leaves the trainer alone sees it train


@dataclass(frozen=True, slots=True)
class Round:
    """One round that held.

    Attributes:
        kind: of fault.
        fault: what was done, in words.
        lasted_s: the fault.
        before: holder and epoch.
        after: holder and epoch.
        why: what each controller said when the fault ended, with its closed gates.
        moved: for what reason the run moved, and on what diagnosis; "" if it did not.
        settled_s: from the fault's end until one region held the run and its trainer went on.
        proven_s: until every accepted event was visible in both regions, and all else was looked at.
        trained: records that the trainer wrote under the holder's epoch while the fault lasted.
        restarted: what ended by itself, as it may, and was started again.
    """

    kind: str
    fault: str
    lasted_s: float
    before: tuple[str, int]
    after: tuple[str, int]
    why: dict[str, str]
    moved: str
    settled_s: float
    proven_s: float
    trained: int
    restarted: list[str]

    @property
    def line(self) -> str:
        """For people."""
        (was, epoch), (now, later) = self.before, self.after
        moved = f"{was} holds epoch {epoch}" if epoch == later else f"{was} {epoch} -> {now} {later}, {self.moved}"
        why = "; ".join(f"{region}: {text}" for region, text in self.why.items())
        return (
            f"{self.fault}, {self.lasted_s:.1f} s: {moved}; {why}; settled after {self.settled_s:.1f} s, "
            f"proven after {self.proven_s:.1f} s"
        )


class Rounds:
    """A pair, what is done to it and who judges it."""

    def __init__(self, pair: Pair, die: random.Random) -> None:
        self.pair, self.faults = pair, Faults(pair, die)
        self.judge = Judge(pair.settings, pair.clocks, pair.stack.endpoints().witness_endpoint, RUN)

    def begin(self) -> None:
        """One region trains, and the other has a checkpoint: without any, nobody could take over."""
        holder, epoch = self.pair.holder()
        other = next(region for region in fault_pair.REGIONS if region != holder)
        self.pair.wait(lambda: self.pair.status(other).get("recoverable_step") is not None, f"a checkpoint in {other}")
        self.prove()
        if not self.judge.progress(holder, epoch):
            raise AssertionError(f"{holder} does not train")

    def play(self, kind: str, begin: Callable[[], Fault] | None = None) -> Round:
        """One round of a kind, drawn unless it is said how it begins; AssertionError says what does not hold."""
        self.pair.restarted.clear()
        before = self.pair.holder()
        trained = self.judge.progress(*before)
        fault = self.faults.do(kind) if begin is None else begin()
        try:
            return self._round(kind, fault, before, trained)
        except (AssertionError, StackError) as error:
            raise AssertionError(f"{fault.words}: {error}") from error

    def _round(self, kind: str, fault: Fault, before: tuple[str, int], trained: int) -> Round:
        began_s = time.monotonic()
        ends_s = began_s + fault.lasts_s
        try:
            self.pair.wait(
                lambda: time.monotonic() >= ends_s or (fault.over is not None and fault.over()), "its time", SETTLES_S
            )
            why = self.pair.why()
            came = fault.over is None or fault.over()
            trained, lasted_s = self.judge.progress(*before) - trained, time.monotonic() - began_s
        finally:
            fault.undo()
        undone_s = time.monotonic()
        if not came:
            raise AssertionError(f"that did not come in {fault.lasts_s:.0f} s; {why}")
        if fault.trains and lasted_s >= TRAINS_S and not trained:
            raise AssertionError(f"I16: no step was trained in {lasted_s:.1f} s; {why}")
        after, settled_s = self._goes_on(), time.monotonic() - undone_s
        self.prove()
        entry = self.pair.holding()["lineage"][-1]
        return Round(
            kind,
            fault.words,
            lasted_s,
            before,
            after,
            why,
            f"{entry['reason']}: {entry['note']}" if before != after else "",
            settled_s,
            time.monotonic() - undone_s,
            trained,
            list(self.pair.restarted),
        )

    def _goes_on(self) -> tuple[str, int]:
        """One region holds the run, and its nodes accept new records under its epoch."""
        place = self.pair.holder()
        seen = self.judge.progress(*place)

        def moved() -> bool:
            nonlocal place, seen
            now = self.pair.settled()
            if now is None:
                return False
            if (now["primary"], now["epoch"]) != place:
                place = (str(now["primary"]), int(now["epoch"]))
                seen = self.judge.progress(*place)
            return self.judge.progress(*place) >= seen + GOES_ON_RECORDS

        self.pair.wait(moved, "training goes on under the holder")
        return place

    def prove(self) -> None:
        """Everything accepted until now is visible in both regions; then all other promises are looked at."""
        self.judge.look()
        before = self.judge.taken()

        def visible() -> bool:
            with contextlib.suppress(RetryableError):
                self.judge.look()
                holder, _ = self.pair.holder()
                return not self.judge.missing(holder, before)
            return False

        try:
            self.pair.wait(visible, "every accepted event in both logs (I14)")
        except AssertionError as error:
            left = sorted(self.judge.missing(self.pair.holder()[0], before))
            raise AssertionError(f"{error}: {len(left)} are missing, as {left[:3]}") from error
        lineage = self.pair.holding()["lineage"]
        self.pair.wait(lambda: not self.judge.unrecorded(lineage), "the history")
        broken = self.judge.broken(lineage)
        if broken:
            raise AssertionError("; ".join(broken))


@contextlib.contextmanager
def running(folder: Path, die: random.Random, cast: Cast | None = None) -> Iterator[Rounds]:
    """Two regions that train, ready for faults; nothing is left of them."""
    with fault_pair.running(folder, cast) as pair:
        rounds = Rounds(pair, die)
        try:
            rounds.begin()
            yield rounds
        finally:
            rounds.judge.close()


def main() -> int:
    """0 if every round held, 1 with the first that did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.fault_rounds", description="Random faults.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", help="only this kind; may be given again")
    parser.add_argument("--logs", type=Path, help="keep the logs and timelines of a round that did not hold here")
    parser.add_argument("--json", action="store_true", help="print JSON, at the end")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by Ctrl-C: nothing is left behind
    console, die, done = Console(stderr=True, soft_wrap=True), random.Random(wanted.seed), list[Round]()
    failed = ""
    with tempfile.TemporaryDirectory(prefix="farside-faults-") as name, running(Path(name) / "stack", die) as rounds:
        before = rounds.pair.resources()
        for number in range(1, wanted.rounds + 1):
            kind = die.choice(wanted.kind) if wanted.kind else rounds.faults.draw()
            try:
                done.append(rounds.play(kind))
            except AssertionError as error:
                failed = f"seed {wanted.seed}, round {number}, {kind}: {error}"
                if wanted.logs is not None:
                    shutil.copytree(rounds.pair.stack.folder / "logs", wanted.logs / "logs")
                    shutil.copytree(rounds.pair.stack.folder / "state", wanted.logs / "state")
                    shutil.copytree(rounds.pair.stack.folder / "nodes", wanted.logs / "nodes")
                break
            except KeyboardInterrupt:
                failed = f"stopped in round {number}"
                break
            console.print(f"{number} of {wanted.rounds}: {kind}: {done[-1].line}", highlight=False, markup=False)
        found = _summary(done, rounds, failed) | {"resources": {"before": before, "after": rounds.pair.resources()}}
    print(json.dumps(found) if wanted.json else _text(found))
    return 1 if failed else 0


def _summary(done: list[Round], rounds: Rounds, failed: str) -> dict[str, object]:
    return {
        "failed": failed,
        "rounds": [asdict(one) for one in done],
        "kinds": dict(sorted(Counter(one.kind for one in done).items())),
        "moved": sum(one.before != one.after for one in done),
        "epoch": done[-1].after[1] if done else 0,
        "accepted": sum(rounds.judge.accepted.values()),
        "branches": rounds.judge.branches,
        "own_duplicates": rounds.judge.own_duplicates,
    }


def _text(found: dict[str, object]) -> str:
    names = ("kinds", "moved", "epoch", "accepted", "branches", "own_duplicates", "resources")
    held = len(list(found["rounds"])) if isinstance(found["rounds"], list) else 0
    return "\n".join([f"{held} rounds held", *(f"{name}: {found[name]}" for name in names), str(found["failed"])])


if __name__ == "__main__":
    sys.exit(main())
