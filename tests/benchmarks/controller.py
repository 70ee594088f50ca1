"""One controller process for many runs, on real brokers and stores: CPU, memory, threads, requests at the witness.

`make bench-controller RUNS=1000` measures without lease groups and with them, prints a table and writes
`benchmarks/controller.json`. The witness requests are what the controllers count themselves, read over /metrics before
and after.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines import paths
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Heartbeat
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaLog
from services.demo import local_config
from services.demo.actors import Actors
from services.demo.report import versions
from services.runtime.child_processes import wait_for
from services.runtime.clients import cluster_of
from services.settings import Settings, load
from tests.callers import scraped

REGIONS = ("east", "west")
COUNTED = re.compile(r'farside_witness_requests_total\{kind="(\w+)"\} ([0-9.e+]+)')
TICKS = os.sysconf("SC_CLK_TCK")
READY_S, WARM_UP_S = 300.0, 30.0


class Beats(threading.Thread):
    """Publishes the heartbeats of so many runs' agents: one a second each, in the first region."""

    def __init__(self, cluster: KafkaCluster, runs: list[str]) -> None:
        super().__init__(daemon=True)
        self._log, self._runs, self._codec = KafkaLog(cluster), runs, Codec()
        self.ended, self.sent = threading.Event(), 0

    def run(self) -> None:
        """Until `ended`."""
        while not self.ended.wait(max(0.0, 1.0 - time.monotonic() % 1.0)):
            self.sent += 1
            beats = [self._beat(name) for name in self._runs]
            messages = [Message(paths.HEARTBEATS, one.run.encode(), self._codec.encode(one)) for one in beats]
            self._log.publish(messages)
        self._log.close()

    def _beat(self, run: str) -> Heartbeat:
        return Heartbeat(
            event_id=f"{run}/1/n0/heartbeats/{self.sent}",
            run=run,
            region=REGIONS[0],
            epoch=1,
            attempt=0,
            producer="n0",
            seq=self.sent,
            step=self.sent,
            time_ms=int(time.time() * 1000),
            node="n0",
            phase="train",
            budget_s=30.0,
            last_seqs=(),
        )


def looked_at(pid: int, settings: Settings, region: str, kafka_ports: set[int]) -> dict[str, Any]:
    """One controller now: totals, to be subtracted."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    counts = {kind: float(count) for kind, count in COUNTED.findall(scraped(settings, "controller", region))}
    return {
        "at_s": time.monotonic(),
        "cpu_s": (int(stat[11]) + int(stat[12])) / TICKS,
        "rss_mb": int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024,
        "threads": int(re.findall(r"Threads:\s+(\d+)", status)[0]),
        "kafka_connections": _connections(pid, kafka_ports),
        "requests": counts,
    }


def _connections(pid: int, ports: set[int]) -> int:
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
    found = {row[9] for row in rows if row[3] == "01" and int(row[2].partition(":")[2], 16) in ports}
    links = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(one.readlink()))
        except FileNotFoundError:
            continue  # closed between the two looks
    return sum(link.removeprefix("socket:[").removesuffix("]") in found for link in links)


def measured(runs: int, seconds: float, group_size: int) -> dict[str, Any]:
    """Start everything, wait until each run has been created, warm up, measure."""
    with tempfile.TemporaryDirectory(prefix="farside-bench-") as place:
        folder = Path(place)
        with Stack(folder, Tools.cached()) as stack:
            stack.start()
            config = local_config.write(stack.layout, run="r0000", profile="default")
            names = [f"r{number:04d}" for number in range(runs)]
            _add_runs(config, names, group_size)
            settings = load(config, {})
            actors = Actors(folder, config, settings.service_ports())
            beats = Beats(cluster_of(settings.region(REGIONS[0])), names)
            try:
                for region in REGIONS:
                    actors.service("controller", region)
                found = _between(actors, settings, beats, runs, seconds)
                return {"group_size": group_size, **found}
            finally:
                beats.ended.set()
                if beats.ident is not None:
                    beats.join(10.0)
                actors.stop()
                local_config.clean(folder)


def _add_runs(config: Path, names: list[str], group_size: int) -> None:
    """The settings with so many runs; the first is there already."""
    text = config.read_text(encoding="utf-8")
    for number, name in enumerate(names):
        group = f'group = "g{number // group_size:03d}"\n' if group_size else ""
        if number:
            text += f'[runs.{name}]\nfirst_region = "east"\nstandby = ["west"]\n{group}'
        else:
            text = text.replace(f"[runs.{name}]\n", f"[runs.{name}]\n{group}")
    config.write_text(text, encoding="utf-8")


def _between(actors: Actors, settings: Any, beats: Beats, runs: int, seconds: float) -> dict[str, Any]:  # noqa: ANN401
    kafka = {int(settings.region(name).kafka.rpartition(":")[2]) for name in REGIONS}
    kafka |= {int(link.kafka.rpartition(":")[2]) for name in REGIONS for link in settings.region(name).links.values()}

    def look(region: str) -> dict[str, Any]:
        # `die_with_parent.py` replaces itself by the service, so the first of the family is the controller.
        return looked_at(actors.pids(f"controller-{region}")[0], settings, region, kafka)

    def created() -> bool:
        try:
            return bool(look(REGIONS[0])["requests"].get("claim", 0) >= runs)
        except OSError:
            return False  # it does not serve yet

    began_s = time.monotonic()
    actors.wait(f"{runs} runs to be created", created, READY_S)
    created_s = time.monotonic() - began_s
    beats.start()
    actors.wait("the warm-up", lambda: time.monotonic() - began_s - created_s > WARM_UP_S, WARM_UP_S + 10)
    before = {region: look(region) for region in REGIONS}
    wait_for(lambda: not beats.is_alive(), seconds)
    found = {region: _difference(before[region], look(region)) for region in REGIONS}
    profile = settings.lease_profile
    total = sum(sum(one["requests_per_s"].values()) for one in found.values())
    return {
        "runs": runs,
        "profile": settings.profile,
        "created_in_s": round(created_s, 1),
        "heartbeats_per_s": runs,
        "controllers": found,
        "requests_per_day_measured": round(total * 86_400),
        "requests_per_day_by_formula": round(86_400 * (1 / profile.renew_s + len(REGIONS) / profile.poll_s) * runs),
    }


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    seconds = after["at_s"] - before["at_s"]
    kinds = sorted(after["requests"])
    per_s = {kind: (after["requests"][kind] - before["requests"].get(kind, 0)) / seconds for kind in kinds}
    return {
        "seconds": round(seconds, 1),
        "cpu_percent": round(100 * (after["cpu_s"] - before["cpu_s"]) / seconds, 1),
        "rss_mb": round(after["rss_mb"], 1),
        "threads": after["threads"],
        "kafka_connections": after["kafka_connections"],
        "requests_per_s": {kind: round(value, 2) for kind, value in per_s.items()},
    }


def table(results: list[dict[str, Any]]) -> Table:
    """For people: a row for each controller, without groups and with them."""
    shown = Table(title=f"Controllers of {results[0]['runs']} runs, {results[0]['profile']} profile")
    for name in ("runs a group", "controller", "CPU", "memory", "threads", "reads/s", "writes/s", "requests a day"):
        shown.add_column(name)
    for result in results:
        for region, one in result["controllers"].items():
            asked = one["requests_per_s"]
            shown.add_row(
                str(result["group_size"] or 1),
                region,
                f"{one['cpu_percent']:.0f} %",
                f"{one['rss_mb']:.0f} MB",
                str(one["threads"]),
                f"{asked.get('read', 0) + asked.get('read_group', 0):.1f}",
                f"{asked.get('write', 0) + asked.get('write_group', 0):.1f}",
                f"{result['requests_per_day_measured'] / 1e6:.1f} M",
            )
    return shown


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.controller", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--group-size", type=int, action="append", help="runs a lease group; default: 0 (none), and 50")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/controller.json"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    results = [measured(given.runs, given.seconds, size) for size in given.group_size or [0, 50]]
    report = {"day": time.strftime("%Y-%m-%d"), "versions": versions(), "results": results}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if given.json:
        print(json.dumps(report))
    else:
        Console().print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
