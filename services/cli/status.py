"""`farside status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.core.alarm_texts import Kind
from pipelines.core.troubles import CONTROLLERS_PART
from schemas.http_bodies import FindingStatus, LagStatus, SkippedStatus
from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.bodies import plain
from services.operations.run_status import LANE_PART, Overview, RegionOverview, RunOverview, gather, seen_before
from services.settings import Settings

WATCH_S = 1.0
ALARMS_SHOWN = 5  # of a region, below its run's table
SKIPPED_SHOWN = 3


def status(
    config: Config = None,
    *,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print again each second until Ctrl-C.")] = False,
) -> None:
    """Show each run: its primary, epoch and step, and each region's recoverable step, lag and standby.

    Works with a region dead: it shows which region is not seen, and since when. The lag is the primary's newest
    committed step minus the region's recoverable one: `>= 220` if the primary was not heard just now, with the age
    below, `unknown` if nothing can be known. Below the table stand the promises that could not be kept now, everything
    else that is wrong, the parts that wait with the reason, checkpoints that were given up, and the open alarms: gaps
    and resets of followed logs, until they heal or a person acknowledges them (`farside alarms`).

    Example: farside status --watch

    Exit codes: 0 a primary holds every run, 1 some run has none that can be seen or a service answers something else,
    2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
    seen: dict[str, float] = seen_before(settings)
    for overview in _again(settings, seen, watch=watch):
        if as_json:
            typer.echo(json.dumps(plain(overview)))
        else:
            _show(overview)
        if not watch:
            raise typer.Exit(0 if _is_well(overview) else FAILED)


def _is_well(overview: Overview) -> bool:
    """Every run has a primary that is seen, and no service answers something else."""
    held = all(run.primary and run.valid_s for run in overview.runs.values())
    return held and not any(region.unexpected for run in overview.runs.values() for region in run.regions.values())


def _again(settings: Settings, seen: dict[str, float], *, watch: bool) -> Iterator[Overview]:
    yield gather(settings, seen)
    while watch:
        time.sleep(WATCH_S)  # noqa: TID251 - the terminal's own pace
        yield gather(settings, seen)


def _show(overview: Overview) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for people

    Console().print(tables(overview))


def tables(overview: Overview) -> Group:
    """A table for each run. Safe: the recoverable step; aside: dead letters / branch events."""
    shown: list[Table | Text] = []
    for name, run in overview.runs.items():
        valid = "no holder seen" if run.valid_s is None else f"valid {run.valid_s:.1f} s"
        mode = "" if run.mode in {None, "active"} else f", {str(run.mode).upper()}"
        mode += ", fencing HARD" if run.fencing == "hard" else ""
        title = f"{name}: primary {run.primary or '?'}, epoch {run.epoch}, step {run.step}, {valid}{mode}"
        table = Table("region", "safe", "lag", "does", "standby", "RTO", "copying", "aside", title=title)
        table.box, table.title_justify = SIMPLE_HEAD, "left"
        for column in table.columns:
            column.no_wrap = True
        for region_name, region in run.regions.items():
            table.add_row(region_name, *_row(region))
        shown.append(table)
        shown.extend(_below(run))
    return Group(*shown)


def _below(run: RunOverview) -> list[Text]:
    """The lines below a run's table, by what they are about, then by region."""
    lines = [line for name, region in run.regions.items() for line in _lines(name, region)]
    return [Text(f"  {text}", style=style) for _, text, style in sorted(lines, key=lambda line: line[0])]


def _lines(name: str, region: RegionOverview) -> Iterator[tuple[int, str, str]]:
    """A region's lines: rank, text and style."""
    yield from ((0, f"{name}: {line}", "bold red") for line in region.unexpected)
    could_not = f"{name} could not keep the promise now"
    yield from ((1, f"{could_not}: {broken}", "bold red") for broken in region.promise_broken)
    if region.lag is not None and not region.lag.is_exact:
        yield 1, f"{name}: lag {region.lag.text}{f' ({region.lag.source})' if region.lag.source else ''}", "yellow"
    yield from ((1, f"{name}: {found.kind}: {found.text}", "bold red") for found in region.findings)
    yield from ((2, f"{name}: {_given_up(one)}", "yellow") for one in region.skipped[-SKIPPED_SHOWN:])
    if region.drill_warning:
        yield 2, f"{name}: {region.drill_warning}", "yellow"
    troubles = {part: why for part, why in region.troubles.items() if not _is_found(part, why, region.findings)}
    yield from ((3, f"{name}: {part} waits: {why}", "yellow") for part, why in troubles.items())
    alarms = region.alarms
    yield from ((4, f"{name}: ALARM {alarm.id}: {alarm.text}", "bold red") for alarm in alarms[:ALARMS_SHOWN])
    if len(alarms) > ALARMS_SHOWN:
        yield 4, f"{name}: and {len(alarms) - ALARMS_SHOWN} more: farside alarms list", "bold red"


def _is_found(part: str, why: str, findings: tuple[FindingStatus, ...]) -> bool:
    """Whether a finding says already why this part waits."""
    refused = {one.part for one in findings if one.kind == Kind.REFUSED.value}
    lane = f"{part.removeprefix(LANE_PART)}/"
    stands = [one.text for one in findings if one.kind == Kind.LANE.value and one.part.startswith(lane)]
    own = part.startswith(LANE_PART) and any(why in text for text in stands)
    return own or part in refused or f"{CONTROLLERS_PART}{part}" in refused


def _given_up(one: SkippedStatus) -> str:
    at = datetime.fromtimestamp(one.time_ms / 1000, UTC)
    return f"step {one.step} was {one.state}: {one.reason} ({at:%H:%M:%S} UTC)"


def _lag_cell(lag: LagStatus | None) -> str:
    if lag is None:
        return "-"
    if lag.steps is None:
        return "unknown"
    return f"{lag.steps} steps" if lag.is_exact else f">= {lag.steps}"


def _row(region: RegionOverview) -> list[str]:
    if not region.visible:
        since_s = region.not_seen_for_s
        return ["-", "-", "not seen" if since_s is None else f"unseen {since_s:.0f} s", "-", "-", "-", "-"]
    staged = None if region.standby is None else region.standby.staged_step
    rto_s = None if region.standby is None else region.standby.predicted_rto_s
    copies = [f"{copy.step}: {copy.moved_bytes * 100 // max(1, copy.size_bytes)} %" for copy in region.copies]
    return [
        "-" if region.recoverable_step is None else str(region.recoverable_step),
        _lag_cell(region.lag),
        str(region.reason),
        "-" if region.standby is None or staged is None else f"{staged} {region.standby.proof}",
        "-" if rto_s is None else f"{rto_s:.1f} s",
        ", ".join(copies) or "-",
        f"{region.dead_letters}/{region.branch_events}",
    ]
