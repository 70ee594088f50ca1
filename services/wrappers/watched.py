"""An EventLog whose calls always return: one that takes too long is given up, and the client that it hangs in with it.

A client library may wait for ever for an acknowledgement, or inside a flush. Every call therefore runs on a thread of
the client's own; after `unanswered_s` the caller gets RetryableError, and the next call gets a fresh client, by the
next endpoint. An error makes the next call go by the next endpoint, too: where one path to a region's Kafka is dead,
the others are tried in turn.

The client that was given up may still deliver what it was given. That does no harm: the caller publishes the same
events again until they are acknowledged, and only then others, so what comes late is a duplicate of something known
(I15). A transaction that was given up may still commit; its outcome is unknown, and the next client's first
transaction settles it (its `transactional.id` is the same, so the older one is fenced).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.errors import MisconfiguredError, RetryableError, UnknownOutcomeError
from pipelines.ports import Journal, Message
from schemas.http_bodies import KafkaPathStatus

HANGING_MAX = 16


class ClosableLog(Protocol):
    """An EventLog that holds connections."""

    def publish(self, messages: Sequence[Message]) -> None:
        """As `EventLog.publish`."""

    def transaction(self, messages: Sequence[Message]) -> None:
        """As `EventLog.transaction`."""

    def close(self) -> None:
        """Give the connections up."""


def endpoints(addresses: str) -> tuple[str, ...]:
    """The paths to one cluster that a setting names, with commas between."""
    paths = tuple(address.strip() for address in addresses.split(",") if address.strip())
    if not paths:
        raise MisconfiguredError(
            "the address of a region's Kafka is empty: give host:port, several with commas between"
        )
    return paths


@dataclass(slots=True)
class _Call:
    run: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class _Client:
    """One log and the thread that all its calls run on."""

    def __init__(self, log: ClosableLog) -> None:
        self.log = log
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="kafka-client", daemon=True)
        self.thread.start()

    def call(self, run: Callable[[], None], timeout_s: float) -> bool:
        """Run it there; False if it has not ended in time. What it raises is raised."""
        call = _Call(run)
        self._calls.put(call)
        if not call.done.wait(timeout_s):
            return False
        if call.error is not None:
            raise call.error
        return True

    def end(self) -> None:
        """Close the log, once what it is in has returned; nobody waits for that."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.run()
            except BaseException as error:  # noqa: BLE001 - it is the caller's, who waits for it
                call.error = error
            call.done.set()
        with contextlib.suppress(Exception):  # it is being thrown away
            self.log.close()


class WatchedLog:
    """Implements EventLog over clients that are made when needed, each by the endpoint whose turn it is.

    Args:
        makers: one for each path to the same cluster.
        unanswered_s: how long a call may take.
        journal: records each client that is given up, and each change of the path.
    """

    def __init__(self, makers: Sequence[Callable[[], ClosableLog]], unanswered_s: float, journal: Journal) -> None:
        self._makers = tuple(makers)
        self._unanswered_s = unanswered_s
        self._journal = journal
        self._path = 0
        self._client: _Client | None = None
        self._hanging: list[threading.Thread] = []
        self._rebuilt = 0

    def publish(self, messages: Sequence[Message]) -> None:
        """Append and return when all are acknowledged."""
        self._call(lambda log: log.publish(messages), RetryableError)

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none."""
        self._call(lambda log: log.transaction(messages), UnknownOutcomeError)

    def close(self) -> None:
        """Drop the client; the next call makes another."""
        client, self._client = self._client, None
        if client is not None:
            client.end()
            client.thread.join(self._unanswered_s)

    def status(self) -> KafkaPathStatus:
        """Which path is used, and how often a client hung."""
        hanging = sum(thread.is_alive() for thread in self._hanging)
        return KafkaPathStatus(path=self._path, paths=len(self._makers), rebuilt=self._rebuilt, hanging=hanging)

    def _call(self, run: Callable[[ClosableLog], None], unknown: type[RetryableError]) -> None:
        client = self._client = self._client or _Client(self._makers[self._path]())
        try:
            answered = client.call(lambda: run(client.log), self._unanswered_s)
        except RetryableError as error:
            self._next_path(str(error))
            raise
        if not answered:
            self._give_up(client)
            raise unknown(f"Kafka has not answered for {self._unanswered_s:.0f} s: its client is made anew")

    def _next_path(self, why: str) -> None:
        if len(self._makers) == 1:
            return  # the log makes its producer anew by itself
        if self._client is not None:
            self._client.end()
            self._client = None
        self._path = (self._path + 1) % len(self._makers)
        self._journal.say("kafka.next_path", path=self._path, why=why)

    def _give_up(self, client: _Client) -> None:
        client.end()
        self._client = None
        self._rebuilt += 1
        self._hanging = [thread for thread in (*self._hanging, client.thread) if thread.is_alive()]
        self._journal.say("kafka.rebuilt", unanswered_s=self._unanswered_s, hanging=len(self._hanging))
        self._path = (self._path + 1) % len(self._makers)
        if len(self._hanging) > HANGING_MAX:  # each holds a thread and a socket: better a fresh process
            raise RuntimeError(f"{len(self._hanging)} clients of Kafka hang in calls that do not return")
