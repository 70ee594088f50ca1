"""A few threads that turn many flows: each flow when it is due or woken, and never by two threads at once.

One thread waits for the flow that is due next, the others for work: of sixty idle threads one wakes at a time.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.ports import Clock

Flow = Callable[[], float]
DAY_S = 86_400.0  # nothing due: any wait does


@dataclass(slots=True)
class _Entry:
    flow: Flow
    due_s: float
    turning: bool = False


class Scheduler:
    """Flows by name, and the order in which they are turned.

    Args:
        clock: tells when a flow is due.
        threads: how many may turn at once; also how many may wait for slow answers before others are late.
    """

    def __init__(self, clock: Clock, threads: int) -> None:
        self.threads = threads
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._queue: list[tuple[float, str]] = []  # may hold entries that were woken since, which are skipped
        self._lock = threading.Lock()
        self._sooner = threading.Condition(self._lock)  # for the one that waits for the time
        self._work = threading.Condition(self._lock)  # for the others
        self._watched = False
        self._ended = False

    def add(self, name: str, flow: Flow) -> None:
        """One more flow, due at once."""
        with self._lock:
            self._entries[name] = _Entry(flow, math.inf)
            self._due(name, -math.inf)

    def wake(self, name: str) -> None:
        """Turn a flow as soon as a thread is free; once more, if it is being turned. Names yet to come are ignored."""
        with self._lock:
            if name in self._entries:
                self._due(name, -math.inf)

    def take(self) -> tuple[str, Flow] | None:
        """Wait for a flow that is due, and have it to oneself until `done`; None at the end."""
        with self._lock:
            while not self._ended:
                left_s = self._left_s()
                if left_s <= 0:
                    name = heapq.heappop(self._queue)[1]
                    entry = self._entries[name]
                    entry.turning, entry.due_s = True, math.inf
                    self._work.notify()  # whoever is free looks for the next one
                    return name, entry.flow
                if self._watched:
                    self._work.wait()
                else:
                    self._watched = True
                    self._sooner.wait(min(left_s, DAY_S))
                    self._watched = False
            return None

    def done(self, name: str, wait_s: float) -> None:
        """Give a flow back, to be turned again after a while, or at once if it was woken meanwhile."""
        with self._lock:
            entry = self._entries[name]
            due_s, entry.turning, entry.due_s = entry.due_s, False, math.inf
            self._due(name, min(due_s, self._clock.boottime_s() + wait_s))

    def end(self) -> None:
        """Make every `take` answer None, so that the threads end."""
        with self._lock:
            self._ended = True
            self._sooner.notify_all()
            self._work.notify_all()

    def __len__(self) -> int:
        return len(self._entries)

    def _due(self, name: str, at_s: float) -> None:
        entry = self._entries[name]
        if entry.turning:
            entry.due_s = min(entry.due_s, at_s)
        elif at_s < entry.due_s:
            entry.due_s = at_s
            heapq.heappush(self._queue, (at_s, name))
            if self._watched:
                self._sooner.notify()
            else:
                self._work.notify()

    def _left_s(self) -> float:
        """Until the first flow is due; what was overtaken by a wake, or is being turned, is dropped."""
        while self._queue:
            due_s, name = self._queue[0]
            entry = self._entries[name]
            if entry.due_s == due_s:  # never so while it is turned: see `_due`
                return due_s - self._clock.boottime_s()
            heapq.heappop(self._queue)
        return math.inf
