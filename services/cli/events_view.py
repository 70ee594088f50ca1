"""Shows records to people and programs: as a table that fits a terminal, as JSON, and as raw bytes."""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.core.alarms import sentence
from pipelines.core.data_versions import files_of
from pipelines.core.record_counts import RecordCounts
from pipelines.core.record_filter import Facts, facts_of
from pipelines.flows.log.log_reader import Seen
from schemas import records

WIDTH_LEAST = 80
ENCODINGS = ("hex", "base64")
_COLUMNS = (("time (UTC)", 8), ("lane", 13), ("offset", 8), ("run", 8), ("e.a", 5), ("step", 7))


def plain(value: Any) -> Any:  # noqa: ANN401 - a tree of plain values
    """A record's fields as JSON: bytes as hexadecimal, infinity and NaN as strings, as in the spool."""
    if isinstance(value, records.Record):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def headers(letter: records.DeadLetter) -> list[list[str]]:
    """A dead letter's original headers, in the form that `as_json` has."""
    return [[header.key, _text(header.value)] for header in letter.headers]


def place_of(seen: Seen) -> str:
    """The place of a record, as `farside events show` takes it: TOPIC/PARTITION/OFFSET."""
    return f"{seen.fetched.partition.topic}/{seen.fetched.partition.number}/{seen.fetched.offset}"


def as_json(seen: Seen) -> dict[str, object]:
    """One record, decoded; if it cannot be decoded, `record` is null and `problem` says why."""
    return {
        "place": place_of(seen),
        "time_ms": seen.fetched.time_ms,
        "key": _text(seen.fetched.key),
        "headers": [[name, _text(value)] for name, value in seen.fetched.headers],
        "type": None if seen.record is None else type(seen.record).__name__,
        "problem": seen.problem,
        "record": plain(seen.record),
        **({"value": seen.fetched.value.hex()} if seen.record is None else {}),
    }


def as_raw(seen: Seen, encoding: str) -> dict[str, object]:
    """One record undecoded: every byte of it, in hexadecimal or base64."""

    def written(value: bytes) -> str:
        return value.hex() if encoding == "hex" else base64.b64encode(value).decode()

    return {
        "place": place_of(seen),
        "time_ms": seen.fetched.time_ms,
        "encoding": encoding,
        "key": written(seen.fetched.key),
        "headers": [[name, written(value)] for name, value in seen.fetched.headers],
        "value": written(seen.fetched.value),
    }


def raw_lines(seen: Seen, encoding: str) -> list[str]:
    """`as_raw` for people: a line for each header, with its bytes and its text."""
    whole = as_raw(seen, encoding)
    lines = [f"{place_of(seen)}  {when(seen.fetched.time_ms, full=True)}", f"  key {whole['key']}"]
    for name, value in seen.fetched.headers:
        shown = value.hex() if encoding == "hex" else base64.b64encode(value).decode()
        lines.append(f"  {clean(name)}: {shown}  ({_text(value)})")
    return [*lines, f"  value, {len(seen.fetched.value)} bytes: {whole['value']}"]


def table(listed: Sequence[Seen], *, header: bool) -> Table:
    """A line for each record; of one that cannot be decoded, the line has the whole reason."""
    shown = Table(box=None, padding=(0, 1, 0, 0), show_header=header, header_style="bold", expand=True)
    for name, width in _COLUMNS:
        shown.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    shown.add_column("content", ratio=1, overflow="fold")
    for seen in listed:
        facts = facts_of(seen.record, seen.fetched.headers)
        lane = seen.fetched.partition.topic.removeprefix("farside.")
        cells = (
            when(seen.fetched.time_ms),
            lane,
            _offset(seen),
            facts.run or "?",
            _under(facts),
            _number(facts.step),
            summary(seen),
        )
        shown.add_row(*(Text(clean(cell)) for cell in cells), style=None if seen.record else "red")
    return shown


def counted(tally: RecordCounts) -> None:
    """Print the groups of a count."""
    shown = Table(*tally.by, box=SIMPLE_HEAD)
    for name in ("records", "bytes", "bad"):
        shown.add_column(name, justify="right")
    for name in ("steps", "first", "last (UTC)"):
        shown.add_column(name)
    for key, group in tally.ordered():
        values = [Text("?" if value is None else clean(str(value))) for value in key]
        steps = "" if group.steps is None else f"{group.steps[0]}..{group.steps[1]}"
        times = (when(group.first_ms or 0), when(group.last_ms or 0))
        shown.add_row(*values, str(group.records), size(group.size_bytes), str(group.undecodable), steps, *times)
    console().print(shown)


def console() -> Console:
    """The terminal for tables; never treated as narrower than their columns need."""
    terminal = Console()
    return terminal if terminal.width >= WIDTH_LEAST else Console(width=WIDTH_LEAST)


def summary(seen: Seen) -> str:
    """A record's content in a few words."""
    if seen.record is None:
        return f"UNDECODABLE: {seen.problem}"
    summary_of = _SUMMARIES.get(type(seen.record))
    return type(seen.record).__name__ if summary_of is None else summary_of(seen.record)


def _change(record: records.EpochChange) -> str:
    return f"epoch {record.epoch}: {record.holder_before or '-'} -> {record.holder} ({record.reason}, {record.actor})"


_SUMMARIES: dict[type[records.Record], Callable[[Any], str]] = {
    records.Metric: lambda record: " ".join(f"{name}={value:.4g}" for name, value in sorted(record.values.items())),
    records.MetricBatch: lambda record: (
        f"{len(record.steps)} rows, steps {min(record.steps)}..{max(record.steps)}: "
        + ", ".join(column.name for column in record.columns)
    ),
    records.MetricsThinned: lambda record: (
        f"{record.dropped} dropped, steps {record.first_step}..{record.last_step}, kept every {record.keep_every}"
    ),
    records.Checkpoint: lambda record: f"{record.state} {size(record.size_bytes)} {record.reason}".rstrip(),
    records.Heartbeat: lambda record: f"{record.node} {record.phase}",
    records.DataVersion: lambda record: f"{record.name} {record.digest[:12]} {files_of(record)} files",
    records.EpochChange: _change,
    records.Readiness: lambda record: f"{record.grade} {record.proof}, predicted {record.predicted_rto_s:.1f} s",
    records.Sighting: lambda record: (
        f"{record.region}'s {record.observer} of {record.of_region}: Kafka {record.kafka_age_s:.0f} s ago"
    ),
    records.DeadLetter: lambda record: (
        f"{record.reason} {record.topic}/{record.partition}/{record.offset}: {record.detail}"
    ),
    records.Redriven: lambda record: (
        f"letter {record.partition}/{record.offset} {record.outcome} by {record.actor}: {record.event_id}"
    ),
    records.Watermark: lambda record: f"{record.producer} {record.lane} up to {record.seq}",
    records.Alarm: lambda record: f"{record.state}: {sentence(record)}",
    records.Position: lambda record: f"{record.topic}/{record.partition} next {record.offset}",
}


def when(time_ms: int, *, full: bool = False) -> str:
    """A moment in UTC: the time of day, or with `full` also the date and milliseconds."""
    try:
        moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return moment.isoformat(timespec="milliseconds") if full else f"{moment:%H:%M:%S}"


def size(size_bytes: int) -> str:
    """A number of bytes, in a unit for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def clean(text: str) -> str:
    """The text without control characters, which a terminal would obey: it may come from outside."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _text(value: bytes) -> str:
    """The bytes as text if they are printable text, else `hex:` and their hexadecimal digits."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"hex:{value.hex()}"
    return text if text.isprintable() else f"hex:{value.hex()}"


def _offset(seen: Seen) -> str:
    number = seen.fetched.partition.number
    return f"{number}/{seen.fetched.offset}" if number else str(seen.fetched.offset)


def _under(facts: Facts) -> str:
    if facts.epoch is None:
        return "?"
    return str(facts.epoch) if facts.attempt is None else f"{facts.epoch}.{facts.attempt}"


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)
