"""A small real disk for a node's spool, which a test fills and empties."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZE = "96m"
_PAGE = 4096


class SmallDisk:
    """A mounted tmpfs; `leave` takes its room away with a file beside what lies there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / ".ballast"

    @property
    def free_bytes(self) -> int:
        """The free bytes."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def leave(self, room_bytes: int) -> None:
        """Take all but so much."""
        with self._ballast.open("ab", buffering=0) as stream:
            while (over := self.free_bytes - room_bytes) >= _PAGE:
                try:
                    os.posix_fallocate(stream.fileno(), stream.seek(0, os.SEEK_END), over // _PAGE * _PAGE)
                except OSError:  # others took some meanwhile
                    continue

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[SmallDisk]:
    """A tmpfs at a folder, gone again whatever happens; subprocess.CalledProcessError if we may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "farside-test", str(folder)], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
