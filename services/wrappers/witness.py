"""The witness as many runs of one process ask it: each request counted, and one at a time while it does not answer.

Without that, a witness that swallows requests would hold every thread of the scheduler for the whole timeout, and the
runs would stand still until it is back. A request that is held back was never sent: to its caller that is a
RetryableError, for a write too, and not an unknown outcome. A witness that refuses one run's request, or whose record
of one run cannot be read, has answered: the other runs go on.

Before the first request it is tried whether it can be a witness at all (`services.adapters.s3.conformance`). Until that
has passed nothing is read there, and nothing written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry

from pipelines.core.lease import Held
from pipelines.errors import RetryableError
from pipelines.ports import GroupStore, LeaseStore
from schemas.records import Lease, LeaseGroup
from services.runtime.metrics import WITNESS_REQUESTS, CounterCollector


class WitnessStore(LeaseStore, GroupStore, Protocol):
    """Everything that is asked of a witness."""


class Witness:
    """Implements LeaseStore and GroupStore around another; may be shared by threads.

    Args:
        leases: the witness.
        registry: counts the requests.
        prove: raises MisconfiguredError if the witness is unfit, RetryableError if it does not answer.
    """

    def __init__(
        self, leases: WitnessStore, registry: CollectorRegistry, prove: Callable[[], None] = lambda: None
    ) -> None:
        self._leases = leases
        self._prove = prove
        self._proving = threading.Lock()
        self._proven = False
        self._lock = threading.Lock()
        self._away = False
        self._tried = False  # somebody is trying whether it is back
        self._requests = CounterCollector(WITNESS_REQUESTS)
        registry.register(self._requests)

    def prove(self) -> None:
        """Find out whether it can be a witness, unless that is known.

        Raises:
            RetryableError: it does not answer, or another thread is finding out; the next request tries again.
            MisconfiguredError: it cannot be one, or denies us.
        """
        if self._proven:
            return
        if not self._proving.acquire(blocking=False):
            raise RetryableError("whether the witness can be one is being tried out")
        try:
            self._prove()
            self._proven = True
        finally:
            self._proving.release()

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore."""
        with self._asking("read"):
            return self._leases.read(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore."""
        with self._asking("write"):
            return self._leases.write(lease, expected_etag)

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Implements LeaseStore."""
        with self._asking("claim"):
            return self._leases.claim(run, epoch, body)

    def claimed(self, run: str) -> int:
        """Implements LeaseStore."""
        with self._asking("claimed"):
            return self._leases.claimed(run)

    def note(self, lease: Lease) -> None:
        """Implements LeaseStore."""
        with self._asking("note"):
            self._leases.note(lease)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """Implements LeaseStore; counted as one, though it is one for each note."""
        with self._asking("history"):
            return self._leases.noted(run)

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """Implements GroupStore."""
        with self._asking("read_group"):
            return self._leases.read_group(group)

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """Implements GroupStore."""
        with self._asking("write_group"):
            return self._leases.write_group(group, expected_etag)

    @contextlib.contextmanager
    def _asking(self, kind: str) -> Iterator[None]:
        with self._lock:
            tries = self._away
            if tries and self._tried:
                raise RetryableError("the witness does not answer; another request tries it")
            self._tried = tries
        self._requests.add(kind)
        away = False
        try:
            self.prove()
            yield
        except RetryableError:
            away = True
            raise
        finally:
            with self._lock:
                self._away = away
                self._tried = self._tried and not tries
