"""The local stack's brokers as their administrator reaches them."""

from __future__ import annotations

import json

from infra.local.stack import Stack
from services.adapters.kafka.connection import KafkaCluster, KafkaUser


def admin_of(stack: Stack, region: str, client: str | None = None) -> KafkaCluster:
    """A region's broker; from another region if one is named, through the link."""
    ends = stack.endpoints()
    address = ends.regions[region].kafka_bootstrap if client is None else ends.links[client, region].kafka_bootstrap
    known = json.loads(ends.credentials_file.read_text(encoding="utf-8"))
    return KafkaCluster(address, KafkaUser(**known[f"kafka-{region}"]))
