"""The writing side of a region's Kafka without a client library: when a call has failed, and what that means.

Each library's producer is under it, as a subclass of `WritingLog`: kafka-python's (`log.py`) and librdkafka's
(`librdkafka_log.py`). A producer is made at first use and thrown away after every error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from kafka import errors

from pipelines.core.message_size import MESSAGE_BYTES_MAX, size_bytes
from pipelines.errors import FarsideError, FencedError, RefusedError, RetryableError, UnknownOutcomeError
from pipelines.ports import Message
from services.adapters.kafka.acls import translated
from services.adapters.kafka.connection import KafkaCluster

DELIVERY_MS = 10_000
# Without a linger the sender takes each record as it comes, wakes for it, and makes a request of it. So all that is
# published together waits for the flush that follows at once; a batch is smaller than what a broker takes, 1 MiB.
LINGER_MS, BATCH_BYTES = 1_000, 512 * 1024
TRANSACTION_MS = 15_000  # one that its writer left open holds back everybody's committed reads for so long
# A broker that says so says it again, however often it is asked; the libraries retry none of them.
INVALID = errors.InvalidRecordError
FOR_GOOD = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, INVALID)
_FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.TransactionCoordinatorFencedError)


class WritingLog(ABC):
    """Implements EventLog over a library's producer: idempotent, acks=all, transactional if it has an id.

    Args:
        cluster: whose log.
        transactional_id: of the one writer that may write under it; None for a log that makes no transactions.
    """

    def __init__(self, cluster: KafkaCluster, transactional_id: str | None = None) -> None:
        self._cluster = cluster
        self._transactional_id = transactional_id
        self._fenced = ""

    def publish(self, messages: Sequence[Message]) -> None:
        """Append and return when all are acknowledged."""
        try:
            self._send(messages)
        except RefusedError:
            self.close()  # of what was sent beside it, nothing is known
            raise
        except Exception as error:  # a client whose connection dies under it also raises what is none of its own
            self.close()
            raise self._translated(self._known(error), messages) from error

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none; an error after the commit was sent leaves the outcome unknown. Once fenced, for ever."""
        if self._fenced:
            raise FencedError(self._fenced)  # another producer of ours would fence who fenced us
        committing = False
        try:
            self._begin_transaction()
            self._send(messages)
            committing = True
            self._commit_transaction()
        except RefusedError:
            self.close()
            raise
        except Exception as error:  # as above
            self.close()  # the next producer's init_transactions settles whatever this one left open
            known = self._known(error)
            if isinstance(known, _FENCED):
                self._fenced = f"transactional id {self._transactional_id}: {known!r}"
                raise FencedError(self._fenced) from error
            kind = UnknownOutcomeError if committing else RetryableError
            raise self._translated(known, messages, kind) from error

    @abstractmethod
    def close(self) -> None:
        """Drop the producer; the next call makes another."""

    @abstractmethod
    def _begin_transaction(self) -> None:
        """Begin one, with a producer that has fenced every older one of the same id."""

    @abstractmethod
    def _append(self, messages: Sequence[Message]) -> Mapping[int, errors.KafkaError]:
        """Send records and wait until each is settled: the places of those that were not appended, and why."""

    @abstractmethod
    def _flush(self) -> None:
        """Send what has been put into the producer, and wait until it is settled."""

    @abstractmethod
    def _commit_transaction(self) -> None:
        """Commit the transaction whose records are all there."""

    def _known(self, error: Exception) -> Exception:
        """The error of kafka-python that says the same as one of the producer's library."""
        return error

    def _send(self, messages: Sequence[Message]) -> None:
        failed = self._append(messages)
        refused = {at: error for at, error in failed.items() if isinstance(error, FOR_GOOD)}
        if refused:
            sure = _surely(refused, messages)
            too_large = [at for at in sure if not isinstance(refused[at], INVALID)]
            raise RefusedError({at: _why_refused(messages[at], refused[at]) for at in sure}, too_large)
        for error in failed.values():
            raise error

    def _translated(
        self, error: Exception, messages: Sequence[Message], kind: type[FarsideError] = RetryableError
    ) -> FarsideError:
        """Of an idempotent producer that may write no topic at all, the broker says that the cluster refuses it."""
        what = f"topic {', '.join(sorted({item.topic for item in messages}))}"
        if not messages or isinstance(error, errors.TransactionalIdAuthorizationFailedError):
            what = f"transactional id {self._transactional_id}"
        return translated(self._cluster, error, f"Describe and Write on {what}", kind)


def _surely(refused: Mapping[int, errors.KafkaError], messages: Sequence[Message]) -> list[int]:
    """Those of the refused records that are certainly the reason.

    After one that is too large a library also fails what it would have sent behind it, with the same error. So of
    each topic only the largest counts, and those as large; if there are more, the next try shows them.
    """
    sizes = {at: _size_of(messages[at]) for at, error in refused.items() if not isinstance(error, INVALID)}
    largest: dict[str, int] = {}
    for at, size in sizes.items():
        largest[messages[at].topic] = max(size, largest.get(messages[at].topic, 0))
    return [at for at in refused if at not in sizes or sizes[at] == largest[messages[at].topic]]


def _size_of(item: Message) -> int:
    return size_bytes(item.key, item.value, item.headers)


def _why_refused(item: Message, error: errors.KafkaError) -> str:
    size = _size_of(item)
    text = f"topic {item.topic} refuses a record of {size} bytes for good ({type(error).__name__})"
    if isinstance(error, INVALID):
        return f"{text}: {error}"
    if size > MESSAGE_BYTES_MAX:
        return f"{text}: Farside sends at most {MESSAGE_BYTES_MAX} bytes as one record"
    return (
        f"{text}: the topic's max.message.bytes or segment.bytes is smaller; Farside creates topics with "
        f"max.message.bytes={MESSAGE_BYTES_MAX}: set it so"
    )
