"""A Kafka user's rights: refusals in plain words, ACLs that are granted, and rights that are tried out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import kafka
from kafka import errors
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    NewTopic,
    ResourcePattern,
    ResourceType,
)

from pipelines.errors import FarsideError, MisconfiguredError, RetryableError
from services.adapters.kafka.clients import made, thrown_away
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.knock import why_not_reached
from services.adapters.kafka.login_refusal import why_not_let_in
from services.permissions.kafka_policies import TOPIC, Grant

# Of these the library says the same whatever the reason.
_UNREACHED = (errors.KafkaTimeoutError, errors.KafkaConnectionError)
GUIDE = "docs/credentials.md"
CONNECT_MS, KNOCK_MS, PROBE_MS = 2_000, 1_000, 10_000
COMMON: dict[str, Any] = {"bootstrap_timeout_ms": CONNECT_MS, "reconnect_backoff_max_ms": 1_000}
# Whoever gets one of these has passed the authorizer.
_MAY_MAKE = (errors.TopicAlreadyExistsError, errors.PolicyViolationError, errors.InvalidReplicationFactorError)
_NAMES = {"Create": ACLOperation.CREATE, "Describe": ACLOperation.DESCRIBE}
_NAMES |= {"DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS}
_NAMES |= {"Read": ACLOperation.READ, "Write": ACLOperation.WRITE}


def translated(
    cluster: KafkaCluster, error: Exception, need: str, kind: type[FarsideError] = RetryableError
) -> FarsideError:
    """The error of our tree for one of the client library's: it says what the caller must do.

    Args:
        cluster: who was refused, and where.
        error: the library's; one of ours, about a CA file for instance, stays what it is.
        need: what must be granted if it is a refusal.
        kind: the error if it is no refusal.
    """
    if isinstance(error, FarsideError):
        return type(error)(*error.args)
    if refused(error):
        reason = error.message if isinstance(error, errors.AuthorizationError) else str(error)
        return MisconfiguredError(f"{cluster.who}: refused ({reason}): grant it {need} ({GUIDE})")
    unreached = why_not_reached(cluster, KNOCK_MS / 1000) if isinstance(error, _UNREACHED) else None
    if unreached is not None:
        known = MisconfiguredError if unreached.permanent else kind
        return known(f"Kafka {cluster.bootstrap}: {unreached.why}")
    if isinstance(error, errors.KafkaTimeoutError) and (why := why_not_let_in(cluster, KNOCK_MS / 1000)):
        return MisconfiguredError(
            f"{cluster.who}: not let in ({why}): put its kafka_credentials_file right, or make the user ({GUIDE})"
        )
    hint = "" if cluster.user else " (as nobody: if it knows users, kafka_credentials_file is missing)"
    return kind(f"Kafka {cluster.bootstrap}: {error!r}{hint}")


def refused(error: Exception) -> bool:
    """Whether the broker forbids it; the producer puts its first refusal into a text."""
    return isinstance(error, errors.AuthorizationError) or "AuthorizationFailedError" in str(error)


def give(cluster: KafkaCluster, wanted: Mapping[str, Iterable[Grant]]) -> None:
    """Grant each user its ACLs, as an administrator; ACLs that are there already stay."""
    acls = [
        ACL(
            principal=f"User:{user}",
            host="*",
            operation=_NAMES[operation],
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(
                ResourceType.TOPIC if grant.resource == TOPIC else ResourceType.TRANSACTIONAL_ID,
                grant.prefix,
                ACLResourcePatternType.PREFIXED,
            ),
        )
        for user, grants in wanted.items()
        for grant in grants
        for operation in grant.operations
    ]
    try:
        with contextlib.closing(made(KafkaAdminClient, **cluster.options(), **COMMON)) as admin:
            failed = admin.create_acls(acls)["failed"]
    except Exception as error:  # the library raises others besides its own
        raise translated(cluster, error, "Alter on the cluster") from error
    if failed:
        raise RetryableError(f"Kafka {cluster.bootstrap}: ACLs: {failed[0].__name__}")


def allowed(cluster: KafkaCluster, topic: str, transactional_id: str, *, there: bool) -> str:
    """Try out a writer's work as a user; the first thing that is allowed, or "" if nothing is.

    Args:
        cluster: where, and who.
        topic: is written to if it is `there`: an empty record, whose key is no run's name. Another of its kind is asked
            for, without being made.
        transactional_id: one that nobody has, since beginning fences whoever has it.
        there: whether the topic has been made.

    Raises:
        RetryableError: Kafka does not answer, so it is not known.
        MisconfiguredError: it does not even let the user in.
    """
    tries: dict[str, Callable[[], None]] = {
        f"make topic {topic}.probe": lambda: _make(cluster, f"{topic}.probe"),
        f"begin a transaction as {transactional_id}": lambda: _begin(cluster, transactional_id),
    }
    if there:
        tries[f"write to topic {topic}"] = lambda: _write(cluster, topic)
    for what, attempt in tries.items():
        try:
            attempt()
        except Exception as error:  # as above
            if refused(error):
                continue
            raise translated(cluster, error, "") from error
        return what
    return ""


def _make(cluster: KafkaCluster, topic: str) -> None:
    with (
        contextlib.closing(made(KafkaAdminClient, **cluster.options(), **COMMON)) as admin,
        contextlib.suppress(*_MAY_MAKE),
    ):
        admin.create_topics([NewTopic(topic, 1, 1)], validate_only=True)


def _begin(cluster: KafkaCluster, transactional_id: str) -> None:
    with _producer(cluster, transactional_id=transactional_id) as producer:
        producer.init_transactions()


def _write(cluster: KafkaCluster, topic: str) -> None:
    with _producer(cluster) as producer:
        producer.send(topic, key=b"*probe", value=b"").get(timeout=PROBE_MS / 1000)


@contextlib.contextmanager
def _producer(cluster: KafkaCluster, **more: str) -> Iterator[Any]:
    producer = made(
        kafka.KafkaProducer,
        enable_idempotence=True,
        acks="all",
        max_block_ms=PROBE_MS,
        delivery_timeout_ms=PROBE_MS,
        request_timeout_ms=PROBE_MS // 2,
        **more,
        **cluster.options(),
        **COMMON,
    )
    try:
        yield producer
    finally:
        thrown_away(producer)
