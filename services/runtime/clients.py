"""S3 clients and Kafka clusters from the settings: an address and a credentials file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.ports import ObjectStore
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.s3.object_store import S3ObjectStore, connect
from services.runtime.real_time import retrier_of
from services.settings import KafkaSettings, LinkSettings, RegionSettings, credentials, kafka_user
from services.wrappers.retrying import STORE, RetryingObjectStore, RetryPolicy

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def client_of(endpoint: str, credentials_file: Path, *, timeout_s: float = 10.0, connections: int = 16) -> S3Client:
    """A client of one endpoint, which sends each request once; see `services.adapters.s3.object_store.connect`."""
    user = credentials(credentials_file)
    return connect(
        endpoint=endpoint,
        access_key=user.access_key,
        secret_key=user.secret_key,
        timeout_s=timeout_s,
        connections=connections,
    )


def repeating(store: ObjectStore, policy: RetryPolicy = STORE) -> RetryingObjectStore:
    """A store whose calls are repeated under a policy, in real time."""
    return RetryingObjectStore(store, retrier_of(policy))


def store_of(region: RegionSettings, user_file: Path | None = None) -> RetryingObjectStore:
    """A region's own bucket; as the user of another file if one is named."""
    return repeating(S3ObjectStore(client_of(region.s3, user_file or region.credentials_file), region.bucket))


def peer_store_of(link: LinkSettings) -> RetryingObjectStore:
    """Another region's bucket, through the link."""
    return repeating(S3ObjectStore(client_of(link.s3, link.credentials_file), link.bucket))


def peer_pieces_of(link: LinkSettings) -> S3ObjectStore:
    """Another region's bucket, for copies: they read piece by piece, and their flow starts a failed one again."""
    return S3ObjectStore(client_of(link.s3, link.credentials_file), link.bucket)


def own_pieces_of(region: RegionSettings, connections: int = 1) -> S3ObjectStore:
    """A region's own bucket, read piece by piece by so many threads at once."""
    return S3ObjectStore(client_of(region.s3, region.credentials_file, connections=connections), region.bucket)


def cluster_of(reached: KafkaSettings, user_file: Path | None = None) -> KafkaCluster:
    """A region's own Kafka, or a link's; for the user of another file if one is named."""
    path = user_file or reached.kafka_credentials_file
    return KafkaCluster(reached.kafka, None if path is None else kafka_user(path), reached.kafka_tls_ca_file)
