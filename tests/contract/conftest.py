"""The object stores and lease stores that the contract suites run over."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from types_boto3_s3 import S3Client

from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines.ports import LeaseStore, ObjectStore
from schemas.codec import Codec
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.s3.object_store import S3ObjectStore, connect, ensure_bucket
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.demo import local_config
from services.settings import Settings, load
from services.wrappers.grouped_leases import GroupedLeases
from services.wrappers.overlay import OverlayStore

BUCKETS = itertools.count(1)
REAL = [pytest.param("memory"), pytest.param("versitygw", marks=pytest.mark.servers)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack with the users, policies and ACLs of `farside up`; its settings."""
    with Stack(tmp_path_factory.mktemp("users") / "stack", Tools.cached(), ("east", "west"), LinkShape()) as stack:
        stack.start()
        yield local_config.write(stack.layout)


@pytest.fixture
def settings(config: Path) -> Settings:
    """The stack's, as a service reads them."""
    return load(config, {})


def witness_client(stack: Stack, endpoint: str | None = None, timeout_s: float = 5.0) -> S3Client:
    """A client of the witness with one attempt a request, as the lease needs it."""
    keys = json.loads(stack.endpoints().credentials_file.read_text(encoding="utf-8"))["s3-witness"]
    return connect(endpoint=endpoint or stack.endpoints().witness_endpoint, timeout_s=timeout_s, **keys)


@pytest.fixture(params=[*REAL, "aside"])
def object_store(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty bucket, in memory, on a real server, and beside other objects."""
    if request.param == "aside":
        return OverlayStore(MemoryObjectStore(), MemoryObjectStore(), "drills/now/d1/")
    if request.param == "memory":
        return MemoryObjectStore()
    client = witness_client(request.getfixturevalue("stack"))
    bucket = f"objects-{next(BUCKETS)}"
    ensure_bucket(client, bucket)
    return S3ObjectStore(client, bucket)


def grouped(leases: MemoryLeaseStore | S3LeaseStore) -> GroupedLeases:
    """The run of the suite in a lease group with others."""
    members = dict.fromkeys(("gpt", "other", "none"), "g")
    return GroupedLeases(
        leases, leases, group_of=members, codec=Codec(), clock=SystemClock(), entropy=SystemEntropy(), gathers_s=0.001
    )


@pytest.fixture(
    params=[
        *REAL,
        pytest.param("prefixed", marks=pytest.mark.servers),
        "grouped-memory",
        pytest.param("grouped", marks=pytest.mark.servers),
    ]
)
def lease_store(request: pytest.FixtureRequest) -> LeaseStore:
    """A witness without any record, in memory and on a real server, of a run for itself and of one in a group."""
    if request.param == "memory":
        return MemoryLeaseStore()
    if request.param == "grouped-memory":
        return grouped(MemoryLeaseStore())
    client = witness_client(request.getfixturevalue("stack"))
    bucket = f"leases-{next(BUCKETS)}"
    ensure_bucket(client, bucket)
    leases = S3LeaseStore(client, bucket, Codec(), "drills/now/d1/" if request.param == "prefixed" else "")
    return grouped(leases) if request.param == "grouped" else leases
