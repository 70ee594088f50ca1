"""The filter options that the commands on events share, written once for all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from pipelines.core.record_filter import LANES, parse
from services.adapters.system_clock import SystemClock
from services.cli.exits import misconfigured_exits

Many = list[str] | None


def _options(
    *,
    run: Annotated[
        Many, typer.Option(help="Only records of this run. May be given several times, like the next four options.")
    ] = None,
    lane: Annotated[Many, typer.Option(help=f"Only records of this lane: {', '.join(LANES)}.")] = None,
    kind: Annotated[
        Many, typer.Option("--type", help="Only records of this type: checkpoint, metric, data_version, heartbeat ...")
    ] = None,
    producer: Annotated[
        Many, typer.Option(help="Only records of this producer (a rank of one launch, such as r0).")
    ] = None,
    region: Annotated[Many, typer.Option(help="Only events that were first published in this region.")] = None,
    epoch: Annotated[str, typer.Option(help="Only records of this epoch, or of a range: 2, 1..2, 2.. or ..2.")] = "",
    attempt: Annotated[str, typer.Option(help="Only records of this attempt, or of a range of attempts.")] = "",
    steps: Annotated[str, typer.Option(help="Only records of this step, or of a range of steps: 100..200.")] = "",
    since: Annotated[
        str, typer.Option(help="Only records that were appended to this log since: 15m, 8h, or 2026-11-30T02:00:00Z.")
    ] = "",
    until: Annotated[
        str, typer.Option(help="Only records that were appended to this log before; written as --since.")
    ] = "",
    header: Annotated[
        Many,
        typer.Option(help="Only records with this header, as name=value. Given several times: with all of them."),
    ] = None,
) -> None:
    """Has the options as its parameters; never called."""
    del run, lane, kind, producer, region, epoch, attempt, steps, since, until, header


_PARTS = inspect.signature(_options, eval_str=True).parameters
_NAMES = {
    "run": "runs",
    "lane": "lanes",
    "kind": "kinds",
    "producer": "producers",
    "region": "regions",
    "epoch": "epochs",
    "attempt": "attempts",
    "header": "headers",
}


def filtered(verb: Callable[..., None], without: frozenset[str] = frozenset()) -> Callable[..., None]:
    """The verb with the filter's options, but those in `without`, before its own; it gets them parsed, as `chosen`."""
    wanted_parts = {name: part for name, part in _PARTS.items() if name not in without}
    own = [part for part in inspect.signature(verb, eval_str=True).parameters.values() if part.name != "chosen"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    places = [part for part in own if part.kind is not keyword]
    parameters = [*places, *wanted_parts.values(), *(part for part in own if part.kind is keyword)]

    @functools.wraps(verb)
    def parsed(**options: object) -> None:
        typed = {name: options.pop(name) for name in wanted_parts}
        with misconfigured_exits():
            wanted = {_NAMES.get(name, name): value for name, value in typed.items() if value}
            chosen = parse(now_ms=SystemClock().wall_ms(), **wanted)  # type: ignore[arg-type] # the options' own types
        verb(chosen=chosen, **options)

    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
    parsed.__annotations__ = {part.name: part.annotation for part in parameters}
    return parsed
