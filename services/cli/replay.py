"""`farside replay`: plan what replaying a part of a log would do; with --execute, replay it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from pipelines.core.record_filter import RecordFilter
from services.cli.exits import misconfigured_exits
from services.cli.filters import filtered
from services.cli.prompts import Json
from services.cli.registry import Credentials, Url, Wire, WireFormat
from services.cli.serve import Config
from services.cli.settings_file import load

Begin = Annotated[
    str,
    typer.Option(
        "--from",
        help="Where to begin: earliest, latest, checkpoint:STEP, offset:N, a time, or a duration back (8h).",
    ),
]
Until = Annotated[
    str, typer.Option(help="Where to end, written as --from. latest is the end of the log when it is planned.")
]
At = Annotated[str | None, typer.Option("--at", help="The region whose log is read. Default: the run's first region.")]
To = Annotated[
    str,
    typer.Option(
        "--to",
        help="Where to deliver: handlers, topic:replay.NAME, FILE.avro or FILE.jsonl. In another region than the "
        "default one: handlers:west, topic:replay.x@west.",
    ),
]
Into = Annotated[
    str | None, typer.Option("--into", help="Rebuild this empty region instead: its events, artifacts and ledger.")
]
FromFile = Annotated[
    Path | None, typer.Option("--from-file", help="Read a file that an earlier replay recorded, instead of a log.")
]
WireOption = Annotated[
    Wire,
    typer.Option(
        help="With a topic: avro keeps the bytes of the log, confluent writes Confluent's wire format "
        "(needs --registry)."
    ),
]
Speed = Annotated[
    float, typer.Option(min=0, help="At most so many times the original speed; 1: as recorded, 0: no limit.")
]
Patience = Annotated[float, typer.Option("--wait", min=0, help="Give up after so many seconds without an answer.")]
Again = Annotated[
    bool, typer.Option("--again", help="Begin anew, instead of going on where the same replay was stopped.")
]


@functools.partial(filtered, without=frozenset({"since", "until"}))
def replay(
    chosen: RecordFilter,
    config: Config = None,
    *,
    begin: Begin = "earliest",
    until: Until = "latest",
    at: At = None,
    to: To = "handlers",
    into: Into = None,
    from_file: FromFile = None,
    wire: WireOption = Wire.AVRO,
    registry: Annotated[str | None, Url] = None,
    registry_credentials: Credentials = None,
    rate: Annotated[float, typer.Option(min=0, help="At most so many events a second; 0: no limit.")] = 0.0,
    speed: Speed = 0.0,
    patience_s: Patience = 60.0,
    execute: Annotated[
        bool, typer.Option("--execute", help="Replay; without this option only the plan is shown.")
    ] = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Show what a part of a log contains and what replaying it would do; with --execute, replay it.

    To handlers: the region's replicator handles each chosen event again. An event that it missed becomes visible, a
    checkpoint whose bytes are missing is copied again, everything else stays as it is. Handling an event twice has no
    further effect. Heartbeats and control records are never given to handlers, so a replay cannot move authority.

    Ctrl-C pauses. To go on with a replay that was stopped or killed, give the same command again.

    With --wire confluent, each schema is registered at the registry when the first record that needs it is written,
    under the record's full name (RecordNameStrategy). A record that cannot be decoded is left out of the topic, and its
    place and the reason are printed to stderr. The registry's user is the one in --registry-credentials, else in
    FARSIDE_REGISTRY_USERNAME and FARSIDE_REGISTRY_PASSWORD, else none.

    Example: farside replay --run gpt --lane checkpoints --from 8h

    Exit codes: 0 the plan was shown, or everything was delivered, 1 something does not answer, failed or was left out,
    2 misconfigured, or these lanes cannot be replayed, 3 stopped before the end.
    """
    from services.cli import replay_runner  # noqa: PLC0415 - `farside --help` must be quick

    with misconfigured_exits():
        settings = load(config)
        wiring = WireFormat(wire, registry, registry_credentials)
        request = replay_runner.parse(
            settings, chosen, begin=begin, until=until, at=at, to=to, into=into, from_file=from_file, wiring=wiring
        )
        pace = replay_runner.Pace(rate, speed, patience_s)
        code = replay_runner.run(settings, request, pace, execute=execute, again=again, plain=as_json)
    raise typer.Exit(code)
