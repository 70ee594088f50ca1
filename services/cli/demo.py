"""`farside demo`: the main job, end to end, with a report and a picture."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.demo.story import Story

REGION_LOSS, ROUNDTRIP = "region-loss", "roundtrip"
ROUNDTRIP_STEPS = 200
DEFAULT_SEED, DEFAULT_STEPS, LEAST_STEPS = 7, 60, 60
REFRESH_S = 1.0
Steps = Annotated[
    int | None,
    typer.Option(
        min=LEAST_STEPS, help=f"Optimizer steps in all. Default: {DEFAULT_STEPS}, roundtrip {ROUNDTRIP_STEPS}."
    ),
]
ReportFolder = Annotated[
    Path, typer.Option(help="Folder into which report.json, timeline.jsonl and loss.png are written.")
]
Tale = Annotated[
    str,
    typer.Option(
        "--story",
        help="region-loss: a region is lost and the run goes on in the other. roundtrip: the same, and then the run is "
        "moved back without losing a step.",
    ),
]
WorkFolder = Annotated[
    Path | None, typer.Option(help="Working folder of the demo; it is emptied first. Default: a folder in the cache.")
]


def demo(
    seed: Annotated[
        int, typer.Option(help="Seed of the training and of the step at which the region is lost.")
    ] = DEFAULT_SEED,
    steps: Steps = None,
    report: ReportFolder = Path("demo-report"),
    tale: Tale = REGION_LOSS,
    folder: WorkFolder = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Kill a region under real training, and show that the run goes on, bit for bit.

    Example: farside demo --seed 3 --steps 80 --report some/folder

    Exit codes: 0 the loss is bit-identical, no event is lost, the superseded region's writes are set aside and the
    lease was never held twice, 1 any of that failed, 2 there is no such story.
    """
    if tale not in {REGION_LOSS, ROUNDTRIP}:
        typer.echo(f"farside: --story {tale}: there is no such story; use {REGION_LOSS} or {ROUNDTRIP}", err=True)
        raise typer.Exit(2)
    from rich import console as terminal  # noqa: PLC0415 - `farside --help` must be quick

    from infra.local.errors import StackError  # noqa: PLC0415 - as above
    from infra.local.tools import cache_folder  # noqa: PLC0415 - as above
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above

    console = terminal.Console(stderr=True)
    report_module, story_class = _story_named(tale)
    steps = steps or (ROUNDTRIP_STEPS if tale == ROUNDTRIP else DEFAULT_STEPS)
    story = story_class(
        folder or cache_folder() / "demo", seed, steps, lambda text: console.print(f"[bold]•[/] {text}")
    )
    _introduce(console, seed, steps)
    ended = threading.Event()
    watcher = threading.Thread(target=_show_status, args=(story, console, ended), daemon=True)
    if console.is_terminal:
        watcher.start()
    try:
        story.play()
        outcome = report_module.write(story, report)
    except (FarsideError, StackError, RuntimeError) as error:
        typer.echo(f"farside: {error}", err=True)
        raise typer.Exit(1) from error
    finally:
        ended.set()
    if as_json:
        typer.echo(json.dumps(outcome))
    else:
        terminal.Console().print(report_module.table(outcome))
        terminal.Console().print(f"{report}/report.json, timeline.jsonl, loss.png", highlight=False)
    raise typer.Exit(0 if report_module.passed(outcome) else 1)


def _story_named(tale: str) -> tuple[Any, type[Story]]:
    """The module that writes a story's report, and the story's class."""
    from services.demo import report, roundtrip, story  # noqa: PLC0415 - heavy

    return (roundtrip, roundtrip.Roundtrip) if tale == ROUNDTRIP else (report, story.Story)


def _introduce(console: Console, seed: int, steps: int) -> None:
    from pipelines.core.lease_profiles import DEFAULT, FAST  # noqa: PLC0415 - as above

    console.print(
        f"seed {seed}, {steps} steps. The demo uses the lease profile {FAST.name}: {FAST.lease_s:.0f} s. In production "
        f"the profile {DEFAULT.name} has {DEFAULT.lease_s:.0f} s, so that a link that fails for half a minute moves no "
        "run.",
        highlight=False,
    )


def _show_status(story: Story, console: Console, ended: threading.Event) -> None:
    """Show both regions live, until `ended` is set: step, lag, copies, holder and epoch."""
    from rich.live import Live  # noqa: PLC0415 - only for people

    from services.cli.status import tables  # noqa: PLC0415 - only for people

    with Live(console=console, transient=True, refresh_per_second=2) as live:
        while not ended.wait(REFRESH_S):
            status = story.status()
            if status is not None:
                live.update(tables(status))
