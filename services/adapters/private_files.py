"""Files on which trust rests: secrets that nobody else may read, settings that nobody else may write.

The open file is looked at, not its name, so that what was looked at is what is read. Of a secret that root owns the
group may read: so Kubernetes mounts secrets for a service that is not root.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipelines.errors import MisconfiguredError

SECRET_BYTES_MAX = 1 << 20
_GROUP, _OTHERS = 0o070, 0o007
_GROUP_WRITES, _OTHERS_WRITE = 0o020, 0o002


def read_secret(path: Path, what: str) -> bytes:
    """The contents of a file that only its owner may read.

    Args:
        path: of the file.
        what: what kind of file it is, for an error's text.

    Raises:
        MisconfiguredError: it cannot be read, others can read it, or it is somebody else's; the text says what to do,
            and shows nothing of the contents.
    """
    try:
        with path.open("rb") as file:
            _refuse_readable(os.fstat(file.fileno()), path, what)
            secret = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise MisconfiguredError(f"{what} {path}: {error.strerror}") from None
    if len(secret) > SECRET_BYTES_MAX:
        raise MisconfiguredError(f"{what} {path} is longer than {SECRET_BYTES_MAX} bytes")
    return secret


def stamp_of(path: Path, what: str) -> tuple[int, int]:
    """Changes when a file is written, replaced, or given to others; MisconfiguredError if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError as error:
        raise MisconfiguredError(f"{what} {path}: {error.strerror}") from None
    return found.st_ctime_ns, found.st_ino


def refuse_writable(path: Path, what: str) -> None:
    """Refuse a file that somebody else could have written, or put in its place.

    Raises:
        MisconfiguredError: others may write it or its folder, or it is somebody else's; the text says what to do.
    """
    try:
        own, folder = path.stat(), path.absolute().parent.stat()
    except OSError as error:
        raise MisconfiguredError(f"{what} {path}: {error.strerror}") from None
    for found, where in ((own, path), (folder, path.absolute().parent)):
        if found.st_uid not in {os.geteuid(), 0}:
            raise MisconfiguredError(f"{what} {where} belongs to another user, who could have written it: copy it")
        sticky = where != path and found.st_mode & stat.S_ISVTX  # there, nobody replaces another's file
        if found.st_mode & (_GROUP_WRITES | _OTHERS_WRITE) and not sticky:
            raise MisconfiguredError(f"{what} {where} can be written by others ({_mode(found)}): chmod go-w {where}")


def _refuse_readable(found: os.stat_result, path: Path, what: str) -> None:
    if found.st_uid not in {os.geteuid(), 0}:
        raise MisconfiguredError(f"{what} {path} belongs to another user: it has to be this service's own, or root's")
    forbidden = _OTHERS if found.st_uid == 0 and os.geteuid() != 0 else _GROUP | _OTHERS
    if found.st_mode & forbidden:
        raise MisconfiguredError(f"{what} {path} can be read by others ({_mode(found)}): chmod 600 {path}")


def _mode(found: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(found.st_mode):04o}"
