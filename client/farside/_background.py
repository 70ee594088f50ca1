"""A thread for the small writes that a training step must not wait for."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("farside")
_TELL_S = 60.0


class Background:
    """Runs jobs one after another on one daemon thread; of the *newest* kind only the latest waits.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_s = float("-inf")
        self._untold = 0
        self._wake = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._newest: Callable[[], None] | None = None
        self._busy = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` after those before it. It must not raise; an OSError of it is logged, once a minute."""
        with self._wake:
            self._jobs.append(job)
            self._start()

    def replace_newest(self, job: Callable[[], None]) -> None:
        """Run ``job`` soon, in place of the one given before if that has not begun."""
        with self._wake:
            self._newest = job
            self._start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything given so far is done; False if that takes longer than ``timeout_s``."""
        with self._wake:
            return self._wake.wait_for(self._is_idle, timeout_s)

    def _is_idle(self) -> bool:
        return not self._jobs and self._newest is None and not self._busy

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="farside-background", daemon=True)
            self._thread.start()
        self._wake.notify_all()

    def _work(self) -> None:
        while True:
            job = self._next()
            try:
                job()
            except OSError:
                self._tell()
            finally:
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()

    def _tell(self) -> None:
        """Log the failure, but not at every step of a disk that stays full: that log may lie on the same disk."""
        now_s = self._clock()
        if now_s - self._told_s < _TELL_S:
            self._untold += 1
            return
        _log.warning("farside could not write to its spool (%d times more before)", self._untold, exc_info=True)
        self._told_s, self._untold = now_s, 0

    def _next(self) -> Callable[[], None]:
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._newest is not None)
            self._busy = True
            if self._jobs:
                return self._jobs.popleft()
            job, self._newest = self._newest, None
            return job if job is not None else _nothing


def _nothing() -> None:
    """Does nothing; stands for a job where there is none."""
