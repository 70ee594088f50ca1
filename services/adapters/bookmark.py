"""A replay's position, in a small file that is replaced as a whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from farside._files import read_json, write_json_atomically
from pipelines.errors import MisconfiguredError
from pipelines.flows.inspection.replay import Mark


class FileBookmark:
    """Implements Bookmark."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mark | None:
        """The mark; None if there is none; MisconfiguredError if the file holds something else."""
        if not self._path.exists():
            return None
        try:
            return Mark(**(read_json(self._path) or {}))
        except TypeError as error:
            raise MisconfiguredError(f"{self._path} is no position of a replay: {error}; remove it") from error

    def write(self, mark: Mark) -> None:
        """Replace it, durably."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(self._path, dataclasses.asdict(mark))
        except OSError as error:
            raise MisconfiguredError(f"{self._path}: {error.strerror}: the replay's position cannot be kept") from error
