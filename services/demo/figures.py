"""The demo's figures, read from what the services wrote: spools, logs, timelines. Nothing here is assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.errors import RetryableError
from pipelines.flows.lineages import Authority
from pipelines.ports import Clock
from schemas.codec import Codec, DecodeError
from schemas.records import Event
from services.adapters.kafka import KafkaSource
from services.adapters.spool import NodeSpool

READ_S = 30.0
Identity = tuple[str, int, str, str, int]


@dataclass(frozen=True, slots=True)
class Events:
    """What became of the events: accepted in a spool on the lineage, visible in the primary's log, doubled, lost."""

    accepted: int
    visible: int
    duplicates: int
    lost: int

    def plain(self) -> dict[str, int]:
        """As JSON."""
        return {name: getattr(self, name) for name in ("accepted", "visible", "duplicates", "lost")}


def accepted(node_dirs: Mapping[str, Path], run: str, authority: Authority) -> set[Identity]:
    """Every event in the nodes' spools that lies on the lineage: at or before the fork that closed its epoch."""
    closing = {parent: step for _, parent, step in authority.view.forks}
    found: set[Identity] = set()
    for folder in node_dirs.values():
        spool = NodeSpool(folder)
        for producer in spool.producers(run):
            offset = 0
            while records := spool.read(run, producer, offset):
                offset = records[-1].end
                for one in records:
                    if one.step <= closing.get(one.epoch, one.step):
                        found.add((one.run, one.epoch, one.producer, one.lane, one.seq))
    return found


def visible(bootstrap: str, run: str, clock: Clock) -> tuple[Counter[Identity], list[Event]]:
    """Every event in a region's log, and how often."""
    source, codec = KafkaSource(bootstrap), Codec()
    found: Counter[Identity] = Counter()
    events: list[Event] = []
    deadline_s = clock.boottime_s() + READ_S
    try:
        for partition in source.partitions([paths.topic(lane) for lane in paths.REPLICATED_LANES]):
            first, end = source.bounds(partition)
            source.seek(partition, first)
            while source.position(partition) < end:
                if clock.boottime_s() > deadline_s:
                    raise RetryableError(f"{partition.topic} was not read to its end within {READ_S:.0f} s")
                for item in source.poll(0.2):
                    try:
                        event = codec.decode(item.value)
                    except DecodeError:
                        continue  # not an event of ours
                    if isinstance(event, Event) and event.run == run:
                        found[event.run, event.epoch, event.producer, event.lane, event.seq] += 1
                        events.append(event)
    finally:
        source.close()
    return found, events


def compare(taken: set[Identity], seen: Counter[Identity]) -> Events:
    """Accepted against visible."""
    return Events(
        accepted=len(taken),
        visible=sum(1 for one in taken if one in seen),
        duplicates=sum(count - 1 for count in seen.values()),
        lost=sum(1 for one in taken if one not in seen),
    )


def overlap_s(timeline: Iterable[Mapping[str, Any]]) -> float:
    """I1, measured: how long two regions' leases were valid at once, by the machine's own clock.

    Each interval goes from before a lease write was sent until its validity ends; a killed holder's last one counts
    to its end.
    """
    spans = [
        (str(one["at"]), float(one["from_s"]), float(one["until_s"]))
        for one in timeline
        if one["event"] == "lease.written"
    ]
    return sum(
        max(0.0, min(end, other_end) - max(begin, other_begin))
        for at, (region, begin, end) in enumerate(spans)
        for other, other_begin, other_end in spans[:at]
        if other != region
    )


def first_of(timeline: Iterable[Mapping[str, Any]], event: str, **fields: object) -> dict[str, Any] | None:
    """The first entry of that name with those fields."""
    for one in timeline:
        if one["event"] == event and all(one.get(name) == value for name, value in fields.items()):
            return dict(one)
    return None
