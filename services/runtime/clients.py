"""S3 clients and Kafka clusters from the settings: an address and a credentials file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.adapters.kafka.cluster import KafkaCluster
from services.adapters.s3.object_store import S3ObjectStore, connect
from services.settings import KafkaSettings, RegionSettings, credentials, kafka_user

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def client_of(
    endpoint: str, credentials_file: Path, *, attempts: int = 3, timeout_s: float = 10.0, connections: int = 16
) -> S3Client:
    """A client of one endpoint; see `services.adapters.s3.connect` for the limits."""
    user = credentials(credentials_file)
    return connect(
        endpoint=endpoint,
        access_key=user.access_key,
        secret_key=user.secret_key,
        attempts=attempts,
        timeout_s=timeout_s,
        connections=connections,
    )


def store_of(region: RegionSettings) -> S3ObjectStore:
    """A region's own bucket."""
    return S3ObjectStore(client_of(region.s3, region.credentials_file), region.bucket)


def cluster_of(reached: KafkaSettings, user_file: Path | None = None) -> KafkaCluster:
    """A region's own Kafka, or a link's; for the user of another file if one is named."""
    path = user_file or reached.kafka_credentials_file
    return KafkaCluster(reached.kafka, None if path is None else kafka_user(path), reached.kafka_tls_ca_file)
