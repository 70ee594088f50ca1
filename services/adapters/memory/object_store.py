"""A bucket in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

from pipelines.core.retention import Listed
from pipelines.ports import PIECE_BYTES
from services.adapters.system_clock import SystemClock


class MemoryObjectStore:
    """Implements ObjectStore in a dictionary. `wall_ms` is its clock."""

    def __init__(self, wall_ms: Callable[[], int] | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self._modified_ms: dict[str, int] = {}
        self._wall_ms = wall_ms or SystemClock().wall_ms
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        return self.objects.get(key)

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """Implements PieceStore."""
        body = self.objects.get(key)
        return None if body is None else (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none."""
        with self._lock:
            if key in self.objects:
                return False
            self.put(key, body)
            return True

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        self.objects[key] = body
        self._modified_ms[key] = self._wall_ms()

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        return tuple(sorted(key for key in list(self.objects) if key.startswith(prefix)))

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""
        body = self.objects.get(key)
        return None if body is None else len(body)

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written."""
        stored = ((key, self.objects.get(key)) for key in self.list(prefix))
        return tuple(Listed(key, len(body), self._modified_ms.get(key, 0)) for key, body in stored if body is not None)

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none."""
        with self._lock:
            self.objects.pop(key, None)
