"""`farside status` and `farside failover`."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.paths import EVERY_RUN
from services.cli.ask import Json, Reason, Yes, ask, confirm, until
from services.cli.fail import FAILED, misconfigured_exits
from services.cli.serve import Config
from services.settings import Settings, load

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
    seen: dict[str, float] = _seen(settings)
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


def gather(settings: Settings, seen: dict[str, float]) -> dict[str, Any]:
    """Everything that the services say of every run; `seen` remembers when each region answered last."""
    answers = {name: ask(region.ports.controller, "/status") for name, region in settings.regions.items()}
    lags = {name: ask(region.ports.replicator, "/status") for name, region in settings.regions.items()}
    warm = {name: ask(region.ports.warmer, "/status") for name, region in settings.regions.items()}
    now_s = time.time()  # noqa: TID251 - for people: since when a region is not seen
    for name, answer in answers.items():
        if answer is not None:
            seen[name] = now_s
    _keep(settings, seen)
    runs = {run: run_of(run, answers, lags, warm, seen, now_s) for run in settings.runs}
    return {"runs": runs}


def run_of(
    run: str,
    answers: dict[str, dict[str, Any] | None],
    lags: dict[str, dict[str, Any] | None],
    warm: dict[str, dict[str, Any] | None],
    seen: dict[str, float],
    now_s: float,
) -> dict[str, Any]:
    """One run, from what each region's services answered; the newest epoch speaks."""
    views = {name: answer[run] for name, answer in answers.items() if answer is not None and run in answer}
    best = max(views.values(), key=lambda one: (one["epoch"], one["is_holder"]), default=None)
    regions = {}
    for name in answers:
        view = views.get(name)
        flows = list((lags[name] or {}).values())
        leads = best is not None and best["primary"] == name  # it follows nobody; the other's branch is not its lag
        regions[name] = {
            "visible": view is not None,
            "not_seen_for_s": None if view is not None or name not in seen else round(now_s - seen[name], 1),
            "recoverable_step": None if view is None else view["recoverable_step"],
            "lag_steps": None if leads else max((flow["lag_steps"].get(run, 0) for flow in flows), default=None),
            "dead_letters": sum(flow["counts"].get("dead_letter", 0) for flow in flows),
            "branch_events": sum(flow["counts"].get("branch", 0) for flow in flows),
            "action": None if view is None else view["action"],
            "reason": None if view is None else view["reason"],
            "standby": warm[name],
            "copies": [copy for flow in flows for copy in flow["copies"] if copy["run"] == run],
            "drill_warning": "" if view is None or leads else view["drill"]["warning"],
            "promise_broken": [] if view is None else view["promise"]["broken"],
            "troubles": _troubles(view, lags[name] or {}),
            "alarms": _alarms(run, flows),
        }
    holder = best if best is not None and best["is_holder"] else None
    steps = [] if best is None else [one["step"] for one in best["regions"].values() if one["step"] is not None]
    return {
        "primary": None if best is None else best["primary"],
        "epoch": None if best is None else best["epoch"],
        "attempt": None if best is None else best["attempt"],
        "step": max(steps, default=None),
        "committed_step": None if best is None else best["committed_step"],
        "mode": None if best is None else best["mode"],
        "fencing": None if best is None else best.get("fencing"),
        "valid_s": None if holder is None else round(holder["valid_s"], 2),
        "regions": regions,
    }


def _troubles(view: dict[str, Any] | None, flows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What a region's controller and replicator wait for, and why, by part; an older service may not say."""
    found: dict[str, str] = {} if view is None else dict(view["troubles"])
    found["drills"] = "" if view is None else view["drill"].get("trouble", "")
    for name, flow in flows.items():
        found[f"replicate {name}"] = flow.get("trouble", "")
        found["replicator's sight"] = flow.get("sight_trouble", "")
    return {part: why for part, why in found.items() if why}


def _alarms(run: str, flows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The open alarms of a region that concern a run, newest first; an older replicator says nothing of them."""
    found = [one for flow in flows for one in flow.get("alarms", {}).get("newest", ())]
    return sorted((one for one in found if one["run"] in {run, EVERY_RUN}), key=lambda one: -one["time_ms"])


def _seen_file(settings: Settings) -> Path:
    return settings.state_dir / "seen.json"


def _seen(settings: Settings) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads(_seen_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _keep(settings: Settings, seen: dict[str, float]) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    _seen_file(settings).write_text(json.dumps(seen), encoding="utf-8")


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


def failover(
    run: Annotated[str, typer.Option(help="The run to move.")],
    to: Annotated[str, typer.Option(help="The region that takes it over.")],
    config: Config = None,
    *,
    reason: Reason = "",
    fenced: Annotated[
        bool,
        typer.Option(
            "--i-have-fenced-the-old-region",
            help="You state that the old region cannot write any more: its lease is not waited for. If that is wrong, "
            "two regions may write at once.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Promote a region by hand: the detectors are skipped, every safety gate and the lease's one write are not.

    Exit codes: 0 the region holds the run, 1 refused or not confirmed, 2 misconfigured.
    """
    with misconfigured_exits():
        settings = load(config)
        port, _ = settings.region(to).ports.controller, settings.run(run)
    before = (ask(port, "/status") or {}).get(run)
    preview = ask(port, f"/v1/preview?run={run}")
    if before is None or preview is None:
        typer.echo(f"farside: the controller of {to} does not answer on port {port}: start it first", err=True)
        raise typer.Exit(FAILED)
    typer.echo(f"before: {before['primary']} holds epoch {before['epoch']}", err=True)
    typer.echo(f"after:  {to} holds epoch {before['epoch'] + 1}, from step {before['recoverable_step']}", err=True)
    lost = before["promise"].get("steps_lost")
    typer.echo(f"loses:  {'unknown' if lost is None else lost} steps", err=True)
    for gate in preview["gates"]:
        if not gate["open"]:
            typer.echo(f"  {gate['text']}", err=True)
    if before["primary"] == to:
        typer.echo(f"{to} holds it already", err=True)
        raise typer.Exit(0)
    confirm(f"Let {to} take {run} over?", yes=yes)
    if ask(port, "/v1/failover", {"run": run, "actor": getpass.getuser(), "note": reason, "fenced": fenced}) is None:
        typer.echo(f"farside: the controller of {to} did not take the request", err=True)
        raise typer.Exit(FAILED)
    after = _outcome(port, run, to)
    done = after is not None and after["primary"] == to
    if as_json:
        typer.echo(json.dumps({"promoted": done, "before": before, "after": after}))
    else:
        typer.echo(
            f"{to} holds epoch {after['epoch']}" if done and after is not None else "refused: nothing was changed"
        )
    raise typer.Exit(0 if done else FAILED)


def _outcome(port: int, run: str, to: str) -> dict[str, Any] | None:
    """The controller's status once the wish is settled."""
    found: dict[str, Any] | None = None

    def settled() -> bool:
        nonlocal found
        found = (ask(port, "/status") or {}).get(run) or found
        return found is not None and (found["primary"] == to or not found["operator_pending"])

    until(settled, GIVES_UP_S)
    return found
