"""The `farside` command: one file for each group of commands; heavy imports happen inside the commands."""

from __future__ import annotations

import typer

from services.cli import (
    admission,
    alarms,
    demo,
    doctor,
    drill,
    events,
    explain,
    failover,
    history,
    moves,
    replay,
    retention,
    schemas,
    serve,
    stack,
    status,
    supervise,
)

app = typer.Typer(
    name="farside",
    help="Keeps an AI training run alive when the region it runs in is lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # so that a help's paragraphs are filled to the terminal's width
)
app.command()(demo.demo)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.ps)
app.command()(supervise.supervise)
app.command()(status.status)
app.command()(failover.failover)
for _verb in (
    moves.switchover,
    moves.failback,
    moves.pause,
    moves.resume,
    moves.acknowledge,
    history.history,
    explain.explain,
    history.lineage,
    moves.adopt,
    moves.discard,
):
    app.command()(_verb)
app.command()(drill.drill)
app.command()(replay.replay)
app.command()(retention.sweep)
app.command()(retention.pin)
app.command()(retention.unpin)
app.command()(admission.token)
app.add_typer(doctor.app, name="doctor")
app.add_typer(alarms.app, name="alarms")
app.add_typer(events.app, name="events")
app.add_typer(schemas.app, name="schemas")
for _service in serve.PARTS:
    app.command(_service)(serve.command(_service))


def main() -> None:
    """Entry point of the `farside` command."""
    app()
