"""`farside status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.serve import Config
from services.cli.settings_file import load
from services.operations.run_status import gather, seen_before
from services.settings import Settings

WATCH_S = 1.0
GIVES_UP_S = 120.0
ALARMS_SHOWN = 5  # of a region, below its run's table


def status(
    config: Config = None,
    *,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print again each second until Ctrl-C.")] = False,
) -> None:
    """Show each run: primary, epoch, step, recoverable step and lag of each region, standby readiness.

    Works with a region dead: says what it cannot see, and since when. Gaps and resets of followed logs are alarms below
    the table, until they are healed or acknowledged (`farside alarms`).

    Exit codes: 0 a primary holds every run, 1 some run has none that can be seen, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
    seen: dict[str, float] = seen_before(settings)
    for found in _again(settings, seen, watch=watch):
        if as_json:
            typer.echo(json.dumps(found))
        else:
            _show(found)
        if not watch:
            held = all(run["primary"] and run["valid_s"] for run in found["runs"].values())
            raise typer.Exit(0 if held else FAILED)


def _again(settings: Settings, seen: dict[str, float], *, watch: bool) -> Iterator[dict[str, Any]]:
    yield gather(settings, seen)
    while watch:
        time.sleep(WATCH_S)  # noqa: TID251 - the terminal's own pace
        yield gather(settings, seen)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for people

    Console().print(tables(found))


def tables(found: dict[str, Any]) -> Group:
    """A table for each run. Safe: the recoverable step; aside: dead letters / branch events."""
    shown: list[Table | Text] = []
    for run, one in found["runs"].items():
        valid = "no holder seen" if one["valid_s"] is None else f"valid {one['valid_s']:.1f} s"
        mode = "" if one["mode"] in {None, "active"} else f", {one['mode'].upper()}"
        mode += ", fencing HARD" if one["fencing"] == "hard" else ""
        title = f"{run}: primary {one['primary'] or '?'}, epoch {one['epoch']}, step {one['step']}, {valid}{mode}"
        table = Table("region", "safe", "lag", "does", "standby", "RTO", "copying", "aside", title=title)
        table.box, table.title_justify = SIMPLE_HEAD, "left"
        for column in table.columns:
            column.no_wrap = True
        for name, region in one["regions"].items():
            table.add_row(name, *_row(region))
        shown.append(table)
        shown.extend(
            Text(f"  {name} could not keep the promise now: {broken}", style="bold red")
            for name, region in one["regions"].items()
            for broken in region["promise_broken"]
        )
        shown.extend(
            Text(f"  {name}: {region['drill_warning']}", style="yellow")
            for name, region in one["regions"].items()
            if region["drill_warning"]
        )
        shown.extend(
            Text(f"  {name}: {part} waits: {why}", style="yellow")
            for name, region in one["regions"].items()
            for part, why in region["troubles"].items()
        )
        for name, region in one["regions"].items():
            told = [f"  {name}: ALARM {each['id']}: {each['text']}" for each in region["alarms"][:ALARMS_SHOWN]]
            more = len(region["alarms"]) - ALARMS_SHOWN
            told += [f"  {name}: and {more} more: farside alarms list"] if more > 0 else []
            shown.extend(Text(line, style="bold red") for line in told)
    return Group(*shown)


def _row(region: dict[str, Any]) -> list[str]:
    if not region["visible"]:
        since = region["not_seen_for_s"]
        return ["-", "-", "not seen" if since is None else f"unseen {since:.0f} s", "-", "-", "-", "-"]
    standby = region["standby"] or {}
    staged, rto = standby.get("staged_step"), standby.get("predicted_rto_s")
    copies = [f"{one['step']}: {one['moved_bytes'] * 100 // max(1, one['size_bytes'])} %" for one in region["copies"]]
    step = region["recoverable_step"]
    return [
        "-" if step is None else str(step),
        "-" if region["lag_steps"] is None else f"{region['lag_steps']} steps",
        str(region["reason"]),
        "-" if staged is None else f"{staged} {standby['proof']}",
        "-" if rto is None else f"{rto:.1f} s",
        ", ".join(copies) or "-",
        f"{region['dead_letters']}/{region['branch_events']}",
    ]
