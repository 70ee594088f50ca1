"""The warmer and what it asks: which checkpoint is recoverable, and what is resident."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from pipelines.errors import CorruptError
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.flows.standby.warmer import Warmer, WarmerPorts, step_s
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec, digest
from schemas.records import Abandoned, Manifest, Readiness
from services.adapters.arena import Arena, fetch_index_folder
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.standby_pool import MemoryStandbyPool
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemClock, SystemEntropy
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of

CODEC = Codec()
ONE_EPOCH = lineage_of((1, 0, -1))
FORKED_AT_20 = lineage_of((1, 0, -1), (2, 1, 20))


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path, "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


def _put(store: MemoryObjectStore, signer: Ed25519Signer, step: int, epoch: int = 1) -> tuple[Manifest, str]:
    """A whole checkpoint of one rank with two chunks, as the agent and the replicator leave it."""
    checkpoint = CheckpointId("gpt", epoch, 1, step)
    chunks = [f"{step}-{number}".encode() * 10 for number in range(2)]
    for number, chunk in enumerate(chunks):
        store.create(checkpoint.chunk(0, number), chunk)
    store.create(checkpoint.rank_state(0), b"rng")
    manifest = manifest_of(
        checkpoint, lineage_seq=step // 10, shards=(shard_of(0, *chunks),), rank_states=(state_of(0, b"rng"),)
    )
    payload = CODEC.encode(manifest)
    store.create(checkpoint.manifest, signer.sign(payload))
    return manifest, digest(payload)


def test_I7_only_a_signed_manifest_on_the_lineage_is_recoverable(signer: Ed25519Signer, tmp_path: Path) -> None:
    """Past the fork, abandoned, signed by a stranger, or under another's key: none of them is chosen."""
    store = MemoryObjectStore()
    assert RecoverableFinder(store, signer, CODEC).newest("gpt", ONE_EPOCH) is None
    for step in (10, 20, 30):
        _put(store, signer, step)
    ids = {step: CheckpointId("gpt", 1, 1, step) for step in (12, 14, 16)}
    lost = Abandoned(run="gpt", epoch=1, attempt=1, step=16, parent_digest="", lineage_seq=9, reason="disk full")
    store.create(ids[16].manifest, signer.sign(CODEC.encode(lost)))
    (tmp_path / "stranger").mkdir()
    private, public = generate_keypair(tmp_path / "stranger", "mallory")
    stranger = Ed25519Signer(key_id="mallory", private_key_path=private, trusted={"mallory": public})
    store.create(ids[14].manifest, stranger.sign(b"anything"))
    store.create(ids[12].manifest, store.objects[CheckpointId("gpt", 1, 1, 30).manifest])
    recoverable = RecoverableFinder(store, signer, CODEC)
    newest = recoverable.newest("gpt", ONE_EPOCH)
    assert newest is not None
    assert newest.manifest.step == 30
    forked = recoverable.newest("gpt", FORKED_AT_20)
    assert forked is not None
    assert forked.manifest.step == 20


def test_the_newest_epoch_comes_before_a_higher_step(signer: Ed25519Signer) -> None:
    """A run may rewind: order is by epoch first."""
    store = MemoryObjectStore()
    _put(store, signer, 20)
    _put(store, signer, 30, epoch=2)
    view = lineage_of((1, 0, -1), (2, 1, 25))
    newest = RecoverableFinder(store, signer, CODEC).newest("gpt", view)
    assert newest is not None
    assert (newest.manifest.epoch, newest.manifest.step) == (2, 30)


class _CountedStore(MemoryObjectStore):
    """Knows how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gets = self.lists = 0

    def get(self, key: str) -> bytes | None:
        self.gets += 1
        return super().get(key)

    def list(self, prefix: str) -> tuple[str, ...]:
        self.lists += 1
        return super().list(prefix)


def _committed(store: MemoryObjectStore, signer: Ed25519Signer, attempt: int, step: int, seq: int) -> None:
    own = CheckpointId("gpt", 1, attempt, step)
    store.create(own.manifest, signer.sign(CODEC.encode(manifest_of(own, lineage_seq=seq, shards=(), rank_states=()))))


def test_an_old_run_costs_one_listing_and_the_newest_manifest_however_many_checkpoints_it_has(
    signer: Ed25519Signer,
) -> None:
    """A look comes between two renewals: with 300 manifests read again at each, a holder lost its lease (measured)."""
    store = _CountedStore()
    for number in range(1, 301):
        _committed(store, signer, 1, 10 * number, number)
    recoverable = RecoverableFinder(store, signer, CODEC)
    for looked in range(3):
        newest = recoverable.newest("gpt", ONE_EPOCH)
        assert newest is not None
        assert newest.manifest.step == 3000
        assert (store.lists, store.gets) == (looked + 1, looked + 1), "a sweep may have taken what was read before"
    _committed(store, signer, 1, 3010, 301)
    newest = recoverable.newest("gpt", ONE_EPOCH)
    assert newest is not None
    assert (newest.manifest.step, store.gets) == (3010, 4)


def test_within_an_epoch_the_lineage_number_decides_then_the_attempt_and_never_the_step(signer: Ed25519Signer) -> None:
    """A launch that went back to step 20 has overtaken what the one before left when its number is no lower."""
    store = MemoryObjectStore()
    recoverable = RecoverableFinder(store, signer, CODEC)
    steps = []
    for attempt, step, seq in ((1, 10, 1), (1, 20, 2), (1, 30, 3), (1, 40, 4), (2, 25, 3), (2, 30, 4), (2, 35, 5)):
        _committed(store, signer, attempt, step, seq)
        newest = recoverable.newest("gpt", ONE_EPOCH)
        assert newest is not None
        steps.append((newest.manifest.attempt, newest.manifest.step))
    assert steps == [(1, 10), (1, 20), (1, 30), (1, 40), (1, 40), (2, 30), (2, 35)]


def test_the_arena_keeps_the_last_whole_checkpoint_until_the_next_one_is_whole(
    signer: Ed25519Signer, tmp_path: Path
) -> None:
    """A newer one whose bytes are wrong costs nothing: the proven one stays resident."""
    store = MemoryObjectStore()
    first, first_digest = _put(store, signer, 10)
    second, second_digest = _put(store, signer, 20)
    arena = Arena(tmp_path / "arena")
    folder = arena.stage(store, first, first_digest)
    shard = (folder / "rank-00000.shard").read_bytes()
    assert hashlib.sha256(shard).hexdigest() == first.shards[0].sha256
    key = CheckpointId("gpt", 1, 1, 20).chunk(0, 1)
    good = store.objects[key]
    store.objects[key] = good[:-1] + b"?"
    with pytest.raises(CorruptError, match="chunk-000001"):
        arena.stage(store, second, second_digest)
    assert arena.resident() == {"A": 10}
    assert arena.folder(second_digest) is None
    store.objects[key] = good
    assert arena.stage(store, second, second_digest) == arena.folder(second_digest)
    assert arena.folder(first_digest) == folder
    assert arena.stage(store, second, second_digest) == arena.folder(second_digest)


def test_what_is_staged_again_after_a_rewind_stays_when_the_next_one_is_not_whole(
    signer: Ed25519Signer, tmp_path: Path
) -> None:
    """10, 20, 10 again, then 30 with a byte gone: 10 is what the pool would start from."""
    store, arena = MemoryObjectStore(), Arena(tmp_path / "arena")
    staged = {step: _put(store, signer, step) for step in (10, 20, 30)}
    for step in (10, 20, 10):
        arena.stage(store, *staged[step])
    del store.objects[CheckpointId("gpt", 1, 1, 30).chunk(0, 1)]
    with pytest.raises(CorruptError):
        arena.stage(store, *staged[30])
    assert arena.folder(staged[10][1]) is not None


def test_a_cold_fetch_refuses_what_is_missing_or_unsigned(signer: Ed25519Signer, tmp_path: Path) -> None:
    """The same folder as the arena's, straight from the store."""
    store = MemoryObjectStore()
    manifest, _ = _put(store, signer, 10)
    key = CheckpointId("gpt", 1, 1, 10).manifest
    assert fetch_index_folder(store, signer, CODEC, key, tmp_path / "cold") == tmp_path / "cold"
    assert (tmp_path / "cold" / "rank-00000.state").read_bytes() == b"rng"
    with pytest.raises(CorruptError, match="not in the store"):
        fetch_index_folder(store, signer, CODEC, "runs/gpt/absent", tmp_path / "none")
    del store.objects[CheckpointId.chunk(CheckpointId("gpt", 1, 1, 10), 0, 0)]
    with pytest.raises(CorruptError, match="chunk-000000"):
        fetch_index_folder(store, signer, CODEC, key, tmp_path / "half")
    assert manifest.step == 10


@dataclasses.dataclass
class _Log:
    """Implements EventLog, and Journal, by remembering."""

    messages: list[Message] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)

    def publish(self, messages: list[Message]) -> None:
        self.messages += messages

    def transaction(self, messages: list[Message]) -> None:
        self.messages += messages

    def say(self, event: str, **fields: object) -> None:
        del fields
        self.said.append(event)


def test_the_warmer_stages_each_newly_recoverable_checkpoint_once_and_says_so(signer: Ed25519Signer) -> None:
    """Readiness carries the step, the proof and a prediction made of measured parts."""
    store, log = MemoryObjectStore(), _Log()
    pool = MemoryStandbyPool(store)
    standby = [True]
    warm = Warmer(
        region="west",
        run="gpt",
        ports=WarmerPorts(
            store=store,
            pool=pool,
            log=log,  # type: ignore[arg-type] # a list is narrower than a Sequence; this fake gets lists only
            signer=signer,
            codec=CODEC,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            journal=log,
        ),
        lineage=lambda _run: ONE_EPOCH,
        standby=lambda: standby[0],
        authority_s=4.5,
        release_s=0.25,
    )
    warm.turn()
    assert log.messages == []
    _put(store, signer, 10)
    warm.turn()
    warm.turn()
    assert pool.staged == [10]
    ready = CODEC.decode_as(Readiness, log.messages[-1].value)
    assert (ready.step, ready.proof, ready.predicted_rto_s) == (10, "loaded", 5.25)
    assert warm.status().staged_step == 10
    pool.waiting_ranks = 0
    warm.turn()
    changed = CODEC.decode_as(Readiness, log.messages[-1].value)
    assert (changed.step, changed.waiting_ranks) == (10, 0), "published at once: a planned move asks for it"
    standby[0] = False
    _put(store, signer, 20)
    warm.turn()
    assert pool.staged == [10], "a primary's pool trains: nothing is staged under it"
    assert log.said == ["warmer.staged"]


def test_a_step_takes_what_lies_between_two_checkpoints_of_one_attempt() -> None:
    """Another attempt, a rewind or a clock that stood still give no figure."""
    before = manifest_of(CheckpointId("gpt", 1, 1, 10), lineage_seq=1, shards=(), rank_states=())
    assert step_s(before, dataclasses.replace(before, step=20, time_ms=5_000)) == 0.5
    for other in ({"attempt": 2, "step": 20, "time_ms": 6_000}, {"step": 20}, {"time_ms": 6_000}):
        assert step_s(before, dataclasses.replace(before, **other)) is None  # type: ignore[arg-type] # fields of ours
