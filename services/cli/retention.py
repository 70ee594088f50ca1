"""`farside sweep`, `pin` and `unpin`: delete a run's unreferenced checkpoints, or protect one from deletion."""

from __future__ import annotations

import getpass
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import FAILED, MISCONFIGURED, misconfigured_exits
from services.cli.prompts import Json, Reason, Yes, confirm
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from pipelines.core.retention import Plan, Verdict
    from pipelines.paths import CheckpointId
    from services.settings import Settings

Run = Annotated[str, typer.Option(help="The run that the checkpoints belong to.")]
Step = Annotated[
    str, typer.Option(help="STEP for one on the lineage, EPOCH:STEP for one on a branch (see `farside lineage`).")
]


def sweep(
    run: Run,
    region: Annotated[str, typer.Option(help="The region whose store is swept.")],
    config: Config = None,
    *,
    execute: Annotated[
        bool, typer.Option("--execute", help="Mark and delete; without this option only the plan is shown.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out this region, which is gone for good: its store is not asked what it still needs."),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show which of a run's checkpoints in a region can be deleted and why the others stay; with --execute, delete.

    Unreferenced checkpoints are marked on one run with --execute, and deleted on the first later run, after
    sweep_grace_s, that still finds them unreferenced. Only objects of checkpoints are ever deleted. Run it from a
    timer, at most one at a time for each region.

    Example: farside sweep --run gpt --region west

    Exit codes: 0 the plan was shown or carried out, 1 not confirmed, or something does not answer, or nothing may be
    deleted now because another region's store does not answer or knows a newer epoch, 2 misconfigured.
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
                due_bytes = sum(verdict.size_bytes for verdict in planned.due)
                confirm(f"Delete the checkpoints that are due ({due_bytes} bytes), and mark those that wait?", yes=yes)
                done = flow.execute()
                planned, gone = done.plan, done.gone
        except CorruptError as error:
            typer.echo(f"farside: {error}", err=True)
            raise typer.Exit(FAILED) from error
    if as_json:
        typer.echo(json.dumps(_plain(planned, gone, run, region, execute=execute)))
    elif execute and planned.held is None:
        size = sum(verdict.size_bytes for verdict in gone)
        typer.echo(f"{region}: deleted {len(gone)} checkpoints of {run}, {size} bytes; the other candidates are marked")
    else:
        _show(planned, run, region)
    raise typer.Exit(0 if planned.held is None else FAILED)


def pin(run: Run, checkpoint: Step, config: Config = None, *, reason: Reason = "", as_json: Json = False) -> None:
    """Keep a checkpoint in every region until it is unpinned.

    No sweep deletes it, and the replicators finish copying it even if a newer checkpoint is there.

    Example: farside pin --run gpt --checkpoint 1000 --reason "before new data"

    Exit codes: 0 pinned in every region, 1 no region has that checkpoint, or a region does not answer, 2 misconfigured.
    """
    _set_pin(run, checkpoint, config, reason, pins=True, as_json=as_json)


def unpin(run: Run, checkpoint: Step, config: Config = None, *, reason: Reason = "", as_json: Json = False) -> None:
    """Remove the pin from a checkpoint in every region. A sweep can delete it sweep_grace_s later at the earliest.

    Example: farside unpin --run gpt --checkpoint 1000

    Exit codes: 0 no longer pinned in any region, 1 it was not pinned, or a region does not answer, 2 misconfigured.
    """
    _set_pin(run, checkpoint, config, reason, pins=False, as_json=as_json)


def _set_pin(run: str, text: str, config: Config, reason: str, *, pins: bool, as_json: bool) -> None:
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
            missing = "is complete in no region that answers" if pins else "is not pinned"
            typer.echo(f"farside: checkpoint {text} of {run} {missing}", err=True)
            raise typer.Exit(FAILED)
        note: dict[str, object] = {"actor": getpass.getuser(), "reason": reason, "time_ms": SystemClock().wall_ms()}
        away = []
        for name, region in settings.regions.items():
            try:
                for own in sorted(chosen):
                    (flow.pin if pins else flow.unpin)(store_of(region), own, note)
            except RetryableError as error:
                away.append(name)
                typer.echo(f"farside: not {'pinned' if pins else 'unpinned'} in {name}: {error}", err=True)
    names = [own.prefix for own in sorted(chosen)]
    if as_json:
        typer.echo(json.dumps({"pinned" if pins else "unpinned": names, "away": away, **note}))
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
    from services.runtime.wiring import verifier_of  # noqa: PLC0415 - as above

    for region in settings.regions.values():
        try:
            store = store_of(region)
            view = EpochStore(store)(run)
            looks = RecoverableFinder(store, verifier_of(settings), Codec())
            whole = None if view is None else looks.at(run, view, step, epoch)
        except RetryableError:
            continue  # another region may have it; that this one does not answer is printed when the pin is put there
        if whole is not None:
            return {parse_checkpoint(whole.key)}
    return set()


def _pinned(settings: Settings, run: str, epoch: int | None, step: int) -> set[CheckpointId]:
    """The checkpoints of that step that are pinned in any region that answers."""
    from pipelines.errors import RetryableError  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.retention.pins import pinned  # noqa: PLC0415 - as above
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    of_step: set[CheckpointId] = set()
    for region in settings.regions.values():
        try:
            of_step |= {own for own in pinned(store_of(region), run) if own.step == step}
        except RetryableError:
            continue  # that it does not answer is printed when the pin is to be taken off there
    return {own for own in of_step if epoch in {None, own.epoch}}


def _plain(planned: Plan, gone: Sequence[Verdict], run: str, region: str, *, execute: bool) -> dict[str, object]:
    def lines(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
        return [
            {
                "epoch": verdict.own.epoch,
                "attempt": verdict.own.attempt,
                "step": verdict.own.step,
                "reason": verdict.reason.value,
                "size_bytes": verdict.size_bytes,
                "unreferenced_s": verdict.unreferenced_s,
                "due": verdict.due,
            }
            for verdict in verdicts
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
    for verdict in planned.verdicts:
        kept = verdict in planned.kept
        rows["stays" if kept else "due" if verdict.due else "waits", verdict.reason.value].append(verdict)
    table = Table("verdict", "why", "checkpoints", "bytes", "steps", box=SIMPLE_HEAD, title=f"{run} in {region}")
    for (outcome, why), verdicts in sorted(rows.items()):
        steps = sorted(verdict.own.step for verdict in verdicts)
        shown = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        size = sum(verdict.size_bytes for verdict in verdicts)
        table.add_row(outcome, why, str(len(verdicts)), str(size), shown)
    Console().print(table)
    if planned.held is not None:
        unseen = f" ({', '.join(planned.unseen)})" if planned.unseen else ""
        typer.echo(f"farside: nothing is deleted now: {planned.held.value}{unseen}", err=True)
