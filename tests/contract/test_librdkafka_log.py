"""The log through librdkafka: whatever that library raises is an error of ours, and nothing of its producer is kept."""

from __future__ import annotations

import itertools
import logging
import runpy
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipelines.core.message_size import MESSAGE_BYTES_MAX
from pipelines.errors import FarsideError, FencedError, MisconfiguredError, RefusedError, UnknownOutcomeError
from pipelines.ports import Message
from services.adapters.kafka import fast_log, librdkafka_log
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.librdkafka_log import LibrdkafkaLog
from services.adapters.kafka.log import KafkaLog

CLUSTER = KafkaCluster("127.0.0.1:1")
MESSAGES = (Message("t", b"k", b"v"), Message("t", b"k", b"w"))
CODES = sorted({getattr(KafkaError, name) for name in dir(KafkaError) if name.isupper()} | {-999, 999})
FLAGS: tuple[dict[str, bool], ...] = ({}, {"fatal": True}, {"retriable": True}, {"txn_requires_abort": True})
PLAIN: tuple[Exception, ...] = (
    BufferError("Local: Queue full"),
    RuntimeError("Producer closed"),
    SystemError("a callback returned a result with an exception set"),
    KafkaException(),
    KafkaException("no error in it"),
    TypeError("None"),
    ValueError("embedded null character"),
)
FENCED: int = getattr(KafkaError, "_FENCED")  # noqa: B009 - the library's public name for it has an underscore
STEPS = ("cluster_id", "init_transactions", "begin_transaction", "produce", "flush", "commit_transaction")


class _Library:
    """In place of librdkafka: raises `error` from the step `at`; `refuses` tells why a batch is not delivered."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.at = ""
        self.refuses: Callable[[list[bytes]], KafkaError | None] = lambda _: None
        self.made: list[weakref.ref[_Producer]] = []
        self.options: list[dict[str, Any]] = []
        self.steps: list[str] = []

    def producer(self, options: dict[str, Any], logger: logging.Logger) -> _Producer:
        assert not logger.propagate
        made = _Producer(_Calls(self, single=options.get("batch.num.messages") == 1))
        self.made.append(weakref.ref(made))
        self.options.append(options)
        return made


class _Producer:
    """As the library's: none of its own frames, which would hold it, is in a traceback."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self._calls, name)
        return found


class _Calls:
    def __init__(self, library: _Library, *, single: bool) -> None:
        self._library, self._single = library, single
        self._sent: list[tuple[bytes, Callable[[KafkaError, None], None]]] = []

    def produce(self, _topic: str, value: bytes, _key: bytes, headers: Any, on_delivery: Any) -> None:  # noqa: ANN401
        self._step("produce")
        assert isinstance(headers, list)
        self._sent.append((value, on_delivery))

    def flush(self, _timeout_s: float) -> int:
        self._step("flush")
        batches = [[one] for one in self._sent] if self._single else [self._sent]
        self._sent = []
        for batch in batches:
            error = self._library.refuses([value for value, _ in batch])
            for _, on_delivery in batch if error is not None else ():
                on_delivery(error, None)
        return 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self._step(name)

    def _step(self, name: str) -> None:
        self._library.steps.append(name)
        if self._library.error is not None and self._library.at in {name, "everything"}:
            raise self._library.error


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> _Library:
    """The one that every log's producer is made by."""
    found = _Library()
    monkeypatch.setattr(librdkafka_log, "Producer", found.producer)
    return found


def _calls(log: LibrdkafkaLog) -> dict[str, Callable[[], None]]:
    return {"publish": lambda: log.publish(MESSAGES), "transaction": lambda: log.transaction(MESSAGES)}


@pytest.mark.parametrize("call", ["publish", "transaction"])
def test_I18_a_writer_raises_only_errors_of_the_tree(library: _Library, call: str) -> None:
    """Every code that the library has, and some that it has not, at every step; afterwards the same log writes."""
    raised = [KafkaException(KafkaError(code, "planted", **FLAGS[code % len(FLAGS)])) for code in CODES]
    steps = (*STEPS, "everything") if call == "transaction" else ("cluster_id", "produce", "flush", "everything")
    for step, error in itertools.product(steps, [*raised, *PLAIN]):
        log = LibrdkafkaLog(CLUSTER, "id" if call == "transaction" else None)
        library.at, library.error = step, error
        with pytest.raises(FarsideError) as caught:
            _calls(log)[call]()
        if step == "commit_transaction":
            assert isinstance(caught.value, UnknownOutcomeError | FencedError | MisconfiguredError)
        library.error = None
        if not isinstance(caught.value, FencedError):
            _calls(log)[call]()
        log.close()


@pytest.mark.parametrize("call", ["publish", "transaction"])
def test_I18_a_record_that_is_not_delivered_raises_only_errors_of_the_tree(library: _Library, call: str) -> None:
    """Whatever its report says: never taken for delivered, and nothing is committed."""
    for code in set(CODES) - {KafkaError.NO_ERROR}:
        log = LibrdkafkaLog(CLUSTER, "id")
        library.steps.clear()

        def refuses(_: list[bytes], code: int = code) -> KafkaError:
            return KafkaError(code)

        library.refuses = refuses
        with pytest.raises(FarsideError) as caught:
            _calls(log)[call]()
        assert not isinstance(caught.value, UnknownOutcomeError)
        assert "commit_transaction" not in library.steps


def test_a_fenced_log_stays_fenced_however_the_library_says_it(library: _Library) -> None:
    """By a commit, by a report, and by a fatal error that is raised between two callbacks, as a SystemError's cause."""
    fatal = KafkaException(KafkaError(FENCED, "fenced by a newer instance", fatal=True))
    nested = SystemError("a callback returned a result with an exception set")
    nested.__cause__ = fatal
    for step, error in (("commit_transaction", fatal), ("flush", nested), ("begin_transaction", fatal)):
        log = LibrdkafkaLog(CLUSTER, "id")
        library.at, library.error = step, error
        with pytest.raises(FencedError, match="transactional id id"):
            log.transaction(MESSAGES)
        library.error = None
        made = len(library.made)
        with pytest.raises(FencedError):
            log.transaction(MESSAGES)
        assert len(library.made) == made, "another producer would fence who fenced this one"


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD])
def test_I18_of_a_batch_that_is_refused_only_the_record_that_is_refused_alone_is_named(
    library: _Library, code: int
) -> None:
    """The library fails the whole batch; it is sent again one record a batch, in a transaction of its own."""
    library.refuses = lambda batch: KafkaError(code) if b"bad" in batch else None
    messages = [Message("t", b"k", value) for value in (b"good", b"bad", b"better")]
    for call in ("publish", "transaction"):
        log = LibrdkafkaLog(CLUSTER, "id")
        library.steps.clear()
        with pytest.raises(RefusedError) as caught:
            log.publish(messages) if call == "publish" else log.transaction(messages)
        assert list(caught.value.refused) == [1]
        assert caught.value.too_large == ({1} if code == KafkaError.MSG_SIZE_TOO_LARGE else set())
        assert "commit_transaction" not in library.steps
        log.publish(messages[:1])
        assert "batch.num.messages" not in library.options[-1], "only those that are in doubt go one by one"


def test_a_topic_that_takes_less_than_a_batch_gets_its_records_one_by_one(library: _Library) -> None:
    """All of them, in their order; the second producer of the transaction commits it, and is kept."""
    library.refuses = lambda batch: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if len(batch) > 1 else None
    log = LibrdkafkaLog(CLUSTER, "id")
    log.transaction(MESSAGES)
    assert [step for step in library.steps if step.endswith(("transaction", "transactions"))] == [
        *("init_transactions", "begin_transaction"),
        *("init_transactions", "begin_transaction", "commit_transaction"),
    ]
    log.transaction(MESSAGES)
    assert len(library.made) == 2


def test_I18_a_record_that_the_library_does_not_take_is_refused_by_its_place(library: _Library) -> None:
    """One that it finds too large; and one whose header it would cut off, or which would end the process."""
    names = {"a\0b": False, "a\ud800b": False, "": True, "ä": True}
    for name, is_sent in names.items():
        log = LibrdkafkaLog(CLUSTER)
        messages = [*MESSAGES, Message("t", b"k", b"v", ((name, b"1"),))]
        if is_sent:
            log.publish(messages)
            continue
        with pytest.raises(RefusedError, match="a header's name") as caught:
            log.publish(messages)
        assert (list(caught.value.refused), caught.value.too_large) == ([2], frozenset())
    library.at, library.error = "produce", KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    with pytest.raises(RefusedError) as caught:
        LibrdkafkaLog(CLUSTER).publish([Message("t", b"k", b"x" * MESSAGE_BYTES_MAX)])
    assert caught.value.too_large == {0}


@pytest.mark.parametrize("step", STEPS)
def test_a_producer_that_is_given_up_is_purged_and_held_by_nobody(library: _Library, step: str) -> None:
    """The library ends its threads when nothing holds it; an error that somebody keeps has frames that could."""
    log = LibrdkafkaLog(CLUSTER, "id")
    library.at, library.error = step, KafkaException(KafkaError(KafkaError.NETWORK_EXCEPTION))
    with pytest.raises(FarsideError) as caught:
        log.transaction(MESSAGES)
    assert caught.value.__cause__ is not None
    library.error = None
    assert "purge" in library.steps
    assert [one for one in library.made if one() is not None] == []


def test_without_its_library_the_fast_log_is_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine for which there is no wheel of it, everything else is as before."""
    assert fast_log.WRITER == "librdkafka"
    assert isinstance(fast_log.log_of(CLUSTER, "id"), LibrdkafkaLog)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "services.adapters.kafka.librdkafka_log")
    without = runpy.run_path(fast_log.__file__)
    assert without["WRITER"] == "kafka-python"
    assert isinstance(without["log_of"](CLUSTER, "id"), KafkaLog)
