"""A checkpoint's files in the spool: written once, digested while they are written, under a quota.

Nothing here knows torch. Order of a shard's life: reserved (preallocated, so that a full disk shows
before the first byte), written as ``.part``, fsynced, renamed, then its descriptor. Only a shard with a
descriptor counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from farside import _spool
from farside.errors import CorruptCheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALIGNMENT: Final = 64
CHUNK_BYTES: Final = 4 * 1024 * 1024


class AlreadySavedError(OSError):
    """This attempt has written this step's shard before, and nothing is ever written over."""


def aligned(offset: int) -> int:
    """The next offset at which an item may begin."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


class ShardWriter:
    """One rank's shard: items one after another, each aligned, with the digests of item, chunk and file.

    Args:
        folder: the checkpoint's folder on this node, made here.
        rank: whose shard it is.
        size: how many bytes the items and the gaps between them take; reserved before anything is written.
        chunk_bytes: the unit of transfer.
    """

    def __init__(self, folder: Path, rank: int, size: int, chunk_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._final = folder / _spool.shard_name(rank)
        if self._final.exists():
            raise AlreadySavedError(errno.EEXIST, f"{self._final} exists")
        self._part = self._final.with_suffix(".shard.part")
        self._rank = rank
        self._chunk_bytes = chunk_bytes
        self._chunks: list[dict[str, Any]] = []
        self._chunk = hashlib.sha256()
        self._chunk_size = 0
        self._whole = hashlib.sha256()
        self._offset = 0
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if size:
                os.posix_fallocate(self._fd, 0, size)
        except OSError:
            self.discard()
            raise

    def write_item(self, data: memoryview) -> tuple[int, str]:
        """Append one item; its offset and SHA-256."""
        self._put(memoryview(bytes(aligned(self._offset) - self._offset)))
        offset, digest = self._offset, hashlib.sha256(data)
        self._put(data)
        return offset, digest.hexdigest()

    def finish(self) -> dict[str, Any]:
        """Make the shard durable under its own name; its entry in the intent's ``ranks``."""
        if self._chunk_size:
            self._end_chunk()
        os.ftruncate(self._fd, self._offset)
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._part.replace(self._final)
        _spool.fsync_folder(self._final.parent)
        return {
            "rank": self._rank,
            "size": self._offset,
            "sha256": self._whole.hexdigest(),
            "chunks": self._chunks,
        }

    def discard(self) -> None:
        """Take away what there is of an unfinished shard."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._part.unlink(missing_ok=True)

    def _put(self, data: memoryview) -> None:
        while data:
            piece = data[: self._chunk_bytes - self._chunk_size]
            _write_all(self._fd, piece)
            self._chunk.update(piece)
            self._whole.update(piece)
            self._chunk_size += len(piece)
            self._offset += len(piece)
            if self._chunk_size == self._chunk_bytes:
                self._end_chunk()
            data = data[len(piece) :]

    def _end_chunk(self) -> None:
        self._chunks.append({"size": self._chunk_size, "sha256": self._chunk.hexdigest()})
        self._chunk, self._chunk_size = hashlib.sha256(), 0


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def reservation(run_folder: Path, size: int, quota_bytes: int | None) -> Iterator[None]:
    """Hold the node's lock while ``size`` bytes are reserved, so that ranks do not pass the quota together.

    Raises:
        OSError: EDQUOT, the run's checkpoints on this node would take more than ``quota_bytes``.
    """
    if quota_bytes is None:
        yield
        return
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / "quota.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        used = _bytes_under(run_folder / "checkpoints")
        if used + size > quota_bytes:
            raise OSError(errno.EDQUOT, f"{used} bytes used, {size} more wanted, the quota is {quota_bytes}")
        yield


def _bytes_under(folder: Path) -> int:
    used = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the agent clears away what is uploaded
            found = file.stat()
            used += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return used


def write_rank_state(folder: Path, rank: int, blob: bytes) -> None:
    """Put one rank's state beside its shard: the bytes, then the descriptor that makes them count."""
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / _spool.state_descriptor_name(rank)
    described.unlink(missing_ok=True)  # a state that is given again: the agent must not compare it with the old digest
    _spool.write_atomically(folder / _spool.state_name(rank), blob)
    _spool.write_json_atomically(described, {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()})


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Describe an index folder; call it when the files that ``index`` names are all there.

    Raises:
        ValueError: the description lacks a field of the format.
    """
    missing = _INDEX_FIELDS - index.keys()
    if missing:
        raise ValueError(f"the index lacks {', '.join(sorted(missing))}")
    _spool.write_json_atomically(_spool.index_path(folder), index)


_INDEX_FIELDS = frozenset(
    [
        "manifest_digest",
        "epoch",
        "attempt",
        "step",
        "mode",
        "world_size",
        "items",
        "planner",
        "data_version",
        "files",
        "rank_states",
    ]
)


def read_index(folder: Path) -> dict[str, Any]:
    """The description of an index folder.

    Raises:
        CorruptCheckpointError: it is missing, incomplete, or names a file elsewhere.
    """
    path = _spool.index_path(folder)
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"{path} cannot be read: {error}") from error
    missing = _INDEX_FIELDS - index.keys() if isinstance(index, dict) else _INDEX_FIELDS
    if missing:
        raise CorruptCheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    names = [*index["files"].values(), *(state["file"] for state in index["rank_states"].values())]
    for name in names:
        if "/" in name or name in {"", ".", ".."}:
            raise CorruptCheckpointError(f"{path} names a file outside its folder: {name!r}")
    return dict(index)


def read_rank_state(folder: Path, index: dict[str, Any], rank: int) -> bytes | None:
    """This rank's state from an index folder, verified; None if the checkpoint has none for this rank.

    Raises:
        CorruptCheckpointError: the bytes are not those that were saved.
    """
    entry = index["rank_states"].get(str(rank))
    if entry is None:
        return None
    path = folder / str(entry["file"])
    try:
        blob: bytes = path.read_bytes()
    except OSError as error:
        raise CorruptCheckpointError(f"rank {rank}'s state cannot be read: {error}") from error
    digest = hashlib.sha256(blob).hexdigest()
    if digest != entry["sha256"]:
        raise CorruptCheckpointError(
            f"rank {rank}'s state is not what was saved: its SHA-256 is {digest}, {entry['sha256']} was recorded"
        )
    return blob
