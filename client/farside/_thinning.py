"""Thins metrics when the spool is nearly full: fewer of them enter it, by a rule that is recorded.

Nothing that was accepted is ever dropped, so sequence numbers have no holes: a metric that is thinned gets no number.
Instead the lane ``metrics`` carries records of kind ``thinned``, which say of which steps how many were left out.
Checkpoints and data versions are never thinned; the room that metrics leave is theirs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from farside import _spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger("farside")

BYTES_MAX: Final = 4 * 1024**3
MEASURE_S: Final = 1.0
ACCOUNT_S: Final = 10.0
NONE: Final = 0
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LEVELS: Final = ((0.5, 1), (0.75, 2), (0.875, 4), (0.9375, 8), (0.96875, 16))
"""(share of the bound, keep a metric if its step is a multiple of this while less than that share is used)."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much room the run's logs use on this node, how much they may use, and how much the disk has left."""

    used_bytes: int
    bytes_max: int
    free_bytes: int

    @property
    def share(self) -> float:
        """How much of the room is used; the room ends where the bound or the disk does."""
        room = min(self.bytes_max, self.used_bytes + self.free_bytes)
        return 1.0 if room <= 0 else self.used_bytes / room


def keep_every(room: Room) -> int:
    """The rule for this room: metrics of steps that are multiples of the result are kept; ``NONE``: of no step."""
    share = room.share
    return next((every for below, every in _LEVELS if share < below), NONE)


def measure(producers: Path, bytes_max: int) -> Room:
    """Measure the logs of all ranks of a run, and their disk."""
    used = 0
    for producer in producers.iterdir():
        for segment in _spool.segments(producer):
            with contextlib.suppress(FileNotFoundError):  # it was published, and cleared away meanwhile
                used += segment.path.stat().st_size
    disk = os.statvfs(producers)
    return Room(used, bytes_max, disk.f_bavail * disk.f_frsize)


@dataclass(slots=True)
class _Account:
    """Metrics that were left out by one rule and are not on record yet."""

    every: int
    first_step: int
    last_step: int
    dropped: int = 0
    told_s: float = float("-inf")
    waits_s: float = ACCOUNT_S


class MetricGate:
    """Lets metrics into the spool, all or some of them, and keeps an account of those that it leaves out.

    Args:
        append: puts a record of the lane ``metrics`` into the log.
        look: what room there is; it runs on a thread of its own, given to ``soon``.
        soon: runs a job in the background.
        clock: seconds.
    """

    def __init__(
        self,
        append: Callable[[str, int, dict[str, Any]], None],
        look: Callable[[], Room],
        soon: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._append, self._look, self._soon, self._clock = append, look, soon, clock
        self._room = Room(0, BYTES_MAX, BYTES_MAX)
        self._looked_s = float("-inf")
        self._looking = False
        self._account: _Account | None = None
        self._refused = 0  # by the disk, since the alarm
        self._lock = threading.Lock()
        self._process = os.getpid()

    def offer(self, step: int, body: dict[str, Any]) -> None:
        """Append a metric, unless it has to make room. Never raises for want of room; a sick log does.

        A forked child's are left alone: the log is its parent's, and so is whoever held our lock when it was made.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            now_s = self._clock()
            if now_s - self._looked_s >= MEASURE_S and not self._looking:
                self._looked_s, self._looking = now_s, True
                self._soon(self._measure)
            every = keep_every(self._room)
            try:
                self._tell(every, step, now_s)
                if every == NONE or step % every:
                    self._leave_out(step)
                    return
                self._append("metric", step, body)
            except _spool.SpoolError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._refuse(step, error)
                return
            if self._refused:
                _log.warning("farside.spool_has_room refused=%d", self._refused)
                self._refused = 0

    def finish(self) -> None:
        """Record the open account, before the log is closed."""
        with self._lock:
            if self._account is not None and self._account.dropped:
                self._record(self._account)

    def _measure(self) -> None:
        try:
            self._room = self._look()
        finally:
            self._looking = False

    def _tell(self, every: int, step: int, now_s: float) -> None:
        """Record the account when the rule changes, and while a rule holds at growing intervals.

        The beginning of a rule is recorded, too: should this process die, it is known from which step on it held.
        """
        account = self._account
        if account is not None and account.every != every:
            if account.dropped:
                self._record(account)
            _log.warning("farside.metrics_thinned keep_every=%d before=%d", every, account.every)
            account = self._account = None
        if every == 1:
            return
        if account is None:
            account = _Account(every, step, step)
            self._record(account)
            self._account = account
            account.told_s = now_s
            _log.warning("farside.metrics_thinned keep_every=%d %s", every, self._figures())
        elif account.dropped and now_s - account.told_s >= account.waits_s:
            self._record(account)
            self._account = _Account(every, step, step, told_s=now_s, waits_s=2 * account.waits_s)

    def _leave_out(self, step: int) -> None:
        account = self._account
        if account is not None:
            first = step if not account.dropped else account.first_step
            account.first_step, account.last_step = min(first, step), max(account.last_step, step)
            account.dropped += 1

    def _record(self, account: _Account) -> None:
        body = {
            "first_step": account.first_step,
            "last_step": account.last_step,
            "dropped": account.dropped,
            "keep_every": account.every,
            "used_bytes": self._room.used_bytes,
            "bytes_max": self._room.bytes_max,
            "free_bytes": self._room.free_bytes,
        }
        self._append("thinned", account.last_step, body)

    def _refuse(self, step: int, error: OSError) -> None:
        """Leave a metric out: the disk is full. One alarm with its figures; recorded when there is room again."""
        account = self._account
        if account is not None and account.dropped:
            account.every = NONE
        else:
            self._account = _Account(NONE, step, step)
        self._leave_out(step)
        self._refused += 1
        if self._refused == 1:
            _log.error("farside.spool_full step=%d %s error=%s", step, self._figures(), error)

    def _figures(self) -> str:
        room = self._room
        return f"used_bytes={room.used_bytes} bytes_max={room.bytes_max} free_bytes={room.free_bytes}"
