"""Ports of a region's object store, of copies between stores, and of the witness."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipelines.core.lease import Held
from pipelines.core.retention import Listed
from schemas.records import Lease, LeaseGroup

PIECE_BYTES = 64 * 1024


class PieceStore(Protocol):
    """A bucket whose objects can be read piece by piece."""

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """An object's bytes in order, PIECE_BYTES at most at a time; None if there is none. Close it to stop early.

        Args:
            key: the whole key, as pipelines.paths makes it.

        Raises:
            RetryableError: the store does not answer in time, also in the middle of an object.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """


class ObjectStore(Protocol):
    """One region's bucket.

    Only the store's own word that there is no such key is absence; a missing bucket is a MisconfiguredError. A key that
    no store takes is a CorruptError of every method: whoever named it named no object.
    """

    def get(self, key: str) -> bytes | None:
        """An object's bytes; None if there is none.

        Args:
            key: the whole key, as pipelines.paths makes it.

        Raises:
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def create(self, key: str, body: bytes) -> bool:
        """Put an object only if there is none (If-None-Match: *); False if there is one already.

        Args:
            key: equal keys must always carry equal bytes.
            body: the object's bytes.

        Raises:
            RetryableError: no answer in time; the object may be there. To create it again is safe.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def put(self, key: str, body: bytes) -> None:
        """Put an object, whatever was there; for health probes only.

        Args:
            key: under `health/`, or a drill's own prefix.
            body: the object's bytes.

        Raises:
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with a prefix, sorted.

        Args:
            prefix: ends with a slash, or names the beginning of keys.

        Raises:
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def size(self, key: str) -> int | None:
        """An object's length in bytes; None if there is none.

        Args:
            key: the whole key.

        Raises:
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written, by the store's own clock.

        Args:
            prefix: as for `list`.

        Raises:
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def delete(self, key: str) -> None:
        """Remove an object; fine if there is none. For sweeps and drills only: no other role may.

        Args:
            key: the whole key.

        Raises:
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """


class LeaseStore(Protocol):
    """The witness: one record per run, changed by compare-and-set only, never deleted."""

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist (only creating a run may answer that with a write).

        Args:
            run: whose record.

        Raises:
            RetryableError: the witness does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
            DecodeError: the record is not one of ours, or of a later version.
            CorruptError: it is one of ours, and makes no sense.
        """

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version of a run's record.

        Args:
            lease: the record to write, with a write id of its own.
            expected_etag: the version that it replaces; None: create the record.

        Returns:
            The new ETag, or None if the record had moved on.

        Raises:
            UnknownOutcomeError: no answer came: the write may be there, or may still land (I4).
            RetryableError: it was not sent, so nothing was written.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch; False if it is there already.

        Args:
            run: whose epoch.
            epoch: the one that was won.
            body: the record that won it.

        Raises:
            RetryableError: no answer came; claiming again is safe.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def claimed(self, run: str) -> int:
        """The highest epoch of which an audit copy was left; 0 if there is none.

        Args:
            run: whose.

        Raises:
            RetryableError: the witness does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history; once is enough.

        Args:
            lease: the record, as it was written.

        Raises:
            RetryableError: no answer came; noting it again is safe.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first.

        Args:
            run: whose history.

        Raises:
            RetryableError: the witness does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
            DecodeError: a record is not one of ours.
        """


class GroupStore(Protocol):
    """The witness as lease groups use it: one object per group, changed by compare-and-set only, never deleted."""

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """The object now with its ETag; None if it does not exist.

        Args:
            group: its name.

        Raises:
            RetryableError: the witness does not answer in time.
            MisconfiguredError: it refuses the user, or the user may not do this.
            DecodeError: the object is not one of ours.
        """

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """Replace one version of a group's object; errors and result as of `LeaseStore.write`.

        Args:
            group: the object to write.
            expected_etag: the version that it replaces; None: create the object.

        Raises:
            UnknownOutcomeError: no answer came: the write may be there, or may still land (I4).
            RetryableError: it was not sent, so nothing was written.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """


@dataclass(frozen=True, slots=True)
class CopyJob:
    """Copy one object from a peer region's store into ours and verify it. `job_id` makes starting idempotent."""

    job_id: str
    peer: str
    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CopyResult:
    """The end of a copy: copied or already there (error ""), or why it failed."""

    job: CopyJob
    error: str = ""
    corrupt: bool = False  # True: the peer's object is missing or of another digest; retrying may help only if late
    moved_bytes: int = 0
    refused: bool = False  # True: a store refuses it; only a person can change that


class Transfers(Protocol):
    """Copies in the background; never blocks."""

    def start(self, job: CopyJob) -> None:
        """Begin a copy, unless a job of this id is under way, or finished and not yet collected. Raises nothing.

        Args:
            job: what to copy from where.
        """

    def cancel(self, job_id: str) -> None:
        """Give up a job. Raises nothing; unknown ids are fine.

        Args:
            job_id: it may be started again at once.
        """

    def finished(self) -> tuple[CopyResult, ...]:
        """The jobs that ended since the last call, with why they failed. Raises nothing."""

    def under_way(self) -> Mapping[str, int]:
        """The bytes that have crossed so far of each job that has begun and has not ended. Raises nothing."""
