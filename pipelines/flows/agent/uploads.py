"""Puts a node's part of a checkpoint into its region's store: chunks, rank states, and a receipt for each rank.

Keys that were put are remembered, so that a turn does not ask the store for them again. Before a manifest is committed
the store is asked once more for everything that it names (6.10); objects that are missing are put again from the spool.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.core import manifests
from pipelines.errors import CorruptError
from pipelines.paths import CheckpointId
from pipelines.ports import ObjectStore, Spool
from schemas.codec import Codec, DecodeError, UnknownSchemaError, digest
from schemas.records import Intent, Manifest, RankState, Receipt, Shard


class Uploads:
    """The uploads of one agent. `beats` is called after each chunk, so that heartbeats go on during a long upload."""

    def __init__(self, *, spool: Spool, store: ObjectStore, codec: Codec, beats: Callable[[str], None]) -> None:
        self._spool, self._store, self._codec = spool, store, codec
        self._beats = beats
        self._put: dict[CheckpointId, set[str]] = {}
        self._doubted: dict[CheckpointId, set[int]] = {}  # ranks whose receipt says what is no longer so
        self.budget = 0  # how many chunks this turn may still put

    def upload(self, own: CheckpointId, intent: Intent) -> bool:
        """Put this node's ranks, a few chunks a turn, then their receipts; True when all ranks have one."""
        put, doubted = self._put.setdefault(own, set()), self._doubted.setdefault(own, set())
        if own.intent not in put:
            self._store.create(own.intent, self._codec.encode(intent))
            put.add(own.intent)
        waiting = False
        for shard in intent.shards:
            receipt = own.receipt(shard.rank)
            if shard.rank not in doubted and (receipt in put or self._store.size(receipt) is not None):
                continue
            state = self._spool.rank_state(own, shard.rank)
            if state is None or not self._chunks(own, shard, put):
                waiting = True
                continue
            self._store.create(own.rank_state(shard.rank), state)
            rank_state = RankState(rank=shard.rank, size=len(state), sha256=digest(state))
            body = Receipt(
                run=own.run, epoch=own.epoch, attempt=own.attempt, step=own.step, shard=shard, rank_state=rank_state
            )
            self._store.create(receipt, self._codec.encode(body))
            put.add(receipt)
            doubted.discard(shard.rank)
        return not waiting

    def receipts(self, own: CheckpointId, intent: Intent) -> list[Receipt] | None:
        """Every rank's receipt; None if one is missing, which is then put again.

        Raises:
            CorruptError: one is damaged, and nothing may be put over it.
            UnknownSchemaError: an agent of a newer version wrote it.
        """
        receipts = []
        for shard in intent.shards:
            body = self._store.get(own.receipt(shard.rank))
            if body is None:
                self._put_again(own, {shard.rank})
                return None
            try:
                receipts.append(self._codec.decode_as(Receipt, body))
            except UnknownSchemaError:
                raise
            except DecodeError as error:
                raise CorruptError(f"{own.receipt(shard.rank)} is damaged in the store: {error.reason}") from error
        return receipts

    def whole(self, own: CheckpointId, manifest: Manifest) -> bool:
        """Whether everything that the manifest names is in the store at this moment; missing parts are put again."""
        sizes = {one.key: one.size for one in self._store.entries(f"{own.prefix}/")}
        gone = {one.key for one in manifests.missing(manifest, sizes)}
        ranks = {shard.rank for shard in manifest.shards if gone & _keys(own, shard)}
        self._put_again(own, ranks)
        return not gone

    def forget(self, own: CheckpointId) -> None:
        """Forget a checkpoint that has its outcome."""
        self._put.pop(own, None)
        self._doubted.pop(own, None)

    def _put_again(self, own: CheckpointId, ranks: set[int]) -> None:
        if ranks:
            self._put.pop(own, None)
            self._doubted.setdefault(own, set()).update(ranks)

    def _chunks(self, own: CheckpointId, shard: Shard, put: set[str]) -> bool:
        offset = 0
        for index, chunk in enumerate(shard.chunks):
            key = own.chunk(shard.rank, index)
            if key not in put:
                if self.budget <= 0:
                    return False
                body = self._spool.chunk(own, shard.rank, offset, chunk.size)
                if digest(body) != chunk.sha256:
                    raise CorruptError(f"{key}: the spool's bytes are not those that were digested")
                self._store.create(key, body)
                put.add(key)
                self.budget -= 1
                self._beats(own.run)
            offset += chunk.size
        return True


def _keys(own: CheckpointId, shard: Shard) -> set[str]:
    """The keys of one rank's part of a checkpoint."""
    return {own.rank_state(shard.rank), *(own.chunk(shard.rank, index) for index in range(len(shard.chunks)))}
