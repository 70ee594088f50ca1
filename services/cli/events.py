"""`farside events`: the commands that read a region's log. None of them changes anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.core.record_filter import RecordFilter
from pipelines.errors import MisconfiguredError, RetryableError
from services.cli import audit, dead_letters
from services.cli.exits import FAILED, misconfigured_exits
from services.cli.filters import filtered
from services.cli.prompts import Json
from services.cli.region_logs import At, decoding_of, log_of, progress
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from pipelines.flows.log.log_reader import Decoding, Seen
    from services.adapters.kafka.log import KafkaSource

app = typer.Typer(
    help="Read the events in a region's log; works also when every other region is gone.",
    no_args_is_help=True,
    add_completion=False,
)

BY = ("run", "lane", "type", "epoch", "attempt", "producer", "region")
SCREEN = 50
_PLACE = re.compile(r"([a-z.-]+)/(\d{1,9})/(\d{1,18})", re.ASCII)
Raw = Annotated[str, typer.Option("--raw", help="Show the undecoded bytes instead, as hex or base64.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Show at most so many records; 0: no limit.")]


@app.command("list")
@filtered
def list_(
    chosen: RecordFilter,
    config: Config = None,
    *,
    at: At = None,
    limit: Limit = 100,
    raw: Raw = "",
    as_json: Json = False,
) -> None:
    """List the newest records that match the filters, ordered by time; with --limit 0 all of them, lane by lane.

    A record that cannot be decoded is shown with the reason. The time of a record is when it was appended to this log.

    Example: farside events list --run gpt --lane checkpoints --limit 20

    Exit codes: 0 shown, 1 no region's log answers, 2 misconfigured.
    """
    from pipelines.flows.log.log_reader import newest, select  # noqa: PLC0415 - `farside --help` must be quick

    printer = _Printer(raw, as_json=as_json)
    with misconfigured_exits(), _opened(config, at) as (source, decoding):
        matching = select(source, chosen, decoding, progress())
        if limit == 0:
            printer.show_all(matching)
            return
        kept, count = newest(matching, limit)
        printer.show(kept)
    if count > len(kept):
        typer.echo(f"these are the newest {len(kept)} of {count} matching records; --limit 0 shows all", err=True)


@app.command()
@filtered
def tail(
    chosen: RecordFilter,
    config: Config = None,
    *,
    at: At = None,
    limit: Limit = 0,
    raw: Raw = "",
    as_json: Json = False,
) -> None:
    """Show matching records as they are appended, until Ctrl-C or --limit; with --since, begin at that time.

    If the log stops answering, the command waits until it answers again.

    Example: farside events tail --run gpt --since 15m

    Exit codes: 0 ended by Ctrl-C or --limit, 1 no region's log answers at the start, 2 misconfigured.
    """
    from pipelines.flows.log.log_reader import Following  # noqa: PLC0415 - `farside --help` must be quick

    printer = _Printer(raw, as_json=as_json)
    with misconfigured_exits(), _opened(config, at) as (source, decoding):
        following = Following(source, chosen.topics(), decoding.clock, from_first=chosen.since_ms is not None)
        shown, trouble = 0, ""
        try:
            while limit == 0 or shown < limit:
                try:
                    decoded = [decoding.see(fetched) for fetched in following.poll()]
                except RetryableError as error:
                    if str(error) != trouble:
                        typer.echo(f"farside: {error}; waiting until it answers", err=True)
                    trouble = str(error)
                    decoding.clock.sleep(1.0)
                    continue
                matching = [
                    seen for seen in decoded if chosen.matches(seen.record, seen.fetched.headers, seen.fetched.time_ms)
                ]
                matching = matching[: limit - shown] if limit else matching
                printer.show(matching)
                shown += len(matching)
        except KeyboardInterrupt:
            return


@app.command()
def show(
    which: Annotated[
        str, typer.Argument(help="The record: TOPIC/PARTITION/OFFSET or LANE/PARTITION/OFFSET, or an event's id.")
    ],
    config: Config = None,
    *,
    at: At = None,
    raw: Raw = "",
    as_json: Json = False,
) -> None:
    """Show one record with all its fields and headers. For an event's id, show every copy of the event in this log.

    Example: farside events show checkpoints/0/12

    Exit codes: 0 shown, 1 there is no such record, or no region's log answers, 2 misconfigured.
    """
    printer = _Printer(raw, as_json=as_json)
    with misconfigured_exits(), _opened(config, at) as (source, decoding):
        copies = list(_find(which, source, decoding))
    if not copies:
        typer.echo(f"farside: no record in this log has the event id {which!r}", err=True)
        raise typer.Exit(FAILED)
    for seen in copies:
        printer.whole(seen)


@app.command()
@filtered
def count(
    chosen: RecordFilter,
    config: Config = None,
    *,
    at: At = None,
    by: Annotated[
        str, typer.Option(help=f"What to group by, separated by commas; some of {', '.join(BY)}.")
    ] = "run,lane,type",
    as_json: Json = False,
) -> None:
    """Count the records that match the filters, in groups, with their bytes, steps and times.

    Example: farside events count --run gpt --by lane,epoch

    Exit codes: 0 counted, 1 no region's log answers, 2 misconfigured.
    """
    from pipelines.core.record_counts import RecordCounts  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.log.log_reader import select  # noqa: PLC0415 - as above
    from services.cli.events_view import counted  # noqa: PLC0415 - as above

    names = tuple(name.strip() for name in by.split(",") if name.strip())
    tally = RecordCounts(names)
    with misconfigured_exits():
        if not set(names) <= set(BY):
            raise MisconfiguredError(f"--by {by!r}: use some of {', '.join(BY)}")
        with _opened(config, at) as (source, decoding):
            for seen in select(source, chosen, decoding, progress()):
                tally.add(seen.record, seen.fetched.headers, len(seen.fetched.value), seen.fetched.time_ms)
    if as_json:
        typer.echo(json.dumps(tally.plain()))
    else:
        counted(tally)


app.command()(audit.audit)
app.add_typer(dead_letters.app, name="dead")


@contextmanager
def _opened(config: Config, at: str | None) -> Iterator[tuple[KafkaSource, Decoding]]:

    settings = load(config)
    with log_of(settings, at) as (name, source):
        yield source, decoding_of(settings.region(name))


def _find(which: str, source: KafkaSource, decoding: Decoding) -> Iterator[Seen]:
    """The record at a place, or every record that is, or contains, the event with this id."""
    from pipelines import paths  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.log import log_reader  # noqa: PLC0415 - as above

    place = _PLACE.fullmatch(which)
    if place is not None:
        topic = place[1] if place[1] in paths.TOPICS else paths.topic(place[1])
        yield decoding.see(log_reader.at_place(source, topic, int(place[2]), int(place[3]), decoding.clock))
        return
    for seen in log_reader.select(source, RecordFilter(), decoding, progress()):
        if which in log_reader.event_ids(seen):
            yield seen


class _Printer:
    """Prints records as a table, as JSON or as raw bytes, whichever the options ask for."""

    def __init__(self, raw: str, *, as_json: bool) -> None:
        from services.cli import events_view  # noqa: PLC0415 - `farside --help` must be quick

        with misconfigured_exits():
            if raw and raw not in events_view.ENCODINGS:
                raise MisconfiguredError(f"--raw {raw!r}: use {' or '.join(events_view.ENCODINGS)}")
        self._view, self._raw, self._json = events_view, raw, as_json
        self._begun = False

    def show(self, records: Sequence[Seen]) -> None:
        """Print some records; the table's header is printed above the first ones only."""
        if self._json or self._raw:
            for seen in records:
                self._line(seen)
        elif records or not self._begun:
            self._view.console().print(self._view.table(records, header=not self._begun))
            self._begun = True

    def show_all(self, records: Iterable[Seen]) -> None:
        """Print many records, a screen at a time."""
        batch: list[Seen] = []
        for seen in records:
            batch.append(seen)
            if len(batch) == SCREEN:
                self.show(batch)
                batch = []
        self.show(batch)

    def whole(self, seen: Seen) -> None:
        """Print one record with all its fields."""
        if self._json or self._raw:
            self._line(seen)
        else:
            typer.echo(json.dumps(self._view.as_json(seen), indent=2))

    def _line(self, seen: Seen) -> None:
        if self._raw and not self._json:
            typer.echo("\n".join(self._view.raw_lines(seen, self._raw)))
        else:
            typer.echo(json.dumps(self._view.as_raw(seen, self._raw) if self._raw else self._view.as_json(seen)))
