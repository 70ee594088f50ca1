"""The replicator's journal of settled records: one line each, but few for the many of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines.ports import Journal


@dataclass(frozen=True, slots=True)
class SettledRecord:
    """One record that was settled."""

    run: str
    what: str
    fields: Mapping[str, object]


def log_settled(journal: Journal, *, lane: str, peer: str, settled: Iterable[SettledRecord]) -> None:
    """Write a line for each record; metrics that became visible together get one, with the last of them.

    They come by the thousand, and a line costs more than all the rest that is done for a record.
    """
    lines: dict[int | tuple[object, ...], tuple[SettledRecord, int]] = {}
    for number, record in enumerate(settled):
        together = lane == "metrics" and record.what == "published"
        key: int | tuple[object, ...] = (
            (record.run, record.fields.get("epoch"), record.fields.get("late")) if together else number
        )
        lines[key] = (record, lines[key][1] + 1 if key in lines else 1)
    for name, (record, records) in lines.items():
        more = {"records": records} if isinstance(name, tuple) else {}
        journal.say(f"replicate.{record.what}", run=record.run, lane=lane, peer=peer, **record.fields, **more)
