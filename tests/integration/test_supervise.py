"""`farside supervise` with real processes: a service waits for a slow region, and is started again when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.ports import PortClaims
from services.adapters.signer import generate_keypair
from services.cli.stack import supervised_states
from services.runtime.child_processes import ProcessId, start_ticks
from tests.callers import callers_file
from tests.test_tidy import ROOT
from tests.waiting import wait_until


def _settings(folder: Path) -> Path:
    """A region whose Kafka, store and witness are not there yet: nobody listens on their ports."""
    claims = PortClaims()
    kafka, store = (claims.claim([]) for _ in range(2))
    (folder / "user.json").write_text(json.dumps({"access_key": "a", "secret_key": "s"}), encoding="utf-8")
    generate_keypair(folder, "east")
    config = folder / "farside.toml"
    lines = [
        f'state_dir = "{folder / "state"}"',
        '[runs.gpt]\nfirst_region = "east"',
        '[witness]\nbucket = "witness"',
        "[regions.east]",
        f'kafka = "127.0.0.1:{kafka}"',
        *(f'{name} = "http://127.0.0.1:{store}"' for name in ("s3", "witness")),
        'bucket = "farside"',
        *(f'{name} = "{folder / "user.json"}"' for name in ("credentials_file", "witness_credentials_file")),
        f'signing_key_file = "{folder / "east.key.pem"}"\npublic_key_file = "{folder / "east.pub.pem"}"',
        f'node_dir = "{folder / "node"}"\narena_dir = "{folder / "arena"}"',
        f"[regions.east.ports]\ncontroller = {claims.claim([])}",
        f'[regions.east.api]\ncallers_file = "{callers_file(folder)}"',
    ]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    claims.release()
    return config


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, for the region's controller only."""
    command = [sys.executable, "-m", "services.cli", "supervise", "--region", "east", "--service", "controller"]
    with (tmp_path / "supervise.log").open("wb") as output:
        process = subprocess.Popen([*command, "--config", str(_settings(tmp_path))], cwd=ROOT, stdout=output)
    yield process
    process.kill()
    process.wait()


def _controller(folder: Path) -> Any:  # noqa: ANN401 - a ServerState, or None
    return next(iter(supervised_states(folder / "state")), None)


def test_a_controller_waits_for_its_region_and_is_started_again_when_it_is_killed(
    supervise: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Both controllers ended at the first start once, because Kafka was slow, and nothing started them again."""
    log = tmp_path / "state" / "logs" / "controller-east.log"
    wait_until(lambda: log.exists() and log.read_text(encoding="utf-8").count("service.waits") >= 2, 90, "its waiting")
    first = _controller(tmp_path)
    assert (first.state, first.restarts) == ("running", 0)
    os.kill(first.pid, signal.SIGKILL)
    wait_until(
        lambda: (now := _controller(tmp_path)) is not None and now.restarts == 1 and now.state == "running", 60, "again"
    )
    second = _controller(tmp_path)
    assert second.pid != first.pid
    assert second.reason.startswith("signal 9 after")
    process = ProcessId(second.pid, start_ticks(second.pid) or 0)
    supervise.send_signal(signal.SIGTERM)
    assert supervise.wait(60) == 0
    assert not process.alive()
    assert supervised_states(tmp_path / "state") == []
    said = (tmp_path / "supervise.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(";")[0].rsplit(" after", 1)[0] for line in said[:1]] == ["controller-east ended with signal 9"]
    assert said[1:] == ["controller-east was started again (1)"]


def test_a_killed_supervisor_leaves_no_service_behind(supervise: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """They die with it, however it ends."""
    wait_until(lambda: (found := _controller(tmp_path)) is not None and found.state == "running", 60, "the controller")
    found = _controller(tmp_path)
    process = ProcessId(found.pid, start_ticks(found.pid) or 0)
    assert process.alive()
    supervise.kill()
    supervise.wait()
    wait_until(lambda: not process.alive(), 20, "its end")
