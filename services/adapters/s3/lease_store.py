"""The witness: lease records in an S3 bucket, changed by conditional writes only.

Nothing of ours runs at the witness. Each request is sent once, and nothing repeats it (6.3): see
`services.adapters.s3.object_store.connect`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import (
    ClientError,
    HTTPClientError,
)
from botocore.exceptions import (
    ConnectionError as ConnectError,
)

from pipelines import paths
from pipelines.core.lease import Held
from pipelines.errors import UnknownOutcomeError
from schemas.codec import Codec
from schemas.records import Lease, LeaseGroup
from services.adapters.s3.object_store import MISSING, REFUSED_CONDITION, code_of, mapped_errors

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SERVER_ERROR_LEAST = 500


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

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist."""
        stored = self._get(paths.lease(run))
        return None if stored is None else Held(self._codec.decode_as(Lease, stored[0]), stored[1])

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version; the new ETag, or None if the record had moved on; UnknownOutcomeError if unanswered."""
        return self._conditional(paths.lease(lease.run), self._codec.encode(lease), expected_etag)

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch; False if it is there already."""
        return self._conditional(paths.audit(run, epoch), body, None) is not None

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history."""
        self._conditional(paths.noted(lease.run, lease.renew_seq), self._codec.encode(lease), None)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first."""
        with mapped_errors(f"read the history of {run}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + paths.history_prefix(run)
            )
            keys = sorted(item["Key"] for page in pages for item in page.get("Contents", ()))
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
        with mapped_errors(f"read {key}"):
            try:
                got = self._client.get_object(Bucket=self._bucket, Key=key)
                return got["Body"].read(), got["ETag"]
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise

    def _conditional(self, name: str, body: bytes, expected_etag: str | None) -> str | None:
        key = self._prefix + name
        with mapped_errors(f"write {key}"):
            try:
                if expected_etag is None:
                    done = self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")
                else:
                    done = self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfMatch=expected_etag)
                return done["ETag"]
            except ClientError as error:
                _raise_unless_refused(error, key)
                return None
            except (HTTPClientError, ConnectError) as error:
                # Even a refused connection is counted as unknown: a proxy may have taken the request before it broke.
                raise UnknownOutcomeError(f"write {key}: no answer: {error}") from error


def _raise_unless_refused(error: ClientError, key: str) -> None:
    code = code_of(error)
    if code in REFUSED_CONDITION or code in MISSING:  # If-Match on a missing key is answered 404 or 412
        return
    if error.response["ResponseMetadata"]["HTTPStatusCode"] >= SERVER_ERROR_LEAST:
        raise UnknownOutcomeError(f"write {key}: the store answers {code}, the write may have happened") from error
    raise error
