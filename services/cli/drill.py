"""`farside drill`: rehearse the loss of the primary in a standby, or list the earlier drills."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from pipelines.flows.authority.drill_history import Drill


def drill(
    run: Annotated[str, typer.Option(help="The run whose primary is treated as lost.")],
    region: Annotated[
        str, typer.Option(help="The standby that rehearses. Run this command on a node of that region's pool.")
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(help="After --: the command that starts the trainer. Default: the setting drill_command."),
    ] = None,
    config: Config = None,
    *,
    past: Annotated[bool, typer.Option("--history", help="List the drills so far; nothing is rehearsed.")] = False,
    as_json: Json = False,
) -> None:
    """Rehearse a failover in a standby, up to the first optimizer step, and measure each part of it.

    The drill has its own lease, topics, objects and signing key: it cannot touch the real lease, and it stops as soon
    as the real primary is in trouble. It waits as long for the lease as a real failover does: about 10 s in the fast
    profile and 80 s in the default one, and in addition the start of the trainer.

    Example: farside drill --run gpt --region west

    Exit codes: 0 the first step was made, within the run's promised time, 1 it was not, or the drill stopped for a real
    trouble, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
        wanted, here = settings.run(run), settings.region(region)
        if past:
            from pipelines.flows.authority.drill_history import history  # noqa: PLC0415 - as above
            from services.runtime.clients import store_of  # noqa: PLC0415 - as above

            _show_past(list(history(store_of(here), run)), as_json=as_json)
            return
        from rich.console import Console  # noqa: PLC0415 - as above

        from services.operations.drill import rehearse  # noqa: PLC0415 - as above

        console = Console(stderr=True)
        with console.status(f"drilling {run} in {region}") as shown:

            def say(text: str) -> None:
                shown.update(text)
                console.print(f"[bold]•[/] {text}", highlight=False)

            done = rehearse(settings, region, run, tuple(command or wanted.drill_command), getpass.getuser(), say)
    if as_json:
        typer.echo(json.dumps(done.plain()))
    else:
        _show_one(done)
    raise typer.Exit(0 if done.good else FAILED)


def _show_one(done: Drill) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only for people
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table("part", "predicted", "measured", box=SIMPLE_HEAD, title_justify="left")
    table.title = f"{done.run} in {done.region}: {done.holder} was treated as lost"
    measured = dict(done.measured_parts_s)
    both = [measured.pop(name, None) for name in ("detect", "fence")]
    rows = {"detect_and_fence": sum(took_s for took_s in both if took_s is not None) if all(both) else None} | measured
    for name, took_s in rows.items():
        table.add_row(name, _seconds(done.predicted_parts_s.get(name)), _seconds(took_s))
    table.add_row("all", _seconds(done.predicted_rto_s), _seconds(done.measured_rto_s))
    console = Console()
    console.print(table)
    if done.first_step >= 0:
        console.print(f"resumed from step {done.from_step}; first new step: {done.first_step}", highlight=False)
    console.print("good" if done.good else f"NOT good: {done.why}", highlight=False, soft_wrap=True)


def _show_past(drills: list[Drill], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([drill.plain() for drill in drills]))
        return
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only for people
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    from services.cli.history import when  # noqa: PLC0415 - as above

    table = Table("when", "lost", "by", "predicted", "measured", "from step", "verdict", box=SIMPLE_HEAD)
    for past in drills:
        step = str(past.from_step) if past.from_step >= 0 else "-"
        verdict = "good" if past.good else past.why.splitlines()[0]
        times = (_seconds(past.predicted_rto_s), _seconds(past.measured_rto_s))
        table.add_row(when(past.time_ms), past.holder, past.actor, *times, step, verdict)
    Console().print(table)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
