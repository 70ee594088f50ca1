"""The demo's figures, read from what the services wrote: spools, logs, timelines. Nothing here is assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.core.metric_batches import metrics_of
from pipelines.flows.replay import to_end
from pipelines.ports import Clock
from schemas.codec import Codec, DecodeError
from schemas.records import Event, MetricBatch
from services.adapters.kafka import KafkaSource
from services.adapters.spool import NodeSpool
from services.demo.actors import read_lines

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


def accepted(node_dirs: Iterable[Path], run: str, view: LineageView) -> set[Identity]:
    """Every event in the nodes' spools that lies on the lineage."""
    found: set[Identity] = set()
    for folder in node_dirs:
        spool = NodeSpool(folder)
        for producer in spool.producers(run):
            offset = 0
            while records := spool.read(run, producer, offset):
                offset = records[-1].end
                for one in records:
                    if standing(view, one.epoch, one.step) is Standing.CURRENT:
                        found.add((one.run, one.epoch, one.producer, one.lane, one.seq))
    return found


def visible(bootstrap: str, run: str, clock: Clock) -> tuple[Counter[Identity], list[Event]]:
    """Every event in a region's log, and how often; of a batch of metrics, each of them."""
    source, codec = KafkaSource(bootstrap), Codec()
    found: Counter[Identity] = Counter()
    events: list[Event] = []
    try:
        for item in to_end(source, [paths.topic(lane) for lane in paths.REPLICATED_LANES], clock):
            try:
                event = codec.decode(item.value)
            except DecodeError:
                continue  # not an event of ours
            if isinstance(event, Event) and event.run == run:
                for one in metrics_of(event) if isinstance(event, MetricBatch) else (event,):
                    found[one.run, one.epoch, one.producer, one.lane, one.seq] += 1
                    events.append(one)
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


def timeline(state_dir: Path) -> list[dict[str, Any]]:
    """What all services said, by time."""
    found = [one for path in sorted((state_dir / "timeline").glob("*.jsonl")) for one in read_lines(path)]
    return sorted(found, key=lambda one: int(one["time_ms"]))


def overlap_s(timeline: Iterable[Mapping[str, Any]]) -> float:
    """I1, measured: how long two regions' leases were valid at once, by the machine's own clock.

    Each interval goes from before a lease write was sent until its validity ends; a killed holder's last one counts
    to its end. A release, which has no validity, ends what its region held, from before it was sent.
    """
    written = [one for one in timeline if one["event"] == "lease.written"]
    releases = [(str(one["at"]), float(one["from_s"])) for one in written if one["until_s"] is None]
    spans = []
    for one in written:
        if one["until_s"] is not None:
            region, begin_s = str(one["at"]), float(one["from_s"])
            ends = [at_s for name, at_s in releases if name == region and at_s >= begin_s]
            spans.append((region, begin_s, min([float(one["until_s"]), *ends])))
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
