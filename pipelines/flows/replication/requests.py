"""What was asked of a flow, and what has become of it: asked by any thread, taken up by the flow's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

WAITS, DONE, REFUSED = "waits", "done", "refused"


class Asked(Protocol):
    """One wish with its answer so far."""

    state: str

    def plain(self) -> dict[str, object]:
        """The answer, as JSON."""


K = TypeVar("K", bound=Hashable)
A = TypeVar("A", bound=Asked)


class Requests(Generic[K, A]):
    """Wishes by their key: whoever asks again gets the answer. At most `kept_max` of those that are settled stay."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._asked: dict[K, A] = {}
        self._lock = threading.Lock()

    def ask(self, key: K, new: Callable[[], A]) -> dict[str, object]:
        """Note a wish, or say what has become of it."""
        with self._lock:
            if key not in self._asked:
                settled = [name for name, one in self._asked.items() if one.state != WAITS]
                for name in settled[: max(0, len(self._asked) - self._kept_max + 1)]:
                    del self._asked[name]
                self._asked[key] = new()
            return self._asked[key].plain()

    def waiting(self) -> list[A]:
        """Those that are not settled, oldest first."""
        with self._lock:
            return [one for one in self._asked.values() if one.state == WAITS]
