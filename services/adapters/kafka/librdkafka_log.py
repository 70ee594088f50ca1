"""One region's Kafka, for writing, through confluent-kafka (librdkafka): a record costs a tenth of the CPU time.

What the library does otherwise than kafka-python, and what is done about it here:

- It connects in the background, and a constructor never fails. So a new producer is asked for the cluster's id first.
- It does not divide a batch that the broker refuses as too large; each of its records fails. So what was refused in a
  batch is sent again one record a batch, by another producer, and only what is refused then is refused for good.
- Its binding cuts a header's name off at a zero byte, and ends the process for one that is no UTF-8. Such a record is
  refused before it gets there.
- Its `close` waits for the broker. So a producer is purged and let go of; nothing may hold on to it, not even the frame
  of an error.
- It would print to stderr.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from kafka import errors

from pipelines.core.message_size import MESSAGE_BYTES_MAX
from pipelines.ports import Message
from services.adapters.kafka.acls import COMMON, CONNECT_MS
from services.adapters.kafka.writing import (
    BATCH_BYTES,
    DELIVERY_MS,
    FOR_GOOD,
    INVALID,
    LINGER_MS,
    TRANSACTION_MS,
    WritingLog,
)
from services.adapters.tls_faults import causes

PURGED_S = 0.5
_OPTIONS: dict[str, Any] = {
    "client.id": "farside",
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",  # kafka-python's and Java's; the library's own default is another one
    "compression.type": "none",
    "delivery.timeout.ms": DELIVERY_MS,
    "request.timeout.ms": DELIVERY_MS // 2,
    "socket.timeout.ms": DELIVERY_MS // 2,
    "socket.connection.setup.timeout.ms": CONNECT_MS,
    "socket.nagle.disable": True,
    "reconnect.backoff.max.ms": COMMON["reconnect_backoff_max_ms"],
    "topic.metadata.propagation.max.ms": DELIVERY_MS // 2,  # how long a topic may be unknown
    "linger.ms": LINGER_MS,  # a flush cuts it short
    "batch.size": BATCH_BYTES,
    "message.max.bytes": MESSAGE_BYTES_MAX,
    "delivery.report.only.error": True,
    "enable.metrics.push": False,  # nothing goes to the broker but what is published
    "log_level": 0,
}
_LOGGER = logging.getLogger("librdkafka")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False  # what is to be said comes as an error
_UNREACHED = frozenset(
    getattr(KafkaError, name)
    for name in (
        "_ALL_BROKERS_DOWN",
        "_AUTHENTICATION",
        "_MSG_TIMED_OUT",
        "_RESOLVE",
        "_SSL",
        "_TIMED_OUT",
        "_TIMED_OUT_QUEUE",
        "_TRANSPORT",
    )
)
_FENCED: int = getattr(KafkaError, "_FENCED")  # noqa: B009 - the library's public name for it has an underscore


class LibrdkafkaLog(WritingLog):
    """Implements EventLog through librdkafka's producer."""

    _producer: Producer | None = None
    _is_single = False  # each record is a batch

    def close(self) -> None:
        """Drop the producer; the next call makes another."""
        if self._producer is not None:
            with contextlib.suppress(Exception):  # it is being thrown away
                self._producer.purge()
                self._producer.flush(PURGED_S)  # gives back what it keeps of each record
        self._producer, self._is_single = None, False

    def _begin_transaction(self) -> None:
        self._ready().begin_transaction()

    def _commit_transaction(self) -> None:
        self._ready().commit_transaction(DELIVERY_MS / 1000)

    def _append(self, messages: Sequence[Message]) -> Mapping[int, errors.KafkaError]:
        not_taken, failed = self._sent(messages)
        if not self._is_single and any(isinstance(error, FOR_GOOD) for error in failed.values()):
            self.close()
            self._is_single = True
            if self._transactional_id is not None:
                self._begin_transaction()
            not_taken, failed = self._sent(messages)
        return not_taken | failed

    def _sent(self, messages: Sequence[Message]) -> tuple[dict[int, errors.KafkaError], dict[int, errors.KafkaError]]:
        """The places of records that were not even sent, those of records that failed, and why."""
        not_taken: dict[int, errors.KafkaError] = {}
        failed: dict[int, KafkaError] = {}
        for at, item in enumerate(messages):
            if (error := self._produced(item, partial(_note, failed, at))) is not None:
                not_taken[at] = error
        self._flush()
        return not_taken, {at: _same(error) for at, error in failed.items()}

    def _produced(self, item: Message, note: Any) -> errors.KafkaError | None:  # noqa: ANN401
        if not _is_sendable(item):
            return INVALID("a header's name holds a zero byte, or is no text")
        try:
            self._ready().produce(item.topic, item.value, item.key, headers=list(item.headers), on_delivery=note)
        except KafkaException as error:
            if isinstance(known := self._known(error), FOR_GOOD):
                return known
            raise
        return None

    def _flush(self) -> None:
        left = self._ready().flush(DELIVERY_MS / 1000)
        if left:
            raise errors.KafkaTimeoutError(f"{left} records were not settled within {DELIVERY_MS // 1000} s")

    def _known(self, error: Exception) -> Exception:
        # A fatal one that is raised between two callbacks comes as the cause of a SystemError.
        said = (one.args[0] for one in causes(error) if isinstance(one, KafkaException) and one.args)
        found = next((one for one in said if isinstance(one, KafkaError)), None)
        return error if found is None else _same(found)

    def _ready(self) -> Producer:
        if self._producer is None:
            options = _OPTIONS | self._cluster.librdkafka_options()
            if self._transactional_id is not None:
                options |= {"transactional.id": self._transactional_id, "transaction.timeout.ms": TRANSACTION_MS}
            if self._is_single:
                options["batch.num.messages"] = 1
            self._producer = Producer(options, logger=_LOGGER)
            try:
                self._producer.cluster_id(CONNECT_MS / 1000)
            except KafkaException as error:  # its text would blame the broker's age
                raise errors.KafkaTimeoutError(f"no broker answered within {CONNECT_MS // 1000} s") from error
            if self._transactional_id is not None:
                self._producer.init_transactions(DELIVERY_MS / 2000)
        return self._producer


def _note(failed: dict[int, KafkaError], at: int, error: KafkaError | None, _message: object) -> None:
    """Called for each record that was not delivered."""
    if error is not None:
        failed[at] = error


def _same(error: KafkaError) -> errors.KafkaError:
    """kafka-python's error for one of librdkafka's."""
    if error.code() in _UNREACHED:
        return errors.KafkaTimeoutError(error.str())
    if error.code() == _FENCED:
        return errors.ProducerFencedError(error.str())
    if error.code() > 0:
        return errors.for_code(error.code())(error.str())
    return errors.KafkaError(str(error))


def _is_sendable(item: Message) -> bool:
    names = "".join([name for name, _ in item.headers])
    if "\0" in names:
        return False
    if names.isascii():
        return True
    with contextlib.suppress(UnicodeEncodeError):
        return bool(names.encode())
    return False
