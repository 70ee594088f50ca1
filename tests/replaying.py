"""Places of a memory log, as a replay names them."""

from __future__ import annotations

from pipelines import paths
from pipelines.flows.replication.replay_requests import BATCH_MAX, Places
from services.adapters.memory.kafka import MemoryKafka


def places(kafka: MemoryKafka, lane: str, replay_id: str = "replay-1") -> list[Places]:
    """Everything that a lane holds."""
    topic = paths.topic(lane)
    if not kafka.has(topic):
        return []
    one, end = kafka.partition(topic), len(kafka.topic(topic))
    return [
        Places(replay_id, one.cluster, one.topic_id, one.number, tuple(range(at, min(at + BATCH_MAX, end))))
        for at in range(0, end, BATCH_MAX)
    ]
