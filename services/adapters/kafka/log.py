"""One region's Kafka through kafka-python. Clients are made at first use and made anew after an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import kafka
from kafka import errors
from kafka.admin import KafkaAdminClient, NewTopic

from pipelines import paths
from pipelines.core.message_size import MESSAGE_BYTES_MAX
from pipelines.errors import CorruptError
from pipelines.ports import Fetched, Message, Partition
from services.adapters.kafka.acls import COMMON, translated
from services.adapters.kafka.batches import DamagedValue, Doubted, read_safely
from services.adapters.kafka.clients import made, thrown_away
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.writing import (
    BATCH_BYTES,
    DELIVERY_MS,
    FOR_GOOD,
    LINGER_MS,
    TRANSACTION_MS,
    WritingLog,
)

DIVIDED_MAX = 32  # a batch has a few thousand records at most: halves of halves
_LIMITS = {"max.message.bytes": str(MESSAGE_BYTES_MAX)}
_REFUSED = errors.TopicAuthorizationFailedError
_GONE = (errors.OffsetOutOfRangeError, errors.LogTruncationError)  # what was to be read is not there any more


class KafkaLog(WritingLog):
    """Implements EventLog through kafka-python's producer."""

    _producer: Any = None

    def close(self) -> None:
        """Drop the producer; the next call makes another."""
        producer, self._producer = self._producer, None
        if producer is not None:
            thrown_away(producer)

    def _begin_transaction(self) -> None:
        self._ready().begin_transaction()

    def _commit_transaction(self) -> None:
        self._producer.commit_transaction()

    def _append(self, messages: Sequence[Message]) -> Mapping[int, errors.KafkaError]:
        producer = self._ready()
        sent = [_sent(producer, item) for item in messages]
        self._flush()
        return {at: error for at, error in enumerate(map(_error_of, sent)) if error is not None}

    def _flush(self) -> None:
        """Send what lingers, and wait until it is settled.

        A batch that is too large for the broker is divided by the library, and its flush then complains of the batch
        that is no more, while the parts wait: the next flush sends them.
        """
        for _ in range(DIVIDED_MAX):
            with contextlib.suppress(errors.UnknownError):
                self._producer.flush(timeout=DELIVERY_MS / 1000)
                return
        raise errors.KafkaTimeoutError(f"batches that are too large were divided {DIVIDED_MAX} times")

    def _ready(self) -> Any:  # noqa: ANN401 - kafka-python has no types
        if self._producer is None:
            producer = made(
                kafka.KafkaProducer,
                transactional_id=self._transactional_id,
                acks="all",
                enable_idempotence=True,
                delivery_timeout_ms=DELIVERY_MS,
                request_timeout_ms=DELIVERY_MS // 2,
                max_block_ms=DELIVERY_MS // 2,
                batch_size=BATCH_BYTES,
                linger_ms=LINGER_MS,
                transaction_timeout_ms=TRANSACTION_MS,
                max_request_size=MESSAGE_BYTES_MAX,
                **self._cluster.options(),
                **COMMON,
            )
            self._producer = producer
            if self._transactional_id is not None:
                producer.init_transactions()
        return self._producer


class KafkaSource:
    """Implements EventSource: assigned partitions, read_committed, no auto-commit, no reset policy.

    Args:
        cluster: whose log.
        answer_ms: how long it may take to say which partitions there are.
    """

    def __init__(self, cluster: KafkaCluster, answer_ms: int = DELIVERY_MS) -> None:
        self._cluster = cluster
        self._answer_ms = answer_ms
        self._consumer: Any = None
        self._bounds_consumer: Any = None  # asks for bounds only
        self._admin: Any = None
        self._assigned: dict[Any, Partition] = {}
        self._positions: dict[Any, int] = {}
        self._paused: set[Any] = set()
        self._doubted: Doubted = set()

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of these topics as they are now."""
        try:
            # Kept: to make one costs more than to ask, and whoever follows a log asks again and again.
            admin = self._admin = self._admin or made(
                KafkaAdminClient, request_timeout_ms=self._answer_ms, **self._cluster.options(), **COMMON
            )
            cluster = str(admin.describe_cluster()["cluster_id"])
            described = admin.describe_topics(list(topics))
        except Exception as error:  # a client whose connection dies under it also raises what is none of its own
            self._drop_admin()
            raise translated(self._cluster, error, _reading(topics)) from error
        refused = [topic["name"] for topic in described if topic["error_code"] == _REFUSED.errno]
        if refused:  # it must not look like a topic that is not there yet
            raise translated(self._cluster, _REFUSED(), _reading(refused))
        return tuple(
            Partition(cluster, str(topic["topic_id"]), topic["name"], part["partition_index"])
            for topic in described
            if not topic["error_code"]
            for part in sorted(topic["partitions"], key=lambda item: item["partition_index"])
        )

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset).

        The end counts what is not committed yet: others' open transactions hold back what a read_committed reader is
        shown, and one that stopped there would take a part of the log for the whole.
        """
        place = _place(partition)
        with self._mapped(partition):
            consumer = self._bounds_consumer = self._bounds_consumer or self._consumer_of("read_uncommitted")
            first = consumer.beginning_offsets([place], timeout_ms=DELIVERY_MS)[place]
            return first, consumer.end_offsets([place], timeout_ms=DELIVERY_MS)[place]

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset whose record was put there at a time or later; the end if there is none."""
        _, end = self.bounds(partition)
        place = _place(partition)
        with self._mapped(partition):
            later = self._bounds_consumer.offsets_for_times({place: time_ms}, timeout_ms=DELIVERY_MS)[place]
            return end if later is None else int(later.offset)

    def seek(self, partition: Partition, offset: int) -> None:
        """Assign the partition if need be and read on from an offset; CorruptError if it is out of range."""
        first, end = self.bounds(partition)
        if not first <= offset <= end:
            raise CorruptError(f"{partition.topic}/{partition.number}: offset {offset} is outside {first}..{end}")
        with self._mapped(partition):
            self._ready()
            place = _place(partition)
            self._assigned[place] = partition
            self._positions[place] = offset
            self._restore()

    def position(self, partition: Partition) -> int:
        """The offset at which an assigned partition is read next."""
        with self._mapped(partition):
            return int(self._ready().position(_place(partition), timeout_ms=DELIVERY_MS))

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records of the assigned partitions that are not paused."""
        if not self._assigned:
            return ()
        fetched: list[Fetched] = []
        with self._mapped(*self._assigned.values()):
            batches = self._ready().poll(timeout_ms=int(timeout_s * 1000), max_records=most)
            for place, batch in batches.items():
                self._positions[place] = batch[-1].offset + 1
                fetched.extend(_fetched(self._assigned[place], item) for item in batch)
        return tuple(fetched)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        places = [_place(item) for item in partitions]
        self._paused.update(places)
        self._tell("pause", places)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        places = [_place(item) for item in partitions]
        self._paused.difference_update(places)
        self._tell("resume", places)

    def close(self) -> None:
        """Drop the clients; the next call makes others, and reads on at the same positions."""
        self._drop_admin()
        consumers = [consumer for consumer in (self._consumer, self._bounds_consumer) if consumer is not None]
        self._consumer = self._bounds_consumer = None
        for consumer in consumers:
            with contextlib.suppress(Exception):  # it is being thrown away
                consumer.close(autocommit=False)

    def _drop_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(Exception):  # it is being thrown away
                admin.close()

    @contextlib.contextmanager
    def _mapped(self, *partitions: Partition) -> Iterator[None]:
        """Turn whatever the library raises into an error of our tree; its clients are thrown away with it."""
        try:
            yield
        except _GONE as error:
            raise CorruptError(f"Kafka {self._cluster.bootstrap}: {error!r}") from error
        except Exception as error:  # a client whose connection dies under it also raises what is none of its own
            self.close()
            raise translated(self._cluster, error, _reading(one.topic for one in partitions)) from error

    def _tell(self, what: str, places: Iterable[Any]) -> None:
        """Pause or resume in the client; one that does not know them is thrown away, and the next one is told."""
        if self._consumer is None:
            return
        try:
            getattr(self._consumer, what)(*places)
        except Exception:  # noqa: BLE001 - kept in `_paused`, which each new client is told
            self.close()

    def _restore(self) -> None:
        consumer = self._consumer
        consumer.assign(list(self._assigned))
        for place, offset in self._positions.items():
            consumer.seek(place, offset)
        consumer.pause(*self._paused.intersection(self._assigned))

    def _ready(self) -> Any:  # noqa: ANN401 - kafka-python has no types
        if self._consumer is None:
            self._consumer = self._consumer_of("read_committed")
            read_safely(self._consumer, self._doubted)
            if self._assigned:
                self._restore()
        return self._consumer

    def _consumer_of(self, isolation_level: str) -> Any:  # noqa: ANN401 - kafka-python has no types
        return made(
            kafka.KafkaConsumer,
            isolation_level=isolation_level,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            **self._cluster.options(),
            **COMMON,
        )


def _sent(producer: Any, item: Message) -> Any:  # noqa: ANN401 - kafka-python has no types
    """The future of a record's acknowledgement, or the error for which it was not even sent."""
    try:
        return producer.send(item.topic, key=item.key, value=item.value, headers=list(item.headers))
    except FOR_GOOD as error:
        return error


def _error_of(sent: Any) -> errors.KafkaError | None:  # noqa: ANN401 - kafka-python has no types
    """Why a record was not appended; None if it was."""
    if isinstance(sent, errors.KafkaError):
        return sent
    try:
        sent.get(timeout=DELIVERY_MS / 1000)
    except errors.KafkaError as error:
        return error
    return None


def ensure_topics(cluster: KafkaCluster, replication: int, partitions: int = 1, prefix: str = "") -> None:
    """Create the topics that are missing, with `prefix` before their names; ledger and alarms are compacted.

    Each gets the stated `max.message.bytes`, whatever the broker's own default is.
    """
    try:
        with contextlib.closing(made(KafkaAdminClient, **cluster.options(), **COMMON)) as admin:
            present = set(admin.list_topics())
            for name in paths.TOPICS:
                configs = _LIMITS | ({"cleanup.policy": "compact"} if name in paths.COMPACTED else {})
                if prefix + name not in present:
                    topic = NewTopic(prefix + name, partitions, replication, topic_configs=configs)
                    with contextlib.suppress(errors.TopicAlreadyExistsError):  # another service was quicker
                        admin.create_topics([topic])
    except Exception as error:  # as in `KafkaSource`
        need = f"Create, Describe, Read and Write on topics {prefix}{paths.TOPIC_PREFIX}*"
        raise translated(cluster, error, need) from error


def ensure_topic(cluster: KafkaCluster, name: str, replication: int) -> None:
    """Create one topic if it is missing."""
    try:
        with contextlib.closing(made(KafkaAdminClient, **cluster.options(), **COMMON)) as admin:
            described = admin.describe_topics([name])
            if any(not topic["error_code"] for topic in described):
                return
            with contextlib.suppress(errors.TopicAlreadyExistsError):  # another one was quicker
                admin.create_topics([NewTopic(name, 1, replication, topic_configs=_LIMITS)])
    except Exception as error:  # as in `KafkaSource`
        raise translated(cluster, error, f"Create, Describe, Read and Write on topic {name}") from error


def _reading(topics: Iterable[str]) -> str:
    """The grant that a reader of these needs."""
    return f"Describe and Read on topic {', '.join(sorted(set(topics)))}"


def _place(partition: Partition) -> Any:  # noqa: ANN401 - kafka-python has no types
    return kafka.TopicPartition(partition.topic, partition.number)


def _fetched(partition: Partition, item: Any) -> Fetched:  # noqa: ANN401 - kafka-python has no types
    damage = item.value.damage if isinstance(item.value, DamagedValue) else None
    return Fetched(
        partition, item.offset, item.key or b"", item.value or b"", tuple(item.headers), item.timestamp or 0, damage
    )
