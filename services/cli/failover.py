"""`farside failover`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipelines.flows.authority.takeover_requests import WAITS, WON
from schemas.http_bodies import FailoverAnswer, FailoverBody, GateStatus, PreviewAnswer, RunStatus
from services.adapters.system_clock import SystemEntropy
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
            "run out. If that is wrong, two regions may write at once. Refused while that region renews or is heard.",
        ),
    ] = False,
    fenced_epoch: Annotated[
        int,
        typer.Option(
            min=0, help="With the option before: the epoch whose region you have fenced, though it seems to live."
        ),
    ] = 0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have a standby region take a run over, because the region that holds it is lost.

    Skips failure detection; every safety gate and the conditional lease write still apply. Shows the steps that would
    be lost and the closed gates, and asks before anything is done. If it does not win, the gates that stayed closed are
    shown, or who won instead. If the old region still works, use `farside switchover`, which loses no step.

    The history names the credential with which you ask (`farside token`), and your --reason.

    Example: farside failover --run gpt --to west

    Exit codes: 0 the region holds the run, 1 refused, expired, lost to somebody else or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run, to)
    controller = controller_of(settings, to)
    before, preview = _seen(controller, run)
    _show(before, preview, to)
    if before.primary == to:
        typer.echo(f"{to} holds it already", err=True)
        raise typer.Exit(0)
    confirm(f"Let {to} take {run} over?", yes=yes)
    key = SystemEntropy().new_id()
    request = FailoverBody(run=run, note=reason, key=key, epoch=before.epoch, fenced=fenced, fenced_epoch=fenced_epoch)
    with misconfigured_exits():
        answer = _outcome(controller, request)
    if answer is None:
        typer.echo(f"farside: the controller of {to} did not take the request", err=True)
        raise typer.Exit(FAILED)
    done = answer.state == WON
    if as_json:
        with misconfigured_exits():
            after = controller.status_of(run)
        told = {"promoted": done, "outcome": plain(answer), "before": plain(before)}
        typer.echo(json.dumps(told | {"after": None if after is None else plain(after)}))
    else:
        _tell(answer, to, before.epoch + 1)
    raise typer.Exit(0 if done else FAILED)


def _seen(controller: ControllerClient, run: str) -> tuple[RunStatus, PreviewAnswer]:
    """The run as the controller sees it, and the gates; the command ends if it does not answer."""
    with misconfigured_exits():
        before, preview = controller.status_of(run), controller.preview(run)
    if before is None or preview is None:
        typer.echo(f"farside: {controller.at} does not answer: start it first", err=True)
        raise typer.Exit(FAILED)
    return before, preview


def _tell(answer: FailoverAnswer, to: str, epoch: int) -> None:
    """Print how the request ended, and, if it did not win, why: the closed gates as `farside explain` shows them."""
    if answer.state == WON:
        typer.echo(f"{to} holds epoch {epoch}")
        if answer.why:
            typer.echo(f"  {answer.why}", err=True)
        return
    typer.echo(f"{answer.state}: nothing was changed" if answer.state != WAITS else "it is still being tried")
    if answer.why:
        typer.echo(f"farside: {answer.why}", err=True)
    _show_closed(answer.gates)


def _show(before: RunStatus, preview: PreviewAnswer, to: str) -> None:
    """Print what changes, what it costs, and the gates that are closed."""
    typer.echo(f"before: {before.primary} holds epoch {before.epoch}", err=True)
    typer.echo(f"after:  {to} holds epoch {before.epoch + 1}, from step {before.recoverable_step}", err=True)
    lost = before.promise.steps_lost
    typer.echo(f"loses:  {'unknown' if lost is None else lost} steps", err=True)
    _show_closed(preview.gates)


def _show_closed(gates: tuple[GateStatus, ...]) -> None:
    """Print the gates that are closed; those that are noted only never stop anything."""
    for gate in gates:
        if not gate.open:
            typer.echo(f"  {gate.text}", err=True)


def _outcome(controller: ControllerClient, request: FailoverBody) -> FailoverAnswer | None:
    """The controller's answer once the request is settled, or its last one when patience ends; None: it has none."""
    answer: FailoverAnswer | None = None

    def settled() -> bool:
        nonlocal answer
        answer = controller.failover(request) or answer
        return answer is None or answer.state != WAITS

    until(settled, GIVES_UP_S)
    return answer
