"""A manifest as the tests need it: what a case does not care about has one value."""

from __future__ import annotations

from typing import Any

from pipelines.paths import CheckpointId
from schemas.codec import digest
from schemas.records import Chunk, Item, Manifest, RankState, Shard

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
) -> Manifest:
    """East's manifest of a checkpoint."""
    return Manifest(
        run=own.run,
        region="east",
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
