"""`farside alarms`: gaps and resets of the logs that each region follows, and knowing of them."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json, until
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.client import ask

if TYPE_CHECKING:
    from services.settings import Settings

GIVES_UP_S = 30.0

app = typer.Typer(
    help="Look at gaps and resets of followed logs, and acknowledge them.", no_args_is_help=True, add_completion=False
)


@app.command("list")
def list_(config: Config = None, *, as_json: Json = False) -> None:
    """Show the open alarms of every region, oldest first.

    Exit codes: 0 there is none, 1 there are some, or a replicator does not answer, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = _settings(config)
    found, silent = gather(settings)
    for one in found:
        typer.echo(json.dumps(one) if as_json else f"{one['at']}  {one['id']}  {one['text']}")
    for region in silent:
        typer.echo(f"farside: the replicator of {region} does not answer", err=True)
    raise typer.Exit(FAILED if found or silent else 0)


@app.command()
def acknowledge(
    alarm: Annotated[str, typer.Argument(help="The alarm's id, as `list` shows it.")],
    config: Config = None,
    *,
    as_json: Json = False,
) -> None:
    """Say that you know of an alarm: it is no longer open. What is missing is still taken if it turns up.

    Exit codes: 0 acknowledged, 1 there is no such open alarm, or its replicator does not answer, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = _settings(config)
    found = next((one for one in gather(settings)[0] if one["id"] == alarm), None)
    if found is None:
        typer.echo(f"farside: no replicator that answers has an open alarm {alarm}", err=True)
        raise typer.Exit(FAILED)
    port = settings.region(found["at"]).ports.replicator
    request: dict[str, object] = {"peer": found["peer"], "lane": found["lane"], "alarm": alarm}
    request["actor"] = getpass.getuser()
    state = ""

    def is_settled() -> bool:
        nonlocal state
        state = (ask(port, "/v1/alarm", request) or {}).get("state", state)
        return state in {"done", "unknown"}

    until(is_settled, GIVES_UP_S)
    if as_json:
        typer.echo(json.dumps({"alarm": alarm, "at": found["at"], "state": state or "unanswered"}))
    else:
        typer.echo(f"{found['at']}  {alarm}  {'acknowledged' if state == 'done' else state or 'unanswered'}")
    raise typer.Exit(0 if state == "done" else FAILED)


def gather(settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """The open alarms, each with the region that has it, and the regions whose replicator does not answer."""
    found, silent = [], []
    for name, region in settings.regions.items():
        answer = ask(region.ports.replicator, "/status")
        if answer is None:
            silent.append(name)
        for flow in (answer or {}).values():
            found += [{"at": name, **one} for one in flow.get("alarms", {}).get("newest", ())]
    return sorted(found, key=lambda one: (one["time_ms"], one["id"])), silent


def _settings(config: Config) -> Settings:

    return load(config)
