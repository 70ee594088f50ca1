"""Writing a producer's log. The format, and what a reader may conclude from it, are described in ``_spool``."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from farside._files import fsync_folder
from farside._frames import encode_frame
from farside._segments import segment_name

if TYPE_CHECKING:
    from pathlib import Path

LANE_CHECKPOINTS: Final = "checkpoints"
LANE_DATA_VERSIONS: Final = "data-versions"
LANE_METRICS: Final = "metrics"
DURABLE_LANES: Final = frozenset({LANE_CHECKPOINTS, LANE_DATA_VERSIONS})
"""Records of these lanes are fsynced before ``append`` returns."""

GROUP_SYNC_S: Final = 0.2
SEGMENT_BYTES: Final = 16 * 1024 * 1024
_NEXT = ".next"


class SpoolError(OSError):
    """The spool cannot take this record (disk full, failed fsync, closed log); it is not accepted."""


class SpoolWriter:
    """One rank's log: appends records, gives each its number, and knows which ones are safe on disk.

    Safe for several threads. Nothing but the write itself is done under the lock, so a metric never waits for
    the fsync of a checkpoint's record.

    Args:
        folder: the producer's own folder, made here; it must not exist, since no log is ever continued.
        run: stamped on every record.
        group_sync_s: how long a record of another than the durable lanes may stay unsynced.
        segment_bytes: a segment that has reached this size is followed by another.
    """

    def __init__(
        self, folder: Path, run: str, group_sync_s: float = GROUP_SYNC_S, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        folder.mkdir(parents=True)
        self.path = folder / segment_name(0)
        self._folder = folder
        self._run = run
        self._group_sync_s = group_sync_s
        self._segment_bytes = segment_bytes
        self._fd = _open_locked(self.path)
        fsync_folder(folder)
        fsync_folder(folder.parent)
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()  # taken before the other; an append of a metric never takes it
        self._last_seq: dict[str, int] = {}
        self._base = 0  # of the newest segment
        self._size = 0  # of the whole log
        self._synced_size = 0
        self._before: list[int] = []  # segments that were left since the last sync, with their locks
        self._next: int | None = None  # the segment that is being made
        self._broken = ""
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._syncer: threading.Thread | None = None
        _close_in_forked_children(self)

    def append(self, lane: str, kind: str, *, epoch: int, attempt: int, step: int, body: dict[str, Any]) -> int:
        """Write one record and return its sequence number.

        On return a record of the durable lanes is accepted (fsynced); one of another lane is accepted when
        ``accepted_size`` has passed it, at most ``group_sync_s`` later.

        Raises:
            SpoolError: the record is not in the log, and its number is not used up: no room, or it is too large.
                (After a failed fsync the log's state on disk is unknown: then every further append is refused.)
        """
        with self._lock:
            seq = self._last_seq.get(lane, 0) + 1
            record = {
                "lane": lane,
                "seq": seq,
                "kind": kind,
                "run": self._run,
                "epoch": epoch,
                "attempt": attempt,
                "step": step,
                "time_ms": time.time_ns() // 1_000_000,
                "body": body,
            }
            self._write(_frame(record))
            self._last_seq[lane] = seq
            full = self._size - self._base >= self._segment_bytes
        if lane in DURABLE_LANES:
            self.sync()
        if full or lane not in DURABLE_LANES:
            self._sync_soon()
        return seq

    @property
    def last_seq(self) -> dict[str, int]:
        """The last assigned number of each lane."""
        with self._lock:
            return dict(self._last_seq)

    @property
    def accepted_size(self) -> int:
        """How many bytes of the log are known to be on disk."""
        return self._synced_size

    def sync(self) -> None:
        """Put everything appended so far on disk, and with it the names of the segments that hold it."""
        with self._lock:
            self._refuse_if_broken()
            wanted = self._size
        with self._sync_lock:
            with self._lock:
                self._refuse_if_broken()
                size, newest, before = self._size, self._fd, tuple(self._before)
            if self._synced_size >= wanted:
                return  # somebody else's sync took ours along
            try:
                for descriptor in (*before, newest):
                    os.fsync(descriptor)
                if before:
                    fsync_folder(self._folder)
            except OSError as error:
                self._broken = f"fsync of {self.path} failed: {error}"
                raise SpoolError(error.errno, self._broken) from error
            with self._lock:
                self._synced_size = max(self._synced_size, size)
                del self._before[: len(before)]
            for descriptor in before:
                os.close(descriptor)

    def close(self) -> None:
        """Sync and give up the lock; from now on a reader takes an unfinished frame for a torn one."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._dirty.set()
        if self._syncer is not None:
            self._syncer.join()
        with contextlib.suppress(SpoolError):  # a broken log was reported by whoever appended to it
            self.sync()
        with self._sync_lock, self._lock:
            self._broken = self._broken or f"{self.path} is closed"
            for descriptor in (*self._before, self._fd):
                os.close(descriptor)

    def _begin_next_segment(self) -> None:
        """Go on in a new file once the newest one is full; on the syncing thread, beside the appends.

        It has its lock before it has its name, and the old one keeps its own until it is on disk: a reader never
        sees the newest segment without a living writer's lock. With no room for another file the old one goes on.
        """
        if self._size - self._base < self._segment_bytes:
            return
        fresh = self._folder / _NEXT
        try:
            fresh.unlink(missing_ok=True)
            descriptor = _open_locked(fresh)
            self._next = descriptor
            with self._lock:
                fresh.rename(self._folder / segment_name(self._size))
                self._before.append(self._fd)
                self._fd, self._base = descriptor, self._size
            self._next = None
        except OSError:
            if self._next is not None:
                os.close(self._next)
                self._next = None

    def _write(self, frame: bytes) -> None:
        self._refuse_if_broken()
        try:
            written = os.write(self._fd, frame)
            if written == len(frame):
                self._size += written
                return
            reason = f"only {written} of {len(frame)} bytes fit"
            code: int | None = errno.ENOSPC
        except OSError as error:
            reason, code = str(error), error.errno
        # A part of the frame may be there. Only this process appends, so cutting it off restores the last
        # boundary; a reader that saw the part takes it for one that is not finished yet, and reads it again.
        try:
            os.ftruncate(self._fd, self._size - self._base)
        except OSError as error:
            self._broken = f"{self.path} has a partial frame that cannot be cut off: {error}"
        raise SpoolError(code, f"{self.path}: {reason}")

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise SpoolError(None, self._broken)

    def _sync_soon(self) -> None:
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._sync_groups, name="farside-spool-sync", daemon=True)
            self._syncer.start()
        self._dirty.set()

    def _sync_groups(self) -> None:
        while not self._closed.is_set():
            self._dirty.wait()
            self._closed.wait(self._group_sync_s / 2)  # let a group gather; half, so that the fsync has time, too
            self._dirty.clear()
            self._begin_next_segment()
            try:
                self.sync()
            except SpoolError:
                return  # the next append reports it: the log is broken or closed

    def close_after_fork(self) -> None:
        """In a forked child: a copy of the descriptor would keep the lock when the trainer is dead."""
        if self._closed.is_set():
            return
        self._broken = "a forked child does not write its parent's log"
        self._lock = threading.Lock()  # the parent's may be held by a thread that does not exist here
        self._sync_lock = threading.Lock()
        held = {*self._before, self._fd} | ({self._next} if self._next is not None else set())
        for descriptor in held:
            with contextlib.suppress(OSError):  # the parent may have been about to close it
                os.close(descriptor)


def _close_in_forked_children(writer: SpoolWriter) -> None:
    reference = weakref.ref(writer)

    def close() -> None:
        writer = reference()
        if writer is not None:
            writer.close_after_fork()

    os.register_at_fork(after_in_child=close)


def _frame(record: dict[str, Any]) -> bytes:
    try:
        return encode_frame(record)
    except (ValueError, TypeError, RecursionError) as error:
        raise SpoolError(errno.EMSGSIZE, f"the record of kind {record['kind']} cannot be kept: {error}") from error


def _open_locked(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
