"""What the replicator says of what it settled: a line for each record, but few for the many of the metrics."""

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


def tell(journal: Journal, *, lane: str, peer: str, settled: Iterable[SettledRecord]) -> None:
    """A line for each record, but of metrics that became visible together one with the last of them and how many.

    They come by the thousand, and a line costs more than all the rest that is done for a record.
    """
    lines: dict[int | tuple[object, ...], tuple[SettledRecord, int]] = {}
    for number, one in enumerate(settled):
        together = lane == "metrics" and one.what == "published"
        key: int | tuple[object, ...] = (
            (one.run, one.fields.get("epoch"), one.fields.get("late")) if together else number
        )
        lines[key] = (one, lines[key][1] + 1 if key in lines else 1)
    for name, (one, records) in lines.items():
        more = {"records": records} if isinstance(name, tuple) else {}
        journal.say(f"replicate.{one.what}", run=one.run, lane=lane, peer=peer, **one.fields, **more)
