"""`farside failover`."""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any

import typer

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json, Reason, Yes, confirm, until
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.client import ask

GIVES_UP_S = 120.0


def failover(
    run: Annotated[str, typer.Option(help="The run to move.")],
    to: Annotated[str, typer.Option(help="The region that takes it over.")],
    config: Config = None,
    *,
    reason: Reason = "",
    fenced: Annotated[
        bool,
        typer.Option(
            "--i-have-fenced-the-old-region",
            help="You state that the old region cannot write any more: its lease is not waited for. If that is wrong, "
            "two regions may write at once.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Promote a region by hand: the detectors are skipped, every safety gate and the lease's one write are not.

    Exit codes: 0 the region holds the run, 1 refused or not confirmed, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
        port, _ = settings.region(to).ports.controller, settings.run(run)
    before = (ask(port, "/status") or {}).get(run)
    preview = ask(port, f"/v1/preview?run={run}")
    if before is None or preview is None:
        typer.echo(f"farside: the controller of {to} does not answer on port {port}: start it first", err=True)
        raise typer.Exit(FAILED)
    typer.echo(f"before: {before['primary']} holds epoch {before['epoch']}", err=True)
    typer.echo(f"after:  {to} holds epoch {before['epoch'] + 1}, from step {before['recoverable_step']}", err=True)
    lost = before["promise"].get("steps_lost")
    typer.echo(f"loses:  {'unknown' if lost is None else lost} steps", err=True)
    for gate in preview["gates"]:
        if not gate["open"]:
            typer.echo(f"  {gate['text']}", err=True)
    if before["primary"] == to:
        typer.echo(f"{to} holds it already", err=True)
        raise typer.Exit(0)
    confirm(f"Let {to} take {run} over?", yes=yes)
    if ask(port, "/v1/failover", {"run": run, "actor": getpass.getuser(), "note": reason, "fenced": fenced}) is None:
        typer.echo(f"farside: the controller of {to} did not take the request", err=True)
        raise typer.Exit(FAILED)
    after = _outcome(port, run, to)
    done = after is not None and after["primary"] == to
    if as_json:
        typer.echo(json.dumps({"promoted": done, "before": before, "after": after}))
    else:
        typer.echo(
            f"{to} holds epoch {after['epoch']}" if done and after is not None else "refused: nothing was changed"
        )
    raise typer.Exit(0 if done else FAILED)


def _outcome(port: int, run: str, to: str) -> dict[str, Any] | None:
    """The controller's status once the wish is settled."""
    found: dict[str, Any] | None = None

    def settled() -> bool:
        nonlocal found
        found = (ask(port, "/status") or {}).get(run) or found
        return found is not None and (found["primary"] == to or not found["operator_pending"])

    until(settled, GIVES_UP_S)
    return found
