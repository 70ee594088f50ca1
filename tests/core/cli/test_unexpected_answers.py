"""A service that answers something else, as an older or newer version might: the command names it and what is wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.local.ports import PortClaims
from services.cli import app
from services.http.bodies import plain
from tests.bodies import WARMER_STATUS, lane_status, run_status

GOOD: dict[str, Any] = {
    "controller": {"gpt": plain(run_status())},
    "replicator": {"east/checkpoints": plain(lane_status())},
    "warmer": plain(WARMER_STATUS),
}


class _Service(BaseHTTPRequestHandler):
    """Answers every path with one body."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


Serve = Callable[[str, bytes], int]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Has west's services answer well, but one of them with these bytes; its port. East answers nothing."""
    servers: list[HTTPServer] = []
    claims = PortClaims()
    dead = claims.claim([])

    def started(odd: str, body: bytes) -> int:
        ports = {}
        for name, good in GOOD.items():
            answer = body if name == odd else json.dumps(good).encode()
            handler = type("_Answering", (_Service,), {"body": answer})
            servers.append(HTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
            ports[name] = servers[-1].server_port
        (tmp_path / "farside.toml").write_text(_settings(tmp_path, {"east": dict.fromkeys(GOOD, dead), "west": ports}))
        return ports.get(odd, 0)

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()
    claims.release()


def _settings(folder: Path, ports: dict[str, dict[str, int]]) -> str:
    lines = [f'state_dir = "{folder}"', "[runs.gpt]", 'first_region = "east"', 'standby = ["west"]']
    lines += ["[witness]", 'bucket = "w"']
    for name, of_region in ports.items():
        files = ("witness_credentials_file", "credentials_file", "signing_key_file", "public_key_file")
        lines += [f"[regions.{name}]", 'kafka = "k"', 's3 = "http://s"', 'witness = "http://w"', 'bucket = "b"']
        lines += ['node_dir = "n"', 'arena_dir = "a"', *(f'{one} = "f"' for one in files)]
        lines += [f"[regions.{name}.ports]", *(f"{service} = {port}" for service, port in of_region.items())]
    return "\n".join(lines) + "\n"


def _renamed(service: str, key: str) -> bytes:
    """The good answer with one field under another name."""
    body = json.loads(json.dumps(GOOD[service]))
    record = body if service == "warmer" else next(iter(body.values()))
    record[f"{key}_renamed"] = record.pop(key)
    return json.dumps(body).encode()


def _farside(folder: Path, *words: str) -> Any:  # noqa: ANN401 - click's result
    return CliRunner().invoke(app, [*words, "--config", str(folder / "farside.toml")], env={"COLUMNS": "300"})


def test_what_answers_well_is_shown(serve: Serve, tmp_path: Path) -> None:
    """So that the refusals below are due to the one field that differs."""
    serve("", b"")
    done = _farside(tmp_path, "status", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    west = json.loads(done.stdout)["runs"]["gpt"]["regions"]["west"]
    assert (west["visible"], west["standby"]["staged_step"], west["unexpected"]) == (True, 40, [])
    assert _farside(tmp_path, "explain", "--run", "gpt").exit_code == 0


@pytest.mark.parametrize(
    ("service", "key", "field"),
    [("controller", "promise", "gpt.promise"), ("replicator", "queued", "east/checkpoints.queued"),
     ("warmer", "proof", "proof")],
)  # fmt: skip
def test_status_names_the_service_and_the_field_and_shows_the_others(
    serve: Serve, tmp_path: Path, service: str, key: str, field: str
) -> None:
    """A key that was renamed at one end is never a blank in a table."""
    port = serve(service, _renamed(service, key))
    line = f"the {service} of west on port {port} answers something else: {field}: it is missing"
    done = _farside(tmp_path, "status")
    assert done.exit_code == 1
    assert line in done.stdout
    done = _farside(tmp_path, "status", "--json")
    west = json.loads(done.stdout)["runs"]["gpt"]["regions"]["west"]
    assert (done.exit_code, west["unexpected"]) == (1, [line])
    assert west["visible"] == (service != "controller")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("explain", "--run", "gpt"), 1),
        (("lineage", "--run", "gpt"), 1),
        (("history", "--run", "gpt"), 1),
        (("pause", "--run", "gpt", "--yes"), 1),
        (("switchover", "--run", "gpt", "--to", "east", "--yes"), 1),
        (("failover", "--run", "gpt", "--to", "west", "--yes"), 2),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_does_nothing_on_an_answer_that_it_cannot_read(
    serve: Serve, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    """One line names the controller and the field; no Python error."""
    port = serve("controller", _renamed("controller", "epoch"))
    done = _farside(tmp_path, *words)
    assert done.exit_code == code
    assert f"farside: the controller of west on port {port} answers something else: " in done.stderr
    assert "it is missing" in done.stderr
    assert done.stderr.count("something else") == 1


def test_alarms_of_a_replicator_that_answers_something_else_are_not_called_none(serve: Serve, tmp_path: Path) -> None:
    """Another program may have its port: then nobody knows."""
    port = serve("replicator", b"<html>hello</html>")
    done = _farside(tmp_path, "alarms", "list")
    assert done.exit_code == 1
    assert f"the replicator of west on port {port} answers something else: the body is no JSON" in done.stderr
