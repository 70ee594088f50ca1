"""`farside up`, `down` and `ps`: the local stack."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from infra.local import background_stack
from infra.local.errors import StackError, StackNotRunning
from infra.local.layout import LinkShape
from infra.local.stack import ServerState, running_layout, states
from services.runtime.child_processes import ProcessId

DEVELOPMENT_ONLY = (
    "For development only: each region has one broker and so no second copy, passwords cross loopback without TLS, "
    "and the witness (versitygw) does not fsync."
)
Folder = Annotated[
    Path | None,
    typer.Option(help="Folder of the data, logs and pid files. Default: FARSIDE_STACK, or a folder in the cache."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def up(
    folder: Folder = None,
    latency_ms: Annotated[
        int, typer.Option(help="Latency of every path between the regions, in each direction, in milliseconds.")
    ] = 40,
    bandwidth_mbit_s: Annotated[
        int,
        typer.Option(help="Bandwidth of every path between the regions, in each direction, in Mbit/s; 0: unlimited."),
    ] = 200,
    *,
    as_json: Json = False,
) -> None:
    """Start a local stack for development: two regions, the witness and the links between them, on loopback.

    Its settings are written to farside.toml in the stack's folder; every other command uses them by default.

    Example: farside up --latency-ms 80

    Exit codes: 0 the stack runs (it was started, or ran already), 1 it could not be started, and nothing of it is left
    running.
    """
    where = folder or background_stack.default_folder()
    try:
        with Console(stderr=True).status("starting the local stack"):
            fresh = background_stack.up(where, ("east", "west"), LinkShape(latency_ms, bandwidth_mbit_s))
        if fresh:
            from services.demo import local_config  # noqa: PLC0415 - boto3 takes most of a second

            local_config.write(running_layout(where))
        servers = states(where)
    except StackError as error:
        _fail(error)
    _show(servers, as_json=as_json)
    if not as_json:
        Console().print(f"{'started' if fresh else 'already runs'} in {where}. {DEVELOPMENT_ONLY}", highlight=False)


def down(folder: Folder = None) -> None:
    """Stop the local stack. Its data stays in its folder.

    Example: farside down

    Exit codes: 0 no server of the stack runs any more, 1 some server did not end.
    """
    where = folder or background_stack.default_folder()
    try:
        ran = background_stack.down(where)
        from services.demo import local_config  # noqa: PLC0415 - boto3 takes most of a second

        local_config.clean(where)
    except StackError as error:
        _fail(error)
    Console().print(f"stopped the stack in {where}" if ran else f"no stack runs in {where}", highlight=False)


def ps(folder: Folder = None, *, as_json: Json = False) -> None:
    """List the local stack's servers, with process id, port, state, time since start, and restarts with their reason.

    Services that `farside supervise` runs on this stack are listed too.

    Example: farside ps

    Exit codes: 0 every server runs, 1 some server does not run, or there is no stack.
    """
    try:
        where = folder or background_stack.default_folder()
        servers = [*states(where), *supervised_states(where / "state")]
    except StackNotRunning as error:
        _fail(error)
    _show(servers, as_json=as_json)
    if any(server.state != "running" for server in servers):
        raise typer.Exit(1)


def supervised_states(state_dir: Path) -> list[ServerState]:
    """The services that some `farside supervise` keeps running with this folder for its state."""
    found = []
    for path in sorted(state_dir.glob("supervised-*.json")):
        plain = json.loads(path.read_text(encoding="utf-8"))
        if ProcessId(**plain["owner"]).alive():
            found += [_service(one) for one in plain["services"]]
    return found


def _service(plain: Mapping[str, Any]) -> ServerState:
    process = None if plain["ticks"] is None else ProcessId(plain["pid"], plain["ticks"])
    runs = process is not None and process.alive()
    uptime_s = process.uptime_s() if process is not None and runs else 0.0
    pid, state = (plain["pid"], "running") if runs else (None, "gone")
    return ServerState(plain["name"], pid, plain["port"], state, uptime_s, plain["restarts"], plain["reason"])


def _show(servers: list[ServerState], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(server) for server in servers]))
        return
    table = Table("server", "pid", "port", "state", "up", "restarts", "ended last with")
    for server in servers:
        up_for, restarts = f"{server.uptime_s:.0f} s", str(server.restarts)
        table.add_row(
            server.name, str(server.pid or "-"), str(server.port), server.state, up_for, restarts, server.reason
        )
    Console().print(table)


def _fail(error: StackError) -> NoReturn:
    typer.echo(f"farside: {error}", err=True)
    raise typer.Exit(1)
