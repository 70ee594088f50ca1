"""The permissions of each role in Kafka: the one source of the local brokers' ACLs and of `docs/credentials.md`.

As for the stores (`store_policies.py`): a region writes to its own Kafka only, and replication only pulls (6.2).
Positions are kept in the target's Kafka (6.8), so nobody needs a consumer group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipelines import paths

TOPIC, TRANSACTIONAL_ID = "topic", "transactional-id"


class Grant(NamedTuple):
    """Permits operations on every topic or transactional id whose name begins with `prefix`."""

    operations: tuple[str, ...]
    resource: str
    prefix: str


_LOOK = ("Describe", "Read")
_WORK = ("Create", "Describe", "Read", "Write")
_SEE = ("DescribeConfigs",)  # `farside doctor` compares the topics' settings with what is promised of events

ROLES: Mapping[str, tuple[Grant, ...]] = {
    # For the agent, replicator, warmer and controller of a region, in its own Kafka. No topic is deleted or altered.
    "region": (
        Grant((*_WORK, *_SEE), TOPIC, paths.TOPIC_PREFIX),
        Grant(("Describe", "Write"), TRANSACTIONAL_ID, paths.transactional_prefix("REGION")),
    ),
    # For another region's replicator and controller.
    "link": (Grant(_LOOK, TOPIC, paths.TOPIC_PREFIX),),
    # For a drill: it reads the region's objects, and of Kafka only what it wrote itself (I10).
    "drill": (Grant(_WORK, TOPIC, paths.DRILL_TOPICS + paths.TOPIC_PREFIX),),
    # For a person's commands: reading the log, and replaying into a topic that no service reads.
    "operator": (Grant(_LOOK, TOPIC, paths.TOPIC_PREFIX), Grant(_WORK, TOPIC, paths.REPLAY_TOPICS)),
}


def grants(role: str, region: str) -> tuple[Grant, ...]:
    """The role's grants in a region's Kafka."""
    return tuple(grant._replace(prefix=grant.prefix.replace("REGION", region)) for grant in ROLES[role])


def commands(role: str, region: str, user: str) -> tuple[str, ...]:
    """The same grants as command lines of Kafka's own tool, for an administrator of that cluster."""
    return tuple(
        f"kafka-acls.sh --bootstrap-server BROKER --command-config ADMIN --add --allow-principal User:{user} "
        f"--resource-pattern-type prefixed --{grant.resource} {grant.prefix} "
        + " ".join(f"--operation {operation}" for operation in grant.operations)
        for grant in grants(role, region)
    )
