"""The witness: lease records in an S3 bucket, changed by conditional writes only.

Nothing of ours runs at the witness. Each request is sent once, and nothing repeats it (6.3): see
`services.adapters.s3.object_store.connect`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, ParamValidationError

from pipelines import paths
from pipelines.core.lease import Held
from pipelines.core.lease_checks import checked
from pipelines.errors import CorruptError, MisconfiguredError, UnknownOutcomeError
from schemas.codec import Codec
from schemas.records import Lease, LeaseGroup
from services.adapters.s3.faults import MISSING, REFUSED_CONDITION, code_of, mapped, mapped_errors
from services.adapters.s3.object_store import listed, place_of, stored

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class S3LeaseStore:
    """Implements LeaseStore and GroupStore.

    Args:
        client: of the witness; it must send each request once.
        bucket: the witness's.
        codec: of the records.
        prefix: stands before every key: a drill's records lie apart from the real ones.
    """

    def __init__(self, client: S3Client, bucket: str, codec: Codec, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._codec = codec
        self._place = place_of(client, bucket, "witness.bucket")

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist."""
        stored = self._get(paths.lease(run))
        return None if stored is None else Held(checked(self._codec.decode_as(Lease, stored[0]), run), stored[1])

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version; the new ETag, or None if the record had moved on; UnknownOutcomeError if unanswered."""
        return self._conditional(paths.lease(lease.run), self._codec.encode(lease), expected_etag)

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch; False if it is there already."""
        return self._conditional(paths.audit(run, epoch), body, None) is not None

    def claimed(self, run: str) -> int:
        """The highest epoch of which an audit copy was left; 0 if there is none."""
        prefix = self._prefix + paths.audit_prefix(run)
        with self._asking(f"read the epochs that were claimed of {run}"):
            keys = [str(entry["Key"]) for entry in listed(self._client, self._bucket, prefix)]
        return paths.highest_number(prefix, keys)

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history."""
        self._conditional(paths.noted(lease.run, lease.renew_seq), self._codec.encode(lease), None)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first."""
        prefix = self._prefix + paths.history_prefix(run)
        with self._asking(f"read the history of {run}"):
            keys = sorted(str(entry["Key"]) for entry in listed(self._client, self._bucket, prefix))
            bodies = [self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read() for key in keys]
        return tuple(self._codec.decode_as(Lease, body) for body in bodies)

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """Implements GroupStore: the object now with its ETag; None if it does not exist."""
        stored = self._get(paths.lease_group(group))
        return None if stored is None else (self._codec.decode_as(LeaseGroup, stored[0]), stored[1])

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """Implements GroupStore: replace one version; UnknownOutcomeError if unanswered."""
        return self._conditional(paths.lease_group(group.group), self._codec.encode(group), expected_etag)

    def _get(self, name: str) -> tuple[bytes, str] | None:
        key = self._prefix + name
        with self._asking(f"read {key}"):
            try:
                got = self._client.get_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if code_of(error) == MISSING:
                    return None
                raise
            return got["Body"].read(), got["ETag"]

    def _conditional(self, name: str, body: bytes, expected_etag: str | None) -> str | None:
        """The new ETag; None only if the witness said that the condition did not hold.

        What it refused by a word of its own was not written, and neither was what could not be sent. Everything else
        is unknown until a read: no answer, one that cannot be understood, and also a conflict, of which S3 says that
        the ETag is to be read before another try. Even a refused connection: a proxy may have taken the request.
        """
        key, what = self._prefix + name, f"write {self._prefix}{name}"
        try:
            if expected_etag is None:
                return stored(self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*"))
            return stored(self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfMatch=expected_etag))
        except Exception as error:
            # If-Match on a missing key is answered with 412 or NoSuchKey.
            if isinstance(error, ClientError) and code_of(error) in {*REFUSED_CONDITION, MISSING}:
                return None
            ours = mapped(what, self._place, error)
            if isinstance(error, ParamValidationError) or isinstance(ours, MisconfiguredError | CorruptError):
                raise ours from error
            raise UnknownOutcomeError(f"{ours}; the write may have happened") from error

    def _asking(self, what: str) -> AbstractContextManager[None]:
        return mapped_errors(what, self._place)
