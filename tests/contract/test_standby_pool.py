"""The contract of StandbyPool: a staged checkpoint has been proven, and the one before stays until then."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from farside import _spool
from pipelines.errors import CorruptError, RetryableError
from pipelines.paths import CheckpointId
from pipelines.ports import PoolHealth, StandbyPool
from schemas.codec import digest
from schemas.records import Item, Manifest
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.standby_pool import MemoryStandbyPool
from services.adapters.system_clock import SystemClock
from tests.manifests import manifest_of, shard_of, state_of


@dataclasses.dataclass
class _Waiting:
    """As much of the Spool port as the pool asks: which launches wait."""

    names: tuple[str, ...] = ("launch-1",)

    def launches(self, run: str) -> tuple[str, ...]:
        del run
        return self.names


def _checkpoint(store: MemoryObjectStore, *, item_digest: str = "") -> Manifest:
    """Two ranks, the first with one tensor and one plain value, as the writer lays them out."""
    weights = struct.pack("<6f", *range(6))
    value = json.dumps(3).encode()
    shard = weights.ljust(64, b"\0") + value
    checkpoint = CheckpointId("gpt", 1, 1, 10)
    store.create(checkpoint.chunk(0, 0), shard)
    for rank in range(2):
        store.create(checkpoint.rank_state(rank), b"rng")
    tensor = Item(
        fqn="model.w",
        kind="tensor",
        rank=0,
        offset=0,
        length=len(weights),
        sha256=item_digest or digest(weights),
        dtype="float32",
        shape=(2, 3),
        chunk_offsets=(0, 0),
        chunk_sizes=(2, 3),
    )
    plain = Item(
        fqn="step",
        kind="json",
        rank=0,
        offset=64,
        length=len(value),
        sha256=digest(value),
        dtype="",
        shape=(),
        chunk_offsets=(),
        chunk_sizes=(),
    )
    return manifest_of(
        checkpoint,
        lineage_seq=1,
        world_size=2,
        shards=(shard_of(0, shard), shard_of(1)),
        rank_states=(state_of(0, b"rng"), state_of(1, b"rng")),
        items=(tensor, plain),
        planner=json.dumps({"model.w": ["model", "w"], "step": ["step"]}),
    )


def _torch_pool(store: MemoryObjectStore, arena: Path, waiting: _Waiting) -> StandbyPool:
    from services.adapters.standby_torch import TorchStandbyPool  # noqa: PLC0415 - imports torch

    # The pool asks the spool one question only.
    return TorchStandbyPool(arena_dir=arena, store=store, spool=waiting, run="gpt", clock=SystemClock())  # type: ignore[arg-type] # as above


class _Node(NamedTuple):
    """A pool, and how its trainers go away."""

    pool: StandbyPool
    nobody_waits: Callable[[], None]


@pytest.fixture
def store() -> MemoryObjectStore:
    """The region's, empty."""
    return MemoryObjectStore()


@pytest.fixture(params=["memory", pytest.param("torch", marks=pytest.mark.torch)])
def node(request: pytest.FixtureRequest, store: MemoryObjectStore, tmp_path: Path) -> _Node:
    """Two ranks wait on it."""
    if request.param == "memory":
        memory = MemoryStandbyPool(store, waiting_ranks=2)
        return _Node(memory, lambda: setattr(memory, "waiting_ranks", 0))
    waiting = _Waiting()
    return _Node(_torch_pool(store, tmp_path, waiting), lambda: setattr(waiting, "names", ()))


@pytest.fixture
def pool(node: _Node) -> StandbyPool:
    """The node's."""
    return node.pool


def _newer(store: MemoryObjectStore, manifest: Manifest, chunk: bytes | None) -> Manifest:
    """The same state ten steps on, with this chunk; None: the chunk is missing."""
    own = CheckpointId("gpt", 1, 1, 20)
    for rank in range(2):
        store.create(own.rank_state(rank), b"rng")
    if chunk is not None:
        store.create(own.chunk(0, 0), chunk)
    return dataclasses.replace(manifest, step=20, prefix=own.prefix)


def test_a_staged_checkpoint_is_resident_and_has_been_loaded(pool: StandbyPool, store: MemoryObjectStore) -> None:
    """Ready means loaded once with every digest compared, and somebody waiting for it."""
    assert not pool.health().ready
    took_s = pool.stage(_checkpoint(store), "digest-1")
    health = pool.health()
    assert (health.ready, health.proof, health.staged_step, health.waiting_ranks) == (True, "loaded", 10, 2)
    assert took_s >= health.load_s > 0
    assert health.staged_digest == "digest-1"
    assert pool.folder("digest-1") is not None
    assert pool.folder("digest-2") is None


def test_nothing_is_said_of_a_pool_in_which_nothing_is_staged(pool: StandbyPool) -> None:
    """How many ranks are wanted is known from a manifest only."""
    assert pool.health() == PoolHealth(
        ready=False, waiting_ranks=0, staged_digest="", staged_step=0, load_s=0.0, proof=""
    )


def test_a_pool_in_which_nobody_waits_is_not_ready(node: _Node, store: MemoryObjectStore) -> None:
    """The checkpoint is resident all the same."""
    node.pool.stage(_checkpoint(store), "digest-1")
    node.nobody_waits()
    health = node.pool.health()
    assert (health.ready, health.waiting_ranks, health.staged_step) == (False, 0, 10)
    assert node.pool.folder("digest-1") is not None


@pytest.mark.parametrize("chunk", [None, b"other bytes"], ids=["missing", "changed"])
def test_the_one_before_stays_resident_when_a_newer_one_cannot_be_staged(
    pool: StandbyPool, store: MemoryObjectStore, chunk: bytes | None
) -> None:
    """A chunk of the newer one is not there, or not what was saved; the error names it."""
    manifest = _checkpoint(store)
    pool.stage(manifest, "digest-1")
    with pytest.raises(CorruptError, match="s0000000020/rank-00000/chunk-000000 is not"):
        pool.stage(_newer(store, manifest, chunk), "digest-2")
    assert (pool.health().staged_step, pool.health().ready) == (10, True)
    assert pool.folder("digest-1") is not None
    assert pool.folder("digest-2") is None


def test_the_last_one_staged_is_the_one_that_counts_and_the_one_before_stays(
    pool: StandbyPool, store: MemoryObjectStore
) -> None:
    """Also when one is staged twice, or an earlier one again, as after a rewind."""
    manifest = _checkpoint(store)
    chunk = store.get(CheckpointId("gpt", 1, 1, 10).chunk(0, 0))
    newer = _newer(store, manifest, chunk)
    resident = []
    for number in (1, 2, 2, 1):
        pool.stage(newer if number == 2 else manifest, f"digest-{number}")
        resident.append((pool.health().staged_digest, pool.health().staged_step, pool.folder("digest-1") is not None))
    first, second = ("digest-1", 10, True), ("digest-2", 20, True)
    assert resident == [first, second, second, first]
    assert pool.folder("digest-2") is not None


@pytest.mark.torch
def test_the_resident_folder_is_what_the_reader_wants(store: MemoryObjectStore, tmp_path: Path) -> None:
    """With its index."""
    pool = _torch_pool(store, tmp_path, _Waiting())
    pool.stage(_checkpoint(store), "digest-1")
    folder = pool.folder("digest-1")
    assert folder is not None
    assert _spool.read_json(folder / "index.json") is not None


@pytest.mark.torch
def test_a_checkpoint_whose_tensor_is_not_what_was_saved_is_not_ready(store: MemoryObjectStore, tmp_path: Path) -> None:
    """The chunk's digest fits, the tensor's does not: the rehearsal finds it, and readiness is not claimed."""
    pool = _torch_pool(store, tmp_path, _Waiting())
    with pytest.raises(CorruptError, match=r"step 10 does not load: model\.w"):
        pool.stage(_checkpoint(store, item_digest="0" * 64), "digest-1")
    assert not pool.health().ready
    assert pool.folder("digest-1") is None, "what does not load is not resident"


def _odd_item(**changes: Any) -> Callable[[Manifest], Manifest]:  # noqa: ANN401 - any field of an item
    return lambda manifest: dataclasses.replace(
        manifest, items=(dataclasses.replace(manifest.items[0], **changes), *manifest.items[1:])
    )


@pytest.mark.torch
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (_odd_item(dtype="nn"), "unknown kind or dtype"),
        (_odd_item(dtype="load"), "unknown kind or dtype"),
        (_odd_item(dtype="qint32"), "unknown kind or dtype"),
        (_odd_item(shape=(2, -3)), "is none"),
        (_odd_item(shape=(2**62, 2**62)), "is none"),
        (_odd_item(shape=(10**12, 3)), "pieces do not make its shape"),
        (_odd_item(chunk_sizes=(6,)), "number of dimensions"),
        (_odd_item(chunk_offsets=(1, 0)), "outside its shape"),
        (_odd_item(length=20), "do not make"),
        (_odd_item(offset=-24), "outside its shard"),
        (_odd_item(kind="pickle"), "unknown kind"),
        (lambda manifest: dataclasses.replace(manifest, world_size=10**9), "ranks 0..world size"),
        (lambda manifest: dataclasses.replace(manifest, planner="["), "no JSON"),
        (lambda manifest: dataclasses.replace(manifest, planner="[]"), "no JSON object"),
        (lambda manifest: dataclasses.replace(manifest, planner='{"model.w": 5}'), "path of"),
        (lambda manifest: dataclasses.replace(manifest, prefix="elsewhere"), "not under a checkpoint"),
        (lambda manifest: dataclasses.replace(manifest, shards=()), "ranks 0..world size"),
    ],
)
def test_I18_whatever_a_manifest_says_staging_it_is_corrupt_and_nothing_else(
    store: MemoryObjectStore, tmp_path: Path, changed: Callable[[Manifest], Manifest], why: str
) -> None:
    """The one before stays resident, and no memory is taken in the size that is claimed."""
    pool = _torch_pool(store, tmp_path, _Waiting())
    good = _checkpoint(store)
    pool.stage(good, "digest-1")
    with pytest.raises(CorruptError, match=re.escape(why)):
        pool.stage(changed(good), "digest-2")
    assert (pool.health().staged_digest, pool.folder("digest-2")) == ("digest-1", None)


@pytest.mark.torch
def test_an_arena_that_cannot_be_written_is_tried_again(store: MemoryObjectStore, tmp_path: Path) -> None:
    """A full memory, or a file where the folder should be: no verdict on the checkpoint."""
    manifest = _checkpoint(store)
    (tmp_path / "A").write_bytes(b"")
    with pytest.raises(RetryableError, match="tmp"):
        _torch_pool(store, tmp_path, _Waiting()).stage(manifest, "digest-1")
    (tmp_path / "A").unlink()
    pool = _torch_pool(store, tmp_path, _Waiting())
    pool.stage(manifest, "digest-1")
    (tmp_path / "A" / "index.json").write_text('{"step": "many"}')
    pool.stage(manifest, "digest-2")
    assert pool.folder("digest-2") is not None
