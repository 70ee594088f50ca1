"""`make bench-events`: Farside's replicator beside MirrorMaker 2, in one run, on the same two local brokers.

One after the other they copy the same events: how long one takes from region to region, what a record costs, when a
new topic is followed, and what is said when records are lost at the source. Then what is Farside's alone: memory over a
million events, what an agent pays to publish, and how fast a log is read again. Both read the first region through the
local stack's link, to which nothing is added, and neither compresses. Figures of one machine on one day; the ratios are
what can be compared.

Exit codes: 0 all was measured, goals met or missed; 1 a part could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.local.errors import StackError
from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import KAFKA_VERSION, Tools
from pipelines.errors import FarsideError
from services.demo import local_config
from services.demo.report import versions
from services.settings import load
from tests.benchmarks.event_parts import Bench, Scale
from tests.benchmarks.event_peers import HEAP, JVM

LATENCY_GOAL, NEW_GOAL_S, FLAT_GOAL = 0.5, 2.0, 1.1
QUICK = Scale(
    copied=4_000,
    passed=8_000,
    rate=200,
    seconds=3,
    warm_up_s=1,
    default_refresh_s=3.0,
    lost=100,
    new_topics=1,
    published=2_000,
    checkpoints=10,
    deadline_s=120.0,
)
NEW = "new topic visible, s (refresh: "
Results = dict[str, Any]


def measured(scale: Scale, console: Console) -> tuple[Results, dict[str, str]]:
    """Every part's figures, or why there are none; and what the mirror was told."""
    with (
        tempfile.TemporaryDirectory(prefix="farside-bench-") as place,
        Stack(Path(place), Tools.cached(), link=LinkShape(0, 0)) as stack,
        _progress(console) as shown,
    ):
        task = shown.add_task("the local stack", total=None)
        stack.start()
        config = local_config.write(stack.layout)
        bench = Bench(stack, config, load(config, {}), scale, lambda text: shown.update(task, description=text))
        results: Results = {}
        try:
            parts = bench.parts()
            shown.update(task, total=len(parts))
            for name, part in parts.items():
                shown.update(task, description=name)
                try:
                    results[name] = part()
                except (FarsideError, OSError) as error:
                    results[name] = {"unmeasured": str(error)}
                    console.print(f"{name}: not measured: {escape(str(error))}")
                shown.advance(task)
        finally:
            bench.close()
            local_config.clean(stack.folder)
        return results, bench.mirror.settings()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both; `met` is None where nothing was promised."""

    what: str
    farside: float | str | None
    mirror: float | str | None = None
    goal: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to theirs."""
        if isinstance(self.farside, str) or isinstance(self.mirror, str) or not self.mirror or self.farside is None:
            return None
        return round(self.farside / self.mirror, 3)


def rows_of(found: Results) -> list[Row]:
    """The compared figures, then those of Farside alone; a part that was not measured leaves its figures out."""

    def both(part: str, figure: str) -> tuple[Any, Any]:
        ours, theirs = (found[f"{who}.{part}"].get(figure) for who in ("farside", "mirror"))
        return ours, theirs

    p99, steady = both("latency", "p99_ms"), both("copy", "steady_records_per_cpu_s")
    whole, peak = both("copy", "records_per_cpu_s"), both("copy", "peak_mb")
    new, theirs = (None if one is None else round(statistics.median(one), 2) for one in both("new_topic", "seconds"))
    default = found["mirror.new_topic_default"]
    took = f"> {default['waited_s']:.0f}" if "seconds" in default and default["seconds"] is None else None
    memory, publish = found["farside.memory"], found["farside.publish"]
    flat = memory.get("end_to_begin")
    return [
        Row("latency p50, ms", *both("latency", "p50_ms")),
        Row("latency p99, ms", *p99, "under half", _met(p99, lambda a, b: a < LATENCY_GOAL * b)),
        Row("records per CPU-s, with the start", *whole, "at least", _met(whole, lambda a, b: a >= b)),
        Row("records per CPU-s, after the start", *steady),
        Row("CPU-s of the start", *both("copy", "start_cpu_s")),
        Row("copying, s", *both("copy", "seconds")),
        Row("peak memory while copying, MB", *peak),
        Row(f"{NEW}1 s)", new, theirs, f"< {NEW_GOAL_S:.0f}", _met((new,), lambda seconds: seconds < NEW_GOAL_S)),
        Row(f"{NEW}default, 600 s)", new, took or default.get("seconds")),
        Row("checkpoint, event sent to visible, p50, ms", found["farside.checkpoints"].get("p50_ms")),
        Row("checkpoint, event sent to visible, p99, ms", found["farside.checkpoints"].get("p99_ms")),
        *_losses(found["farside.losses"], found["mirror.losses"]),
        Row("memory after 1/10 and all of the events, MB", _pair(memory), None, "flat", _met((flat,), _is_flat)),
        Row("scan, records/s", found["farside.scan"].get("records_per_s")),
        Row("plan of a replay, records/s", found["farside.plan"].get("records_per_s")),
        Row("publishing a metric alone, CPU us", publish.get("alone", {}).get("cpu_us_per_event")),
        Row("publishing a metric in batches, CPU us", publish.get("in_batches", {}).get("cpu_us_per_event")),
    ]


def _losses(ours: Results, theirs: Results) -> list[Row]:
    """The losses that were noticed, and the records that are missing though they are there to be read."""
    if "unmeasured" in ours or "unmeasured" in theirs:
        return [Row("losses", None)]
    return [
        Row(name, _verdict(ours[name]), _verdict(theirs[name]), "noticed", bool(ours[name]["noticed"])) for name in ours
    ]


def _verdict(story: Results) -> str:
    text = "noticed" if story["noticed"] else "SILENT"
    if story["last_visible_after_s"] is None:
        return f"{text}, stuck"
    return f"{text}, {story['missing_though_there']} lost" if story["missing_though_there"] else text


def _pair(memory: Results) -> str | None:
    return f"{memory['begin_mb']} / {memory['end_mb']}" if "end_mb" in memory else None


def _is_flat(ratio: float) -> bool:
    return ratio <= FLAT_GOAL


def _met(figures: tuple[Any, ...], holds: Callable[..., bool]) -> bool | None:
    return None if None in figures else bool(holds(*figures))


def table(rows: list[Row], title: str) -> Table:
    """For people."""
    shown = Table("what", "Farside", "MirrorMaker 2", "ratio", "goal", title=title)
    for row in rows:
        verdict = {True: " met", False: " MISSED", None: " not measured" if row.goal else ""}[row.met]
        cells = [
            "" if one is None else f"{one:,}" if isinstance(one, int) else str(one) for one in (row.farside, row.mirror)
        ]
        shown.add_row(row.what, *cells, "" if row.ratio is None else f"{row.ratio:.2f}", row.goal + verdict)
    return shown


def lines_of_losses(found: Results) -> list[str]:
    """In their own words."""
    lines = []
    for who in ("farside", "mirror"):
        for name, story in found[f"{who}.losses"].items():
            if name != "unmeasured":
                words = story["said"][:1] or [f"nothing; more quietly: {(story['said_quietly'] or ['nothing'])[0]}"]
                lines.append(f"{who}, {name}: {words[0]}")
    return lines


def _machine(tools: Tools) -> Results:
    version = subprocess.run([str(tools.java), "-version"], capture_output=True, text=True, check=True).stderr
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "java": version.splitlines()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }


def _ended(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # through every `finally`


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.events", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small counts: shows that it works, measures nothing")
    parser.add_argument("--out", type=Path, help="default: benchmarks/events.json; of --quick, none")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _ended)
    console, scale, begun_s = Console(stderr=True), QUICK if given.quick else Scale(), time.monotonic()
    machine = _machine(Tools.cached())
    try:
        results, mirror_settings = measured(scale, console)
    except StackError as error:
        console.print(escape(str(error)))
        return 1
    rows = rows_of(results)
    report = {
        "day": time.strftime("%Y-%m-%d"),
        "versions": {**versions(), "connect-mirror": KAFKA_VERSION},
        "machine": machine,
        "took_s": round(time.monotonic() - begun_s),
        "scale": asdict(scale),
        "mirror": {"java_options": [*HEAP, *JVM], "settings": mirror_settings},
        "results": results,
        "goals": [{**asdict(row), "ratio": row.ratio} for row in rows if row.goal],
    }
    path = given.out or (None if given.quick else Path("benchmarks/events.json"))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if given.json:
        print(json.dumps(report))
    else:
        out = Console()
        out.print(table(rows, f"{scale.copied:,} records copied, {scale.passed:,} passed"))
        for line in lines_of_losses(results):
            out.print(escape(line))
    return 1 if any("unmeasured" in one for one in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
