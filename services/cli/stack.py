"""`farside up`, `down` and `ps`: the local stack."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from infra.local import background_stack
from infra.local.errors import StackError, StackNotRunning
from infra.local.layout import LinkShape
from infra.local.stack import ServerState, running_layout, states

DEVELOPMENT_ONLY = (
    "For development only: one broker a region holds no second copy, its users' secrets cross loopback without TLS, "
    "and the witness (versitygw) does not fsync."
)
Folder = Annotated[Path | None, typer.Option(help="Data, logs and pid files. Default: FARSIDE_STACK, or the cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def up(
    folder: Folder = None,
    latency_ms: Annotated[int, typer.Option(help="Of every cross-region path, each way.")] = 40,
    bandwidth_mbit_s: Annotated[int, typer.Option(help="Of every cross-region path, each way; 0: unlimited.")] = 200,
    *,
    as_json: Json = False,
) -> None:
    """Start two regions, the witness and the links on loopback.

    Exit codes: 0 it runs (now or already), 1 it did not start; nothing is left then.
    """
    where = folder or background_stack.default_folder()
    try:
        with Console(stderr=True).status("starting the local stack"):
            fresh = background_stack.up(where, ("east", "west"), LinkShape(latency_ms, bandwidth_mbit_s))
        if fresh:
            from services.demo import local_config  # noqa: PLC0415 - boto3 takes most of a second

            local_config.write(running_layout(where))
        found = states(where)
    except StackError as error:
        _fail(error)
    _show(found, as_json=as_json)
    if not as_json:
        Console().print(f"{'started' if fresh else 'runs already'} in {where}. {DEVELOPMENT_ONLY}", highlight=False)


def down(folder: Folder = None) -> None:
    """Stop the local stack.

    Exit codes: 0 nothing runs any more, 1 it did not end.
    """
    where = folder or background_stack.default_folder()
    try:
        ran = background_stack.down(where)
        from services.demo import local_config  # noqa: PLC0415 - boto3 takes most of a second

        local_config.clean(where)
    except StackError as error:
        _fail(error)
    Console().print(f"stopped {where}" if ran else f"no stack runs in {where}", highlight=False)


def ps(folder: Folder = None, *, as_json: Json = False) -> None:
    """Show the local stack's servers.

    Exit codes: 0 all of them run, 1 one does not, or no stack runs.
    """
    try:
        found = states(folder or background_stack.default_folder())
    except StackNotRunning as error:
        _fail(error)
    _show(found, as_json=as_json)
    if any(server.state != "running" for server in found):
        raise typer.Exit(1)


def _show(found: list[ServerState], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(server) for server in found]))
        return
    table = Table("server", "pid", "port", "state", "up")
    for server in found:
        table.add_row(server.name, str(server.pid or "-"), str(server.port), server.state, f"{server.uptime_s:.0f} s")
    Console().print(table)


def _fail(error: StackError) -> NoReturn:
    typer.echo(f"farside: {error}", err=True)
    raise typer.Exit(1)
