"""Fakes that ship with the product: the same contracts in memory, for the simulator and unit tests."""

from __future__ import annotations

import dataclasses
import threading

from pipelines.core.lease import Held
from schemas.records import Lease


class MemoryObjectStore:
    """Implements ObjectStore in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        return self.objects.get(key)

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none."""
        with self._lock:
            if key in self.objects:
                return False
            self.objects[key] = body
            return True

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        self.objects[key] = body

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        return tuple(sorted(key for key in list(self.objects) if key.startswith(prefix)))

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""
        body = self.objects.get(key)
        return None if body is None else len(body)


@dataclasses.dataclass
class MemoryLeaseStore:
    """Implements LeaseStore; `history` holds every write that landed, in order."""

    records: dict[str, Held] = dataclasses.field(default_factory=dict)
    claims: dict[tuple[str, int], bytes] = dataclasses.field(default_factory=dict)
    history: list[Lease] = dataclasses.field(default_factory=list)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist."""
        return self.records.get(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version; the new ETag, or None if the record had moved on."""
        with self.lock:
            found = self.records.get(lease.run)
            if (None if found is None else found.etag) != expected_etag:
                return None
            etag = f'"{lease.write_id}"'
            self.records[lease.run] = Held(lease, etag)
            self.history.append(lease)
            return etag

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch; False if it is there already."""
        with self.lock:
            if (run, epoch) in self.claims:
                return False
            self.claims[run, epoch] = body
            return True
