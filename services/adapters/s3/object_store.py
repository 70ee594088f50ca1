"""A region's bucket on an S3 server.

Farside rests on conditional writes (If-None-Match, If-Match): `conformance.py` proves that a server
honours them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from pipelines.core.retention import Listed
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.ports import PIECE_BYTES

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
REFUSED_CONDITION = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
DENIED = frozenset({"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


def connect(
    *,
    endpoint: str,
    access_key: str,
    secret_key: str,
    timeout_s: float = 10.0,
    connections: int = 16,
) -> S3Client:
    """A client of one S3 endpoint, which sends each request once.

    What may be repeated is repeated by `services.wrappers.retrying`. The SDK must not do it: of a conditional write
    whose reply was lost, its second request is answered 412, though the write has won (design 6.3).

    Args:
        endpoint: URL.
        access_key: of a user of that server.
        secret_key: its secret.
        timeout_s: for connecting, and for each read.
        connections: are kept open for the threads that share the client.
    """
    config = Config(
        s3={"addressing_style": "path"},
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=connections,
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )


def code_of(error: ClientError) -> str:
    """The server's error code, or else its HTTP status as text."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code or str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


@contextmanager
def mapped_errors(what: str) -> Iterator[None]:
    """Turn the SDK's errors into ours; conditions and missing keys are the caller's to handle first."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in DENIED:
            raise MisconfiguredError(
                f"{what}: the store denies it ({code}): check the credentials file, and the user's policy "
                "(docs/credentials.md)"
            ) from error
        raise RetryableError(f"{what}: the store answers {code}") from error
    except BotoCoreError as error:
        raise RetryableError(f"{what}: {error}") from error


def ensure_bucket(client: S3Client, bucket: str) -> None:
    """Make the bucket unless it is there; a user who may not make buckets needs one that is there."""
    with mapped_errors(f"bucket {bucket}"):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) not in MISSING:
                raise
        else:
            return
        try:
            client.create_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise


class S3ObjectStore:
    """Implements ObjectStore."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        with mapped_errors(f"get {key}"):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """Implements PieceStore."""
        with mapped_errors(f"get {key}"):
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise
        return _pieces(key, body)

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none; False if there is one already."""
        with mapped_errors(f"create {key}"):
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in REFUSED_CONDITION:
                    return False
                raise
            return True

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        with mapped_errors(f"put {key}"):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body)

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        with mapped_errors(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            return tuple(sorted(entry["Key"] for page in pages for entry in page.get("Contents", [])))

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""
        with mapped_errors(f"head {key}"):
            try:
                return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written."""
        with mapped_errors(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            listed = [
                Listed(entry["Key"], entry["Size"], round(entry["LastModified"].timestamp() * 1000))
                for page in pages
                for entry in page.get("Contents", [])
            ]
        return tuple(sorted(listed, key=lambda entry: entry.key))

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none."""
        with mapped_errors(f"delete {key}"):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if code_of(error) not in MISSING:
                    raise


def _pieces(key: str, body: StreamingBody) -> Generator[bytes, None, None]:
    """Read on until the end; a connection that breaks in between is an error of ours."""
    with mapped_errors(f"get {key}"), contextlib.closing(body):
        yield from body.iter_chunks(PIECE_BYTES)
