"""Manifests: built deterministically from an intent and its receipts, and checked by who receives one.

Deterministic means that any agent which sees the same objects builds the same bytes: two agents that commit at once,
or one that commits again after a crash, create one and the same manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.checkpoint_contents import check_contents
from pipelines.errors import CorruptError
from pipelines.paths import CheckpointId, parse_checkpoint
from schemas.records import Checkpoint, Chunk, Intent, Item, Manifest, Receipt, Shard


@dataclass(frozen=True, slots=True)
class Named:
    """One object that a manifest names."""

    key: str
    size: int
    sha256: str


def checkpoint_of(record: Intent | Manifest | Receipt) -> CheckpointId:
    """The checkpoint that a record belongs to."""
    return CheckpointId(record.run, record.epoch, record.attempt, record.step)


def intent_of(
    checkpoint: CheckpointId,
    *,
    producer: str,
    seq: int,
    time_ms: int,
    body: Mapping[str, Any],
    start_manifest_digest: str,
    start_lineage_seq: int,
) -> Intent:
    """The intent in a spool record's body; CorruptError if the body is not one, or does not fit together."""
    try:
        previous = body["previous_step"]
        intent = Intent(
            run=checkpoint.run,
            epoch=checkpoint.epoch,
            attempt=checkpoint.attempt,
            step=checkpoint.step,
            producer=producer,
            seq=seq,
            time_ms=time_ms,
            mode=str(body["mode"]),
            world_size=int(body["world_size"]),
            fingerprint={str(k): str(v) for k, v in body["fingerprint"].items()},
            previous_step=-1 if previous is None else int(previous),
            start_manifest_digest=start_manifest_digest,
            start_lineage_seq=start_lineage_seq,
            health={str(k): float(v) for k, v in body["health"].items()},
            data_version=str(body["data_version"]),
            shards=tuple(_shard(one) for one in body["ranks"]),
            items=tuple(_item(one) for one in body["items"]),
            planner=_json(body["planner"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptError(f"intent of {checkpoint.prefix}: {type(error).__name__}: {error}") from error
    where = f"intent of {checkpoint.prefix}"
    if not -1 <= intent.previous_step < checkpoint.step:
        raise CorruptError(f"{where}: the step before it is {intent.previous_step}")
    check_contents(
        where, world_size=intent.world_size, shards=intent.shards, items=intent.items, planner=intent.planner
    )
    return intent


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _shard(plain: Mapping[str, Any]) -> Shard:
    chunks = tuple(Chunk(size=int(chunk["size"]), sha256=str(chunk["sha256"])) for chunk in plain["chunks"])
    return Shard(rank=int(plain["rank"]), size=int(plain["size"]), sha256=str(plain["sha256"]), chunks=chunks)


def _item(plain: Mapping[str, Any]) -> Item:
    return Item(
        fqn=str(plain["fqn"]),
        kind=str(plain["kind"]),
        rank=int(plain["rank"]),
        offset=int(plain["offset"]),
        length=int(plain["length"]),
        sha256=str(plain["sha256"]),
        dtype=str(plain["dtype"]),
        shape=tuple(int(n) for n in plain["shape"]),
        chunk_offsets=tuple(int(n) for n in plain["chunk_offsets"]),
        chunk_sizes=tuple(int(n) for n in plain["chunk_sizes"]),
    )


def build(intent: Intent, receipts: Sequence[Receipt], region: str, parent_digest: str, lineage_seq: int) -> Manifest:
    """The manifest of an intent whose ranks are all uploaded; CorruptError if they do not fit together."""
    ordered = sorted(receipts, key=lambda receipt: receipt.shard.rank)
    if tuple(receipt.shard for receipt in ordered) != tuple(sorted(intent.shards, key=lambda shard: shard.rank)):
        raise CorruptError(f"{checkpoint_of(intent).prefix}: the receipts' shards are not the intent's")
    manifest = Manifest(
        run=intent.run,
        region=region,
        epoch=intent.epoch,
        attempt=intent.attempt,
        step=intent.step,
        lineage_seq=lineage_seq,
        parent_digest=parent_digest,
        prefix=checkpoint_of(intent).prefix,
        time_ms=intent.time_ms,
        mode=intent.mode,
        world_size=intent.world_size,
        fingerprint=intent.fingerprint,
        health=intent.health,
        data_version=intent.data_version,
        shards=tuple(receipt.shard for receipt in ordered),
        rank_states=tuple(receipt.rank_state for receipt in ordered),
        items=intent.items,
        planner=intent.planner,
    )
    check(manifest, checkpoint_of(intent))
    return manifest


def check(manifest: Manifest, expected: CheckpointId) -> None:
    """Raise CorruptError unless the manifest is complete and is the expected checkpoint's."""
    if checkpoint_of(manifest) != expected or manifest.prefix != expected.prefix:
        raise CorruptError(f"manifest of {manifest.prefix!r} lies at {expected.prefix!r}: outside its prefix")
    # The lists' lengths before a range of the size that is claimed.
    found = len(manifest.shards)
    ranks = list(range(found)) if found == manifest.world_size else []
    if (
        not ranks
        or [one.rank for one in manifest.shards] != ranks
        or [one.rank for one in manifest.rank_states] != ranks
    ):
        raise CorruptError(f"{expected.prefix}: shards and rank states are not those of ranks 0..world size")
    for shard in manifest.shards:
        if sum(chunk.size for chunk in shard.chunks) != shard.size:
            raise CorruptError(f"{expected.prefix}: the chunks of rank {shard.rank} do not add up to its shard")
    sizes = {shard.rank: shard.size for shard in manifest.shards}
    for item in manifest.items:
        if item.offset < 0 or item.length < 0 or item.offset + item.length > sizes.get(item.rank, -1):
            raise CorruptError(f"{expected.prefix}: item {item.fqn!r} lies outside its shard")


def check_event(event: Checkpoint) -> CheckpointId:
    """The checkpoint that an event names; CorruptError if its key is not its own manifest's."""
    named = parse_checkpoint(event.manifest_key)
    own = CheckpointId(event.run, event.epoch, event.attempt, event.step)
    if named != own or event.manifest_key != own.manifest:
        raise CorruptError(f"the event of {own.prefix} names {event.manifest_key!r}: outside its prefix")
    return own


def objects(manifest: Manifest) -> tuple[Named, ...]:
    """Everything that must be there and verified before the manifest may be."""
    own = checkpoint_of(manifest)
    chunks = [
        Named(own.chunk(shard.rank, index), chunk.size, chunk.sha256)
        for shard in manifest.shards
        for index, chunk in enumerate(shard.chunks)
    ]
    states = [Named(own.rank_state(one.rank), one.size, one.sha256) for one in manifest.rank_states]
    return (*chunks, *states)


def missing(manifest: Manifest, sizes: Mapping[str, int]) -> tuple[Named, ...]:
    """The objects that a manifest names and a store lacks or has in another size; `sizes`: the store's, by key."""
    return tuple(one for one in objects(manifest) if sizes.get(one.key) != one.size)


def mismatch(named: Named, size: int, sha256: str) -> str:
    """Why the bytes of this length and digest are not an object as it is named; "" if they are."""
    if size != named.size:
        return f"has {size} bytes, its manifest names {named.size}"
    if sha256 != named.sha256:
        return f"has SHA-256 {sha256}, its manifest names {named.sha256}"
    return ""


def size_bytes(manifest: Manifest) -> int:
    """All bytes that the manifest names."""
    return sum(one.size for one in objects(manifest))
