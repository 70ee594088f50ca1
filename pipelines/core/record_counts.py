"""Counting the records of a log in groups, with what each group spans."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.core.record_filter import Facts, Headers, facts_of
from schemas.records import Record

_FIELDS = {"type": "kind"}


@dataclass(slots=True)
class Group:
    """The records that have the same values."""

    records: int = 0
    size_bytes: int = 0
    undecodable: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    steps: tuple[int, int] | None = None


@dataclass(slots=True)
class RecordCounts:
    """Counts by the named facts (`type` among them); None stands for what is not known."""

    by: tuple[str, ...]
    groups: dict[tuple[str | int | None, ...], Group] = field(default_factory=dict)

    def add(self, record: Record | None, headers: Headers, size_bytes: int, time_ms: int) -> None:
        """Count one record; its memory is that of its group."""
        facts = facts_of(record, headers)
        group = self.groups.setdefault(self._key(facts), Group())
        group.records += 1
        group.size_bytes += size_bytes
        group.undecodable += record is None
        group.first_ms = time_ms if group.first_ms is None else min(group.first_ms, time_ms)
        group.last_ms = time_ms if group.last_ms is None else max(group.last_ms, time_ms)
        if facts.step is not None:
            low, high = group.steps or (facts.step, facts.step)
            group.steps = (min(low, facts.step), max(high, facts.step))

    def ordered(self) -> list[tuple[tuple[str | int | None, ...], Group]]:
        """The groups by their values, what is not known last."""
        return sorted(self.groups.items(), key=lambda one: [(value is None, str(value or "")) for value in one[0]])

    def plain(self) -> list[dict[str, object]]:
        """As JSON."""
        return [
            dict(zip(self.by, key, strict=True))
            | {
                "records": group.records,
                "size_bytes": group.size_bytes,
                "undecodable": group.undecodable,
                "first_ms": group.first_ms,
                "last_ms": group.last_ms,
                "steps": None if group.steps is None else list(group.steps),
            }
            for key, group in self.ordered()
        ]

    def _key(self, facts: Facts) -> tuple[str | int | None, ...]:
        return tuple(getattr(facts, _FIELDS.get(name, name)) for name in self.by)
