"""Calls to Kafka always return: what hangs is given up, and the next call goes another way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines.errors import FencedError, MisconfiguredError, RetryableError, UnknownOutcomeError
from pipelines.ports import Message
from schemas.http_bodies import KafkaPathStatus
from services.wrappers.watched import HANGING_MAX, WatchedLog, endpoints
from tests.waiting import wait_until

ONE = (Message("t", b"k", b"v"),)


class _Kafka:
    """A cluster with paths that work, refuse or swallow a call; `thaw` lets the swallowed ones go on."""

    def __init__(self, *ways: str) -> None:
        self.ways = list(ways)
        self.thaw = threading.Event()
        self.made: list[int] = []
        self.closed: list[int] = []
        self.received: list[tuple[int, tuple[Message, ...]]] = []
        self.said: list[tuple[str, dict[str, Any]]] = []

    def log(self, unanswered_s: float = 0.1) -> WatchedLog:
        makers = [lambda path=path: _Client(self, path) for path in range(len(self.ways))]
        return WatchedLog(makers, unanswered_s, self)

    def say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - as the port
        self.said.append((event, fields))


class _Client:
    def __init__(self, kafka: _Kafka, path: int) -> None:
        self._kafka, self._path = kafka, path
        kafka.made.append(path)

    def publish(self, messages: Sequence[Message]) -> None:
        way = self._kafka.ways[self._path]
        if way == "refuses":
            raise RetryableError("connection refused")
        if way == "fenced":
            raise FencedError("a newer one")
        if way == "hangs":
            self._kafka.thaw.wait(30)
        self._kafka.received.append((self._path, tuple(messages)))

    transaction = publish

    def close(self) -> None:
        self._kafka.closed.append(self._path)


def test_I16_a_call_that_does_not_return_is_given_up_and_its_client_is_made_anew() -> None:
    """The caller gets RetryableError in time; what hung is closed once it comes back, however late."""
    kafka = _Kafka("hangs")
    log = kafka.log()
    with pytest.raises(RetryableError, match="not answered"):
        log.publish(ONE)
    assert log.status() == KafkaPathStatus(path=0, paths=1, rebuilt=1, hanging=1)
    kafka.ways[0] = "works"
    log.publish(ONE)
    assert kafka.made == [0, 0]
    assert kafka.received == [(0, ONE)]
    kafka.thaw.set()
    wait_until(lambda: kafka.closed == [0], 10, "the client that was given up is closed")
    assert kafka.received == [(0, ONE), (0, ONE)], "it delivers late what the caller has published again"
    assert log.status().hanging == 0
    assert kafka.said == [("kafka.rebuilt", {"unanswered_s": 0.1, "hanging": 1})]
    log.close()


def test_a_transaction_that_does_not_return_has_an_unknown_outcome() -> None:
    """It may still commit: the replicator rebuilds from its log before it goes on (I4)."""
    kafka = _Kafka("hangs")
    with pytest.raises(UnknownOutcomeError):
        kafka.log().transaction(ONE)
    kafka.thaw.set()


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_with_one_path_dead_the_next_call_goes_by_the_other(dead: str) -> None:
    """And stays there while it works; when that one dies, the first has its turn again."""
    kafka = _Kafka(dead, "works")
    log = kafka.log()
    with pytest.raises(RetryableError):
        log.publish(ONE)
    log.publish(ONE)
    log.publish(ONE)
    assert kafka.received == [(1, ONE), (1, ONE)]
    kafka.ways[:] = ["works", dead]
    with pytest.raises(RetryableError):
        log.publish(ONE)
    log.publish(ONE)
    assert kafka.received[-1] == (0, ONE)
    assert kafka.made == [0, 1, 0]
    kafka.thaw.set()
    log.close()


def test_an_error_that_is_no_outage_changes_nothing() -> None:
    """A newer writer has fenced this one: that is the caller's to know, by whatever path."""
    kafka = _Kafka("fenced", "works")
    log = kafka.log()
    with pytest.raises(FencedError):
        log.transaction(ONE)
    assert (kafka.made, kafka.said) == ([0], [])
    log.close()


def test_too_many_hanging_clients_end_the_process_instead_of_filling_it() -> None:
    """Each holds a thread and a socket; a supervisor starts a fresh one, and the spool has everything."""
    kafka = _Kafka("hangs")
    log = kafka.log(unanswered_s=0.01)
    for _ in range(HANGING_MAX):
        with pytest.raises(RetryableError):
            log.publish(ONE)
    with pytest.raises(RuntimeError, match="hang in calls"):
        log.publish(ONE)
    kafka.thaw.set()


def test_addresses_are_parted_at_commas_and_none_is_refused() -> None:
    """One, several, with spaces; an empty setting says what is wanted."""
    assert endpoints("a:1") == ("a:1",)
    assert endpoints("a:1, b:2,") == ("a:1", "b:2")
    with pytest.raises(MisconfiguredError, match="host:port"):
        endpoints(" ,")
