"""The headers of an event, and the identity that a spool's record gives it."""

from __future__ import annotations

from typing import Any

from pipelines import paths
from pipelines.ports import Message, SpoolRecord
from schemas.codec import Codec
from schemas.records import Event, MetricBatch

METRIC, METRIC_BATCH, METRICS_THINNED = "metric", "metric_batch", "metrics_thinned"


def headers_of(event: Event, schema_type: str) -> tuple[tuple[str, bytes], ...]:
    """The event's identity beside its bytes, so that even an undecodable value fills its place (design 7)."""
    pairs = {
        "ce_id": event.event_id,
        "ce_source": f"/farside/{event.region}/{event.run}",
        "ce_type": f"farside.{schema_type}",
        "ce_specversion": "1.0",
        "ce_time": str(event.time_ms),
        "farside_run": event.run,
        "farside_epoch": str(event.epoch),
        "farside_attempt": str(event.attempt),
        "farside_producer": event.producer,
        "farside_seq": str(event.seq),
        "farside_lane": event.lane,
        "farside_step": str(event.step),
    }
    if isinstance(event, MetricBatch):
        pairs["farside_first_seq"] = str(event.first_seq)
    return tuple((name, value.encode()) for name, value in pairs.items())


def identity_of(record: SpoolRecord, region: str) -> dict[str, Any]:
    """The identity of a record's event: never restamped (6.5), and equal for a record that is published twice."""
    return {
        "event_id": f"{record.run}/{record.epoch}/{record.producer}/{record.lane}/{record.seq}",
        "run": record.run,
        "region": region,
        "epoch": record.epoch,
        "attempt": record.attempt,
        "producer": record.producer,
        "seq": record.seq,
        "step": record.step,
        "time_ms": record.time_ms,
    }


def wrap(event: Event, schema_type: str, codec: Codec) -> Message:
    """The message of an event in its lane."""
    return Message(paths.topic(event.lane), event.run.encode(), codec.encode(event), headers_of(event, schema_type))
