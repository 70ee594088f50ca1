"""Copies: verified on the way, idempotent by job, bounded, and never silent."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pipelines.errors import RetryableError
from pipelines.ports import CopyJob, CopyResult, ObjectStore, Transfers
from schemas.codec import digest
from services.adapters.memory import MemoryObjectStore, MemoryTransfers
from services.adapters.s3 import S3ObjectStore, ensure_bucket
from services.adapters.transfers import ThreadTransfers
from tests.contract.conftest import BUCKETS, witness_client
from tests.waiting import wait_until

BODY = b"chunk" * 100
REAL_TRANSFERS = ["memory", "threads", pytest.param("versitygw", marks=pytest.mark.servers)]
JOB = CopyJob(job_id="j1", peer="east", key="k", size=len(BODY), sha256=digest(BODY))


class _Peer(MemoryObjectStore):
    """A peer's store whose reads can be held and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.reads = 0
        self.failing = False

    def get(self, key: str) -> bytes | None:
        """As the store's, when the gate is open."""
        self.reads += 1
        self.gate.wait(10)
        if self.failing:
            raise RetryableError("the link is cut")
        return super().get(key)


class _Pair(NamedTuple):
    """Transfers, and the store that they fill."""

    transfers: Transfers
    here: ObjectStore


@pytest.fixture
def peer() -> _Peer:
    """East, which has the object."""
    store = _Peer()
    store.put("k", BODY)
    return store


@pytest.fixture
def here() -> MemoryObjectStore:
    """Our store, empty."""
    return MemoryObjectStore()


@pytest.fixture(params=REAL_TRANSFERS)
def pair(request: pytest.FixtureRequest) -> Iterator[_Pair]:
    """The same contract in memory, on threads, and on threads between two buckets of a real server."""
    if request.param == "versitygw":
        client = witness_client(request.getfixturevalue("stack"))
        names = [f"{side}-{next(BUCKETS)}" for side in ("peer", "here")]
        for name in names:
            ensure_bucket(client, name)
        theirs, ours = (S3ObjectStore(client, name) for name in names)
        theirs.put("k", BODY)
        threads = ThreadTransfers(peers={"east": theirs}, store=ours, workers=2)
        yield _Pair(threads, ours)
        threads.close()
        return
    there, near = _Peer(), MemoryObjectStore()
    there.put("k", BODY)
    if request.param == "memory":
        yield _Pair(MemoryTransfers({"east": there}, near), near)
        return
    threads = ThreadTransfers(peers={"east": there}, store=near, workers=2)
    yield _Pair(threads, near)
    threads.close()


@pytest.fixture
def transfers(peer: _Peer, here: MemoryObjectStore) -> Iterator[ThreadTransfers]:
    """Two workers."""
    made = ThreadTransfers(peers={"east": peer}, store=here, workers=2)
    yield made
    peer.gate.set()
    made.close()


def _ended(transfers: Transfers, count: int = 1) -> list[CopyResult]:
    found: list[CopyResult] = []

    def enough() -> bool:
        found.extend(transfers.finished())
        return len(found) >= count

    wait_until(enough, 10, f"{count} copies")
    return found


def test_a_copy_is_verified_created_and_reported_once(pair: _Pair) -> None:
    """And a second copy of what is here already moves nothing."""
    transfers, here = pair
    transfers.start(JOB)
    transfers.start(JOB)
    assert _ended(transfers) == [CopyResult(JOB, moved_bytes=len(BODY))]
    assert here.get("k") == BODY
    transfers.start(JOB)
    assert _ended(transfers) == [CopyResult(JOB, moved_bytes=0)]
    assert transfers.finished() == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "absent"}, "not in the store of east"),
        ({"size": 3}, "500 bytes, its manifest names 3"),
        ({"sha256": "0" * 64}, "has SHA-256"),
    ],
)
def test_I13_missing_truncated_and_changed_bytes_are_corrupt_and_never_created(
    pair: _Pair, change: dict[str, str], reason: str
) -> None:
    """Each says what was wrong and where."""
    transfers, here = pair
    transfers.start(dataclasses.replace(JOB, **change))  # type: ignore[arg-type] # the table's values fit their fields
    (result,) = _ended(transfers)
    assert result.corrupt
    assert reason in result.error
    assert here.list("") == ()


def test_what_is_here_but_wrong_is_found(pair: _Pair) -> None:
    """Only chunks verified in this region are trusted."""
    transfers, here = pair
    here.put("k", BODY[:-1] + b"?")
    transfers.start(JOB)
    (result,) = _ended(transfers)
    assert result.corrupt
    assert "this region's k" in result.error


def test_a_link_that_is_cut_is_no_fault_of_the_bytes_in_memory_either() -> None:
    """The fake says the same of a store that does not answer."""
    there, near = _Peer(), MemoryObjectStore()
    there.failing = True
    transfers = MemoryTransfers({"east": there}, near)
    transfers.start(JOB)
    (result,) = transfers.finished()
    assert (result.corrupt, result.error) == (False, "the link is cut")


def test_a_cut_link_is_reported_as_retryable_and_the_same_job_may_start_again(
    transfers: ThreadTransfers, peer: _Peer
) -> None:
    """A fault of the link is not a fault of the bytes."""
    peer.failing = True
    transfers.start(JOB)
    (result,) = _ended(transfers)
    assert (result.corrupt, result.error) == (False, "the link is cut")
    peer.failing = False
    transfers.start(JOB)
    assert _ended(transfers)[0].error == ""


def test_a_cancelled_copy_is_not_reported_and_can_be_started_again(transfers: ThreadTransfers, peer: _Peer) -> None:
    """Whether it was waiting for a worker or under way; unknown ids are fine."""
    peer.gate.clear()
    jobs = [dataclasses.replace(JOB, job_id=f"j{number}") for number in range(3)]
    for job in jobs:
        transfers.start(job)
    wait_until(lambda: peer.reads == 2, 10, "both workers")
    transfers.cancel("j0")
    transfers.cancel("j2")
    transfers.cancel("unknown")
    peer.gate.set()
    assert [result.job.job_id for result in _ended(transfers)] == ["j1"]
    transfers.start(jobs[2])
    assert [result.job.job_id for result in _ended(transfers)] == ["j2"]


def test_a_copy_that_is_cancelled_and_wanted_again_while_it_runs_is_reported(
    transfers: ThreadTransfers, peer: _Peer
) -> None:
    """Newest-wins may change its mind: a wanted copy never stays silent."""
    peer.gate.clear()
    transfers.start(JOB)
    wait_until(lambda: peer.reads == 1, 10, "the worker")
    transfers.cancel(JOB.job_id)
    transfers.start(JOB)
    peer.gate.set()
    assert [result.error for result in _ended(transfers)] == [""]
