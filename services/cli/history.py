"""`farside history` and `farside lineage`: the changes of authority over a run, and the tree of its epochs."""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from schemas.records import Lease
from services.cli.branches import branches_of
from services.cli.exits import FAILED
from services.cli.prompts import Json
from services.cli.run_views import RunViews, settings_of
from services.cli.serve import Config
from services.http.bodies import plain
from services.http.endpoints import UnexpectedAnswerError, controller_of
from services.settings import Settings

Run = Annotated[str, typer.Option(help="The run to show.")]


def history(run: Run, config: Config = None, *, as_json: Json = False) -> None:
    """Show every change of authority over a run, oldest first: when, which epoch, who did it, why, in whose words.

    A controller reads it from the witness; the first one that can is asked. Nothing is changed.

    Example: farside history --run gpt

    Exit codes: 0 shown, 1 no controller can read the witness, 2 misconfigured.
    """
    records = _history(settings_of(config, run), run)
    if as_json:
        typer.echo(json.dumps([plain(record) for record in records]))
        return
    table = Table("when", "epoch", "holder", "mode", "what", "who", "committed", "note", box=SIMPLE_HEAD)
    for lease in records:
        what = f"{lease.reason} to {lease.target}" if lease.target else lease.reason
        step = "-" if lease.committed_step < 0 else str(lease.committed_step)
        table.add_row(
            when(lease.time_ms), str(lease.epoch), lease.holder, lease.mode, what, lease.actor, step, lease.note
        )
    Console().print(table)


def lineage(run: Run, config: Config = None, *, as_json: Json = False) -> None:
    """Show the tree of epochs: which region had the run from which step, and the branches left in each region's store.

    A branch is what a region committed past the fork that ended its epoch: kept, and never resumed from unless a person
    adopts it (`farside adopt`). Nothing is changed.

    Example: farside lineage --run gpt

    Exit codes: 0 shown, 1 no controller answers, 2 misconfigured.
    """
    settings = settings_of(config, run)
    newest = RunViews(settings, run).newest()
    if newest is None:
        typer.echo("farside: no controller answers: start one", err=True)
        raise typer.Exit(FAILED)
    branches = {region: branches_of(settings, newest, region) for region in settings.regions}
    if as_json:
        epochs = [plain(entry) for entry in newest.lineage]
        typer.echo(json.dumps({"lineage": epochs, "branches": plain(branches)}))
        return
    for entry in newest.lineage:
        fork = f"from epoch {entry.parent_epoch} step {entry.fork_step}"
        origin = "from step 0" if entry.fork_step < 0 else fork
        typer.echo(f"epoch {entry.epoch}  {entry.region}  {origin}  {entry.reason} by {entry.actor}  {entry.note}")
    for region, aside in branches.items():
        for branch in aside:
            typer.echo(f"  branch in {region}: {branch.text}")


def when(time_ms: int) -> str:
    """A time for people, in UTC."""
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _history(settings: Settings, run: str) -> tuple[Lease, ...]:
    """From the first controller that can read it; else the command ends with exit code 1."""
    for region in settings.regions:
        try:
            answer = controller_of(settings, region).history(run)
        except UnexpectedAnswerError as error:
            typer.echo(f"farside: {error}", err=True)
            continue
        if answer is not None:
            return answer.records
    typer.echo("farside: no controller can read the witness; `farside explain` shows what each one sees", err=True)
    raise typer.Exit(FAILED)
