"""Commands that look into a region's store, when that store does not answer: they say so and advise nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.local.ports import PortClaims
from services.cli import app
from services.http.bodies import to_json
from tests.bodies import epoch_entry, run_status

STATUS = run_status(
    lineage=(epoch_entry(1, "east"), epoch_entry(2, "west", fork_step=30)), forks=((1, 0, -1), (2, 1, 30))
)


class _Controller(BaseHTTPRequestHandler):
    """West's, which holds the run that it took over from east."""

    def do_GET(self) -> None:
        body = to_json({"gpt": STATUS})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Settings in which west's controller answers and no store does."""
    claims = PortClaims()
    dead = claims.claim([])
    server = HTTPServer(("127.0.0.1", 0), _Controller)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    key = tmp_path / "key.json"
    key.write_text('{"access_key": "a", "secret_key": "b"}')
    lines = ['profile = "fast"', f'state_dir = "{tmp_path}"', '[runs.gpt]\nfirst_region = "east"\nstandby = ["west"]']
    lines += ['[witness]\nbucket = "w"']
    for name, port in (("east", dead), ("west", server.server_port)):
        address = f'"http://127.0.0.1:{dead}"'
        lines += [f"[regions.{name}]", 'kafka = "127.0.0.1:1"', f"s3 = {address}", f"witness = {address}"]
        lines += ['bucket = "b"', f'node_dir = "{tmp_path}"', f'arena_dir = "{tmp_path}"']
        files = ("witness_credentials_file", "credentials_file", "signing_key_file", "public_key_file")
        lines += [f'{file} = "{key}"' for file in files]
        lines += [f"[regions.{name}.ports]", f"controller = {port}"]
    path = tmp_path / "farside.toml"
    path.write_text("\n".join(lines))
    yield path
    server.shutdown()
    server.server_close()
    claims.release()


@pytest.mark.parametrize(
    "words", [["failback", "--to", "east", "--yes"], ["discard", "--region", "east", "--epoch", "0", "--yes"]]
)
def test_a_store_that_cannot_be_read_is_no_branch_to_be_dealt_with(config: Path, words: list[str]) -> None:
    """Nobody knows what was set aside there: neither is a move begun nor a discard of epoch 0 advised, or done."""
    done = CliRunner().invoke(app, [words[0], "--run", "gpt", "--config", str(config), *words[1:]])
    assert done.exit_code == 1
    assert "the store of east cannot be read" in done.output
    assert "bring the store back first" in done.output
    assert "farside discard" not in done.output
    assert "epoch 0" not in done.output
