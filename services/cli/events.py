"""`farside events`: what is in a region's log. Every verb reads by itself and changes nothing."""

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
    help="Look at the events in a region's log; works when every other region is gone.",
    no_args_is_help=True,
    add_completion=False,
)

BY = ("run", "lane", "type", "epoch", "attempt", "producer", "region")
SCREEN = 50
_PLACE = re.compile(r"([a-z.-]+)/(\d{1,9})/(\d{1,18})", re.ASCII)
Raw = Annotated[str, typer.Option("--raw", help="Show the bytes as they are: hex or base64.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="How many at most; 0: all.")]


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
    """Show the newest records of a selection in the order of the log's time; with --limit 0 all, lane by lane.

    What cannot be decoded is shown with the reason. Times are those at which a record was put into this log.

    Exit codes: 0 shown, 1 no log answers, 2 misconfigured.
    """
    from pipelines.flows.log.log_reader import newest, select  # noqa: PLC0415 - `farside --help` must be quick

    printer = _Printer(raw, as_json=as_json)
    with misconfigured_exits(), _opened(config, at) as (source, decoding):
        found = select(source, chosen, decoding, progress())
        if limit == 0:
            printer.show_all(found)
            return
        kept, count = newest(found, limit)
        printer.show(kept)
    if count > len(kept):
        typer.echo(f"the newest {len(kept)} of {count}; --limit 0 shows all", err=True)


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
    """Show records as they come, until Ctrl-C or --limit. With --since: also those that came since then.

    A log that does not answer is waited for.

    Exit codes: 0 ended, 1 no log answers at first, 2 misconfigured.
    """
    from pipelines.flows.log.log_reader import Following  # noqa: PLC0415 - `farside --help` must be quick

    printer = _Printer(raw, as_json=as_json)
    with misconfigured_exits(), _opened(config, at) as (source, decoding):
        following = Following(source, chosen.topics(), decoding.clock, from_first=chosen.since_ms is not None)
        shown, trouble = 0, ""
        try:
            while limit == 0 or shown < limit:
                try:
                    seen = [decoding.see(one) for one in following.poll()]
                except RetryableError as error:
                    if str(error) != trouble:
                        typer.echo(f"farside: {error}; going on as soon as it answers", err=True)
                    trouble = str(error)
                    decoding.clock.sleep(1.0)
                    continue
                wanted = [one for one in seen if chosen.matches(one.record, one.fetched.headers, one.fetched.time_ms)]
                wanted = wanted[: limit - shown] if limit else wanted
                printer.show(wanted)
                shown += len(wanted)
        except KeyboardInterrupt:
            return


@app.command()
def show(
    which: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET (a lane does for a topic), or an event's id.")],
    config: Config = None,
    *,
    at: At = None,
    raw: Raw = "",
    as_json: Json = False,
) -> None:
    """Show one record whole, with its headers; by an event's id, every copy of it that is in this log.

    Exit codes: 0 shown, 1 there is none, or no log answers, 2 misconfigured.
    """
    printer = _Printer(raw, as_json=as_json)
    with misconfigured_exits(), _opened(config, at) as (source, decoding):
        found = list(_find(which, source, decoding))
    if not found:
        typer.echo(f"farside: no record has the event id {which!r}", err=True)
        raise typer.Exit(FAILED)
    for one in found:
        printer.whole(one)


@app.command()
@filtered
def count(
    chosen: RecordFilter,
    config: Config = None,
    *,
    at: At = None,
    by: Annotated[str, typer.Option(help=f"Grouped by these, with commas between: {', '.join(BY)}.")] = "run,lane,type",
    as_json: Json = False,
) -> None:
    """Count the records of a selection, with their bytes, steps and times.

    Exit codes: 0 counted, 1 no log answers, 2 misconfigured.
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
            for one in select(source, chosen, decoding, progress()):
                tally.add(one.record, one.fetched.headers, len(one.fetched.value), one.fetched.time_ms)
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
    """The record at a place, or every record that has or holds an event of this id."""
    from pipelines import paths  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows.log import log_reader  # noqa: PLC0415 - as above

    place = _PLACE.fullmatch(which)
    if place is not None:
        topic = place[1] if place[1] in paths.TOPICS else paths.topic(place[1])
        yield decoding.see(log_reader.at_place(source, topic, int(place[2]), int(place[3]), decoding.clock))
        return
    for one in log_reader.select(source, RecordFilter(), decoding, progress()):
        if which in log_reader.event_ids(one):
            yield one


class _Printer:
    """Prints records in the form that was asked for, as they come."""

    def __init__(self, raw: str, *, as_json: bool) -> None:
        from services.cli import events_view  # noqa: PLC0415 - `farside --help` must be quick

        with misconfigured_exits():
            if raw and raw not in events_view.ENCODINGS:
                raise MisconfiguredError(f"--raw {raw!r}: use {' or '.join(events_view.ENCODINGS)}")
        self._view, self._raw, self._json = events_view, raw, as_json
        self._begun = False

    def show(self, found: Sequence[Seen]) -> None:
        """Some records; the table's head stands over the first ones only."""
        if self._json or self._raw:
            for one in found:
                self._line(one)
        elif found or not self._begun:
            self._view.console().print(self._view.table(found, header=not self._begun))
            self._begun = True

    def show_all(self, found: Iterable[Seen]) -> None:
        """Many records, a screen at a time."""
        batch: list[Seen] = []
        for one in found:
            batch.append(one)
            if len(batch) == SCREEN:
                self.show(batch)
                batch = []
        self.show(batch)

    def whole(self, one: Seen) -> None:
        """One record with everything that is known of it."""
        if self._json or self._raw:
            self._line(one)
        else:
            typer.echo(json.dumps(self._view.as_json(one), indent=2))

    def _line(self, one: Seen) -> None:
        if self._raw and not self._json:
            typer.echo("\n".join(self._view.raw_lines(one, self._raw)))
        else:
            typer.echo(json.dumps(self._view.as_raw(one, self._raw) if self._raw else self._view.as_json(one)))
