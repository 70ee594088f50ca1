"""Many metrics in one event: rows to columns and back, and when a batch is full. Pure.

A batch takes all the numbers of its rows, so dedup and gaps work as for any event, by `first_seq` and `seq`. Where an
agent died between publishing and noting it, the next batch may begin before the last one ended: the replicator leaves
out the rows that it knows, and sets those aside that lie past the fork which closed their epoch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import CorruptError
from schemas.records import Event, Metric, MetricBatch, MetricColumn, MetricsThinned

METRICS = (Metric, MetricBatch, MetricsThinned)
"""The types of event in the metrics' lane."""
_IDENTITY = tuple(one.name for one in dataclasses.fields(Event))


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """When metrics that gather are published."""

    rows_max: int = 500
    bytes_max: int = 512 * 1024  # of the spool's records
    age_s: float = 5.0

    def due(self, rows: int, size_bytes: int, published_s: float, now_s: float) -> bool:
        """Whether a batch is due: the first metric after a quiet time is due at once, later ones within `age_s`."""
        if rows == 0:
            return False
        return rows >= self.rows_max or size_bytes >= self.bytes_max or now_s - published_s >= self.age_s


def first_number(event: Event) -> int:
    """The first number of its stream that an event takes."""
    return event.first_seq if isinstance(event, MetricBatch) else event.seq


def runs_of_rows(metrics: Sequence[Metric], sizes: Sequence[int], policy: BatchPolicy) -> Iterator[tuple[Metric, ...]]:
    """Divide metrics into batches: each of one stream and attempt, with numbers without a hole, and bounded."""
    begin, size = 0, 0
    for at, metric in enumerate(metrics):
        full = at - begin >= policy.rows_max or size + sizes[at] > policy.bytes_max
        if at > begin and (full or not _follows(metrics[at - 1], metric)):
            yield tuple(metrics[begin:at])
            begin, size = at, 0
        size += sizes[at]
    if begin < len(metrics):
        yield tuple(metrics[begin:])


def _follows(before: Metric, after: Metric) -> bool:
    same = (before.run, before.epoch, before.attempt, before.producer) == (
        after.run,
        after.epoch,
        after.attempt,
        after.producer,
    )
    return same and after.seq == before.seq + 1


def batch_of(metrics: Sequence[Metric]) -> MetricBatch:
    """One event for metrics that `runs_of_rows` put together."""
    first, last = metrics[0], metrics[-1]
    names = list(dict.fromkeys(name for one in metrics for name in one.values))
    columns = []
    for name in names:
        rows = tuple(at for at, one in enumerate(metrics) if name in one.values)
        values = tuple(metrics[at].values[name] for at in rows)
        columns.append(MetricColumn(name=name, rows=() if len(rows) == len(metrics) else rows, values=values))
    identity: dict[str, Any] = {name: getattr(last, name) for name in _IDENTITY}
    identity["event_id"] = _batch_id(last, first.seq)
    identity["step"] = max(one.step for one in metrics)
    return MetricBatch(
        **identity,
        first_seq=first.seq,
        steps=tuple(one.step for one in metrics),
        times_ms=tuple(one.time_ms for one in metrics),
        columns=tuple(columns),
    )


def rows_of(event: Event) -> tuple[Event, ...]:
    """The events in an event: of a batch each of its metrics."""
    return metrics_of(event) if isinstance(event, MetricBatch) else (event,)


def metrics_of(event: Metric | MetricBatch) -> tuple[Metric, ...]:
    """The metrics in an event, each as it would have been published alone; CorruptError for columns that do not fit."""
    if isinstance(event, Metric):
        return (event,)
    count = len(event.steps)
    if len(event.times_ms) != count or event.seq - event.first_seq + 1 != count:
        raise CorruptError(f"batch {event.event_id}: {count} steps for the numbers {event.first_seq} to {event.seq}")
    values: list[dict[str, float]] = [{} for _ in range(count)]
    for column in event.columns:
        rows = column.rows or range(count)
        if len(rows) != len(column.values) or not all(0 <= at < count for at in rows):
            raise CorruptError(f"batch {event.event_id}: column {column.name!r} does not fit {count} rows")
        for at, value in zip(rows, column.values, strict=True):
            values[at][column.name] = value
    identity: dict[str, Any] = {name: getattr(event, name) for name in _IDENTITY}
    return tuple(
        Metric(
            **identity
            | {
                "event_id": f"{event.run}/{event.epoch}/{event.producer}/{event.lane}/{event.first_seq + at}",
                "seq": event.first_seq + at,
                "step": event.steps[at],
                "time_ms": event.times_ms[at],
            },
            values=values[at],
        )
        for at in range(count)
    )


def parted(
    event: MetricBatch, is_new: Callable[[int], bool], wanted: Callable[[int], bool]
) -> tuple[MetricBatch | None, int]:
    """The last unbroken row of new numbers, up to the first whose step is not wanted; how many rows that leaves over.

    All rows: the batch itself. None of them: None. What is new before an old one comes with the next reading.
    """
    rows = metrics_of(event)
    old_ones = itertools.dropwhile(lambda one: not is_new(one.seq), reversed(rows))
    new = list(itertools.takewhile(lambda one: is_new(one.seq), old_ones))[::-1]
    kept = list(itertools.takewhile(lambda one: wanted(one.step), new))
    if len(kept) == len(rows):
        return event, 0
    return batch_of(kept) if kept else None, len(new) - len(kept)


def _batch_id(last: Metric, first_seq: int) -> str:
    return f"{last.run}/{last.epoch}/{last.producer}/{last.lane}/{first_seq}-{last.seq}"
