"""Services that end all the same are started again, by the local stack's supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.hostile.cases import Case
from tests.hostile.live import PATIENT_S, REGIONS, Live

SERVICES = tuple(f"{service}-{region}" for region in REGIONS for service in ("agent", "controller", "replicator"))
COMMAND_S = 180.0
KILLS = 3


def _farside(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "services.cli", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_S)


def _pids(folder: Path) -> Mapping[str, int]:
    """The processes of the services that `ps` shows as running."""
    shown = _farside("ps", "--folder", str(folder), "--json")
    assert shown.stdout, f"`ps` ends with {shown.returncode}: {shown.stderr.strip()}"  # 1 while one does not run
    listed = json.loads(shown.stdout)
    return {
        str(one["name"]): int(one["pid"]) for one in listed if one["name"] in SERVICES and one["state"] == "running"
    }


def _another(folder: Path, name: str, before: int) -> bool:
    return _pids(folder).get(name, before) != before


def killed_services_come_back(live: Live, _run: str) -> str:
    """Each service of a local stack is killed, one of them again and again; one ends at each start."""
    folder = live.stack.folder.with_name("supervised")
    begun = _farside("up", "--folder", str(folder), "--json")
    try:
        assert begun.returncode == 0, f"`up` ends with {begun.returncode}: {begun.stderr.strip()}"
        live.wait(lambda: set(_pids(folder)) == set(SERVICES), f"`ps` shows {', '.join(SERVICES)}", PATIENT_S)
        first = _pids(folder)
        for name, pid in first.items():
            os.kill(pid, signal.SIGKILL)
            live.wait(partial(_another, folder, name, pid), f"{name} is started again", PATIENT_S)
        for _ in range(KILLS):
            name, pid = "replicator-west", _pids(folder)["replicator-west"]
            os.kill(pid, signal.SIGKILL)
            live.wait(partial(_another, folder, name, pid), f"{name} is started again after each kill", PATIENT_S)
        again = _pids(folder)
    finally:
        ended = _farside("down", "--folder", str(folder))
    assert ended.returncode == 0, f"`down` ends with {ended.returncode}: {ended.stderr.strip()}"
    left = [name for name, pid in again.items() if Path(f"/proc/{pid}").exists()]
    assert not left, f"`down` left {', '.join(left)}"
    return f"{len(first)} services killed once and one {KILLS} times more: all were started again; `down` left none"


CASES: tuple[Case, ...] = (
    Case(
        "killed-services", "started again by the local stack's supervisor; `down` ends all", killed_services_come_back
    ),
)
