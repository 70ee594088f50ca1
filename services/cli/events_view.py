"""How records are shown: as a table that fits a terminal, as JSON, and as they are."""

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
from pipelines.core.record_counts import RecordCounts
from pipelines.core.record_filter import Facts, facts_of
from pipelines.flows.log.log_reader import Seen
from schemas import records

WIDTH_LEAST = 80
ENCODINGS = ("hex", "base64")
_COLUMNS = (("time (UTC)", 8), ("lane", 13), ("offset", 8), ("run", 8), ("e.a", 5), ("step", 7))


def plain(value: Any) -> Any:  # noqa: ANN401 - a tree of plain values
    """A record's fields as JSON has them: bytes as hexadecimal, numbers that JSON lacks as the strings of the spool."""
    if isinstance(value, records.Record):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def headers(letter: records.DeadLetter) -> list[list[str]]:
    """The original headers, as `as_json` shows those of any record."""
    return [[one.key, _text(one.value)] for one in letter.headers]


def place_of(seen: Seen) -> str:
    """Where a record is: what `farside events show` takes."""
    return f"{seen.fetched.partition.topic}/{seen.fetched.partition.number}/{seen.fetched.offset}"


def as_json(seen: Seen) -> dict[str, object]:
    """One record, decoded; `problem` says why `record` is null."""
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
    """One record as it is: every byte of it, in hexadecimal or base64."""

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
    """`as_raw` for people: the header's bytes, with what they look like beside them."""
    whole = as_raw(seen, encoding)
    lines = [f"{place_of(seen)}  {when(seen.fetched.time_ms, full=True)}", f"  key {whole['key']}"]
    for name, value in seen.fetched.headers:
        shown = value.hex() if encoding == "hex" else base64.b64encode(value).decode()
        lines.append(f"  {clean(name)}: {shown}  ({_text(value)})")
    return [*lines, f"  value, {len(seen.fetched.value)} bytes: {whole['value']}"]


def table(found: Sequence[Seen], *, header: bool) -> Table:
    """A line for each record; what cannot be decoded says why, in full."""
    shown = Table(box=None, padding=(0, 1, 0, 0), show_header=header, header_style="bold", expand=True)
    for name, width in _COLUMNS:
        shown.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    shown.add_column("what", ratio=1, overflow="fold")
    for seen in found:
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
    """Where tables go; never narrower than their columns need."""
    found = Console()
    return found if found.width >= WIDTH_LEAST else Console(width=WIDTH_LEAST)


def summary(seen: Seen) -> str:
    """What one record says, in a few words."""
    if seen.record is None:
        return f"UNDECODABLE: {seen.problem}"
    told = _SUMMARIES.get(type(seen.record))
    return type(seen.record).__name__ if told is None else told(seen.record)


def _change(one: records.EpochChange) -> str:
    return f"epoch {one.epoch}: {one.holder_before or '-'} -> {one.holder} ({one.reason}, {one.actor})"


_SUMMARIES: dict[type[records.Record], Callable[[Any], str]] = {
    records.Metric: lambda one: " ".join(f"{name}={value:.4g}" for name, value in sorted(one.values.items())),
    records.MetricBatch: lambda one: (
        f"{len(one.steps)} rows, steps {min(one.steps)}..{max(one.steps)}: {', '.join(c.name for c in one.columns)}"
    ),
    records.MetricsThinned: lambda one: (
        f"{one.dropped} dropped, steps {one.first_step}..{one.last_step}, kept every {one.keep_every}"
    ),
    records.Checkpoint: lambda one: f"{one.state} {size(one.size_bytes)} {one.reason}".rstrip(),
    records.Heartbeat: lambda one: f"{one.node} {one.phase}",
    records.DataVersion: lambda one: f"{one.name} {one.digest[:12]} {len(one.shards)} files",
    records.EpochChange: _change,
    records.Readiness: lambda one: f"{one.grade} {one.proof}, predicted {one.predicted_rto_s:.1f} s",
    records.Sighting: lambda one: (
        f"{one.region}'s {one.observer} of {one.of_region}: Kafka {one.kafka_age_s:.0f} s ago"
    ),
    records.DeadLetter: lambda one: f"{one.reason} {one.topic}/{one.partition}/{one.offset}: {one.detail}",
    records.Redriven: lambda one: f"letter {one.partition}/{one.offset} {one.outcome} by {one.actor}: {one.event_id}",
    records.Watermark: lambda one: f"{one.producer} {one.lane} up to {one.seq}",
    records.Alarm: lambda one: f"{one.state}: {sentence(one)}",
    records.Position: lambda one: f"{one.topic}/{one.partition} next {one.offset}",
}


def when(time_ms: int, *, full: bool = False) -> str:
    """A moment in UTC."""
    try:
        moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return moment.isoformat(timespec="milliseconds") if full else f"{moment:%H:%M:%S}"


def size(size_bytes: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def clean(text: str) -> str:
    """Without what a terminal would obey: the text may be anybody's."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _text(value: bytes) -> str:
    """As text where it is some, else `hex:` and its bytes."""
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
