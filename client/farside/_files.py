"""Small files that are replaced as a whole."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


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


def open_regular(path: Path) -> IO[bytes]:
    """A file to read. Never waits: what is no regular file (a pipe would wait for its writer) is an OSError."""
    stream = open(path, "rb", opener=_not_waiting)  # noqa: SIM115 - pathlib has no opener; the caller closes it
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def _not_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


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
