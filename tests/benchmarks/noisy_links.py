"""`make bench-noise HOURS=1000`: simulated hours of noisy links between two living regions, under the default profile.

A false promotion is one while the primary is valid, or has renewed within the lease: there is none by design, and one
ends this with exit code 1. What noise does cost is counted: alarms, tries that nobody needed, patience, and promotions
of a primary that lives but could not renew for a whole lease and was not heard meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.adapters.signer import Ed25519Signer
from tests.simulation.failover_world import signer_in
from tests.simulation.noise import Noise
from tests.simulation.noisy_world import Counts, World

HOURS_EACH = 10.0  # of one world
_OF_PROCESS: list[tuple[tempfile.TemporaryDirectory[str], Ed25519Signer]] = []


def measured(hours: float, first: int, jobs: int) -> tuple[Counts, int]:
    """Everything that was counted, and in how many worlds; Ctrl-C ends it with what is done."""
    lengths = [HOURS_EACH] * int(hours // HOURS_EACH)
    lengths += [rest] if (rest := hours - sum(lengths)) > 0 else []
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} h"), TimeElapsedColumn()
    total = Counts()
    with (
        ProcessPoolExecutor(jobs, initializer=_prepare) as pool,
        Progress(*columns, console=Console(stderr=True)) as shown,
    ):
        task = shown.add_task("simulating", total=hours)
        waiting = [pool.submit(_world, first + number, length) for number, length in enumerate(lengths)]
        done = 0
        try:
            for one in as_completed(waiting):
                counts, done = one.result(), done + 1
                total.add(counts)
                shown.update(task, advance=counts.hours)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # what is done counts
    return total, done


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that counts
    folder = tempfile.TemporaryDirectory(prefix="farside-noise-")
    _OF_PROCESS.append((folder, signer_in(Path(folder.name))))


def _world(seed: int, hours: float) -> Counts:
    return World(seed, _OF_PROCESS[0][1], hours).run().counts


def report_of(counts: Counts, worlds: int, first: int, took_s: float) -> dict[str, Any]:
    """As JSON."""
    events = counts.events
    return {
        "day": time.strftime("%Y-%m-%d"),
        "profile": "default",
        "hours": counts.hours,
        "worlds": worlds,
        "first_seed": first,
        "took_s": round(took_s),
        "noise": dataclasses.asdict(Noise()),
        "false_promotions": counts.false,
        "broken_promises": counts.broken,
        "promotions_after_a_lapse": counts.lapsed,
        "tries": {kind: counts.tries[kind] for kind in ("won", "refused", "unanswered")},
        "alarms": {name: events[f"failover.alarm {name}"] for name in ("link_lost", "holder_not_renewing")},
        "silences": events["failover.silent"],
        "refused_by_a_gate": events["failover.decided refused"],
        "patience_raised": counts.patience_raised,
        "patience_most": counts.patience_most,
        "validity_gaps": counts.gaps,
        "validity_gaps_s": round(counts.gaps_s, 1),
        "diagnoses": {
            name.partition(" ")[2]: count
            for name, count in sorted(events.items())
            if name.startswith("failover.diagnosed")
        },
        "controller_turns": counts.turns,
        "heartbeats_heard": counts.beats,
        "witness_requests": dict(sorted(counts.requests.items())),
    }


def table(found: dict[str, Any]) -> Table:
    """For people."""
    hours = found["hours"]
    shown = Table("", "count", "per 100 h", title=f"{hours:.0f} hours of noisy links, {found['worlds']} worlds")
    rows = {
        "false promotions": found["false_promotions"],
        "promotions after a lapse of a whole lease": found["promotions_after_a_lapse"],
        **{f"needless tries, {kind}": count for kind, count in found["tries"].items()},
        "would have tried, and a gate was closed": found["refused_by_a_gate"],
        **{f"alarms, {name}": count for name, count in found["alarms"].items()},
        "silences of all nodes": found["silences"],
        "patience raised": found["patience_raised"],
        "the primary's validity ended": found["validity_gaps"],
        "... for how long in all, s": found["validity_gaps_s"],
        "heartbeats heard": found["heartbeats_heard"],
        "witness requests that failed": sum(
            count for kind, count in found["witness_requests"].items() if kind.endswith("failed")
        ),
    }
    for name, count in rows.items():
        shown.add_row(name, f"{count:,}", f"{100 * count / hours:,.1f}")
    return shown


def main() -> int:
    """0 if no promise was broken, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.noisy_links", description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1000.0, help="simulated")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/noise.json"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    wanted = parser.parse_args()
    if wanted.hours <= 0:
        parser.error("--hours must be positive")
    began_s = time.monotonic()
    counts, worlds = measured(wanted.hours, wanted.first, wanted.jobs)
    found = report_of(counts, worlds, wanted.first, time.monotonic() - began_s)
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps(found))
    else:
        Console().print(table(found))
        print(*counts.broken, sep="\n", end="\n" if counts.broken else "")
    return 1 if counts.false or counts.broken else 0


if __name__ == "__main__":
    sys.exit(main())
