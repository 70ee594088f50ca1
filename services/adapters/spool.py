"""The agent's view of a node directory: the Spool port over `farside._spool`."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from farside import _spool
from pipelines.core.resume_mode import StartRequest
from pipelines.errors import CorruptError, RetryableError
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, Journal, SpoolRecord
from schemas.codec import digest
from services.adapters import node_files
from services.adapters.node_files import UNREADABLE, NodeFileError

__all__ = ["UNREADABLE", "NodeSpool"]

JSON_BYTES_MAX = 1024 * 1024  # of the small files beside the logs
NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP})
"""The errors of a path at which there is no regular file, and will be none."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_Call = ParamSpec("_Call")
_Answer = TypeVar("_Answer")
_Method = Callable[Concatenate["NodeSpool", _Call], _Answer]


def _answering(method: _Method[_Call, _Answer]) -> _Method[_Call, _Answer]:
    """A method whose trouble with the disk is RetryableError: it stops what it was about, and nothing else."""

    @functools.wraps(method)
    def call(self: NodeSpool, /, *args: _Call.args, **kwargs: _Call.kwargs) -> _Answer:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise RetryableError(f"the node's directory: {type(error).__name__}: {error}") from error

    return call


class NodeSpool:
    """Implements Spool; positions lie in `<node_dir>/agent/positions/<run>/<producer>`.

    Args:
        node_dir: the node's directory, shared with the trainer.
        journal: is told of torn bytes, once for each place, of a full disk, once until there is room again, and of
            files and folders that are not what they should be, which are left alone.
        replace: puts a JSON file in place of another.
        keep_s: how long the log of a writer that is gone is kept after its last record, published or not.
    """

    def __init__(
        self,
        node_dir: Path,
        journal: Journal | None = None,
        replace: Callable[..., None] = _spool.write_json_atomically,
        keep_s: float = 0.0,
    ) -> None:
        self._keep_s = keep_s
        self._node_dir = node_dir
        self._replace = replace
        self._journal = journal
        self._reported: set[tuple[Path, int]] = set()
        self._skipped: set[tuple[Path, str]] = set()
        self._full = False  # the disk was when we last wrote
        self._grants: dict[Path, dict[str, Any]] = {}

    @_answering
    def runs(self) -> tuple[str, ...]:
        """The runs that have a folder here."""
        return self._folders(self._node_dir / "runs", node_files.check_run)

    @_answering
    def producers(self, run: str) -> tuple[str, ...]:
        """The incarnations that have a log."""
        folder = _spool.producers_folder(self._node_dir, run)
        names = self._folders(folder, node_files.check_name)
        return tuple(name for name in names if self._has_log(folder / name))

    @_answering
    def read(self, run: str, producer: str, offset: int, most: int = 500) -> tuple[SpoolRecord, ...]:
        """Complete records from a log offset on; torn bytes are kept aside and reported once."""
        folder = _spool.producer_folder(self._node_dir, run, producer)
        records: list[SpoolRecord] = []
        while len(records) < most:
            found = _spool.scan_producer(folder, offset, most - len(records))
            ends = [start for start, _ in found.entries[1:]] + [found.next_offset]
            pairs = zip(found.entries, ends, strict=False)
            records.extend(node_files.record_of(run, producer, entry, end) for (_, entry), end in pairs)
            if found.ending is not _spool.Ending.TORN:
                break
            self._set_aside(_spool.log_path(folder), found, run, producer)
            offset = found.resume_offset
        return tuple(records)

    @_answering
    def end(self, run: str, producer: str) -> int:
        """Where the log ends now."""
        return _spool.end_of(_spool.producer_folder(self._node_dir, run, producer))

    @_answering
    def position(self, run: str, producer: str) -> int:
        """The log offset up to which everything is published; 0 at first.

        It is 0 as well if the file cannot be right: then all of the log is published once more, which has no further
        effect (I15), and a log whose end was lost is not waited for beyond its end.
        """
        path = self._position_path(run, producer)
        offset = self._read(path, node_files.offset_of)
        if offset is not None and offset > (end := self.end(run, producer)):
            self._skip(path, f"offset {offset} lies beyond the log, which ends at {end}")
            return 0
        return offset or 0

    @_answering
    def advance(self, run: str, producer: str, offset: int) -> None:
        """Remember a position durably; whole segments before it are cleared away.

        They go first: on a full disk that makes the room which the position needs. Should we die in between, the log
        is read from its oldest segment, which is past what the old position says and not past what is published.
        """
        _spool.clear_published(_spool.producer_folder(self._node_dir, run, producer), offset)
        self._write(self._position_path(run, producer), {"offset": offset})

    @_answering
    def retire(self, run: str, producer: str, offset: int) -> bool:
        """Remove the log of a writer that is gone and left nothing past `offset`; damaged bytes that were kept stay."""
        folder = _spool.producer_folder(self._node_dir, run, producer)
        if _spool.is_writer_alive(_spool.log_path(folder)):  # before the log is read: see _spool
            return False
        listed = _spool.segments(folder)
        newest_s = max((one.path.stat().st_mtime for one in listed), default=0.0)
        if abs(time.time() - newest_s) < self._keep_s or self.read(run, producer, offset, 1):
            return False
        for segment in listed:
            segment.path.unlink()
        _spool.beat_path(folder).unlink(missing_ok=True)
        self._position_path(run, producer).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        return True

    @_answering
    def beats(self, run: str) -> tuple[Beat, ...]:
        """The newest beat of each producer whose process lives."""
        beats = []
        for producer in self.producers(run):
            folder = _spool.producer_folder(self._node_dir, run, producer)
            beat = self._read(_spool.beat_path(folder), functools.partial(node_files.beat_of, producer))
            if beat is not None and self._is_alive(folder):
                beats.append(beat)
        return tuple(beats)

    @_answering
    def launches(self, run: str) -> tuple[str, ...]:
        """Launches that asked for a start, have no grant yet, and live."""
        folder = _spool.launches_folder(self._node_dir, run)
        return tuple(
            name
            for name in self._folders(folder, node_files.check_name)
            if not _spool.grant_path(folder / name).exists() and self._waits(run, folder / name)
        )

    @_answering
    def request(self, run: str, launch: str) -> StartRequest:
        """The start that a launch asked for; RetryableError while its request cannot be read."""
        path = _spool.request_path(_spool.launch_folder(self._node_dir, run, launch))
        request = self._read(path, node_files.request_of)
        if request is None:
            raise RetryableError(f"{path} is not readable")
        return request

    def grant(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write grant.json."""
        self._write(_spool.grant_path(_spool.launch_folder(self._node_dir, run, launch)), body)

    @_answering
    def grants(self, run: str) -> tuple[dict[str, Any], ...]:
        """Every grant.json, each read once: a launch that was granted is never granted again."""
        folder = _spool.launches_folder(self._node_dir, run)
        paths = [_spool.grant_path(folder / name) for name in self._folders(folder, node_files.check_name)]
        for path in paths:
            found = None if path in self._grants else self._json(path)
            if found is not None and self._fits(path, found, node_files.check_grant):
                self._grants[path] = found
        return tuple(self._grants[path] for path in paths if path in self._grants)

    def validity(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write validity.json; not fsynced, since no guard outlives the machine."""
        path = _spool.validity_path(_spool.launch_folder(self._node_dir, run, launch))
        self._write(path, body, durable=False)

    def standing(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write standing.json."""
        self._write(_spool.standing_path(_spool.launch_folder(self._node_dir, run, launch)), body)

    @_answering
    def chunk(self, checkpoint: CheckpointId, rank: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard; CorruptError if the file is gone or short.

        No more is asked for than the file has, whatever size the intent names.
        """
        path = self._checkpoint(checkpoint) / _spool.shard_name(rank)
        try:
            with _spool.open_regular(path) as stream:
                left = os.fstat(stream.fileno()).st_size - offset
                stream.seek(offset)
                body = stream.read(max(0, min(size, left)))
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise CorruptError(f"{path} is gone: {error}") from error
        if len(body) != size:
            raise CorruptError(f"{path} has {len(body)} of {size} bytes at {offset}")
        return body

    @_answering
    def rank_state(self, checkpoint: CheckpointId, rank: int) -> bytes | None:
        """A rank's state; None while it is not there (its descriptor is written after it).

        No more is read than the descriptor says that there is.

        Raises:
            CorruptError: its bytes are not those that the client digested.
        """
        folder = self._checkpoint(checkpoint)
        described, path = folder / _spool.state_descriptor_name(rank), folder / _spool.state_name(rank)
        before = _bytes_of(described, JSON_BYTES_MAX)
        if before is None:
            return None
        try:
            size, sha256 = node_files.state_of(before)
        except NodeFileError as error:
            raise CorruptError(f"{described} is no descriptor: {error}") from error
        body = _bytes_of(path, size + 1)
        if body is None or _bytes_of(described, JSON_BYTES_MAX) != before:
            return None  # not there yet, or being given again
        if (len(body), digest(body)) != (size, sha256):
            raise CorruptError(
                f"{path}: its first {len(body)} bytes have SHA-256 {digest(body)}; the trainer wrote {size} of {sha256}"
            )
        return body

    def release(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is safe in the region's store: its files may go."""
        folder = self._checkpoint(checkpoint)
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:  # its event is out: to publish it again each turn would not make the files go
            self._skip(folder, f"cannot be removed: {error}")

    def _waits(self, run: str, launch: Path) -> bool:
        """Whether the rank that asked is still there; an older client does not say which one that is.

        A request that cannot be right is not answered: what was granted to it would be an attempt that nobody begins.
        """
        path = _spool.request_path(launch)
        asked = self._json(path)
        if asked is None or not self._fits(path, asked, node_files.request_of):
            return False
        producer = self._parsed(path, asked, node_files.asker_of)
        if not producer:
            return producer is not None
        return self._is_alive(_spool.producer_folder(self._node_dir, run, producer))

    def _has_log(self, producer: Path) -> bool:
        """Whether a producer's folder has a log that can be read; what is there and is no file is left alone."""
        listed = _spool.segments(producer)
        odd = [one.path for one in listed if not one.path.is_file() and os.path.lexists(one.path)]
        for path in odd:
            self._skip(path, "it is no file")
        return bool(listed) and not odd

    def _is_alive(self, producer: Path) -> bool:
        return self._has_log(producer) and _spool.is_writer_alive(_spool.log_path(producer))

    def _folders(self, folder: Path, check: Callable[[str], None]) -> tuple[str, ...]:
        """The folders in one, by name; a name that can be none of ours is left out."""
        try:
            names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(name for name in names if self._fits(folder / name, name, check))

    def _read(self, path: Path, parse: Callable[[dict[str, Any]], _Answer]) -> _Answer | None:
        """The value in a small file; None if there is no file, or it cannot be right, which is said once."""
        found = self._json(path)
        return None if found is None else self._parsed(path, found, parse)

    def _json(self, path: Path) -> dict[str, Any] | None:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_size > JSON_BYTES_MAX:
            self._skip(path, f"it is no file of at most {JSON_BYTES_MAX} bytes")
            return None
        value = _spool.read_json(path)
        if value is None and path.exists():
            self._skip(path, "it does not hold a JSON object")
        return value

    def _parsed(self, path: Path, found: Any, parse: Callable[[Any], _Answer]) -> _Answer | None:  # noqa: ANN401 - JSON
        try:
            return parse(found)
        except NodeFileError as error:
            self._skip(path, str(error))
            return None

    def _fits(self, path: Path, found: object, check: Callable[[Any], object]) -> bool:
        try:
            check(found)
        except NodeFileError as error:
            self._skip(path, str(error))
            return False
        return True

    def _skip(self, path: Path, why: str) -> None:
        """Say once that a file or folder is left alone, and why."""
        if (path, why) in self._skipped or self._journal is None:
            return
        self._skipped.add((path, why))
        self._journal.say("spool.skipped", path=ascii(str(path))[1:-1], why=why)

    def _checkpoint(self, checkpoint: CheckpointId) -> Path:
        place = (checkpoint.run, checkpoint.epoch, checkpoint.attempt, checkpoint.step)
        return _spool.checkpoint_folder(self._node_dir, *place)

    def _position_path(self, run: str, producer: str) -> Path:
        names = (_spool.safe_name(run, "run"), _spool.safe_name(producer, "incarnation"))
        return self._node_dir.joinpath("agent", "positions", *names)

    def _set_aside(self, log: Path, found: _spool.Scan, run: str, producer: str) -> None:
        place = (log, found.next_offset)
        if place in self._reported:
            return
        try:
            kept = str(_spool.set_aside_torn(log, found))
        except OSError as error:
            kept = f"not kept: {error}"  # the log still has them, and the records behind them go on
        self._reported.add(place)
        if self._journal is not None:
            self._journal.say(
                "spool.torn",
                run=run,
                producer=producer,
                kept=kept,
                begin=found.next_offset,
                end=found.resume_offset,
                reason=found.reason,
            )

    def _write(self, path: Path, body: dict[str, Any], *, durable: bool = True) -> None:
        """Replace a small file; on a full disk RetryableError, and one alarm with the figures until it is over."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(path, body, durable=durable)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._alarm(path, error)
            raise RetryableError(f"{path}: {error}") from error
        if self._full:
            self._full = False
            if self._journal is not None:
                self._journal.say("spool.has_room", node_dir=str(self._node_dir))

    def _alarm(self, path: Path, error: OSError) -> None:
        if self._full or self._journal is None:
            return
        self._full = True
        disk = shutil.disk_usage(self._node_dir)
        logs = self._node_dir.glob("runs/*/producers/*/log*")
        self._journal.say(
            "spool.full",
            path=str(path),
            error=str(error),
            free_bytes=disk.free,
            disk_bytes=disk.total,
            log_bytes=sum(one.stat().st_size for one in logs),
        )


def _bytes_of(path: Path, most: int) -> bytes | None:
    """The first bytes of a file, at most so many; None if there is nothing, CorruptError if it is no file."""
    try:
        with _spool.open_regular(path) as stream:
            return stream.read(min(most, os.fstat(stream.fileno()).st_size))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise CorruptError(f"{path} is no file: {error}") from error
