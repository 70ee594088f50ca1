"""Waiting for a condition with a deadline: tests never sleep a fixed time."""

import time
from collections.abc import Callable

POLL_S = 0.02


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
