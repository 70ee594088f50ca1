"""Retriers as services and commands use them: on the system's clock, with jitter seeded from the system's entropy."""

from __future__ import annotations

import random

from services.adapters.system_clock import SystemClock, SystemEntropy
from services.wrappers.retrying import Retrier, RetryPolicy


def retrier_of(policy: RetryPolicy) -> Retrier:
    """Makes calls under a policy, in real time."""
    jitter = random.Random(SystemEntropy().new_id())  # noqa: S311 - it spreads waits, and guards nothing
    return Retrier(policy, SystemClock(), jitter)
