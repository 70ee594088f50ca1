"""The commands that change a run's authority: switchover, failback, pause, resume, acknowledge, adopt, discard.

`farside failover`, for a region that is lost, is in `failover.py`; what only shows is in `explain.py`.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from schemas.http_bodies import MoveBody, RunStatus
from services.adapters.system_clock import SystemEntropy
from services.cli.branches import Branch, Discarded, readable_branches
from services.cli.exits import FAILED, MISCONFIGURED, misconfigured_exits
from services.cli.history import when
from services.cli.prompts import Json, Reason, Yes, confirm, until
from services.cli.run_views import RunViews, settings_of
from services.cli.serve import Config
from services.http.bodies import plain, to_json
from services.http.endpoints import controller_of
from services.settings import Settings

MOVE_S = 3_900.0
NOTED_S = 30.0
Run = Annotated[str, typer.Option(help="The run to change.")]


def switchover(
    run: Run, to: Annotated[str, typer.Option(help="The region that takes the run.")], config: Config = None,
    *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
    scheduled: Annotated[
        str, typer.Option(help="Begin then instead of now: 2026-11-30T02:00:00Z, or a duration: +90m, +8h.")
    ] = "",
) -> None:  # fmt: skip
    """Move a run to another region as planned, while both work: drain, save, wait until it is safe there, hand over.

    Loses no step. Until the hand-over it can be cancelled (`farside resume --cancel`), and the holder calls it off if
    the target falls silent. Ctrl-C stops watching, not the move. A scheduled move is kept in the lease record, where it
    survives every restart; when its time has come it begins, or is taken off with the reason in the history.

    Example: farside switchover --run gpt --to west --scheduled +8h

    Exit codes: 0 the region holds the run (or the move is scheduled), 1 refused, called off or not confirmed, 2
    misconfigured.
    """
    if scheduled:
        settings, at_ms = settings_of(config, run, to), _moment(scheduled)
        confirm(f"Move {run} to {to} at {when(at_ms)} UTC?", yes=yes)

        def planned(status: RunStatus) -> bool:
            return status.scheduled_ms == at_ms

        _request(settings, run, "schedule", reason, planned, as_json=as_json, to=to, at_ms=at_ms)
        return
    _move(run, to, config, reason, yes=yes, as_json=as_json)


def failback(
    run: Run, to: Annotated[str, typer.Option(help="The region that had the run before.")], config: Config = None,
    *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Move a run back to a region that was lost and has rejoined as a standby: a switchover, which loses no step.

    What that region committed past the fork stays there as a branch (`farside lineage`) and is never overwritten. Deal
    with it first: `farside discard` it; or `farside switchover` to that region, and then `farside adopt` it.

    Example: farside failback --run gpt --to east

    Exit codes: 0 the region holds the run, 1 refused, called off or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run, to)
    newest = RunViews(settings, run).newest()
    if newest is None or not any(entry.region == to for entry in newest.lineage):
        typer.echo(f"farside: {to} never had {run}: use `farside switchover`", err=True)
        raise typer.Exit(FAILED)
    left = [branch for branch in readable_branches(settings, newest, to) if branch.discarded is None]
    for branch in left:
        typer.echo(f"left in {to}, set aside: {branch.text}", err=True)
    if left:
        typer.echo(
            f"farside: deal with it first: `farside discard --run {run} --region {to} --epoch {left[-1].epoch}`, or "
            f"switch over to it, then `farside adopt --run {run} --branch {left[-1].epoch}:{left[-1].step}`",
            err=True,
        )
        raise typer.Exit(FAILED)
    _move(run, to, config, reason or "failback", yes=yes, as_json=as_json)


def pause(
    run: Run, config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return only when the controller of every region has read it.")
    ] = False,
) -> None:  # fmt: skip
    """Stop automatic failovers of a run until `farside resume`, for example before you work on the network.

    A person can still move the run. Pausing grants nothing to anybody and stops no training.

    Example: farside pause --run gpt --reason "network maintenance" --wait

    Exit codes: 0 paused, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run)
    confirm(f"Hold back automatic failovers of {run}?", yes=yes)
    _request(settings, run, "pause", reason, lambda status: status.mode == "paused", as_json=as_json)
    if wait:
        views = RunViews(settings, run)
        until(lambda: all(status.mode == "paused" for status in views.now().values()), NOTED_S)


def resume(
    run: Run, config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Call off a planned move that is not handed over yet instead.")
    ] = False,
) -> None:  # fmt: skip
    """Allow automatic failovers of a paused run again; with --cancel, call off a planned move before its hand-over.

    Example: farside resume --run gpt

    Exit codes: 0 active again, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run)
    confirm(f"{'Call off the move' if cancel else 'Allow automatic failovers'} of {run}?", yes=yes)
    kind = "cancel" if cancel else "resume"

    def done(status: RunStatus) -> bool:
        return status.mode == "active" and not status.scheduled_ms

    _request(settings, run, kind, reason, done, as_json=as_json)


def acknowledge(
    run: Run, config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False
) -> None:
    """Tell the controllers that a person has looked at the last automatic failover of a run.

    Lifts the one-hour cooldown on automatic failover: the next one may happen at once. (For gaps in followed logs, see
    `farside alarms acknowledge`.)

    Example: farside acknowledge --run gpt --reason "east had lost power"

    Exit codes: 0 noted, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run)
    confirm(f"Allow another automatic failover of {run} within the hour?", yes=yes)

    def done(status: RunStatus) -> bool:
        return status.acknowledged == status.epoch

    _request(settings, run, "acknowledge", reason, done, as_json=as_json)


def adopt(
    run: Run, branch: Annotated[str, typer.Option(help="EPOCH:STEP of its newest checkpoint (`farside lineage`).")],
    config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Have a run go on from a branch: the region that holds it begins a new epoch at that checkpoint.

    The branch must be in that region's own store: move the run there first. Nothing is overwritten: what came after the
    old fork becomes a branch itself. Its trainers stop at a step boundary, and the next launch resumes from the branch.

    Example: farside adopt --run gpt --branch 1:40

    Exit codes: 0 adopted, 1 refused or not confirmed, 2 misconfigured.
    """
    settings = settings_of(config, run)
    newest = RunViews(settings, run).newest()
    epoch = 0 if newest is None else newest.epoch
    if newest is not None:
        region = newest.region if newest.is_holder else None
        typer.echo(f"before: {region} holds epoch {epoch}, committed step {newest.committed_step}", err=True)
        typer.echo(f"after:  {region} holds epoch {epoch + 1}, from {branch}; the rest is set aside", err=True)
    confirm(f"Let {run} go on from branch {branch}?", yes=yes)
    _request(settings, run, "adopt", reason, lambda status: status.epoch > epoch, as_json=as_json, to=branch)


def discard(
    run: Run, region: Annotated[str, typer.Option(help="The region whose store has the branch.")],
    epoch: Annotated[int, typer.Option(help="The branch's epoch (`farside lineage`).")],
    config: Config = None, *, reason: Reason = "", yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Mark a branch in a region's store as of no use: who says so, when and why.

    Deletes nothing now. Once sweep_grace_s is over, `farside sweep` may delete the branch's checkpoints.

    Example: farside discard --run gpt --region east --epoch 1

    Exit codes: 0 noted, 1 there is no such branch, or not confirmed, 2 misconfigured.
    """
    from pipelines import paths  # noqa: PLC0415 - `farside --help` must be quick
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    settings = settings_of(config, run, region)
    newest = RunViews(settings, run).newest()
    known = [] if newest is None else readable_branches(settings, newest, region)
    chosen: list[Branch] = [branch for branch in known if branch.epoch == epoch]
    if not chosen:
        typer.echo(
            f"farside: {region} has no branch of epoch {epoch}; `farside lineage --run {run}` shows all", err=True
        )
        raise typer.Exit(FAILED)
    for branch in chosen:
        typer.echo(branch.text, err=True)
    confirm(f"Discard {len(chosen)} checkpoints of epoch {epoch} in {region}?", yes=yes)
    verdict = Discarded(actor=getpass.getuser(), reason=reason, time_ms=_milliseconds(_now()))
    with misconfigured_exits():
        store_of(settings.region(region)).create(paths.discarded(run, epoch), to_json(verdict))
    if as_json:
        typer.echo(json.dumps({"discarded": [plain(branch) for branch in chosen], **plain(verdict)}))
    else:
        typer.echo(f"{run}: the branch of epoch {epoch} in {region} is discarded")


def _move(run: str, to: str, config: Path | None, reason: str, *, yes: bool, as_json: bool) -> None:
    """Move a run from the region that holds it, and watch until that is over; ends the command."""
    settings = settings_of(config, run, to)
    views = RunViews(settings, run)
    before = views.holder()
    if before is None:
        typer.echo(
            f"farside: nobody holds {run} that can be asked: if its region is gone, use `farside failover`", err=True
        )
        raise typer.Exit(FAILED)
    region = before.region
    if region == to:
        typer.echo(f"{to} holds it already", err=True)
        raise typer.Exit(0)
    typer.echo(f"before: {region} holds epoch {before.epoch}, committed step {before.committed_step}", err=True)
    typer.echo(f"after:  {to} holds epoch {before.epoch + 1}, from {region}'s next checkpoint: 0 steps lost", err=True)
    confirm(f"Move {run} from {region} to {to}?", yes=yes)
    _ask_holder(settings, region, run, "switchover", reason, to)
    _watch(views, region, to, quiet=as_json)
    after = views.now().get(to)
    done = after is not None and after.primary == to
    if as_json:
        after_body = None if after is None else plain(after)
        typer.echo(json.dumps({"moved": done, "before": plain(before), "after": after_body}))
    else:
        typer.echo(f"{to} holds epoch {after.epoch}" if done and after else f"called off: {region} still holds {run}")
    raise typer.Exit(0 if done else FAILED)


def _watch(views: RunViews, region: str, to: str, *, quiet: bool) -> None:
    """Until the target holds the run or the move is called off; prints each new reason that the holder gives."""
    shown = ""

    def over() -> bool:
        nonlocal shown
        by_region = views.now()
        here, there = by_region.get(region), by_region.get(to)
        if here is not None and here.reason != shown and not quiet:
            shown = here.reason
            typer.echo(f"  {region}: {shown}", err=True)
        if there is not None and there.primary == to and there.is_holder:
            return True
        moving = here is None or here.operator_pending or here.mode in {"handover", "released"}
        return not moving and here is not None and here.primary == region

    until(over, MOVE_S)


def _request(
    settings: Settings,
    run: str,
    kind: str,
    reason: str,
    done: Callable[[RunStatus], bool],
    *,
    as_json: bool,
    to: str = "",
    at_ms: int = 0,
) -> None:
    """Ask the holder for a change of the lease record and wait for it; ends the command if it is not done."""
    views = RunViews(settings, run)
    before = views.holder()
    if before is None:
        typer.echo(f"farside: nobody holds {run} that can be asked; `farside status` shows what is seen", err=True)
        raise typer.Exit(FAILED)
    region = before.region
    _ask_holder(settings, region, run, kind, reason, to, at_ms)

    def settled() -> bool:
        status = views.now().get(region, before)
        return done(status) or not status.operator_pending

    until(settled, NOTED_S)
    after = views.now().get(region, before)
    if as_json:
        typer.echo(json.dumps({"done": done(after), "before": plain(before), "after": plain(after)}))
    else:
        typer.echo(f"{run}: mode {before.mode} -> {after.mode}, epoch {after.epoch} of {after.primary}")
    if not done(after):
        typer.echo(f"farside: not done; `farside explain --run {run}` and the journal of {region} say why", err=True)
        raise typer.Exit(FAILED)


def _ask_holder(
    settings: Settings, region: str, run: str, kind: str, reason: str, target: str = "", at_ms: int = 0
) -> None:
    """Send the holder a request; the command ends if it is refused."""
    key = SystemEntropy().new_id()
    body = MoveBody(run=run, kind=kind, note=reason, target=target, at_ms=at_ms, key=key)
    with misconfigured_exits():
        answer = controller_of(settings, region).move(body)
    if answer is None or answer.refused:
        why = "its controller did not take the request" if answer is None else answer.refused
        typer.echo(f"farside: refused: {why}", err=True)
        raise typer.Exit(FAILED)


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
