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


def demo(
    seed: Annotated[
        int, typer.Option(help="Of the training, and of the step at which the region is lost.")
    ] = DEFAULT_SEED,
    steps: Annotated[
        int | None,
        typer.Option(
            min=LEAST_STEPS, help=f"Optimizer steps in all. Default: {DEFAULT_STEPS}, roundtrip {ROUNDTRIP_STEPS}."
        ),
    ] = None,
    report: Annotated[Path, typer.Option(help="Gets report.json, timeline.jsonl and loss.png.")] = Path("demo-report"),
    tale: Annotated[
        str, typer.Option("--story", help="region-loss; or roundtrip: lost, back, and 0 steps lost on the way back.")
    ] = REGION_LOSS,
    folder: Annotated[
        Path | None, typer.Option(help="Where everything runs; emptied first. Default: in the cache.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Kill a region under real training, and show that the run goes on, bit for bit.

    Exit codes: 0 bit-identical, nothing lost, the zombie set aside, the lease never held twice; 1 otherwise; 2 no such
    story.
    """
    if tale not in {REGION_LOSS, ROUNDTRIP}:
        typer.echo(f"farside: --story {tale}: there are {REGION_LOSS} and {ROUNDTRIP}", err=True)
        raise typer.Exit(2)
    from rich import console as terminal  # noqa: PLC0415 - `farside --help` must be quick

    from infra.local.errors import StackError  # noqa: PLC0415 - as above
    from infra.local.tools import cache_folder  # noqa: PLC0415 - as above
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above

    console = terminal.Console(stderr=True)
    teller, story_class = _teller(tale)
    steps = steps or (ROUNDTRIP_STEPS if tale == ROUNDTRIP else DEFAULT_STEPS)
    story = story_class(
        folder or cache_folder() / "demo", seed, steps, lambda text: console.print(f"[bold]•[/] {text}")
    )
    _introduce(console, seed, steps)
    ended = threading.Event()
    watcher = threading.Thread(target=_detectors, args=(story, console, ended), daemon=True)
    if console.is_terminal:
        watcher.start()
    try:
        story.play()
        found = teller.write(story, report)
    except (FarsideError, StackError, RuntimeError) as error:
        typer.echo(f"farside: {error}", err=True)
        raise typer.Exit(1) from error
    finally:
        ended.set()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        terminal.Console().print(teller.table(found))
        terminal.Console().print(f"{report}/report.json, timeline.jsonl, loss.png", highlight=False)
    raise typer.Exit(0 if teller.passed(found) else 1)


def _teller(tale: str) -> tuple[Any, type[Story]]:
    """The module that writes a story's report, and the story."""
    from services.demo import report, roundtrip, story  # noqa: PLC0415 - heavy

    return (roundtrip, roundtrip.Roundtrip) if tale == ROUNDTRIP else (report, story.Story)


def _introduce(console: Console, seed: int, steps: int) -> None:
    from pipelines.core.lease import DEFAULT, FAST  # noqa: PLC0415 - as above

    console.print(
        f"seed {seed}, {steps} steps. The lease has the {FAST.name} profile, {FAST.lease_s:.0f} s. The "
        f"{DEFAULT.name} one is slower: {DEFAULT.lease_s:.0f} s, so that a link lost for half a minute moves nothing.",
        highlight=False,
    )


def _detectors(story: Story, console: Console, ended: threading.Event) -> None:
    """The live view: both regions, step, lag, copies, holder and epoch."""
    from rich.live import Live  # noqa: PLC0415 - only for people

    from services.cli.status import tables  # noqa: PLC0415 - only for people

    with Live(console=console, transient=True, refresh_per_second=2) as live:
        while not ended.wait(REFRESH_S):
            found = story.status()
            if found is not None:
                live.update(tables(found))
