r"""The node directory: what the trainer and its node's agent share, on local disk.

Its format is defined here, once: the client (inside each training rank) and the agent import this
module, and nothing else knows the layout. It uses the standard library only, since the agent runs where
torch is not installed.

A rank appends records to a log of its own. A record is a frame::

    b"FS", version u8 = 1, length of the payload u32, CRC-32 of these 7 bytes u32,
    CRC-32 of the payload u32, the payload: one JSON object in UTF-8      (integers are little-endian)

The header has a checksum of its own, so that a damaged length is never taken for a frame that is still
being written. JSON escapes control characters, so the bytes ``FS\x01`` occur at the start of a frame
only: past a damaged frame the reader finds the next whole one.

What a reader may conclude. The writer holds an exclusive ``flock`` on the log while it lives, and no
process ever continues another's log. So a frame that ends early is *not finished yet* while the lock is
held, and *torn* once the lock was seen free **before** the bytes were read (the other order would call
a frame torn that its writer finished in between). A frame whose checksum is wrong is torn at once:
bytes become visible in order, so a whole frame that does not check is damage, whoever holds the lock.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import re
import struct
import threading
import time
import weakref
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

LANE_CHECKPOINTS: Final = "checkpoints"
LANE_DATA_VERSIONS: Final = "data-versions"
LANE_METRICS: Final = "metrics"
DURABLE_LANES: Final = frozenset({LANE_CHECKPOINTS, LANE_DATA_VERSIONS})
"""Records of these lanes are fsynced before ``append`` returns."""

PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
GROUP_SYNC_S: Final = 0.2

_MAGIC = b"FS\x01"
_LENGTH = struct.Struct("<3sI")
_CHECKSUMS = struct.Struct("<II")
HEADER_BYTES: Final = _LENGTH.size + _CHECKSUMS.size
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")

Record = dict[str, Any]


class SpoolError(OSError):
    """The spool cannot take this record (disk full, failed fsync, closed log); it is not accepted."""


# --- the frame: pure functions -------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What the bytes at one offset are."""

    WHOLE = "whole"
    END = "end"  # no byte there
    SHORT = "short"  # a good beginning that stops early
    DAMAGED = "damaged"  # cannot become a good frame, whatever is appended


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded position. ``end`` is where the next frame begins, or None where damage hides it."""

    verdict: Verdict
    end: int | None = None
    record: Record | None = None
    reason: str = ""


def encode_frame(record: Record) -> bytes:
    """The bytes of one record, ready to be appended in a single write."""
    payload = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a record of {len(payload)} bytes is larger than {PAYLOAD_BYTES_MAX}")
    start = _LENGTH.pack(_MAGIC, len(payload))
    return start + _CHECKSUMS.pack(zlib.crc32(start), zlib.crc32(payload)) + payload


def decode_frame(data: bytes | memoryview, offset: int = 0) -> Frame:
    """What ``data`` holds at ``offset``; never raises, whatever the bytes are."""
    header = bytes(data[offset : offset + HEADER_BYTES])
    if not header:
        return Frame(Verdict.END, end=offset)
    if header[:3] != _MAGIC[: len(header)]:
        return Frame(Verdict.DAMAGED, reason="the frame does not start with its magic bytes")
    if len(header) < HEADER_BYTES:
        return Frame(Verdict.SHORT, reason="the frame's header stops early")
    return _decode_body(data, offset, header)


def _decode_body(data: bytes | memoryview, offset: int, header: bytes) -> Frame:
    _, length = _LENGTH.unpack_from(header)
    header_sum, payload_sum = _CHECKSUMS.unpack_from(header, _LENGTH.size)
    if zlib.crc32(header[: _LENGTH.size]) != header_sum or length > PAYLOAD_BYTES_MAX:
        return Frame(Verdict.DAMAGED, reason="the frame's header does not match its checksum")
    end = offset + HEADER_BYTES + length
    payload = bytes(data[offset + HEADER_BYTES : end])
    if len(payload) < length:
        return Frame(Verdict.SHORT, reason="the frame's payload stops early")
    if zlib.crc32(payload) != payload_sum:
        return Frame(Verdict.DAMAGED, end=end, reason="the payload does not match its checksum")
    return _decode_payload(payload, end)


def _decode_payload(payload: bytes, end: int) -> Frame:
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError) as error:
        return Frame(Verdict.DAMAGED, end=end, reason=f"the payload is not JSON: {error}")
    if not isinstance(record, dict):
        return Frame(Verdict.DAMAGED, end=end, reason="the payload is not a JSON object")
    return Frame(Verdict.WHOLE, end=end, record=record)


def next_whole_frame(data: bytes, after: int) -> int | None:
    """The offset of the first whole frame past ``after``, or None."""
    at = data.find(_MAGIC, after + 1)
    while at >= 0:
        if decode_frame(data, at).verdict is Verdict.WHOLE:
            return at
        at = data.find(_MAGIC, at + 1)
    return None


# --- reading a log -------------------------------------------------------------------------------------


class Ending(enum.Enum):
    """Why a scan stopped."""

    COMPLETE = "complete"  # every byte up to the log's end was a whole frame
    MORE = "more"  # the asked number of records is reached; go on from next_offset
    UNFINISHED = "unfinished"  # the writer lives and is in the middle of a frame: come again
    TORN = "torn"  # damaged, or cut off by the writer's death: set it aside, go on from resume_offset


@dataclass(frozen=True, slots=True)
class Scan:
    """The records from one offset of a log, and how it ended.

    Attributes:
        entries: (offset, record) of each whole frame, in order.
        next_offset: where the first byte that was not returned as a record lies; ask from here next time.
        ending: why the scan stopped.
        reason: what is wrong at ``next_offset``, for UNFINISHED and TORN.
        resume_offset: for TORN, the first byte after the damage; else equal to ``next_offset``.
        writer_alive: whether the log's writer held its lock when the scan began.
    """

    entries: tuple[tuple[int, Record], ...]
    next_offset: int
    ending: Ending
    reason: str
    resume_offset: int
    writer_alive: bool


def scan(log: Path, offset: int = 0, records_max: int = 10_000) -> Scan:
    """Read the whole records of ``log`` from ``offset`` on. Changes nothing.

    Args:
        log: a producer's log; a missing file reads as an empty one whose writer is gone.
        offset: a value that an earlier scan gave as ``next_offset`` or ``resume_offset``; 0 at first.
        records_max: stop with ``Ending.MORE`` after so many.
    """
    entries: list[tuple[int, Record]] = []
    try:
        stream = log.open("rb")
    except FileNotFoundError:
        return Scan((), offset, Ending.COMPLETE, "", offset, writer_alive=False)
    with stream:
        alive = _is_locked(stream)  # before the first byte is read: see the module's docstring
        size = os.fstat(stream.fileno()).st_size
        stream.seek(offset)
        while True:
            frame = _read_frame(stream, size, offset)
            if frame.verdict is Verdict.WHOLE and frame.end is not None and frame.record is not None:
                entries.append((offset, frame.record))
                offset = frame.end
                if len(entries) < records_max:
                    continue
                return Scan(tuple(entries), offset, Ending.MORE, "", offset, alive)
            if frame.verdict is Verdict.END:
                return Scan(tuple(entries), offset, Ending.COMPLETE, "", offset, alive)
            ending, resume = _judge(stream, frame, offset, writer_alive=alive)
            return Scan(tuple(entries), offset, ending, frame.reason, resume, alive)


def _read_frame(stream: IO[bytes], size: int, offset: int) -> Frame:
    """Decode the frame at the stream's position; bytes past ``size`` do not count."""
    data = stream.read(min(HEADER_BYTES, max(0, size - offset)))
    if len(data) == HEADER_BYTES:
        _, length = _LENGTH.unpack_from(data)
        data += stream.read(min(length, PAYLOAD_BYTES_MAX, size - offset - HEADER_BYTES))
    frame = decode_frame(data)
    end = None if frame.end is None else frame.end + offset
    return Frame(frame.verdict, end, frame.record, frame.reason)


def _judge(stream: IO[bytes], frame: Frame, offset: int, *, writer_alive: bool) -> tuple[Ending, int]:
    """Torn or not finished yet, and where to go on."""
    if frame.end is not None:  # the header is good, so where the next frame begins is certain
        return Ending.TORN, frame.end
    if frame.verdict is Verdict.SHORT and writer_alive:
        return Ending.UNFINISHED, offset
    stream.seek(offset)
    rest = stream.read()
    found = next_whole_frame(rest, 0)
    if found is not None:
        return Ending.TORN, offset + found
    if writer_alive:  # its next whole frame will show where the damage ends; the log's end now might be inside it
        return Ending.UNFINISHED, offset
    return Ending.TORN, offset + len(rest)


def is_writer_alive(log: Path) -> bool:
    """Whether a process holds this log's lock."""
    try:
        with log.open("rb") as stream:
            return _is_locked(stream)
    except FileNotFoundError:
        return False


def _is_locked(stream: IO[bytes]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(stream, fcntl.LOCK_UN)
    return False


def set_aside_torn(log: Path, found: Scan) -> Path:
    """Keep the damaged bytes of a TORN scan in ``torn-<offset>`` beside the log, and return that file.

    The log itself is left as it is (its writer may live, and evidence is not edited): go on from
    ``found.resume_offset``. Doing it twice gives the same file.
    """
    if found.ending is not Ending.TORN:
        raise ValueError(f"nothing is torn in {log} at {found.next_offset}: {found.ending.value}")
    aside = log.parent / f"torn-{found.next_offset:012d}"
    with log.open("rb") as stream:
        stream.seek(found.next_offset)
        write_atomically(aside, stream.read(found.resume_offset - found.next_offset))
    return aside


# --- writing a log -------------------------------------------------------------------------------------


class SpoolWriter:
    """One rank's log: appends records, gives each its number, and knows which ones are safe on disk.

    Safe for several threads. Nothing but the write itself is done under the lock, so a metric never waits for
    the fsync of a checkpoint's record.

    Args:
        folder: the producer's own folder, made here; it must not exist, since no log is ever continued.
        run: stamped on every record.
        group_sync_s: how long a record of another than the durable lanes may stay unsynced.
    """

    def __init__(self, folder: Path, run: str, group_sync_s: float = GROUP_SYNC_S) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "log"
        self._run = run
        self._group_sync_s = group_sync_s
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        fsync_folder(folder)
        fsync_folder(folder.parent)
        self._lock = threading.Lock()
        self._last_seq: dict[str, int] = {}
        self._size = 0
        self._synced_size = 0
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
            SpoolError: the record is not in the log, and its number is not used up. (After a failed fsync the
                log's state on disk is unknown: then every further append is refused.)
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
            self._write(encode_frame(record))
            self._last_seq[lane] = seq
        if lane in DURABLE_LANES:
            self.sync()
        else:
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
        """Put everything appended so far on disk."""
        with self._lock:
            self._refuse_if_broken()
            size = self._size
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._broken = f"fsync of {self.path} failed: {error}"
            raise SpoolError(error.errno, self._broken) from error
        with self._lock:
            self._synced_size = max(self._synced_size, size)

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
        with self._lock:
            self._broken = self._broken or f"{self.path} is closed"
            os.close(self._fd)

    def _write(self, frame: bytes) -> None:
        self._refuse_if_broken()
        try:
            written = os.write(self._fd, frame)
            if written == len(frame):
                self._size += written
                return
            reason = f"only {written} of {len(frame)} bytes fit"
            code = None
        except OSError as error:
            reason, code = str(error), error.errno
        # A part of the frame may be there. Only this process appends, so cutting it off restores the last
        # boundary; a reader that saw the part takes it for one that is not finished yet, and reads it again.
        try:
            os.ftruncate(self._fd, self._size)
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
        os.close(self._fd)


def _close_in_forked_children(writer: SpoolWriter) -> None:
    reference = weakref.ref(writer)

    def close() -> None:
        writer = reference()
        if writer is not None:
            writer.close_after_fork()

    os.register_at_fork(after_in_child=close)


# --- small files, replaced as a whole ------------------------------------------------------------------


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put ``data`` at ``path``, so that a reader sees the old file or the new one, never a part.

    Args:
        path: its folder must exist; names that begin with a dot are these writes under way.
        data: the file's new contents.
        durable: fsync file and folder (a beat, which is news for a second, does without).
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}-{threading.get_ident()}"
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def write_json_atomically(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Put ``value`` at ``path`` as JSON; see ``write_atomically``."""
    write_atomically(path, json.dumps(value, allow_nan=False).encode(), durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object at ``path``; None if there is no file or it does not hold one."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- where things lie ----------------------------------------------------------------------------------


def safe_name(name: str, what: str) -> str:
    """``name`` itself, if it can be one part of a path here and of an object key elsewhere.

    Raises:
        ValueError: it cannot; the text says what is allowed.
    """
    if not _SAFE_NAME.match(name):
        raise ValueError(f"{what} {name!r} is not usable: 1 to 128 letters, digits, '.', '_', '-', no mark first")
    return name


def run_folder(node_dir: Path, run: str) -> Path:
    """Everything of one run on this node."""
    return node_dir / "runs" / safe_name(run, "run")


def producers_folder(node_dir: Path, run: str) -> Path:
    """Holds one folder for each rank of each launch."""
    return run_folder(node_dir, run) / "producers"


def producer_folder(node_dir: Path, run: str, incarnation: str) -> Path:
    """One rank's log and beat."""
    return producers_folder(node_dir, run) / safe_name(incarnation, "incarnation")


def log_path(producer: Path) -> Path:
    """The log in a producer's folder."""
    return producer / "log"


def beat_path(producer: Path) -> Path:
    """The newest beat in a producer's folder."""
    return producer / "beat.json"


def launches_folder(node_dir: Path, run: str) -> Path:
    """Holds one folder for each launch of the trainer."""
    return run_folder(node_dir, run) / "launches"


def launch_folder(node_dir: Path, run: str, launch: str) -> Path:
    """The conversation of one launch and the agent."""
    return launches_folder(node_dir, run) / safe_name(launch, "launch")


def request_path(launch: Path) -> Path:
    """The trainer asks for its start."""
    return launch / "request.json"


def grant_path(launch: Path) -> Path:
    """The agent's answer."""
    return launch / "grant.json"


def standing_path(launch: Path) -> Path:
    """The agent's running news."""
    return launch / "standing.json"


def validity_path(launch: Path) -> Path:
    """Until when the launch may compute, renewed by the agent; under the policy *hard* only."""
    return launch / "validity.json"


def checkpoint_folder(node_dir: Path, run: str, epoch: int, attempt: int, step: int) -> Path:
    """One checkpoint's files on this node; the name of its parent is fresh for every attempt."""
    return run_folder(node_dir, run) / "checkpoints" / f"e{epoch:06d}-a{attempt:04d}" / f"s{step:010d}"


def shard_name(rank: int) -> str:
    """A rank's shard, in a checkpoint folder and in an index folder."""
    return f"rank-{rank:05d}.shard"


def descriptor_name(rank: int) -> str:
    """A shard's descriptor, written after it."""
    return f"rank-{rank:05d}.json"


def state_name(rank: int) -> str:
    """A rank's state: opaque bytes."""
    return f"rank-{rank:05d}.state"


def state_descriptor_name(rank: int) -> str:
    """Size and digest of a rank's state, written after it."""
    return f"rank-{rank:05d}.state.json"


def incarnation_name(rank: int) -> str:
    """A fresh name for one rank of one launch."""
    return f"r{rank:05d}-{os.urandom(8).hex()}"


def index_path(folder: Path) -> Path:
    """The description of an index folder: a checkpoint laid out for loading."""
    return folder / "index.json"
