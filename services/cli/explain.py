"""`farside explain`: the decision of each region's controller, with its gates."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from schemas.http_bodies import RunStatus
from services.cli.exits import FAILED
from services.cli.prompts import Json
from services.cli.run_views import RunViews, settings_of
from services.cli.serve import Config
from services.http.bodies import plain

Run = Annotated[str, typer.Option(help="The run to show.")]
EXPLAINED = (
    *("action", "reason", "diagnosis", "findings", "lag", "gates", "next"),
    *("mode", "fencing", "epoch", "primary", "promise"),
)


def explain(run: Run, config: Config = None, *, as_json: Json = False) -> None:
    """Show the action that each region's controller would take on a run now, and every gate with its value and limit.

    The diagnosis names what fails; "nothing is wrong" is said only if every lane, upload, copy and grant moves. Below
    it stand the lag and everything that was found wrong.

    A closed gate, in red, is a reason why that region does not take the run over. Nothing is changed.

    Example: farside explain --run gpt

    Exit codes: 0 shown, 1 no controller answers, or one answers something else, 2 misconfigured.
    """
    views = RunViews(settings_of(config, run), run)
    by_region = views.now()
    if not by_region:
        typer.echo("farside: no controller answers: start one", err=True)
        raise typer.Exit(FAILED)
    if as_json:
        bodies = {region: plain(status) for region, status in by_region.items()}
        typer.echo(json.dumps({region: {key: body[key] for key in EXPLAINED} for region, body in bodies.items()}))
    else:
        for region, status in by_region.items():
            _print(region, status)
    if views.unexpected:
        raise typer.Exit(FAILED)


def _print(region: str, status: RunStatus) -> None:
    title = f"{region}: {status.action} ({status.reason}); {status.primary} holds epoch {status.epoch}, {status.mode}"
    Console().print(f"\n{title}", highlight=False, soft_wrap=True)
    for gate in status.gates:
        closed = not gate.open and not gate.advisory
        Console().print(f"  {gate.text}", style="bold red" if closed else "", highlight=False, soft_wrap=True)
    if status.diagnosis is not None:
        Console().print(f"  diagnosis: {status.diagnosis.text}", highlight=False, soft_wrap=True)
    if status.lag is not None:
        source = f" ({status.lag.source})" if status.lag.source else ""
        Console().print(f"  lag: {status.lag.text}{source}", highlight=False, soft_wrap=True)
    for found in status.findings:
        Console().print(f"  wrong: {found.kind}: {found.text}", style="bold red", highlight=False, soft_wrap=True)
    Console().print(f"  next: {status.next}; fencing: {status.fencing}", highlight=False)
