"""`farside supervise`: run a region's services in one place, and start again what ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import misconfigured_exits
from services.cli.serve import PARTS, Config, Region

if TYPE_CHECKING:
    from services.runtime.supervision import Child, Supervised, Supervisor

LOOK_S = 0.2
Services = Annotated[
    list[str] | None, typer.Option("--service", help=f"One of {', '.join(PARTS)}; several times. Default: all of them.")
]


def supervise(region: Region, service: Services = None, config: Config = None) -> None:
    """Run a region's services, and start each again when it ends: soon at first, later each time, soon again once well.

    A service that is misconfigured (exit code 2) is tried again too, slowly: whoever put it right need do no more. Each
    end is a line on stdout; the services' own output is in the logs folder of state_dir. `farside ps` shows how often
    each was started again, and why. The services end with this command, however it ends.

    Under systemd or Kubernetes, run each service by itself and have these start it again (docs/failover.md).

    Example: farside supervise --region east --service controller

    Exit codes: 0 ended by SIGTERM or Ctrl-C, 2 misconfigured: no such region or service.
    """
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - `farside --help` must be quick
    from services.cli.settings_file import load, path_of  # noqa: PLC0415 - as above

    with misconfigured_exits():
        names = service or list(PARTS)
        unknown = sorted(set(names) - set(PARTS))
        if unknown:
            raise MisconfiguredError(f"--service {unknown[0]}: it is one of {', '.join(PARTS)}")
        settings, path = load(config), path_of(config).absolute()
        ports = {name: int(getattr(settings.region(region).ports, name)) for name in names}
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    _run(path, region, ports, settings.state_dir)


def _run(config: Path, region: str, ports: Mapping[str, int], state_dir: Path) -> None:
    from services.adapters.system_clock import SystemClock  # noqa: PLC0415 - as above
    from services.runtime.restarts import RestartPolicy  # noqa: PLC0415 - as above
    from services.runtime.supervision import Supervised, Supervisor  # noqa: PLC0415 - as above

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    logs = state_dir / "logs"
    logs.mkdir(exist_ok=True)
    processes = [Supervised(f"{name}-{region}", partial(_start, name, region, config, logs)) for name in ports]
    supervisor = Supervisor(processes, RestartPolicy(), typer.echo, SystemClock().boottime_s)
    noted = state_dir / f"supervised-{region}.json"
    try:
        while not ended.is_set():
            if supervisor.look():
                _note(noted, supervisor, ports)
            ended.wait(LOOK_S)
    finally:
        supervisor.end()
        noted.unlink(missing_ok=True)


def _start(service: str, region: str, config: Path, logs: Path) -> Child:
    from services.runtime.child_processes import spawn  # noqa: PLC0415 - as above

    argv = [sys.executable, "-m", "services.cli", service, "--region", region, "--config", str(config)]
    return spawn(argv, dict(os.environ), Path.cwd(), logs / f"{service}-{region}.log")


def _note(path: Path, supervisor: Supervisor, ports: Mapping[str, int]) -> None:
    """Leave the services' states where `farside ps` finds them."""
    from services.runtime.child_processes import own_id  # noqa: PLC0415 - as above

    services = [_state(process, port) for process, port in zip(supervisor.processes, ports.values(), strict=True)]
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"owner": asdict(own_id()), "services": services}), encoding="utf-8")
    part.replace(path)


def _state(process: Supervised, port: int) -> dict[str, object]:
    return {
        "name": process.name,
        "pid": process.pid,
        "port": port,
        "ticks": process.ticks,
        "restarts": process.restarts.count,
        "reason": process.restarts.reason,
    }
