"""The witness in memory."""

from __future__ import annotations

import dataclasses
import threading

from pipelines.core.lease import Held
from schemas.codec import Codec
from schemas.records import Lease, LeaseGroup

_CODEC = Codec()


@dataclasses.dataclass
class MemoryLeaseStore:
    """Implements LeaseStore and GroupStore; `history` holds every write that landed, in order."""

    records: dict[str, Held] = dataclasses.field(default_factory=dict)
    claims: dict[tuple[str, int], bytes] = dataclasses.field(default_factory=dict)
    history: list[Lease] = dataclasses.field(default_factory=list)
    notes: dict[tuple[str, int], Lease] = dataclasses.field(default_factory=dict)
    groups: dict[str, tuple[LeaseGroup, str]] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """Implements GroupStore."""
        return self.groups.get(group)

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """Implements GroupStore; `history` has what it changed."""
        with self.lock:
            stored = self.groups.get(group.group)
            if (None if stored is None else stored[1]) != expected_etag:
                return None
            known = set() if stored is None else {member.write_id for member in stored[0].members}
            changed = [member for member in group.members if member.write_id not in known]
            self.history += [_CODEC.decode_as(Lease, member.lease) for member in changed]
            etag = f'"{group.write_id}"'
            self.groups[group.group] = (group, etag)
            return etag

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist."""
        return self.records.get(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version; the new ETag, or None if the record had moved on."""
        with self.lock:
            held = self.records.get(lease.run)
            if (None if held is None else held.etag) != expected_etag:
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

    def claimed(self, run: str) -> int:
        """The highest epoch of which an audit copy was left; 0 if there is none."""
        return max((epoch for of, epoch in self.claims if of == run), default=0)

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history."""
        self.notes.setdefault((lease.run, lease.renew_seq), lease)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first."""
        return tuple(self.notes[key] for key in sorted(self.notes) if key[0] == run)
