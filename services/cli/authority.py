"""The commands that look at authority or ask for a change of it: switchover, failback, pause, resume, explain ..."""

from __future__ import annotations

import datetime as dt
import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from services.cli.exits import FAILED, MISCONFIGURED, misconfigured_exits
from services.cli.prompts import Json, Reason, Yes, confirm, until
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.client import ask
from services.settings import Settings

MOVE_S = 3_900.0
NOTED_S = 30.0
Run = Annotated[str, typer.Option(help="The run.")]


def switchover(
    run: Run, to: Annotated[str, typer.Option(help="The region that is to have it.")], config: Config = None,
    *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
    scheduled: Annotated[
        str, typer.Option(help="Begin then instead of now: 2026-11-30T02:00:00Z, or a duration: +90m, +8h.")
    ] = "",
) -> None:  # fmt: skip
    """Move a run as planned: drain, save, wait until it is safe there, hand over. Loses no step.

    Until the hand-over it can be cancelled (`farside resume --cancel`), and it is called off by itself if the target
    falls silent. Ctrl-C stops watching, not the move. A scheduled move is kept in the lease record, where it survives
    every restart; when its time has come it begins, or is taken off with the reason in the history.

    Exit codes: 0 the region holds the run (or the move is scheduled), 1 refused, called off or not confirmed, 2
    misconfigured.
    """
    if scheduled:
        settings, at_ms = _settings(config, run, to), _moment(scheduled)
        confirm(f"Move {run} to {to} at {when(at_ms)} UTC?", yes=yes)

        def planned(one: dict[str, Any]) -> bool:
            return bool(one["scheduled_ms"] == at_ms)

        _asked(settings, run, "schedule", reason, planned, as_json=as_json, to=to, at_ms=at_ms)
        return
    _move(run, to, config, reason, yes=yes, as_json=as_json)


def failback(
    run: Run, to: Annotated[str, typer.Option(help="The region that had it before.")], config: Config = None,
    *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Move a run back to a region that was lost and has rejoined as a standby: a switchover.

    What the region did past the fork stays there as a branch (`farside lineage`); it is never overwritten. It has to be
    dealt with first: `farside discard`; or `farside switchover` there, and then `farside adopt`.

    Exit codes: 0 the region holds the run, 1 refused, called off or not confirmed, 2 misconfigured.
    """
    settings = _settings(config, run, to)
    _, best = _primary(settings, run)
    if best is None or not any(entry["region"] == to for entry in best["lineage"]):
        typer.echo(f"farside: {to} never had {run}: use `farside switchover`", err=True)
        raise typer.Exit(FAILED)
    left = [line for line in _readable(_branches(settings, best, to), to) if line["discarded"] is None]
    for line in left:
        typer.echo(f"left in {to}, set aside: {_branch_text(line)}", err=True)
    if left:
        typer.echo(
            f"farside: deal with it first: `farside discard --run {run} --region {to} --epoch {left[-1]['epoch']}`, or "
            f"switch over to it, then `farside adopt --run {run} --branch {left[-1]['epoch']}:{left[-1]['step']}`",
            err=True,
        )
        raise typer.Exit(FAILED)
    _move(run, to, config, reason or "failback", yes=yes, as_json=as_json)


def pause(
    run: Run, config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return once every region has seen it.")] = False,
) -> None:  # fmt: skip
    """Hold back automatic failovers of a run; a person can still move it. Grants nothing, and stops no training.

    Exit codes: 0 paused, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = _settings(config, run)
    confirm(f"Hold back automatic failovers of {run}?", yes=yes)
    found = _asked(settings, run, "pause", reason, lambda one: one["mode"] == "paused", as_json=as_json)
    if wait and found:
        until(lambda: all(one["mode"] == "paused" for one in _views(settings, run).values()), NOTED_S)


def resume(
    run: Run, config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Call off a planned move instead.")] = False,
) -> None:  # fmt: skip
    """Let automatic failovers happen again; with --cancel: call off a move that is planned and not handed over yet.

    Exit codes: 0 active again, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = _settings(config, run)
    confirm(f"{'Call off the move' if cancel else 'Allow automatic failovers'} of {run}?", yes=yes)
    kind = "cancel" if cancel else "resume"

    def done(one: dict[str, Any]) -> bool:
        return one["mode"] == "active" and not one["scheduled_ms"]

    _asked(settings, run, kind, reason, done, as_json=as_json)


def acknowledge(
    run: Run, config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False
) -> None:
    """Say that you have seen the last automatic failover: another one may happen before its hour is over.

    Exit codes: 0 noted, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = _settings(config, run)
    confirm(f"Allow another automatic failover of {run} within the hour?", yes=yes)
    _asked(settings, run, "acknowledge", reason, lambda one: one["acknowledged"] == one["epoch"], as_json=as_json)


def adopt(
    run: Run, branch: Annotated[str, typer.Option(help="EPOCH:STEP of its newest checkpoint (`farside lineage`).")],
    config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a branch the run's own line again: a new epoch that goes on from it. Nothing is overwritten.

    The region that holds the run must have the branch in its own store: move the run there first. What came after the
    old fork becomes a branch itself; its trainers stop at a step boundary, and the next launch resumes from the branch.

    Exit codes: 0 adopted, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = _settings(config, run)
    region, best = _primary(settings, run)
    if best is not None:
        typer.echo(f"before: {region} holds epoch {best['epoch']}, committed step {best['committed_step']}", err=True)
        typer.echo(f"after:  {region} holds epoch {best['epoch'] + 1}, from {branch}; the rest is set aside", err=True)
    confirm(f"Let {run} go on from branch {branch}?", yes=yes)
    epoch = 0 if best is None else best["epoch"]
    _asked(settings, run, "adopt", reason, lambda one: one["epoch"] > epoch, as_json=as_json, to=branch)


def discard(
    run: Run, region: Annotated[str, typer.Option(help="The region whose store has the branch.")],
    epoch: Annotated[int, typer.Option(help="The branch's epoch (`farside lineage`).")],
    config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Say that a branch is of no use: who, when and why. A later sweep may take its bytes, after the grace.

    Exit codes: 0 noted, 1 there is no such branch, or not confirmed, 2 misconfigured.
    """
    from pipelines import paths  # noqa: PLC0415 - with the services' imports
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    settings = _settings(config, run, region)
    _, best = _primary(settings, run)
    known = [] if best is None else _readable(_branches(settings, best, region), region)
    lines = [one for one in known if one["epoch"] == epoch]
    if not lines:
        typer.echo(
            f"farside: {region} has no branch of epoch {epoch}; `farside lineage --run {run}` shows all", err=True
        )
        raise typer.Exit(FAILED)
    for line in lines:
        typer.echo(_branch_text(line), err=True)
    confirm(f"Discard {len(lines)} checkpoints of epoch {epoch} in {region}?", yes=yes)
    said = {"actor": getpass.getuser(), "reason": reason, "time_ms": _milliseconds(_now())}
    with misconfigured_exits():
        store_of(settings.region(region)).create(paths.discarded(run, epoch), json.dumps(said).encode())
    if as_json:
        typer.echo(json.dumps({"discarded": lines, **said}))
    else:
        typer.echo(f"{run}: the branch of epoch {epoch} in {region} is discarded")


def history(run: Run, config: Config = None, *, as_json: Json = False) -> None:
    """Every change of authority: when, which epoch, who, why, in whose words. Read from the witness.

    Exit codes: 0 shown, 1 no controller can read it, 2 misconfigured.
    """
    settings = _settings(config, run)
    records = _from_any(settings, f"/v1/history?run={run}", "records")
    if as_json:
        typer.echo(json.dumps(records))
        return
    table = Table("when", "epoch", "holder", "mode", "what", "who", "committed", "note", box=SIMPLE_HEAD)
    for one in records:
        what = f"{one['reason']} to {one['target']}" if one["target"] else one["reason"]
        step = "-" if one["committed_step"] < 0 else str(one["committed_step"])
        table.add_row(
            when(one["time_ms"]), str(one["epoch"]), one["holder"], one["mode"], what, one["actor"], step, one["note"]
        )
    Console().print(table)


def explain(run: Run, config: Config = None, *, as_json: Json = False) -> None:
    """What each region's controller would do now and why: every gate, its value, its limit; nothing is changed.

    Exit codes: 0 shown, 1 no controller answers, 2 misconfigured.
    """
    settings = _settings(config, run)
    views = _views(settings, run)
    if not views:
        typer.echo("farside: no controller answers: start one", err=True)
        raise typer.Exit(FAILED)
    if as_json:
        shown = ("action", "reason", "diagnosis", "gates", "next", "mode", "fencing", "epoch", "primary", "promise")
        typer.echo(json.dumps({name: {key: one[key] for key in shown} for name, one in views.items()}))
        return
    for name, one in views.items():
        title = f"{name}: {one['action']} ({one['reason']}); {one['primary']} holds epoch {one['epoch']}, {one['mode']}"
        Console().print(f"\n{title}", highlight=False, soft_wrap=True)
        for gate in one["gates"]:
            closed = not gate["open"] and not gate["advisory"]
            Console().print(f"  {gate['text']}", style="bold red" if closed else "", highlight=False, soft_wrap=True)
        if one["diagnosis"] is not None:
            Console().print(f"  diagnosis: {one['diagnosis']['text']}", highlight=False, soft_wrap=True)
        Console().print(f"  next: {one['next']}; fencing: {one['fencing']}", highlight=False)


def lineage(run: Run, config: Config = None, *, as_json: Json = False) -> None:
    """The tree of epochs: who had the run from which step, and what was set aside as a branch in which region.

    Exit codes: 0 shown, 1 no controller answers, 2 misconfigured.
    """
    settings = _settings(config, run)
    _, best = _primary(settings, run)
    if best is None:
        typer.echo("farside: no controller answers: start one", err=True)
        raise typer.Exit(FAILED)
    branches = {name: _branches(settings, best, name) for name in settings.regions}
    if as_json:
        typer.echo(json.dumps({"lineage": best["lineage"], "branches": branches}))
        return
    for entry in best["lineage"]:
        fork = f"from epoch {entry['parent_epoch']} step {entry['fork_step']}"
        origin = "from step 0" if entry["fork_step"] < 0 else fork
        who = f"{entry['reason']} by {entry['actor']}  {entry['note']}"
        typer.echo(f"epoch {entry['epoch']}  {entry['region']}  {origin}  {who}")
    for name, lines in branches.items():
        for line in lines:
            typer.echo(f"  branch in {name}: {_branch_text(line)}")


def _settings(config: Path | None, run: str, *regions: str) -> Settings:
    """The settings, which know the run and the regions; else the command ends."""
    with misconfigured_exits():
        settings = load(config)
        settings.run(run)
        for name in regions:
            settings.region(name)
    return settings


def _move(run: str, to: str, config: Path | None, reason: str, *, yes: bool, as_json: bool) -> None:
    settings = _settings(config, run, to)
    region, before = _primary(settings, run)
    if before is None or region is None:
        typer.echo(
            f"farside: nobody holds {run} that can be asked: if its region is gone, use `farside failover`", err=True
        )
        raise typer.Exit(FAILED)
    if region == to:
        typer.echo(f"{to} holds it already", err=True)
        raise typer.Exit(0)
    typer.echo(f"before: {region} holds epoch {before['epoch']}, committed step {before['committed_step']}", err=True)
    typer.echo(
        f"after:  {to} holds epoch {before['epoch'] + 1}, from {region}'s next checkpoint: 0 steps lost", err=True
    )
    confirm(f"Move {run} from {region} to {to}?", yes=yes)
    _ask_holder(settings, region, run, "switchover", reason, to)
    told: list[str] = []

    def over() -> bool:
        views = _views(settings, run)
        here, there = views.get(region), views.get(to)
        if here is not None and here["reason"] not in told[-1:] and not as_json:
            told.append(here["reason"])
            typer.echo(f"  {region}: {here['reason']}", err=True)
        if there is not None and there["primary"] == to and there["is_holder"]:
            return True
        moving = here is None or here["operator_pending"] or here["mode"] in {"handover", "released"}
        return not moving and here is not None and here["primary"] == region

    until(over, MOVE_S)
    after = _views(settings, run).get(to)
    done = after is not None and after["primary"] == to
    if as_json:
        typer.echo(json.dumps({"moved": done, "before": before, "after": after}))
    else:
        typer.echo(
            f"{to} holds epoch {after['epoch']}" if done and after else f"called off: {region} still holds {run}"
        )
    raise typer.Exit(0 if done else FAILED)


def _asked(
    settings: Settings,
    run: str,
    kind: str,
    reason: str,
    done: Callable[[dict[str, Any]], bool],
    *,
    as_json: bool,
    to: str = "",
    at_ms: int = 0,
) -> bool:
    region, before = _primary(settings, run)
    if before is None or region is None:
        typer.echo(f"farside: nobody holds {run} that can be asked; `farside status` shows what is seen", err=True)
        raise typer.Exit(FAILED)
    _ask_holder(settings, region, run, kind, reason, to, at_ms)

    def settled() -> bool:
        view = _views(settings, run).get(region, before)
        return done(view) or not view["operator_pending"]

    until(settled, NOTED_S)
    after = _views(settings, run).get(region, before)
    if as_json:
        typer.echo(json.dumps({"done": done(after), "before": before, "after": after}))
    else:
        typer.echo(f"{run}: mode {before['mode']} -> {after['mode']}, epoch {after['epoch']} of {after['primary']}")
    if not done(after):
        typer.echo(f"farside: not done; `farside explain --run {run}` and the journal of {region} say why", err=True)
        raise typer.Exit(FAILED)
    return True


def _ask_holder(
    settings: Settings, region: str, run: str, kind: str, reason: str, target: str = "", at_ms: int = 0
) -> None:
    request: dict[str, object] = {
        "run": run,
        "kind": kind,
        "actor": getpass.getuser(),
        "note": reason,
        "target": target,
    }
    request["at_ms"] = at_ms
    answer = ask(settings.region(region).ports.controller, "/v1/ask", request)
    if answer is None or answer["refused"]:
        why = "its controller did not take the request" if answer is None else answer["refused"]
        typer.echo(f"farside: refused: {why}", err=True)
        raise typer.Exit(FAILED)


def _views(settings: Settings, run: str) -> dict[str, dict[str, Any]]:
    found = {name: (ask(one.ports.controller, "/status") or {}).get(run) for name, one in settings.regions.items()}
    return {name: one for name, one in found.items() if one is not None}


def _primary(settings: Settings, run: str) -> tuple[str | None, dict[str, Any] | None]:
    """The region that holds the run, and what is known of it; the region is None if its controller does not answer."""
    views = _views(settings, run)
    best = max(views.values(), key=lambda one: (one["epoch"], one["is_holder"]), default=None)
    name = None if best is None or not best["is_holder"] else str(best["region"])
    return name, best


def _from_any(settings: Settings, path: str, key: str) -> list[dict[str, Any]]:
    for region in settings.regions.values():
        answer = ask(region.ports.controller, path)
        if answer is not None and key in answer:
            found: list[dict[str, Any]] = answer[key]
            return found
    typer.echo("farside: no controller can read the witness; `farside explain` shows what each one sees", err=True)
    raise typer.Exit(FAILED)


def _branch_text(line: dict[str, Any]) -> str:
    gone = line["discarded"]
    verdict = f", discarded by {gone['actor']}: {gone['reason']}" if gone else ""
    return line["trouble"] or f"epoch {line['epoch']} attempt {line['attempt']} step {line['step']}{verdict}"


def _readable(lines: list[dict[str, Any]], region: str) -> list[dict[str, Any]]:
    """The branches in a region's store; the command ends if that cannot be read: nobody knows then what is there."""
    for line in lines:
        if line["trouble"]:
            typer.echo(
                f"farside: the store of {region} {line['trouble']}; what was set aside there is not known: bring the "
                "store back first",
                err=True,
            )
            raise typer.Exit(FAILED)
    return lines


def _branches(settings: Settings, best: dict[str, Any], region: str) -> list[dict[str, Any]]:
    """What lies in a region's store past the fork that closed its epoch, by the lineage that `best` tells."""
    from pipelines import paths  # noqa: PLC0415 - with the services' imports
    from pipelines.core.lineage import LineageView, Standing, standing  # noqa: PLC0415 - as above
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    view = LineageView(best["epoch"], tuple((epoch, parent, step) for epoch, parent, step in best["forks"]))
    empty: dict[str, Any] = {"epoch": 0, "attempt": 0, "step": 0, "manifest": "", "discarded": None, "trouble": ""}
    try:
        store = store_of(settings.region(region))
        keys = store.list(paths.checkpoints_prefix(best["run"]))
        found = paths.committed(keys)
        aside = [one for one in found if standing(view, one.epoch, one.step) is Standing.BRANCH]
        said = {epoch: store.get(paths.discarded(best["run"], epoch)) for epoch in {one.epoch for one in aside}}
    except FarsideError as error:
        return [{**empty, "trouble": f"cannot be read: {error}"}]
    verdicts = {epoch: json.loads(body) for epoch, body in said.items() if body is not None}
    return [
        {
            **empty,
            "epoch": one.epoch,
            "attempt": one.attempt,
            "step": one.step,
            "manifest": one.manifest,
            "discarded": verdicts.get(one.epoch),
        }
        for one in aside
    ]


def _moment(text: str) -> int:
    """Milliseconds since the Unix epoch of an RFC 3339 time or a duration from now; else the command ends."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    try:
        if text.startswith("+"):
            return _milliseconds(_now() + dt.timedelta(seconds=float(text[1:-1]) * units[text[-1]]))
        moment = dt.datetime.fromisoformat(text)
    except (ValueError, KeyError, IndexError):
        moment = None
    if moment is None or moment.tzinfo is None:
        typer.echo(f"farside: --scheduled {text!r}: a time with its zone (2026-11-30T02:00:00Z) or +90m, +8h", err=True)
        raise typer.Exit(MISCONFIGURED)
    return _milliseconds(moment)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251 - a person's own clock


def _milliseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1000)


def when(time_ms: int) -> str:
    """A time for people, in UTC."""
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
