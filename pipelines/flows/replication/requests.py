"""Requests to a flow, and their answers: made by any thread, carried out by the flow's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

WAITS, DONE, REFUSED = "waits", "done", "refused"


class Asked(Protocol):
    """One request with its answer so far."""

    state: str


K = TypeVar("K", bound=Hashable)
A = TypeVar("A", bound=Asked)


class Requests(Generic[K, A]):
    """Requests by their key: whoever asks again gets the answer. At most `kept_max` settled ones are kept."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._asked: dict[K, A] = {}
        self._lock = threading.Lock()

    def ask(self, key: K, new: Callable[[], A]) -> A:
        """Note a new request under this key, or return the one that is there."""
        with self._lock:
            if key not in self._asked:
                settled = [name for name, asked in self._asked.items() if asked.state != WAITS]
                for name in settled[: max(0, len(self._asked) - self._kept_max + 1)]:
                    del self._asked[name]
                self._asked[key] = new()
            return self._asked[key]

    def waiting(self) -> list[A]:
        """The requests that are not settled, oldest first."""
        with self._lock:
            return [asked for asked in self._asked.values() if asked.state == WAITS]
