"""Copies: verified on the way, idempotent by job, bounded, and never silent."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple

import pytest

from pipelines.core.retention import Listed
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.ports import PIECE_BYTES, CopyJob, CopyResult, ObjectStore, Transfers
from schemas.codec import digest
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.s3.object_store import S3ObjectStore, ensure_bucket
from services.adapters.transfers import ThreadTransfers
from tests.contract.conftest import BUCKETS, witness_client
from tests.waiting import wait_until

BODY = b"chunk" * 100
REAL_TRANSFERS = ["memory", "threads", pytest.param("versitygw", marks=pytest.mark.servers)]
JOB = CopyJob(job_id="j1", peer="east", key="k", size=len(BODY), sha256=digest(BODY))


class _Link:
    """Implements ObjectStore around a peer's store whose reads can be held and can fail."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.gate = threading.Event()
        self.gate.set()
        self.reads = 0
        self.failing = False
        self.refusing = False
        self.piece_bytes = PIECE_BYTES
        self.pieces_read = 0
        self.piece_gate = threading.Event()  # held before each further piece
        self.piece_gate.set()

    def get(self, key: str) -> bytes | None:
        self._read()
        return self.store.get(key)

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        self._read()
        body = self.store.get(key)
        return None if body is None else self._slowly(body)

    def _read(self) -> None:
        self.reads += 1
        self.gate.wait(10)
        if self.failing:
            raise RetryableError("the link is cut")
        if self.refusing:
            raise MisconfiguredError("user west: denied")

    def _slowly(self, body: bytes) -> Generator[bytes, None, None]:
        for at in range(0, len(body), self.piece_bytes):
            yield body[at : at + self.piece_bytes]
            self.pieces_read += 1
            self.piece_gate.wait(10)

    def create(self, key: str, body: bytes) -> bool:
        return self.store.create(key, body)

    def put(self, key: str, body: bytes) -> None:
        self.store.put(key, body)

    def list(self, prefix: str) -> tuple[str, ...]:
        return self.store.list(prefix)

    def size(self, key: str) -> int | None:
        return self.store.size(key)

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        return self.store.entries(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)


class _Pair(NamedTuple):
    """Transfers, the link over which they read east's store, and the store that they fill."""

    transfers: Transfers
    link: _Link
    here: ObjectStore


def _stores(request: pytest.FixtureRequest, kind: str) -> tuple[ObjectStore, ObjectStore]:
    """East's, which has the object, and ours, which is empty."""
    if kind != "versitygw":
        theirs, ours = MemoryObjectStore(), MemoryObjectStore()
        theirs.put("k", BODY)
        return theirs, ours
    client = witness_client(request.getfixturevalue("stack"))
    names = [f"{side}-{next(BUCKETS)}" for side in ("peer", "here")]
    for name in names:
        ensure_bucket(client, name)
    S3ObjectStore(client, names[0]).put("k", BODY)
    return S3ObjectStore(client, names[0]), S3ObjectStore(client, names[1])


@pytest.fixture(params=REAL_TRANSFERS)
def pair(request: pytest.FixtureRequest) -> Iterator[_Pair]:
    """The same contract in memory, on threads, and on threads between two buckets of a real server."""
    theirs, ours = _stores(request, request.param)
    link = _Link(theirs)
    if request.param == "memory":
        yield _Pair(MemoryTransfers({"east": link}, ours), link, ours)
        return
    threads = ThreadTransfers(peers={"east": link}, store=ours, workers=2)
    yield _Pair(threads, link, ours)
    threads.close()


@pytest.fixture
def link() -> _Link:
    """To east, which has the object."""
    store = MemoryObjectStore()
    store.put("k", BODY)
    return _Link(store)


@pytest.fixture
def transfers(link: _Link) -> Iterator[ThreadTransfers]:
    """Two workers."""
    made = ThreadTransfers(peers={"east": link}, store=MemoryObjectStore(), workers=2)
    yield made
    link.gate.set()
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
    transfers, _, here = pair
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
        ({"size": 3}, "bytes, its manifest names 3"),
        ({"sha256": "0" * 64}, "has SHA-256"),
    ],
)
def test_I13_missing_truncated_and_changed_bytes_are_corrupt_and_never_created(
    pair: _Pair, change: dict[str, str], reason: str
) -> None:
    """Each says what was wrong and where."""
    transfers, _, here = pair
    transfers.start(dataclasses.replace(JOB, **change))  # type: ignore[arg-type] # the table's values fit their fields
    (result,) = _ended(transfers)
    assert result.corrupt
    assert reason in result.error
    assert here.list("") == ()


def test_what_is_here_but_wrong_is_replaced(pair: _Pair) -> None:
    """Only chunks verified in this region are trusted."""
    transfers, _, here = pair
    here.put("k", BODY[:-1] + b"?")
    transfers.start(JOB)
    (result,) = _ended(transfers)
    assert result.error == ""
    assert here.get("k") == BODY


def test_a_cut_link_is_reported_as_retryable_and_the_same_job_may_start_again(pair: _Pair) -> None:
    """A fault of the link is not a fault of the bytes."""
    transfers, link, here = pair
    link.failing = True
    transfers.start(JOB)
    assert _ended(transfers) == [CopyResult(JOB, error="the link is cut", corrupt=False)]
    link.failing = False
    transfers.start(JOB)
    assert _ended(transfers) == [CopyResult(JOB, moved_bytes=len(BODY))]
    assert here.get("k") == BODY


def test_a_peer_that_nobody_knows_is_reported_and_the_next_copy_goes_on(pair: _Pair) -> None:
    """A copy never ends in silence, whatever it died of."""
    transfers, _, _ = pair
    transfers.start(dataclasses.replace(JOB, job_id="j2", peer="nowhere"))
    (result,) = _ended(transfers)
    assert (result.corrupt, result.error) == (False, "KeyError: 'nowhere'")
    transfers.start(JOB)
    assert [one.error for one in _ended(transfers)] == [""]


def test_a_cancelled_copy_stays_silent_until_it_is_wanted_again(pair: _Pair) -> None:
    """Wherever it stood when it was given up; unknown ids are fine."""
    transfers, _, _ = pair
    other = dataclasses.replace(JOB, job_id="j2")
    transfers.start(JOB)
    transfers.cancel(JOB.job_id)
    transfers.cancel("unknown")
    transfers.start(other)
    assert [one.job for one in _ended(transfers)] == [other]
    transfers.start(JOB)
    assert [one.job for one in _ended(transfers)] == [JOB]
    assert transfers.finished() == ()


def test_the_fake_copies_as_many_a_turn_as_it_was_told() -> None:
    """So that a test can look at half a copy."""
    there = MemoryObjectStore()
    there.put("k", BODY)
    transfers = MemoryTransfers({"east": there}, MemoryObjectStore(), per_turn=2)
    for number in range(3):
        transfers.start(dataclasses.replace(JOB, job_id=f"j{number}"))
    turns = [[one.job.job_id for one in transfers.finished()] for _ in range(3)]
    assert turns == [["j0", "j1"], ["j2"], []]


def test_a_cancelled_copy_is_not_reported_and_can_be_started_again(transfers: ThreadTransfers, link: _Link) -> None:
    """Whether it was waiting for a worker or under way; unknown ids are fine."""
    link.gate.clear()
    jobs = [dataclasses.replace(JOB, job_id=f"j{number}") for number in range(3)]
    for job in jobs:
        transfers.start(job)
    wait_until(lambda: link.reads == 2, 10, "both workers")
    transfers.cancel("j0")
    transfers.cancel("j2")
    transfers.cancel("unknown")
    link.gate.set()
    assert [result.job.job_id for result in _ended(transfers)] == ["j1"]
    transfers.start(jobs[2])
    assert [result.job.job_id for result in _ended(transfers)] == ["j2"]


def test_a_copy_that_is_cancelled_and_wanted_again_while_it_runs_is_reported(
    transfers: ThreadTransfers, link: _Link
) -> None:
    """Newest-wins may change its mind: a wanted copy never stays silent."""
    link.gate.clear()
    transfers.start(JOB)
    wait_until(lambda: link.reads == 1, 10, "the worker")
    transfers.cancel(JOB.job_id)
    transfers.start(JOB)
    link.gate.set()
    assert [result.error for result in _ended(transfers)] == [""]


def test_a_cancelled_copy_gives_its_worker_back_at_its_next_piece(transfers: ThreadTransfers, link: _Link) -> None:
    """A link at a crawl must not keep both workers busy with what nobody wants any more."""
    link.piece_bytes = 200
    link.piece_gate.clear()
    jobs = [dataclasses.replace(JOB, job_id=f"j{number}") for number in range(3)]
    for job in jobs:
        transfers.start(job)
    wait_until(lambda: link.pieces_read == 2, 10, "both workers' first pieces")
    transfers.cancel("j0")
    transfers.cancel("j1")
    link.piece_gate.set()
    assert [result.job.job_id for result in _ended(transfers)] == ["j2"]
    assert link.pieces_read == 2 + 3, "of the two that were cancelled no second piece was kept"


def test_the_bytes_that_have_crossed_of_an_object_count_before_all_of_it_has(
    transfers: ThreadTransfers, link: _Link
) -> None:
    """Newest-wins compares these bytes; a cancelled copy counts no more."""
    link.piece_bytes = 200
    link.piece_gate.clear()
    transfers.start(JOB)
    wait_until(lambda: dict(transfers.under_way()) == {"j1": 200}, 10, "the first piece")
    transfers.cancel("j1")
    assert transfers.under_way() == {}
    link.piece_gate.set()


def test_an_object_that_is_larger_than_its_manifest_says_is_not_read_to_its_end(
    transfers: ThreadTransfers, link: _Link
) -> None:
    """A peer that serves an endless object fills no memory here."""
    link.piece_bytes = 200
    link.store.put("k", bytes(1_000_000))
    transfers.start(JOB)
    (result,) = _ended(transfers)
    assert result.corrupt
    assert result.error == "east's k has more than 500 bytes, its manifest names 500"
    assert link.pieces_read == 2, "of the third, one byte tells"


class _HeldAtItsEnd(ThreadTransfers):
    """Holds its first copy up when all of it is done and said, before its future is told so."""

    def __init__(self, link: _Link) -> None:
        super().__init__(peers={"east": link}, store=MemoryObjectStore(), workers=2)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def _run(self, job: CopyJob) -> None:
        super()._run(job)
        self.reached.set()
        self.go_on.wait(10)


def test_a_copy_that_is_cancelled_as_it_ends_can_be_started_again(link: _Link) -> None:
    """Its id must be free at once, or its checkpoint waits for ever."""
    transfers = _HeldAtItsEnd(link)
    try:
        transfers.start(JOB)
        assert transfers.reached.wait(10)
        transfers.cancel(JOB.job_id)
        transfers.start(JOB)
        transfers.go_on.set()
        assert [(one.job, one.error) for one in _ended(transfers)] == [(JOB, "")]
        assert link.reads == 1, "what it had brought here is not fetched again"
        assert (transfers._jobs, transfers._cancelled) == ({}, set())
    finally:
        transfers.go_on.set()
        transfers.close()


def test_I18_what_a_store_refuses_is_told_from_what_does_not_answer(transfers: ThreadTransfers, link: _Link) -> None:
    """The one is tried again at once, the other less and less often."""
    link.refusing = True
    transfers.start(JOB)
    (result,) = _ended(transfers)
    assert (result.error, result.refused, result.corrupt) == ("user west: denied", True, False)


class _LongHere(MemoryObjectStore):
    """A store whose object is longer than it should be, and is never read."""

    def get(self, key: str) -> bytes | None:
        raise AssertionError(f"{key} is read")


def test_what_is_here_and_longer_than_its_manifest_says_is_not_read(link: _Link) -> None:
    """Whoever made it so long must not fill the memory of whoever looks at it; the peer's good bytes replace it."""
    here = _LongHere()
    here.put("k", BODY + b"?")
    with contextlib.closing(ThreadTransfers(peers={"east": link}, store=here)) as transfers:
        transfers.start(JOB)
        (result,) = _ended(transfers)
    assert result.error == ""
    assert here.objects["k"] == BODY


def test_a_store_serves_an_object_in_pieces(pair: _Pair) -> None:
    """The bytes in order; None for what is not there; a reader may stop early."""
    *_, here = pair
    body = bytes(range(256)) * 1024
    here.create("long", body)
    assert isinstance(here, MemoryObjectStore | S3ObjectStore)
    pieces = here.pieces("long")
    assert pieces is not None
    first = next(pieces)
    assert 0 < len(first) <= PIECE_BYTES
    assert first + b"".join(pieces) == body
    assert here.pieces("absent") is None
    stopped = here.pieces("long")
    assert stopped is not None
    assert next(stopped) == first
    stopped.close()
    assert here.get("long") == body
