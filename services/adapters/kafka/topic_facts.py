"""Topics as the brokers have them: replicas and settings, whatever our own settings say."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from pipelines.core.topic_rules import TopicFacts
from pipelines.errors import RetryableError
from services.adapters.kafka.acls import COMMON, translated
from services.adapters.kafka.clients import made
from services.adapters.kafka.connection import KafkaCluster

_KEYS = ("min.insync.replicas", "cleanup.policy", "compression.type", "max.message.bytes")


def topic_facts(cluster: KafkaCluster, topics: Sequence[str]) -> tuple[TopicFacts, ...]:
    """Those of some topics that exist.

    Args:
        cluster: whose.
        topics: names.

    Raises:
        RetryableError: Kafka does not answer in time, or not with these settings.
        MisconfiguredError: it refuses the user, or the user may not see settings.
    """
    need = f"Describe and DescribeConfigs on topic {', '.join(topics)}"
    try:
        with contextlib.closing(made(KafkaAdminClient, **cluster.options(), **COMMON)) as admin:
            described = [topic for topic in admin.describe_topics(list(topics)) if not topic["error_code"]]
            names = [str(topic["name"]) for topic in described]
            asked = [ConfigResource(ConfigResourceType.TOPIC, name, configs=list(_KEYS)) for name in names]
            configs = admin.describe_configs(asked, config_filter="all")["topic"] if asked else {}
    except errors.KafkaError as error:
        raise translated(cluster, error, need) from error
    try:
        return tuple(_facts(topic, configs[str(topic["name"])]) for topic in described)
    except (KeyError, TypeError, ValueError) as error:
        raise RetryableError(
            f"Kafka {cluster.bootstrap} does not tell its topics' settings ({error!r}): {cluster.who} needs {need}"
        ) from error


def _facts(topic: Any, configs: Any) -> TopicFacts:  # noqa: ANN401 - kafka-python has no types
    values = {key: configs[key]["value"] for key in _KEYS}
    return TopicFacts(
        name=str(topic["name"]),
        replicas=min(len(part["replica_nodes"]) for part in topic["partitions"]),
        isr_least=int(values["min.insync.replicas"]),
        cleanup=str(values["cleanup.policy"]),
        compression=str(values["compression.type"]),
        message_bytes_max=int(values["max.message.bytes"]),
    )
