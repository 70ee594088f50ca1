"""Index folders: a checkpoint's shards as plain files beside their description, ready to be mapped and loaded.

The **arena** holds two such folders, A and B, in shared memory: the newest proven checkpoint stays until the one after
it is whole, so a half-arrived checkpoint never costs the good one. `index.json` is removed first and written last; a
folder without it is nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from farside import _checkpoint, _spool
from pipelines import paths
from pipelines.core import manifests
from pipelines.core.checkpoint_contents import check_contents
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import ObjectStore, Verifier
from schemas.codec import Codec
from schemas.codec import digest as digest_of
from schemas.records import Chunk, Item, Manifest

SLOTS = ("A", "B")


class Arena:
    """The A/B arena of one run on one node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, manifest_digest: str) -> Path | None:
        """Where a staged checkpoint lies; None if it is not resident."""
        for slot in SLOTS:
            index = self._index(slot)
            if index is not None and index.get("manifest_digest") == manifest_digest:
                return self._folder / slot
        return None

    def resident(self) -> dict[str, int]:
        """The step of each whole slot."""
        indexes = {slot: self._index(slot) for slot in SLOTS}
        steps = {slot: index.get("step") for slot, index in indexes.items() if index is not None}
        return {slot: step for slot, step in steps.items() if isinstance(step, int)}

    def stage(self, store: ObjectStore, manifest: Manifest, manifest_digest: str) -> Path:
        """Write a checkpoint into the slot that does not hold the newest one.

        Raises:
            CorruptError: a byte is wrong, or the manifest does not fit together.
            RetryableError: the store does not answer, or the node's memory cannot be written.
        """
        present = self.folder(manifest_digest)
        if present is not None:
            _spool.index_path(present).touch()  # after a rewind it is the newest again, and stays
            return present
        resident = self.resident()
        keep = max(resident, key=self._age, default=None)
        slot = next(name for name in SLOTS if name != keep)
        return write_index_folder(store, manifest, manifest_digest, self._folder / slot)

    def drop(self, manifest_digest: str) -> None:
        """Forget a checkpoint that turned out not to load."""
        folder = self.folder(manifest_digest)
        if folder is not None:
            _spool.index_path(folder).unlink(missing_ok=True)

    def _age(self, slot: str) -> float:
        return _spool.index_path(self._folder / slot).stat().st_mtime

    def _index(self, slot: str) -> dict[str, Any] | None:
        return _spool.read_json(_spool.index_path(self._folder / slot))


def fetch_index_folder(store: ObjectStore, signer: Verifier, codec: Codec, manifest_key: str, target: Path) -> Path:
    """Fetch a checkpoint from the region's store into a folder that the reader can load: the cold way, grade W0."""
    envelope = store.get(manifest_key)
    if envelope is None:
        raise CorruptError(f"manifest {manifest_key} is not in the store")
    payload = signer.opened(envelope).payload
    return write_index_folder(store, codec.decode_as(Manifest, payload), digest_of(payload), target)


def write_index_folder(store: ObjectStore, manifest: Manifest, manifest_digest: str, target: Path) -> Path:
    """Write shards, rank states and, last, the index; every chunk is verified on its way.

    Raises:
        CorruptError: a byte is wrong, or the manifest does not fit together, which shows before anything is written.
        RetryableError: the store does not answer, or the folder cannot be written; there may be no room.
    """
    checkpoint = paths.parse_checkpoint(manifest.prefix + "/")
    manifests.check(manifest, checkpoint)
    check_contents(
        f"manifest of {checkpoint.prefix}",
        world_size=manifest.world_size,
        shards=manifest.shards,
        items=manifest.items,
        planner=manifest.planner,
    )
    try:
        return _written(store, manifest, manifest_digest, target)
    except OSError as error:
        raise RetryableError(f"{target}: {error}") from error


def _written(store: ObjectStore, manifest: Manifest, manifest_digest: str, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    _spool.index_path(target).unlink(missing_ok=True)
    checkpoint = manifests.checkpoint_of(manifest)
    for shard in manifest.shards:
        with (target / _spool.shard_name(shard.rank)).open("wb") as out:
            for number, chunk in enumerate(shard.chunks):
                out.write(_verified(store, checkpoint.chunk(shard.rank, number), chunk))
    for state in manifest.rank_states:
        body = _verified(store, checkpoint.rank_state(state.rank), Chunk(size=state.size, sha256=state.sha256))
        (target / _spool.state_name(state.rank)).write_bytes(body)
    _checkpoint.write_index(target, _description(manifest, manifest_digest))
    return target


def _verified(store: ObjectStore, key: str, chunk: Chunk) -> bytes:
    body = store.get(key)
    if body is None:
        raise CorruptError(f"{key} is not in the store")
    if len(body) != chunk.size or hashlib.sha256(body).hexdigest() != chunk.sha256:
        raise CorruptError(f"{key} is not what its manifest names: {len(body)} bytes, {chunk.size} expected")
    return body


def _item(item: Item) -> dict[str, object]:
    return {
        "fqn": item.fqn,
        "kind": item.kind,
        "rank": item.rank,
        "offset": item.offset,
        "length": item.length,
        "sha256": item.sha256,
        "dtype": item.dtype,
        "shape": list(item.shape),
        "chunk_offsets": list(item.chunk_offsets),
        "chunk_sizes": list(item.chunk_sizes),
    }


def _description(manifest: Manifest, manifest_digest: str) -> dict[str, object]:
    return {
        "manifest_digest": manifest_digest,
        "epoch": manifest.epoch,
        "attempt": manifest.attempt,
        "step": manifest.step,
        "mode": manifest.mode,
        "world_size": manifest.world_size,
        "items": [_item(item) for item in manifest.items],
        "planner": json.loads(manifest.planner),
        "data_version": manifest.data_version,
        "files": {str(shard.rank): _spool.shard_name(shard.rank) for shard in manifest.shards},
        "rank_states": {
            str(state.rank): {"file": _spool.state_name(state.rank), "size": state.size, "sha256": state.sha256}
            for state in manifest.rank_states
        },
    }
