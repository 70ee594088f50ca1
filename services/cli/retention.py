"""What stays and what goes: `farside sweep`, `pin` and `unpin`."""

from __future__ import annotations

import getpass
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.exits import FAILED, MISCONFIGURED, misconfigured_exits
from services.cli.prompts import Json, Reason, Yes, confirm
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from pipelines.core.retention import Plan, Verdict
    from pipelines.paths import CheckpointId
    from services.settings import Settings

Run = Annotated[str, typer.Option(help="The run.")]
Step = Annotated[str, typer.Option(help="STEP on the lineage, or EPOCH:STEP (`farside lineage` shows branches).")]


def sweep(
    run: Run,
    region: Annotated[str, typer.Option(help="In whose store.")],
    config: Config = None,
    *,
    execute: Annotated[bool, typer.Option("--execute", help="Note and delete; else only the plan is shown.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(help="A region that is gone for good: do not wait for its store to answer.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show what of a run's checkpoints may go in a region, and why the rest stays; with --execute, delete what is due.

    What nothing needs is noted at one --execute, and goes at the first one after `sweep_grace_s` that finds it so
    still. Nothing but checkpoints is ever touched. Run it from a timer, one at a time in a region.

    Exit codes: 0 planned or done; 1 held back (another region's store does not answer, or knows a newer epoch), not
    confirmed, or something does not answer; 2 misconfigured.
    """
    from pipelines.errors import CorruptError  # noqa: PLC0415 - `farside --help` must be quick
    from services.operations.sweeper import sweep_of  # noqa: PLC0415 - as above

    gone: Sequence[Verdict] = ()
    with misconfigured_exits():
        try:
            flow = sweep_of(load(config), region, run, without or ())
            planned = flow.plan()
            if execute and planned.held is None:
                if not as_json:
                    _show(planned, run, region)
                sure = f"Delete what is due ({sum(one.size_bytes for one in planned.due)} bytes), and note the rest?"
                confirm(sure, yes=yes)
                done = flow.execute()
                planned, gone = done.plan, done.gone
        except CorruptError as error:
            typer.echo(f"farside: {error}", err=True)
            raise typer.Exit(FAILED) from error
    if as_json:
        typer.echo(json.dumps(_plain(planned, gone, run, region, execute=execute)))
    elif execute and planned.held is None:
        size = sum(one.size_bytes for one in gone)
        typer.echo(f"{region}: {len(gone)} checkpoints of {run} are gone, {size} bytes; what else may go is noted")
    else:
        _show(planned, run, region)
    raise typer.Exit(0 if planned.held is None else FAILED)


def pin(run: Run, checkpoint: Step, config: Config = None, *, reason: Reason = "", as_json: Json = False) -> None:
    """Keep a checkpoint in every region until it is unpinned: no sweep takes it, and its copy is not given up.

    Exit codes: 0 pinned everywhere, 1 no region has it, or one does not answer, 2 misconfigured.
    """
    _say(run, checkpoint, config, reason, pins=True, as_json=as_json)


def unpin(run: Run, checkpoint: Step, config: Config = None, *, reason: Reason = "", as_json: Json = False) -> None:
    """Take the pin off a checkpoint in every region; a whole grace passes before a sweep may take it.

    Exit codes: 0 no longer pinned anywhere, 1 it was not pinned, or a region does not answer, 2 misconfigured.
    """
    _say(run, checkpoint, config, reason, pins=False, as_json=as_json)


def _say(run: str, text: str, config: Any, reason: str, *, pins: bool, as_json: bool) -> None:  # noqa: ANN401 - a path
    from pipelines.errors import RetryableError  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.retention import pins as flow  # noqa: PLC0415 - as above
    from services.adapters.system_clock import SystemClock  # noqa: PLC0415 - as above
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    epoch, step = _place(text)
    with misconfigured_exits():
        settings = load(config)
        settings.run(run)
        chosen = _whole(settings, run, epoch, step) if pins else _pinned(settings, run, epoch, step)
        if not chosen:
            missing = "is whole in no region that answers" if pins else "is not pinned"
            typer.echo(f"farside: checkpoint {text} of {run} {missing}", err=True)
            raise typer.Exit(FAILED)
        said: dict[str, object] = {"actor": getpass.getuser(), "reason": reason, "time_ms": SystemClock().wall_ms()}
        away = []
        for name, region in settings.regions.items():
            try:
                for own in sorted(chosen):
                    (flow.pin if pins else flow.unpin)(store_of(region), own, said)
            except RetryableError as error:
                away.append(name)
                typer.echo(f"farside: not in {name}: {error}", err=True)
    names = [own.prefix for own in sorted(chosen)]
    if as_json:
        typer.echo(json.dumps({"pinned" if pins else "unpinned": names, "away": away, **said}))
    else:
        for name in names:
            typer.echo(f"{name} is {'pinned' if pins else 'no longer pinned'}")
    raise typer.Exit(FAILED if away else 0)


def _place(text: str) -> tuple[int | None, int]:
    epoch, colon, step = text.rpartition(":")
    if not step.isdecimal() or (colon and not epoch.isdecimal()):
        typer.echo(f"farside: --checkpoint {text!r}: say STEP or EPOCH:STEP", err=True)
        raise typer.Exit(MISCONFIGURED)
    return (int(epoch) if colon else None), int(step)


def _whole(settings: Settings, run: str, epoch: int | None, step: int) -> set[CheckpointId]:
    """The checkpoint of that step, as the first region that answers and has it whole knows it."""
    from pipelines.errors import RetryableError  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.authority.epoch_store import EpochStore  # noqa: PLC0415 - as above
    from pipelines.flows.standby.recoverable import RecoverableFinder  # noqa: PLC0415 - as above
    from pipelines.paths import parse_checkpoint  # noqa: PLC0415 - as above
    from schemas.codec import Codec  # noqa: PLC0415 - as above
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above
    from services.runtime.wiring import signer_of  # noqa: PLC0415 - as above

    for name, region in settings.regions.items():
        try:
            store = store_of(region)
            view = EpochStore(store)(run)
            looks = RecoverableFinder(store, signer_of(settings, name), Codec())
            found = None if view is None else looks.at(run, view, step, epoch)
        except RetryableError:
            continue  # another region may have it; that this one does not answer is told when the pin is put there
        if found is not None:
            return {parse_checkpoint(found.key)}
    return set()


def _pinned(settings: Settings, run: str, epoch: int | None, step: int) -> set[CheckpointId]:
    """What is pinned of that step, in any region that answers."""
    from pipelines.errors import RetryableError  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.retention.pins import pinned  # noqa: PLC0415 - as above
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    found: set[CheckpointId] = set()
    for region in settings.regions.values():
        try:
            found |= {own for own in pinned(store_of(region), run) if own.step == step}
        except RetryableError:
            continue  # it is told when the pin is to be taken off there
    return {own for own in found if epoch in {None, own.epoch}}


def _plain(planned: Plan, gone: Sequence[Verdict], run: str, region: str, *, execute: bool) -> dict[str, object]:
    def lines(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
        return [
            {
                "epoch": one.own.epoch,
                "attempt": one.own.attempt,
                "step": one.own.step,
                "reason": one.reason.value,
                "size_bytes": one.size_bytes,
                "unreferenced_s": one.unreferenced_s,
                "due": one.due,
            }
            for one in verdicts
        ]

    return {
        "run": run,
        "region": region,
        "executed": execute and planned.held is None,
        "held": None if planned.held is None else planned.held.value,
        "unseen": list(planned.unseen),
        "kept": lines(planned.kept),
        "candidates": lines(planned.candidates),
        "gone": lines(gone),
    }


def _show(planned: Plan, run: str, region: str) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - `farside --help` must be quick
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    rows: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for one in planned.verdicts:
        kept = one in planned.kept
        rows["stays" if kept else "due" if one.due else "waits", one.reason.value].append(one)
    table = Table("", "why", "checkpoints", "bytes", "steps", box=SIMPLE_HEAD, title=f"{run} in {region}")
    for (what, why), ones in sorted(rows.items()):
        steps = sorted(one.own.step for one in ones)
        shown = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        table.add_row(what, why, str(len(ones)), str(sum(one.size_bytes for one in ones)), shown)
    Console().print(table)
    if planned.held is not None:
        unseen = f" ({', '.join(planned.unseen)})" if planned.unseen else ""
        typer.echo(f"farside: nothing may go: {planned.held.value}{unseen}", err=True)
