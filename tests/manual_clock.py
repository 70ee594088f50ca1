"""A clock that the test turns."""

from __future__ import annotations


class ManualClock:
    """Implements Clock: waiting is what moves it, and so does setting `now_s`."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s
        self.waits_s: list[float] = []

    def boottime_s(self) -> float:
        """Implements Clock."""
        return self.now_s

    def wall_ms(self) -> int:
        """Implements Clock."""
        return int(self.now_s * 1000)

    def sleep(self, seconds: float) -> None:
        """Implements Clock: does not wait."""
        self.now_s += seconds
        self.waits_s.append(seconds)
