"""Starting processes again when they end: the loop behind `farside supervise` and behind the local stack's servers.

Standard library only, since the local stack uses it too. The processes die with the one that supervises them, however
that ends (`child_processes.spawn`).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.runtime.child_processes import kill_families, start_ticks
from services.runtime.restarts import RestartPolicy, Restarts, after_end

Child = subprocess.Popen[bytes]
END_S = 20.0


@dataclass(slots=True)
class Supervised:
    """One process that is to run: how it is started, and what has become of it.

    Attributes:
        name: for people.
        start: starts it; what it raises counts as an end with exit code 1.
        child: it, or its remains; None before the first start.
        restarts: its ends.
    """

    name: str
    start: Callable[[], Child]
    child: Child | None = None
    restarts: Restarts = field(default_factory=Restarts)
    started_s: float = 0.0
    due_s: float | None = 0.0  # None: it runs

    @property
    def pid(self) -> int | None:
        """Its process id; None while it is down."""
        return self.child.pid if self.child is not None and self.due_s is None else None

    @property
    def ticks(self) -> int | None:
        """When it started, in the kernel's ticks: with the process id it names it for good; None while it is down."""
        return None if self.pid is None else start_ticks(self.pid)


class Supervisor:
    """Keeps processes running. Call `look` again and again, from one thread.

    Args:
        processes: those that are to run.
        policy: how long one that ended stays down.
        say: is told of each end and each new start, in a sentence.
        now_s: a clock that does not jump: measures how long each ran, and stays down.
    """

    def __init__(
        self,
        processes: Iterable[Supervised],
        policy: RestartPolicy,
        say: Callable[[str], None],
        now_s: Callable[[], float],
    ) -> None:
        self.processes = tuple(processes)
        self._policy, self._say, self._now_s = policy, say, now_s

    def look(self) -> bool:
        """Start what is due, and account for what has ended; True if anything changed."""
        changed = [self._look_at(process) for process in self.processes]
        return any(changed)

    def end(self) -> None:
        """End everything in order: SIGTERM to all, then SIGKILL for those that do not end, with their children."""
        children = [process.child for process in self.processes if process.child is not None]
        for child in children:
            if child.poll() is None:
                child.terminate()
        end_s = self._now_s() + END_S
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, end_s - self._now_s()))
        kill_families([child for child in children if child.poll() is None])

    def _look_at(self, process: Supervised) -> bool:
        now_s = self._now_s()
        if process.due_s is None:
            code = None if process.child is None else process.child.poll()
            if code is None:
                return False
            self._ended(process, code, now_s)
        elif now_s < process.due_s:
            return False
        else:
            self._start(process, now_s)
        return True

    def _start(self, process: Supervised, now_s: float) -> None:
        process.started_s = now_s
        try:
            process.child = process.start()
        except Exception as error:  # noqa: BLE001 - it did not come up: tried again as if it had ended
            self._say(f"{process.name} could not be started: {error}")
            self._ended(process, 1, self._now_s())
            return
        process.due_s = None
        if process.restarts.count:
            self._say(f"{process.name} was started again ({process.restarts.count})")

    def _ended(self, process: Supervised, code: int, now_s: float) -> None:
        process.restarts = after_end(process.restarts, code, now_s - process.started_s, self._policy)
        process.due_s = now_s + process.restarts.wait_s
        self._say(
            f"{process.name} ended with {process.restarts.reason}; it is started again in "
            f"{process.restarts.wait_s:.1f} s"
        )
