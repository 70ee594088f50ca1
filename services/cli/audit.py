"""`farside events audit`: whether every event of a run is accounted for in every region."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.region_logs import decoding_of, progress, reader
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.core.audit import Following, Line, Log, Report
    from pipelines.core.lineage import LineageView
    from pipelines.ports import ObjectStore
    from services.settings import Settings

T = TypeVar("T")


def audit(
    run: Annotated[str, typer.Option(help="The run to audit.")],
    config: Config = None,
    *,
    whole: Annotated[
        bool, typer.Option("--all", help="Show a line for each producer, instead of the sums of each epoch.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that every event that a run's spools accepted is accounted for in every region of the run.

    The logs of the regions are compared with each other and with the numbers that the nodes report in their heartbeats.
    If a region does not answer, the others are compared all the same, and what cannot be known without it is listed.
    An event is "in flight" if it is in a spool and not in the source's log yet, or in the source's log and not handled
    by a standby yet. That is accounted for only while its lane moves: a lane that stands is told with its reason, and
    so is a replicator that does not answer. What an event names is accounted for only while no note says that its bytes
    went bad in a region's store. The lag of each standby is its controller's.

    Example: farside events audit --run gpt

    Exit codes: 0 every event is accounted for, 1 some event is not, or a region does not answer, 2 misconfigured.
    """
    from pipelines.core.audit import compare  # noqa: PLC0415 - `farside --help` must be quick

    with misconfigured_exits():
        settings = load(config)
        wanted = settings.run(run)
        names = dict.fromkeys((wanted.first_region, *wanted.standby))
        for name in names:
            settings.region(name)
        logs = _logs(settings, run, list(names))
        report = compare(run, logs, {name: _following(settings, run, name) for name in names})
    if as_json:
        typer.echo(json.dumps(report.plain()))
    else:
        _show(report, whole=whole)
    raise typer.Exit(FAILED if report.unaccounted else 0)


def _logs(settings: Settings, run: str, names: list[str]) -> list[Log]:
    from pipelines.flows.inspection.audit_reader import Reading  # noqa: PLC0415 - `farside --help` must be quick

    views = [view for view in (_of_store(settings, run, name, _lineage) for name in names) if view is not None]
    newest = max(views, key=lambda view: view.epoch, default=None)
    logs = []
    for name in names:
        here = settings.region(name)
        source = reader(here)
        try:
            manifests = partial(_of_store, settings, run, name, _manifests)
            logs.append(Reading(run, name, newest, decoding_of(here), manifests).read(source, progress()))
        finally:
            source.close()
    return logs


def _following(settings: Settings, run: str, name: str) -> Following:
    """The words of the region's replicator and controller, each if it answers."""
    from pipelines.core.audit import Following  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.paths import EVERY_RUN  # noqa: PLC0415 - as above
    from services.http.endpoints import (  # noqa: PLC0415 - as above
        UnexpectedAnswerError,
        controller_of,
        replicator_of,
    )

    lanes, view, unanswered = None, None, "it does not answer"
    try:
        lanes = replicator_of(settings, name).status()
    except UnexpectedAnswerError as error:
        unanswered = str(error)
    try:
        view = controller_of(settings, name).status_of(run)
    except UnexpectedAnswerError as error:
        typer.echo(f"farside: {error}", err=True)
    standing = [
        f"{lane} has stood for {one.since_s:.0f} s: {one.reason}"
        for lane, status in (lanes or {}).items()
        for one in status.standing
        if one.run in {run, EVERY_RUN}
    ]
    lag = "" if view is None or view.lag is None else view.lag.text
    return Following(
        unanswered="" if lanes is not None else unanswered,
        standing=tuple(standing),
        damaged=_of_store(settings, run, name, _damaged) or (),
        lag=lag,
    )


def _of_store(settings: Settings, run: str, name: str, look: Callable[[ObjectStore, str], T]) -> T | None:
    """Look something up in a region's store; None, with a line on stderr, if the store does not answer."""
    from pipelines.errors import FarsideError  # noqa: PLC0415 - `farside --help` must be quick
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    try:
        return look(store_of(settings.region(name)), run)
    except FarsideError as error:
        typer.echo(f"farside: the store of {name} cannot be read: {error}", err=True)
        return None


def _lineage(store: ObjectStore, run: str) -> LineageView | None:
    from pipelines.flows.authority.epoch_store import EpochStore  # noqa: PLC0415 - `farside --help` must be quick

    return EpochStore(store)(run)


def _damaged(store: ObjectStore, run: str) -> tuple[str, ...]:
    from pipelines import paths  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.standby.damage_notes import open_notes  # noqa: PLC0415 - as above

    notes = open_notes(store, paths.damage_prefix(run))
    return tuple(f"{note.damage.key} {note.damage.why}".strip() for note in notes)


def _manifests(store: ObjectStore, run: str) -> set[str]:
    from pipelines import paths  # noqa: PLC0415 - `farside --help` must be quick

    manifests = {key for key in store.list(paths.checkpoints_prefix(run)) if key.endswith("/manifest")}
    return manifests.union(store.list(paths.shard_lists_prefix(run)))


def _show(report: Report, *, whole: bool) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - `farside --help` must be quick
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    from services.cli.events_view import clean, console  # noqa: PLC0415 - as above

    shown = Table("lane", "epoch", "region", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for name in ("accepted", "visible", "in flight", "dead", "branch", "twice", "expired", "missing"):
        shown.add_column(name, justify="right")
    if whole:
        shown.add_column("producer", overflow="fold")
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in report.lines:
        key = (line.lane, str(line.epoch), f"{line.region}{' *' if line.is_source else ''}")
        groups.setdefault((*key, line.producer) if whole else key, []).append(line)
    for group, lines in groups.items():
        counts = [
            _sum([getattr(line, name) for line in lines])
            for name in ("accepted", "visible", "in_flight", "dead", "branch", "duplicates", "expired")
        ]
        missing = str(sum(len(line.gaps) + len(line.early) for line in lines))
        shown.add_row(*(Text(clean(cell)) for cell in (*group[:3], *counts, missing, *group[3:])))
    console().print(shown)
    typer.echo("*: the region that first published the events; ?: cannot be known now")
    for region, lag in report.lags.items():
        typer.echo(f"lag of {clean(region)}: {clean(lag)}")
    for note in report.notes:
        typer.echo(f"note: {clean(note)}")
    for problem in report.unaccounted:
        typer.echo(f"UNACCOUNTED {clean(problem)}")
    typer.echo("some events are not accounted for" if report.unaccounted else "every event is accounted for")


def _sum(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return str(sum(known)) if len(known) == len(values) else "?"
