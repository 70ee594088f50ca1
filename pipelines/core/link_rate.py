"""How fast bytes cross a link while something crosses it. Pure: counters and `now` in, a rate out."""

from __future__ import annotations

import math

HALF_LIFE_S = 30.0


class LinkRate:
    """A rate that forgets: what was measured `HALF_LIFE_S` of busy time ago weighs half.

    Idle time does not count: a link over which nothing is sent is not a slow link.
    """

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._total_bytes = 0
        self._bytes = 0.0
        self._busy_s = 0.0

    def observe(self, now_s: float, total_bytes: int, *, is_busy: bool) -> None:
        """Take in a reading.

        Args:
            now_s: on the caller's clock.
            total_bytes: all that ever crossed; smaller than before where a cancelled copy's bytes are dropped.
            is_busy: whether something has been crossing since the last reading.
        """
        moved = max(0, total_bytes - self._total_bytes)
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        if self._at_s is not None and (is_busy or moved):
            kept = math.exp2(-elapsed_s / HALF_LIFE_S)
            self._bytes, self._busy_s = self._bytes * kept + moved, self._busy_s * kept + elapsed_s
        self._at_s, self._total_bytes = now_s, total_bytes

    @property
    def bytes_s(self) -> float | None:
        """Bytes a second; None before anything crossed."""
        return self._bytes / self._busy_s if self._bytes > 0 and self._busy_s > 0 else None
