"""The machine's own time and entropy: the only place, beside the other adapters, that may ask for them."""

from __future__ import annotations

import time
import uuid


class SystemClock:
    """Implements Clock with CLOCK_BOOTTIME, which counts suspended time and never jumps."""

    def boottime_s(self) -> float:
        """Seconds on this machine's own clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))


class SystemEntropy:
    """Implements Entropy with random UUIDs."""

    def new_id(self) -> str:
        """32 hexadecimal digits."""
        return uuid.uuid4().hex
