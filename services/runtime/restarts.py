"""When a process that ended is started again: later each time, sooner again after it has been well. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MISCONFIGURED = 2  # the exit code of a process that a person must help


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long a process stays down. The first wait doubles with each end, up to the longest."""

    first_s: float = 0.5
    longest_s: float = 30.0
    misconfigured_s: float = 30.0  # what a person must change is tried again too: it may have been changed
    healthy_s: float = 60.0  # one that ran so long was well: the next wait is the first one again


@dataclass(frozen=True, slots=True)
class Restarts:
    """The ends of one process.

    Attributes:
        count: how often it was started again.
        in_row: ends since it was last well.
        reason: how it ended last; "" if it never did.
        wait_s: how long it stays down after that end.
    """

    count: int = 0
    in_row: int = 0
    reason: str = ""
    wait_s: float = 0.0


def after_end(before: Restarts, code: int, ran_s: float, policy: RestartPolicy) -> Restarts:
    """The account of a process that has just ended, with how long to wait before it is started again.

    Args:
        before: its account so far.
        code: its exit code; negative: the signal that ended it.
        ran_s: how long it had run.
        policy: the waits.
    """
    in_row = 0 if ran_s >= policy.healthy_s else before.in_row
    wait_s = min(policy.longest_s, policy.first_s * 2.0 ** min(in_row, 60))
    if code == MISCONFIGURED:
        wait_s = max(wait_s, policy.misconfigured_s)
    return Restarts(before.count + 1, in_row + 1, reason_of(code, ran_s), wait_s)


def reason_of(code: int, ran_s: float) -> str:
    """How a process ended, for people."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    told = " (misconfigured: see its log, a person must change something)" if code == MISCONFIGURED else ""
    return f"{how}{told} after {ran_s:.0f} s"
