"""Services that end all the same are started again: `farside supervise`, and the local stack's servers by `up`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from infra.local.servers import http_answers
from tests.hostile.cases import Case
from tests.hostile.live import PATIENT_S, WEST, Live

SERVICES = ("agent", "controller", "replicator")
COMMAND_S = 180.0
KILLS, LATER_S = 5, 2.0
SLOW_S = 70.0  # a service waits for a minute


def _farside(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "services.cli", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_S)


def _states(folder: Path) -> dict[str, dict[str, Any]]:
    """The servers and services that `ps` shows, by name."""
    shown = _farside("ps", "--folder", str(folder), "--json")
    assert shown.stdout, f"`ps` ends with {shown.returncode}: {shown.stderr.strip()}"  # 1 while one does not run
    return {str(one["name"]): one for one in json.loads(shown.stdout)}


def _running(folder: Path, names: tuple[str, ...]) -> bool:
    states = _states(folder)
    return all(states.get(name, {}).get("state") == "running" for name in names)


def _killed(live: Live, folder: Path, name: str) -> float:
    """Kill a process; after how many seconds another one runs in its place."""
    before = int(_states(folder)[name]["pid"])
    os.kill(before, signal.SIGKILL)
    begun_s = time.monotonic()

    def another() -> bool:
        state = _states(folder).get(name, {})
        return state.get("state") == "running" and state["pid"] != before

    live.wait(another, f"{name} is started again after SIGKILL", PATIENT_S)
    return time.monotonic() - begun_s


@contextlib.contextmanager
def _supervised(live: Live) -> Iterator[Path]:
    """A local stack by `up`, and west's services by `supervise`; all is ended with the block."""
    folder, name = live.stack.folder.with_name("supervised"), f"supervise-{WEST}"
    begun = _farside("up", "--folder", str(folder), "--json")
    try:
        assert begun.returncode == 0, f"`up` ends with {begun.returncode}: {begun.stderr.strip()}"
        options = [option for service in SERVICES for option in ("--service", service)]
        argv = [sys.executable, "-m", "services.cli", "supervise", "--region", WEST, *options]
        live.actors.program(name, [*argv, "--config", str(folder / "farside.toml")], {})
        try:
            yield folder
        finally:
            live.actors.kill(name)
    finally:
        ended = _farside("down", "--folder", str(folder))
    assert ended.returncode == 0, f"`down` ends with {ended.returncode}: {ended.stderr.strip()}"


def killed_services_come_back(live: Live, _run: str) -> str:
    """Each service of a region is killed, one of them again and again, and a server of the local stack."""
    names = tuple(f"{service}-{WEST}" for service in SERVICES)
    with _supervised(live) as folder:
        _begin(live, folder, names)
        for name in (f"s3-{WEST}", *names[:-1]):
            _killed(live, folder, name)
        delays_s = [_killed(live, folder, names[-1]) for _ in range(KILLS)]
        shown = _states(folder)[names[-1]]
    assert delays_s[-1] > delays_s[0] + LATER_S, f"no backoff: it came back after {_listed(delays_s)}"
    assert shown.get("restarts", 0) >= KILLS, f"`ps` shows {shown.get('restarts')} restarts"
    return f"all came back, {names[-1]} after {_listed(delays_s)}; `ps` shows {shown['restarts']} restarts of it"


def slow_kafka_at_the_start(live: Live, _run: str) -> str:
    """Kafka does not answer for as long as a service waits for it at its start, and longer."""
    names = tuple(f"{service}-{WEST}" for service in SERVICES)
    with _supervised(live) as folder:
        _begin(live, folder, names)
        broker = int(_states(folder)[f"kafka-{WEST}"]["pid"])
        os.kill(broker, signal.SIGSTOP)
        try:
            for name in names:
                os.kill(int(_states(folder)[name]["pid"]), signal.SIGKILL)
            since_s = time.monotonic()
            live.wait(lambda: time.monotonic() - since_s > SLOW_S, "Kafka is slow", 2 * SLOW_S)
        finally:
            os.kill(broker, signal.SIGCONT)
        live.wait(partial(_running, folder, names), "every service runs once Kafka answers", PATIENT_S)
        live.wait(partial(_serve, folder), "every service serves once Kafka answers", PATIENT_S)
        restarts = {name: _states(folder)[name].get("restarts") for name in names}
    return f"after {SLOW_S:.0f} s without Kafka all serve; restarts: {restarts}"


def _begin(live: Live, folder: Path, names: tuple[str, ...]) -> None:
    """Wait until all are there; the command's last words if it has ended."""

    def there() -> bool:
        gone = live.ended(f"supervise-{WEST}")
        assert not gone, gone
        return _running(folder, names)

    live.wait(there, f"`ps` shows {', '.join(names)}", PATIENT_S)
    live.wait(partial(_serve, folder), "they serve", PATIENT_S)


def _serve(folder: Path) -> bool:
    """Whether each service answers on the port that `ps` shows."""
    ports = [int(_states(folder)[f"{service}-{WEST}"]["port"]) for service in SERVICES]
    return all(http_answers(f"http://127.0.0.1:{port}/healthz") for port in ports)


def _listed(delays_s: list[float]) -> str:
    return ", ".join(f"{delay_s:.1f} s" for delay_s in delays_s)


CASES: tuple[Case, ...] = (
    Case("killed-services", "started again, later each time; `ps` shows how often", killed_services_come_back),
    Case("slow-kafka-at-start", "every service serves once Kafka answers", slow_kafka_at_the_start),
)
