"""`farside replay`: a stretch of a log once more; a plan first, and with --execute into handlers, a topic or a file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from pipelines.core.record_filter import RecordFilter
from services.cli.exits import misconfigured_exits
from services.cli.filters import filtered
from services.cli.prompts import Json
from services.cli.registry import Credentials, Url, Wire, Wiring
from services.cli.serve import Config
from services.cli.settings_file import load


@functools.partial(filtered, without=frozenset({"since", "until"}))
def replay(
    chosen: RecordFilter,
    config: Config = None,
    *,
    begin: Annotated[
        str, typer.Option("--from", help="earliest, latest, checkpoint:STEP, offset:N, a time, or a duration back.")
    ] = "earliest",
    until: Annotated[
        str, typer.Option(help="Where it ends, as --from. Default: the end of the log as the plan sees it.")
    ] = "latest",
    at: Annotated[str | None, typer.Option("--at", help="Whose log. Default: the run's first region.")] = None,
    to: Annotated[
        str, typer.Option("--to", help="handlers[:REGION], topic:replay.NAME[@REGION], or FILE.avro, FILE.jsonl.")
    ] = "handlers",
    into: Annotated[
        str | None, typer.Option("--into", help="Rebuild this region from nothing: events, artifacts and ledger.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="A file that a replay recorded, instead of a log.")
    ] = None,
    wire: Annotated[
        Wire, typer.Option(help="A topic's values: the same bytes, or Confluent's wire format (with --registry).")
    ] = Wire.AVRO,
    registry: Annotated[str | None, Url] = None,
    registry_credentials: Credentials = None,
    rate: Annotated[float, typer.Option(min=0, help="Events a second, at most; 0: as fast as it goes.")] = 0.0,
    speed: Annotated[float, typer.Option(min=0, help="Times as fast as they came; 0: as fast as it goes.")] = 0.0,
    patience_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds without an answer until it ends.")] = 60.0,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; without this, only the plan is shown.")] = False,
    again: Annotated[bool, typer.Option("--again", help="From the beginning, not where it was stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a stretch of a log holds and what would become of it; with --execute, replay it.

    Into handlers: the region's replicator looks at each chosen event once more. What it passed over becomes visible,
    what has lost its bytes is copied again, all else stays; handling twice changes nothing. Heartbeats and control
    reach no handler: a replay gives nobody authority. Ctrl-C pauses; a replay that was stopped or killed goes on where
    it was when the same command is given again.

    In Confluent's wire format the registry is given each schema at its first record, under the record's full name
    (RecordNameStrategy). What cannot be decoded is left out of the topic, each with its reason on stderr.

    Exit codes: 0 planned, or all delivered; 1 something does not answer, could not be done, or was left out;
    2 misconfigured, or not replayable; 3 stopped before the end.
    """
    from services.cli import replay_runner  # noqa: PLC0415 - `farside --help` must be quick

    with misconfigured_exits():
        settings = load(config)
        wiring = Wiring(wire, registry, registry_credentials)
        asked = replay_runner.parse(
            settings, chosen, begin=begin, until=until, at=at, to=to, into=into, from_file=from_file, wiring=wiring
        )
        pace = replay_runner.Pace(rate, speed, patience_s)
        code = replay_runner.run(settings, asked, pace, execute=execute, again=again, plain=as_json)
    raise typer.Exit(code)
