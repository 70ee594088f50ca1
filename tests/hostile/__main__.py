"""`python -m tests.hostile [--only NAME ...]`: every hostile case against live processes; 1 if an answer differs."""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.hostile.cases import Case, Stage, Verdict
from tests.hostile.live import Live
from tests.hostile.stages import CASES, opened

SEEN_MAX = 400


def judged(live: Live, case: Case) -> Verdict:
    """Play one case; whatever is raised is a difference, also while it is set up."""
    begun_s = time.monotonic()
    try:
        live.keep()
        seen, ok = case.look(live, case.run), True
    except Exception as error:  # noqa: BLE001 - a case that cannot be set up is no skip
        text = str(error).strip() or repr(error)
        seen, ok = text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}", False
    return Verdict(case.name, case.right, seen[:SEEN_MAX], ok, time.monotonic() - begun_s)


def played(cases: Sequence[Case], folder: Path) -> Iterator[Verdict]:
    """Every case's verdict. Those of a stage share a stack; after one that differs, the next one gets a fresh stack."""
    stacks = itertools.count(1)
    for stage in Stage:
        left = [case for case in cases if case.stage is stage]
        while left:
            verdicts: list[Verdict] = []
            try:
                with opened(folder / f"{stage.value}-{next(stacks)}", stage, left) as live:
                    while left and (not verdicts or verdicts[-1].ok):
                        verdicts.append(judged(live, left.pop(0)))
                        yield verdicts[-1]
            except Exception as error:  # noqa: BLE001 - a case that cannot be set up is no skip
                yield from (_unplayed(case, error) for case in left)
                left.clear()


def _unplayed(case: Case, error: Exception) -> Verdict:
    return Verdict(case.name, case.right, f"the stack did not start: {error}"[:SEEN_MAX], ok=False, took_s=0.0)


def chosen_of(only: Sequence[str], *, short: bool) -> list[Case]:
    """The cases that have one of these words in their name; all without any. ValueError if a word chooses none."""
    for word in only:
        if not any(word in case.name for case in CASES):
            raise ValueError(f"no case has {word!r} in its name; --list shows all")
    fitting = [case for case in CASES if not only or any(word in case.name for word in only)]
    return [case for case in fitting if case.short or not short]


def main() -> int:
    """Print the table; 0 if every answer is right, 1 if one differs, 2 for a case that there is not."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases with one of these in their name")
    parser.add_argument("--list", action="store_true", help="only name the cases and their right answers")
    parser.add_argument("--short", action="store_true", help="the cases that `make test` has")
    parser.add_argument("--json", action="store_true", help="print JSON")
    wanted = parser.parse_args()
    try:
        cases = chosen_of(wanted.only, short=wanted.short)
    except ValueError as error:
        parser.error(str(error))
    if wanted.list:
        _print_list(cases, as_json=wanted.json)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by Ctrl-C: nothing is left behind
    console, verdicts = Console(stderr=True, soft_wrap=True), list[Verdict]()
    with tempfile.TemporaryDirectory(prefix="farside-hostile-") as name:
        for verdict in played(cases, Path(name)):
            verdicts.append(verdict)
            word = "ok" if verdict.ok else "DIFFERS"
            text = f"{len(verdicts)} of {len(cases)}: {verdict.case}: {word}, {verdict.took_s:.0f} s: {verdict.seen}"
            console.print(text, highlight=False, markup=False)
    _print(verdicts, as_json=wanted.json)
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def _print_list(cases: Sequence[Case], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"case": one.name, "right": one.right, "short": one.short} for one in cases]))
        return
    table = Table("case", "right answer", "short")
    for one in cases:
        table.add_row(one.name, one.right, "yes" if one.short else "")
    Console().print(table)


def _print(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts]))
        return
    table = Table("case", "right answer", "seen", "ok")
    for one in verdicts:
        table.add_row(one.case, one.right, one.seen, "yes" if one.ok else "NO")
    Console().print(table)
    wrong = sum(not verdict.ok for verdict in verdicts)
    print(f"{len(verdicts)} cases, {wrong} differ")


if __name__ == "__main__":
    sys.exit(main())
