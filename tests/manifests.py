"""A manifest as the tests need it: what a case does not care about has one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.paths import CheckpointId
from pipelines.ports import ObjectStore, Signer
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Chunk, Item, Manifest, RankState, Shard

SHARD = b"0123456789" * 10
OWN = CheckpointId("gpt", 1, 1, 10)
INTENT: dict[str, Any] = {
    "mode": "exact",
    "world_size": 1,
    "fingerprint": {},
    "previous_step": None,
    "health": {},
    "data_version": "",
    "ranks": [
        {
            "rank": 0,
            "size": 100,
            "sha256": digest(SHARD),
            "chunks": [{"size": 60, "sha256": digest(SHARD[:60])}, {"size": 40, "sha256": digest(SHARD[60:])}],
        }
    ],
    "items": [],
    "planner": {},
}


def shard_of(rank: int, *chunks: bytes) -> Shard:
    """The shard that is made of these chunks."""
    whole = b"".join(chunks)
    named = tuple(Chunk(size=len(chunk), sha256=digest(chunk)) for chunk in chunks)
    return Shard(rank=rank, size=len(whole), sha256=digest(whole), chunks=named)


def state_of(rank: int, body: bytes) -> RankState:
    """The rank state of these bytes."""
    return RankState(rank=rank, size=len(body), sha256=digest(body))


def manifest_of(
    own: CheckpointId,
    *,
    lineage_seq: int,
    shards: tuple[Shard, ...],
    rank_states: tuple[RankState, ...],
    world_size: int = 1,
    items: tuple[Item, ...] = (),
    planner: str = "{}",
    region: str = "east",
) -> Manifest:
    """The manifest of a checkpoint that a region made."""
    return Manifest(
        run=own.run,
        region=region,
        epoch=own.epoch,
        attempt=own.attempt,
        step=own.step,
        lineage_seq=lineage_seq,
        parent_digest="",
        prefix=own.prefix,
        time_ms=0,
        mode="exact",
        world_size=world_size,
        fingerprint={},
        health={},
        data_version="",
        shards=shards,
        rank_states=rank_states,
        items=items,
        planner=planner,
    )


def put_checkpoint(
    store: ObjectStore, signer: Signer, own: CheckpointId, *, seq: int, chunks: Sequence[bytes], time_ms: int = 0
) -> Checkpoint:
    """A whole checkpoint of one rank in east's store, as its agent leaves it; its event, still to be published."""
    codec, state = Codec(), f"rng {seq}".encode()
    manifest = manifest_of(own, lineage_seq=seq, shards=(shard_of(0, *chunks),), rank_states=(state_of(0, state),))
    payload = codec.encode(manifest)
    for number, body in enumerate(chunks):
        store.create(own.chunk(0, number), body)
    store.create(own.rank_state(0), state)
    store.create(own.manifest, signer.sign(payload))
    size_bytes = sum(map(len, chunks)) + len(state)
    return committed(own, digest(payload), seq=seq, lineage_seq=seq, size_bytes=size_bytes, time_ms=time_ms)


def committed(
    own: CheckpointId, manifest_digest: str, *, seq: int, lineage_seq: int, size_bytes: int, time_ms: int = 0
) -> Checkpoint:
    """East's event of a committed checkpoint, with what its manifest says of it."""
    return Checkpoint(
        event_id=f"{own.run}/{own.epoch}/r0/checkpoints/{seq}",
        run=own.run,
        region="east",
        epoch=own.epoch,
        attempt=own.attempt,
        producer="r0",
        seq=seq,
        step=own.step,
        time_ms=time_ms,
        state="committed",
        manifest_key=own.manifest,
        manifest_digest=manifest_digest,
        lineage_seq=lineage_seq,
        size_bytes=size_bytes,
        reason="",
    )
