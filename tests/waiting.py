"""Waiting for a condition with a deadline: tests never sleep a fixed time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_S = 0.02


@contextmanager
def repeated(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do something again and again on a thread of its own, as long as the block runs."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(every_s):
            act()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def wait_until(condition: Callable[[], object], deadline_s: float, what: str) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it did not within `deadline_s`; `what` says what was waited for.
    """
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(f"{what}: not within {deadline_s} s")
        time.sleep(POLL_S)
