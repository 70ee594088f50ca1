"""`farside failover`."""

from __future__ import annotations

import getpass
import json
from typing import Annotated

import typer

from schemas.http_bodies import FailoverBody, PreviewAnswer, RunStatus
from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json, Reason, Yes, confirm, until
from services.cli.run_views import settings_of
from services.cli.serve import Config
from services.http.bodies import plain
from services.http.endpoints import ControllerClient, controller_of

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
            help="You state that the old region cannot write any more, so the new one does not wait for its lease to "
            "run out. If that is wrong, two regions may write at once.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have a standby region take a run over, because the region that holds it is lost.

    Skips failure detection; every safety gate and the conditional lease write still apply. Shows the steps that would
    be lost and the closed gates, and asks before anything is done. If the old region still works, use `farside
    switchover`, which loses no step.

    Example: farside failover --run gpt --to west

    Exit codes: 0 the region holds the run, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run, to)
    controller = controller_of(settings, to)
    with misconfigured_exits():
        before, preview = controller.status_of(run), controller.preview(run)
    if before is None or preview is None:
        typer.echo(
            f"farside: the controller of {to} does not answer on port {controller.at.port}: start it first", err=True
        )
        raise typer.Exit(FAILED)
    _show(before, preview, to)
    if before.primary == to:
        typer.echo(f"{to} holds it already", err=True)
        raise typer.Exit(0)
    confirm(f"Let {to} take {run} over?", yes=yes)
    request = FailoverBody(run=run, actor=getpass.getuser(), note=reason, fenced=fenced)
    with misconfigured_exits():
        if controller.failover(request) is None:
            typer.echo(f"farside: the controller of {to} did not take the request", err=True)
            raise typer.Exit(FAILED)
        after = _outcome(controller, run, to)
    done = after is not None and after.primary == to
    if as_json:
        after_body = None if after is None else plain(after)
        typer.echo(json.dumps({"promoted": done, "before": plain(before), "after": after_body}))
    else:
        typer.echo(f"{to} holds epoch {after.epoch}" if done and after is not None else "refused: nothing was changed")
    raise typer.Exit(0 if done else FAILED)


def _show(before: RunStatus, preview: PreviewAnswer, to: str) -> None:
    """Print what changes, what it costs, and the gates that are closed."""
    typer.echo(f"before: {before.primary} holds epoch {before.epoch}", err=True)
    typer.echo(f"after:  {to} holds epoch {before.epoch + 1}, from step {before.recoverable_step}", err=True)
    lost = before.promise.steps_lost
    typer.echo(f"loses:  {'unknown' if lost is None else lost} steps", err=True)
    for gate in preview.gates:
        if not gate.open:
            typer.echo(f"  {gate.text}", err=True)


def _outcome(controller: ControllerClient, run: str, to: str) -> RunStatus | None:
    """The controller's status once the request is settled, or its last one when patience ends."""
    status: RunStatus | None = None

    def settled() -> bool:
        nonlocal status
        status = controller.status_of(run) or status
        return status is not None and (status.primary == to or not status.operator_pending)

    until(settled, GIVES_UP_S)
    return status
