"""The lineages by which a lane judges its events, read from this region's store no more often than the proof needs.

To read a lineage is a request to the store, and a lane that settles a thousand metrics a second in small transactions
would make two for each of them. Which age is permitted:

- **Checkpoints and data versions** (`age_s` 0): once a turn, and again directly before each transaction (6.2).
- **Metrics**: `age_s`. Metrics run ahead of the checkpoints, so those past a fork are in the lane of a region already
  when it wins an epoch, and every reader judges an event by the lineage (the fence is at the reader). One that becomes
  visible within `age_s` after the fork is known here is no other than one that did so just before. No bound was
  stricter: the process could always be halted between its reading and its commit.
- **An event that is set aside** is judged by what the store says directly before the transaction, in every lane: an
  epoch that adopts a branch makes events count that did not, and nobody looks at a dead letter again unasked.
- **An epoch that is not known yet** is asked for at the next turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.core.lineage import LineageView
from pipelines.ports import Clock


@dataclass(frozen=True, slots=True)
class _Seen:
    view: LineageView | None
    at_s: float


class SeenLineages:
    """Keeps what was read of each run's lineage. Not for two threads.

    Args:
        read: reads a run's lineage from this region's store.
        clock: this process's.
        age_s: what was read so long ago is read again; 0: at each turn and before each transaction.
    """

    def __init__(self, read: Callable[[str], LineageView | None], clock: Clock, age_s: float) -> None:
        self._read, self._clock, self._age_s = read, clock, age_s
        self._seen: dict[str, _Seen] = {}

    def begin_turn(self) -> None:
        """Forget what is too old, and what is None."""
        self._seen = {run: seen for run, seen in self._seen.items() if seen.view is not None and self._is_young(seen)}

    def clear(self) -> None:
        """Forget all of it."""
        self._seen.clear()

    def forget(self, run: str) -> None:
        """Read a run's lineage again at the next turn: it does not say enough."""
        if run in self._seen:
            self._seen[run] = _Seen(self._seen[run].view, float("-inf"))

    def view(self, run: str) -> LineageView | None:
        """A run's lineage, the same all through a turn; None while the region knows none.

        Raises:
            RetryableError: the store does not answer.
        """
        seen = self._seen.get(run) or self._look(run)
        return seen.view

    def still(self, run: str, view: LineageView | None, *, exactly: bool) -> bool:
        """Whether a lineage is what outcomes may rest on now.

        Args:
            run: whose.
            view: what they rest on.
            exactly: only what the store says now will do.

        Raises:
            RetryableError: the store does not answer.
        """
        seen = self._seen.get(run)
        if exactly or seen is None or not self._is_young(seen):
            seen = self._look(run)
        return seen.view == view

    def _look(self, run: str) -> _Seen:
        at_s = self._clock.boottime_s()  # before the reading: so long it is known to be true
        self._seen[run] = _Seen(self._read(run), at_s)
        return self._seen[run]

    def _is_young(self, seen: _Seen) -> bool:
        return self._clock.boottime_s() - seen.at_s < self._age_s
