"""Alarms as a person and a monitor see them: status, `farside alarms`, and the replicator's metrics."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from starlette.routing import Route
from typer.testing import CliRunner

from infra.local.ports import PortClaims
from schemas.http_bodies import LaneAlarmsStatus, ReplicatorStatus
from services.adapters.signer import Ed25519Signer
from services.adapters.system_clock import SystemClock
from services.cli import app
from services.cli.status import tables
from services.http.bodies import from_json, plain
from services.http.server import HttpServer, Turns
from services.operations.run_status import Answers, Overview, run_of
from services.replicator import acknowledging
from services.runtime.metrics import ReplicatorCollector
from tests.callers import listening, token_file
from tests.core.cli.test_status import WEST
from tests.core.replication.test_lane_replicator import _metric, _turn, _World
from tests.waiting import wait_until

KIND = "hole"


@pytest.fixture
def world(signer: Ed25519Signer) -> _World:
    """East published the numbers 1 and 4."""
    world = _World(signer)
    for seq in (1, 4):
        world.send(_metric(seq, seq))
    return world


def _replicator_status(world: _World) -> ReplicatorStatus:
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    return {"east/metrics": flow.status()}


def test_status_shows_open_alarms_in_json_and_below_the_table(world: _World) -> None:
    """Those of the run and those of every run, newest first; an older replicator says nothing of them."""
    lane = _replicator_status(world)["east/metrics"]
    (hole,) = lane.alarms.newest
    of_log = replace(hole, id="abcd1234", run="*", time_ms=hole.time_ms + 1, text="of every run")
    foreign = replace(hole, id="ffff0000", run="other", text="of another run")
    three = {"east/metrics": replace(lane, alarms=LaneAlarmsStatus(open=3, newest=(hole, of_log, foreign)))}
    body = plain(lane)
    del body["alarms"]
    answers = {
        "east": Answers(replicator=from_json(ReplicatorStatus, json.dumps({"east/metrics": body}))),
        "west": Answers(controller={"gpt": WEST}, replicator=three),
    }
    run = run_of("gpt", answers, {}, 112.0)
    assert [alarm.id for alarm in run.regions["west"].alarms] == ["abcd1234", hole.id]
    assert run.regions["east"].alarms == ()
    many = replace(run.regions["west"], alarms=(of_log,) * 8)
    console = Console(width=200, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(tables(Overview(runs={"gpt": run, "many": replace(run, regions={"west": many})})))
    text = shown.get()
    assert f"west: ALARM {hole.id}: metrics of east, gpt: numbers were jumped over, numbers 2..3 of r0" in text
    assert "west: and 3 more: farside alarms list" in text


def test_alarms_are_counted_and_those_that_are_open_are_a_gauge(world: _World) -> None:
    """By lane, peer and kind; every kind is there from the start, so that an alert can be made on it."""
    flow = world.replicator(lane="metrics")
    registry = CollectorRegistry()
    registry.register(ReplicatorCollector({"east/metrics": flow}))
    labels = f'{{kind="{KIND}",lane="metrics",peer="east"}}'
    assert f"farside_alarms_open{labels} 0.0" in generate_latest(registry).decode()
    _turn(world, flow)
    assert f"farside_alarms_total{labels} 1.0" in generate_latest(registry).decode()
    assert f"farside_alarms_open{labels} 1.0" in generate_latest(registry).decode()
    for seq in (2, 3):
        world.send(_metric(seq, seq))
    _turn(world, flow)
    assert f"farside_alarms_total{labels} 1.0" in generate_latest(registry).decode()
    assert f"farside_alarms_open{labels} 0.0" in generate_latest(registry).decode()


@pytest.fixture
def served(world: _World, tmp_path: Path) -> Iterator[Path]:
    """The settings of a region whose replicator is served, and turned by a thread."""
    flow = world.replicator(lane="metrics")
    flows = {"east/metrics": flow}
    claims = PortClaims()
    port, other = claims.claim([]), claims.claim([])
    claims.release()
    server = HttpServer(
        listen=listening(tmp_path, port),
        turns=Turns(SystemClock()),
        registry=CollectorRegistry(),
        status=lambda: {name: one.status() for name, one in flows.items()},
        routes=[Route("/v1/alarm", acknowledging(flows), methods=["POST"])],
    )
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            ended.wait(flow.turn() / 10)

    thread = threading.Thread(target=turn)
    server.start()
    thread.start()
    try:
        yield _settings(tmp_path, {"west": port, "east": other})
    finally:
        ended.set()
        thread.join()
        server.close()


def _settings(folder: Path, ports: dict[str, int]) -> Path:
    lines = [f'state_dir = "{folder}"', "[runs.gpt]", 'first_region = "east"', "[witness]", 'bucket = "w"']
    for name, port in ports.items():
        files = ("witness_credentials_file", "credentials_file", "signing_key_file", "public_key_file")
        lines += [f"[regions.{name}]", 'kafka = "k"', 's3 = "http://s"', 'witness = "http://w"', 'bucket = "b"']
        lines += ['node_dir = "n"', 'arena_dir = "a"', *(f'{one} = "f"' for one in files)]
        lines += [f"[regions.{name}.ports]", f"replicator = {port}"]
        lines += [f"[regions.{name}.api]", f'token_file = "{token_file(folder, "operator")}"']
    path = folder / "farside.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_person_lists_alarms_and_acknowledges_one(served: Path) -> None:
    """With one region that does not answer, which is said; an id that nobody has is refused."""

    def invoke(*words: str) -> Any:  # noqa: ANN401 - click's result
        return CliRunner().invoke(app, ["alarms", *words, "--config", str(served)])

    wait_until(lambda: invoke("list").stdout, 20, "the alarm is open")
    listed = invoke("list", "--json")
    assert listed.exit_code == 1
    assert "farside: the replicator of east does not answer\n" in listed.stderr
    alarm = json.loads(listed.stdout)
    assert (alarm["at"], alarm["kind"], alarm["ranges"], alarm["state"]) == ("west", KIND, [[2, 3]], "open")
    assert alarm["text"] in invoke("list").stdout
    refused = invoke("acknowledge", "00000000")
    assert (refused.exit_code, "no service" in refused.stderr) == (1, True)
    done = invoke("acknowledge", alarm["id"])
    assert (done.exit_code, done.stdout) == (0, f"west  {alarm['id']}  acknowledged\n")
    assert invoke("list").stdout == ""
