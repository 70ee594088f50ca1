"""A region's bucket on an S3 server.

Farside rests on conditional writes (If-None-Match, If-Match): `conformance.py` proves that a server
honours them. `faults.py` says what each error of the server becomes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.response import StreamingBody

from pipelines.core.retention import Listed
from pipelines.errors import MisconfiguredError
from pipelines.ports import PIECE_BYTES
from services.adapters.s3.faults import MISSING, REFUSED_CONDITION, Place, code_of, mapped_errors, status_of

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


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

    Raises:
        MisconfiguredError: the endpoint is no URL.
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
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )
    except ValueError as error:
        raise MisconfiguredError(f"S3 address {endpoint!r}: {error}: give http://host:port or https://host") from error
    client.meta.events.register("before-call.s3", _not_redirected)
    return client


def _not_redirected(context: dict[str, Any], **_: object) -> None:
    """Keep the SDK from asking for a bucket's region after a 301 and sending the request a second time there."""
    context["s3_redirect"] = {**context.get("s3_redirect", {}), "redirected": True}


def place_of(client: S3Client, bucket: str, setting: str = "bucket") -> Place:
    """A bucket as its client reaches it, for the texts of errors."""
    return Place(bucket, client.meta.endpoint_url, setting)


def ensure_bucket(client: S3Client, bucket: str) -> None:
    """Make the bucket unless it is there; a user who may not make buckets needs one that is there."""
    with mapped_errors(f"bucket {bucket}", place_of(client, bucket)):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) not in {"404", "NoSuchBucket"}:
                raise
        else:
            return
        try:
            client.create_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise


class S3ObjectStore:
    """Implements ObjectStore and PieceStore.

    Args:
        client: of the store.
        bucket: the region's.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._place = place_of(client, bucket)

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        with self._asking(f"get {key}"):
            got = self._opened(key)
            return None if got is None else got["Body"].read()

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """Implements PieceStore."""
        with self._asking(f"get {key}"):
            got = self._opened(key)
        return None if got is None else self._pieces(key, got["Body"])

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none; False if there is one already. A conflict says neither, and is tried again."""
        with self._asking(f"create {key}"):
            try:
                stored(self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*"))
            except ClientError as error:
                if code_of(error) in REFUSED_CONDITION:
                    return False
                raise
            return True

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        with self._asking(f"put {key}"):
            stored(self._client.put_object(Bucket=self._bucket, Key=key, Body=body))

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        with self._asking(f"list {prefix}"):
            return tuple(sorted(str(entry["Key"]) for entry in listed(self._client, self._bucket, prefix)))

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""
        with self._asking(f"head {key}"):
            try:
                return _size_in(self._client.head_object(Bucket=self._bucket, Key=key))
            except ClientError as error:
                if not HTTPStatus.BAD_REQUEST <= status_of(error) < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
            # A HEAD is refused without a word of what is wrong, or missing: the object or its bucket. A GET tells.
            got = self._opened(key)
            if got is None:
                return None
            with contextlib.closing(got["Body"]):
                return _size_in(got)

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written."""
        with self._asking(f"list {prefix}"):
            found = [
                Listed(str(entry["Key"]), int(entry["Size"]), round(entry["LastModified"].timestamp() * 1000))
                for entry in listed(self._client, self._bucket, prefix)
            ]
        return tuple(sorted(found, key=lambda entry: entry.key))

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none."""
        with self._asking(f"delete {key}"):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if code_of(error) != MISSING:
                    raise

    def _opened(self, key: str) -> Mapping[str, Any] | None:
        """A GET's answer with its body still to be read; None if there is no such object."""
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if code_of(error) == MISSING:
                return None
            raise

    def _pieces(self, key: str, body: StreamingBody) -> Generator[bytes, None, None]:
        """Read on until the end; a connection that breaks in between is an error of ours."""
        with self._asking(f"get {key}"), contextlib.closing(body):
            yield from body.iter_chunks(PIECE_BYTES)

    def _asking(self, what: str) -> AbstractContextManager[None]:
        return mapped_errors(what, self._place)


def _size_in(answer: Mapping[str, Any]) -> int:
    """An object's length; KeyError if the answer has no ETag: then it is not a store's."""
    stored(answer)
    return int(answer["ContentLength"])


def stored(answer: Mapping[str, Any]) -> str:
    """The ETag of what was put, or is there; KeyError if the answer has none: then it is not a store's."""
    return str(answer["ETag"])


def listed(client: S3Client, bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    """Every object below a prefix; ValueError if an answer is no listing: it must not look like an empty one."""
    pages: Iterator[Mapping[str, Any]] = iter(
        client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    )
    for page in pages:
        if "IsTruncated" not in page and "KeyCount" not in page:
            raise ValueError("it is no listing of a bucket")
        yield from page.get("Contents", ())
