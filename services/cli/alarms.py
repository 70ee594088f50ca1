"""`farside alarms`: gaps and resets of the logs that each region follows, troubles of runs, and acknowledging them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from schemas.http_bodies import AcknowledgeBody, AlarmStatus
from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json, until
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.bodies import plain
from services.http.endpoints import UnexpectedAnswerError, controller_of, replicator_of
from services.settings import Settings

GIVES_UP_S = 30.0
REPLICATOR, CONTROLLER = "replicator", "controller"

app = typer.Typer(
    help="Show gaps and resets of the logs that each region follows, and troubles of runs; acknowledge them.",
    no_args_is_help=True,
    add_completion=False,
)


@dataclass(frozen=True, slots=True)
class AlarmAt:
    """An open alarm, and the region and service that raised it."""

    at: str
    service: str
    alarm: AlarmStatus

    def plain(self) -> dict[str, object]:
        """Both as JSON."""
        return {"at": self.at, **plain(self.alarm)}


@app.command("list")
def list_(config: Config = None, *, as_json: Json = False) -> None:
    """Show the open alarms of every region, oldest first: where, its id, what is missing and the likely cause.

    Example: farside alarms list

    Exit codes: 0 there is none, 1 there are some, or a service does not answer, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
    alarms, silent = gather(settings)
    for each in alarms:
        line = f"{each.at}  {each.alarm.id}  {each.alarm.text}"
        typer.echo(json.dumps(each.plain()) if as_json else line)
    for why in silent:
        typer.echo(f"farside: {why}", err=True)
    raise typer.Exit(FAILED if alarms or silent else 0)


@app.command()
def acknowledge(
    alarm: Annotated[str, typer.Argument(help="The alarm's id, as `list` shows it.")],
    config: Config = None,
    *,
    as_json: Json = False,
) -> None:
    """Close an alarm that you have looked at; the region that raised it keeps your name with it.

    Missing events that turn up later are still taken in. A trouble that ends and comes back is a new alarm. (For the
    cooldown after an automatic failover, see `farside acknowledge`.)

    Example: farside alarms acknowledge 3fa94c10

    Exit codes: 0 acknowledged, 1 there is no such open alarm, or its service does not answer, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
    alarms, silent = gather(settings)
    chosen = next((each for each in alarms if each.alarm.id == alarm), None)
    if chosen is None:
        for why in silent:
            typer.echo(f"farside: {why}", err=True)
        typer.echo(f"farside: no service that answers has an open alarm {alarm}", err=True)
        raise typer.Exit(FAILED)
    service = (controller_of if chosen.service == CONTROLLER else replicator_of)(settings, chosen.at)
    request = AcknowledgeBody(peer=chosen.alarm.peer, lane=chosen.alarm.lane, alarm=alarm)
    state = ""

    def is_settled() -> bool:
        nonlocal state
        answer = service.acknowledge(request)
        state = state if answer is None else answer.state
        return state in {"done", "unknown"}

    with misconfigured_exits():
        until(is_settled, GIVES_UP_S)
    if as_json:
        typer.echo(json.dumps({"alarm": alarm, "at": chosen.at, "state": state or "unanswered"}))
    else:
        typer.echo(f"{chosen.at}  {alarm}  {'acknowledged' if state == 'done' else state or 'unanswered'}")
    raise typer.Exit(0 if state == "done" else FAILED)


def gather(settings: Settings) -> tuple[list[AlarmAt], list[str]]:
    """The open alarms of every region, and a line for each service that does not answer with a status."""
    alarms: list[AlarmAt] = []
    silent: list[str] = []
    for region in settings.regions:
        for service, ask in ((REPLICATOR, _of_replicator), (CONTROLLER, _of_controller)):
            try:
                found = ask(settings, region)
            except UnexpectedAnswerError as error:
                silent.append(str(error))
                continue
            if found is None:
                silent.append(f"the {service} of {region} does not answer")
                continue
            alarms += [AlarmAt(region, service, alarm) for alarm in found]
    return sorted(alarms, key=lambda each: (each.alarm.time_ms, each.alarm.id)), silent


def _of_replicator(settings: Settings, region: str) -> list[AlarmStatus] | None:
    status = replicator_of(settings, region).status()
    return None if status is None else [alarm for lane in status.values() for alarm in lane.alarms.newest]


def _of_controller(settings: Settings, region: str) -> list[AlarmStatus] | None:
    status = controller_of(settings, region).status()
    return None if status is None else [alarm for run in status.values() for alarm in run.alarms]
