"""A thread for the small writes that a training step must not wait for."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("farside")


class Background:
    """Runs jobs one after another on one daemon thread; of the *newest* kind only the latest waits."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._newest: Callable[[], None] | None = None
        self._busy = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` after those before it. It must not raise; an OSError of it is logged."""
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
                _log.warning("farside could not write to its spool", exc_info=True)
            finally:
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()

    def _next(self) -> Callable[[], None]:
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._newest is not None)
            self._busy = True
            if self._jobs:
                return self._jobs.popleft()
            job, self._newest = self._newest, None
            return job if job is not None else _nothing


def _nothing() -> None:
    """What is left when there is no job."""
