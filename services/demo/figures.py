"""The demo's figures, all read from what the services wrote: spools, logs and timelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.audit import Log
from pipelines.core.ledger import Stream
from pipelines.core.lineage import LineageView
from pipelines.core.metric_batches import rows_of
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import RetryableError
from pipelines.flows.inspection import audit_reader
from pipelines.flows.log.log_reader import Decoding
from pipelines.ports import Clock
from schemas.codec import Codec
from schemas.records import Event
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaSource
from services.adapters.spool import NodeSpool
from services.demo.actors import read_lines


def accepted(node_dirs: Iterable[Path], run: str, view: LineageView) -> dict[Stream, SequenceRanges]:
    """Every event in the nodes' spools that lies on the lineage."""
    return audit_reader.accepted(map(NodeSpool, node_dirs), run, view)


def visible(cluster: KafkaCluster, run: str, clock: Clock) -> tuple[Log, list[Event]]:
    """Every event in a region's log; of a batch of metrics, each of them."""
    source, events = KafkaSource(cluster), list[Event]()

    decoding = Decoding(Codec(), clock)
    reading = audit_reader.Reading(
        run, cluster.bootstrap, None, decoding, on_event=lambda event: events.extend(rows_of(event))
    )
    try:
        log = reading.read(source)
    finally:
        source.close()
    if log.trouble:
        raise RetryableError(log.trouble)
    return log, events


def timeline(state_dir: Path) -> list[dict[str, Any]]:
    """The journal entries of all services, ordered by time."""
    entries = [entry for path in sorted((state_dir / "timeline").glob("*.jsonl")) for entry in read_lines(path)]
    return sorted(entries, key=lambda entry: int(entry["time_ms"]))


def overlap_s(timeline: Iterable[Mapping[str, Any]]) -> float:
    """I1, measured: how long two regions' leases were valid at once, by the machine's own clock.

    Each interval goes from before a lease write was sent until its validity ends; a killed holder's last one counts
    to its end. A release, which has no validity, ends what its region held, from before it was sent.
    """
    written = [entry for entry in timeline if entry["event"] == "lease.written"]
    releases = [(str(entry["at"]), float(entry["from_s"])) for entry in written if entry["until_s"] is None]
    spans = []
    for entry in written:
        if entry["until_s"] is not None:
            region, begin_s = str(entry["at"]), float(entry["from_s"])
            ends = [at_s for name, at_s in releases if name == region and at_s >= begin_s]
            spans.append((region, begin_s, min([float(entry["until_s"]), *ends])))
    return sum(
        max(0.0, min(end, other_end) - max(begin, other_begin))
        for at, (region, begin, end) in enumerate(spans)
        for other, other_begin, other_end in spans[:at]
        if other != region
    )


def first_of(timeline: Iterable[Mapping[str, Any]], event: str, **fields: object) -> dict[str, Any] | None:
    """The first entry of that name with those fields."""
    for entry in timeline:
        if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items()):
            return dict(entry)
    return None
