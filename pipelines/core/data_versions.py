"""Data versions whose list of shards lies in an object of its own, named by the digest of its bytes. Pure."""

from __future__ import annotations

import dataclasses

from pipelines import paths
from pipelines.errors import CorruptError
from schemas.codec import digest
from schemas.records import DataVersion

INLINE_BYTES_MAX = 64 * 1024
"""A list that is larger than this, encoded, lies in an object."""

DIGEST_LENGTH = 64  # of a SHA-256 in hexadecimal


def with_list_at(event: DataVersion, listed: bytes) -> DataVersion:
    """The same version with its list in an object.

    Args:
        event: the version with all its shards.
        listed: the object's bytes, an encoded ShardList.
    """
    return dataclasses.replace(
        event,
        shards=(),
        list_key=paths.shard_list(event.run, digest(listed)),
        list_sha256=digest(listed),
        list_bytes=len(listed),
        list_count=len(event.shards),
    )


def files_of(event: DataVersion) -> int:
    """How many files the version has."""
    return event.list_count if event.list_key else len(event.shards)


def check_event(event: DataVersion) -> None:
    """CorruptError if the version names a list that is not its own run's, or has no digest or size."""
    expected = paths.shard_list(event.run, event.list_sha256)
    if event.list_key != expected or len(event.list_sha256) != DIGEST_LENGTH or event.list_bytes <= 0:
        raise CorruptError(f"data version {event.event_id} names the list {event.list_key!r}: {expected} is its own")


def check_list(event: DataVersion, listed: bytes | None) -> None:
    """CorruptError unless these are the bytes of the version's list."""
    if listed is None or (len(listed), digest(listed)) != (event.list_bytes, event.list_sha256):
        raise CorruptError(f"{event.list_key} is not the list that data version {event.event_id} names")
