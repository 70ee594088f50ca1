"""Trying again with tenacity, on the Clock port's time: tenacity's own stop and wait would ignore a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

from pipelines.errors import RetryableError
from pipelines.ports import Clock

T = TypeVar("T")
WAIT_S, WAIT_S_MAX = 0.2, 5.0


def retrying(call: Callable[[], T], *, clock: Clock, deadline_s: float, waits: Callable[[str], None]) -> T:
    """Call until it no longer raises RetryableError; the last one is raised when the time is over.

    Args:
        call: what to do; it may be done several times.
        clock: measures and waits.
        deadline_s: how long in all, on that clock.
        waits: is told the reason before each wait, which doubles up to a bound.
    """
    began_s = clock.boottime_s()

    def tell(state: tenacity.RetryCallState) -> None:
        if state.outcome is not None:
            waits(str(state.outcome.exception()))

    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetryableError),
        stop=lambda _state: clock.boottime_s() - began_s >= deadline_s,
        wait=tenacity.wait_exponential(multiplier=WAIT_S, max=WAIT_S_MAX),
        sleep=clock.sleep,
        before_sleep=tell,
        reraise=True,
    )
    return retry(call)
