"""Trying again, on a clock that the test turns."""

from __future__ import annotations

import pytest

from pipelines.errors import FencedError, RetryableError
from services.wrappers.retrying import WAIT_S_MAX, retrying
from tests.manual_clock import ManualClock


def test_it_goes_on_until_it_works_and_waits_longer_each_time() -> None:
    """Each wait is told with its reason."""
    clock, told, left = ManualClock(), list[str](), [RetryableError("away"), RetryableError("still away")]

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    assert retrying(call, clock=clock, deadline_s=60.0, waits=told.append) == "done"
    assert told == ["away", "still away"]
    assert clock.waits_s == sorted(clock.waits_s)


def test_it_gives_up_when_the_time_is_over_with_the_last_reason() -> None:
    """By the port's clock, in simulated time."""
    clock = ManualClock()

    def call() -> str:
        raise RetryableError("away")

    with pytest.raises(RetryableError, match="away"):
        retrying(call, clock=clock, deadline_s=60.0, waits=lambda _why: None)
    assert 60.0 <= clock.now_s <= 60.0 + WAIT_S_MAX


def test_what_is_not_retryable_is_raised_at_once() -> None:
    """A fenced writer must stop."""
    clock = ManualClock()

    def call() -> str:
        raise FencedError("newer")

    with pytest.raises(FencedError):
        retrying(call, clock=clock, deadline_s=60.0, waits=lambda _why: None)
    assert clock.waits_s == []
