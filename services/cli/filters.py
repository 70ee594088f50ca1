"""The filter of the verbs that look at events, as options; written once, for all of them."""

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
    run: Annotated[Many, typer.Option(help="Of this run; may be given several times, like the next four.")] = None,
    lane: Annotated[Many, typer.Option(help=f"One of {', '.join(LANES)}.")] = None,
    kind: Annotated[Many, typer.Option("--type", help="checkpoint, metric, data_version, heartbeat ...")] = None,
    producer: Annotated[Many, typer.Option(help="Of this producer's incarnation.")] = None,
    region: Annotated[Many, typer.Option(help="First published in this region.")] = None,
    epoch: Annotated[str, typer.Option(help="2, or a range: 1..2, 2.., ..2.")] = "",
    attempt: Annotated[str, typer.Option(help="As --epoch.")] = "",
    steps: Annotated[str, typer.Option(help="As --epoch: 100..200.")] = "",
    since: Annotated[str, typer.Option(help="Put into this log since: 15m, 8h, or 2026-11-30T02:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Put into this log until; as --since.")] = "",
    header: Annotated[
        Many, typer.Option(help="With this header: name=value. All that are given must be there.")
    ] = None,
) -> None:
    """Carries the options; never called."""
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
    """The verb with the filter's options before its own, apart from some; it gets them parsed, as `chosen`."""
    wanted_parts = {name: one for name, one in _PARTS.items() if name not in without}
    own = [one for one in inspect.signature(verb, eval_str=True).parameters.values() if one.name != "chosen"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    places = [one for one in own if one.kind is not keyword]
    parameters = [*places, *wanted_parts.values(), *(one for one in own if one.kind is keyword)]

    @functools.wraps(verb)
    def parsed(**options: object) -> None:
        typed = {name: options.pop(name) for name in wanted_parts}
        with misconfigured_exits():
            wanted = {_NAMES.get(name, name): value for name, value in typed.items() if value}
            chosen = parse(now_ms=SystemClock().wall_ms(), **wanted)  # type: ignore[arg-type] # the options' own types
        verb(chosen=chosen, **options)

    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
    parsed.__annotations__ = {one.name: one.annotation for one in parameters}
    return parsed
