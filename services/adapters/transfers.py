"""Copies between regions on a few threads: fetched from the peer, verified, then created here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.core.manifests import Named, mismatch
from pipelines.errors import CorruptError, FarsideError, MisconfiguredError, RetryableError
from pipelines.ports import CopyJob, CopyResult, ObjectStore, PieceStore
from schemas.codec import digest

_CANCELLED = "the copy was cancelled"


class ThreadTransfers:
    """Implements Transfers.

    Bytes are verified in memory before they are put, and an object that is already here is read back and verified: only
    what was verified in this region is trusted.

    Args:
        peers: how the other regions' stores are read.
        store: ours.
        workers: how many copies go on at once; memory is bounded by as many chunks.
    """

    def __init__(self, *, peers: Mapping[str, PieceStore], store: ObjectStore, workers: int = 4) -> None:
        self._peers = peers
        self._store = store
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="farside-copy")
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[None]] = {}
        self._crossed: dict[str, int] = {}  # bytes so far, of the jobs that have begun
        self._cancelled: set[str] = set()
        self._done: list[CopyResult] = []

    def start(self, job: CopyJob) -> None:
        """Begin, unless a job of this id is under way or finished and not yet collected."""
        with self._lock:
            self._cancelled.discard(job.job_id)  # one that still runs after a cancel is wanted again
            if job.job_id not in self._jobs:
                self._jobs[job.job_id] = self._pool.submit(self._run, job)

    def cancel(self, job_id: str) -> None:
        """Give up a job; one that has begun stops at its next piece, and is not reported."""
        with self._lock:
            future = self._jobs.get(job_id)
            if future is None:
                return
            kept = [result for result in self._done if result.job.job_id != job_id]
            has_ended, self._done = len(kept) < len(self._done), kept
            # Its result says that it has ended: its future may be told so a little later only.
            if has_ended or future.cancel():
                del self._jobs[job_id]
            else:
                self._cancelled.add(job_id)

    def finished(self) -> tuple[CopyResult, ...]:
        """The jobs that ended since the last call."""
        with self._lock:
            done, self._done = tuple(self._done), []
            for result in done:
                self._jobs.pop(result.job.job_id, None)
            return done

    def under_way(self) -> Mapping[str, int]:
        """The bytes that have crossed so far of each job that has begun and has not ended."""
        with self._lock:
            return {job_id: size for job_id, size in self._crossed.items() if job_id not in self._cancelled}

    def close(self) -> None:
        """Stop the copies that have begun, and drop the others."""
        with self._lock:
            self._cancelled.update(self._jobs)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: CopyJob) -> None:
        """Copy one object; again from its beginning if it was cancelled and then wanted after all."""
        while True:
            with self._lock:
                self._crossed[job.job_id] = 0
            result = copied(job, self._fetch, self._store)
            with self._lock:
                del self._crossed[job.job_id]
                if job.job_id in self._cancelled:
                    self._cancelled.discard(job.job_id)
                    self._jobs.pop(job.job_id, None)
                    return
                if result.error != _CANCELLED:
                    self._done.append(result)
                    return

    def _fetch(self, job: CopyJob) -> bytes | None:
        """Read the peer's object piece by piece, no further than its manifest says and not after a cancel."""
        pieces = self._peers[job.peer].pieces(job.key)
        if pieces is None:
            return None
        body = bytearray()
        with contextlib.closing(pieces):
            for piece in pieces:
                body += piece[: job.size + 1 - len(body)]
                with self._lock:
                    if job.job_id in self._cancelled:
                        raise RetryableError(_CANCELLED)
                    self._crossed[job.job_id] = len(body)
                if len(body) > job.size:
                    raise CorruptError(
                        f"{job.peer}'s {job.key} has more than {job.size} bytes, its manifest names {job.size}"
                    )
        return bytes(body)


def copied(job: CopyJob, fetch: Callable[[CopyJob], bytes | None], store: ObjectStore) -> CopyResult:
    """Copy one object and say how it ended; never raises. Every Transfers says it in these words.

    Args:
        job: which object.
        fetch: reads it from the peer; None if it is not there.
        store: this region's.
    """
    try:
        return CopyResult(job, moved_bytes=_moved(job, fetch, store))
    except CorruptError as error:
        return CopyResult(job, error=str(error), corrupt=True)
    except FarsideError as error:
        return CopyResult(job, error=str(error), refused=isinstance(error, MisconfiguredError))
    except Exception as error:  # noqa: BLE001 - a copy that died must be reported, or its checkpoint waits for ever
        return CopyResult(job, error=f"{type(error).__name__}: {error}")


def fetch_from(peers: Mapping[str, ObjectStore]) -> Callable[[CopyJob], bytes | None]:
    """Reads an object of a peer in one go."""
    return lambda job: peers[job.peer].get(job.key)


def _moved(job: CopyJob, fetch: Callable[[CopyJob], bytes | None], store: ObjectStore) -> int:
    """Copy and verify; the bytes that crossed the link."""
    size = store.size(job.key)  # first: what is longer than it should be is not read
    if size == job.size and not _wrong(job, store.get(job.key) or b""):
        return 0
    body = fetch(job)
    if body is None:
        raise CorruptError(f"{job.key} is not in the store of {job.peer}")
    verify(job, body, f"{job.peer}'s")
    if size is not None:
        store.put(job.key, body)  # what was there went bad: these are the bytes that the key names (I6)
    elif not store.create(job.key, body):
        verify(job, store.get(job.key) or b"", "this region's")
    return len(body)


def verify(job: CopyJob, body: bytes, whose: str) -> None:
    """CorruptError unless the bytes are those that the job names."""
    why = _wrong(job, body)
    if why:
        raise CorruptError(f"{whose} {job.key} {why}")


def _wrong(job: CopyJob, body: bytes) -> str:
    return mismatch(Named(job.key, job.size, job.sha256), len(body), digest(body))
