"""How fast an agent catches up, and how far it is. Pure: state and `now` in, figures out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from schemas.http_bodies import BacklogStatus

WINDOW_S = 30.0
RECORD_BYTES = 400.0  # of a spool's record, until some were seen


@dataclass(slots=True)
class Pace:
    """At most so many bytes a second, saved up for one second."""

    bytes_s: float
    _saved: float = 0.0
    _at_s: float = float("-inf")

    def allowance(self, now_s: float) -> float:
        """The bytes that may be read now; 0 while too many were read before."""
        self._saved = min(self.bytes_s, self._saved + (now_s - self._at_s) * self.bytes_s)
        self._at_s = now_s
        return max(0.0, self._saved)

    def spend(self, size_bytes: int) -> None:
        """Note bytes that were read; a record larger than the allowance is paid off afterwards."""
        self._saved -= size_bytes


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits in the spool, and how fast it is published. Records are estimated by their mean size."""

    records: int
    size_bytes: int
    records_s: float
    bytes_s: float
    remaining_s: float | None  # None: it does not shrink

    def status(self) -> BacklogStatus:
        """The backlog as the agent's `/status` answers it, rounded."""
        return BacklogStatus(
            records=self.records,
            bytes=self.size_bytes,
            records_per_s=round(self.records_s, 1),
            bytes_per_s=round(self.bytes_s),
            remaining_s=None if self.remaining_s is None else round(self.remaining_s, 1),
        )


@dataclass(slots=True)
class Progress:
    """Samples of the last half minute."""

    _samples: deque[tuple[float, int, int, int]] = field(default_factory=deque)
    _read_records: int = 0
    _read_bytes: int = 0

    def published(self, records: int, size_bytes: int) -> None:
        """Note records that were published."""
        self._read_records += records
        self._read_bytes += size_bytes

    def note(self, now_s: float, backlog_bytes: int) -> None:
        """Take a sample."""
        self._samples.append((now_s, backlog_bytes, self._read_records, self._read_bytes))
        while now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def backlog(self) -> Backlog:
        """The backlog of the newest sample, with the rates since the oldest sample that is kept."""
        if not self._samples:
            return Backlog(0, 0, 0.0, 0.0, 0.0)
        then_s, before_bytes, before_records, before_read = self._samples[0]
        now_s, backlog_bytes, records, read = self._samples[-1]
        over_s = now_s - then_s
        mean = self._read_bytes / self._read_records if self._read_records else RECORD_BYTES
        shrinks = (before_bytes - backlog_bytes) / over_s if over_s > 0 else 0.0
        remaining = 0.0 if backlog_bytes == 0 else backlog_bytes / shrinks if shrinks > 0 else None
        return Backlog(
            records=round(backlog_bytes / mean),
            size_bytes=backlog_bytes,
            records_s=(records - before_records) / over_s if over_s > 0 else 0.0,
            bytes_s=(read - before_read) / over_s if over_s > 0 else 0.0,
            remaining_s=remaining,
        )
