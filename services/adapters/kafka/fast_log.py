"""The log of a hot path: through librdkafka, or through kafka-python on a machine for which there is no wheel of it."""

from __future__ import annotations

from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaLog

try:
    from services.adapters.kafka.librdkafka_log import LibrdkafkaLog
except ImportError:
    _KIND: type[KafkaLog | LibrdkafkaLog] = KafkaLog
    WRITER = "kafka-python"
else:
    _KIND = LibrdkafkaLog
    WRITER = "librdkafka"


def log_of(cluster: KafkaCluster, transactional_id: str | None = None) -> KafkaLog | LibrdkafkaLog:
    """An EventLog to publish much through.

    Args:
        cluster: whose log.
        transactional_id: of the one writer that may write under it; None for a log that makes no transactions.
    """
    return _KIND(cluster, transactional_id)
