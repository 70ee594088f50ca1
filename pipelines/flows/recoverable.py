"""The recoverable step of a region: its newest checkpoint whose manifest is there, signed and on the lineage.

A manifest is written last, after every chunk was verified, so its presence is the proof of the bytes. Ordered by
(epoch, lineage sequence), since a run may rewind. Verified manifests are cached, since they are create-only; but a
sweep may have taken one away, so the one that is chosen is read once more.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.lease import Fork
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.errors import CorruptError
from pipelines.ports import ObjectStore, Signer
from schemas.codec import Codec, DecodeError, digest
from schemas.records import Manifest

CACHE_MANIFESTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Recovered:
    """A verified manifest, its digest and its key."""

    manifest: Manifest
    digest: str
    key: str

    @property
    def fork(self) -> Fork:
        """The point from which an epoch goes on that begins here."""
        return Fork(self.manifest.step, self.digest, self.manifest.lineage_seq)


class Recoverable:
    """Looks for the newest recoverable checkpoint of a run in one region's store."""

    def __init__(self, store: ObjectStore, signer: Signer, codec: Codec) -> None:
        self._store = store
        self._signer = signer
        self._codec = codec
        self._verified: OrderedDict[str, Recovered | None] = OrderedDict()

    def newest(self, run: str, view: LineageView) -> Recovered | None:
        """The newest checkpoint on the lineage; None if there is none.

        Looks from the newest epoch and step down and verifies only until one stands, so an old run costs one list call.
        """
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        current = [one for one in ids if standing(view, one.epoch, one.step) is Standing.CURRENT]
        for epoch in sorted({one.epoch for one in current}, reverse=True):
            found = [self.verified(one) for one in current if one.epoch == epoch]
            whole = (one for one in found if one is not None)
            for best in sorted(whole, key=lambda one: one.manifest.lineage_seq, reverse=True):
                if self._stands(best):
                    return best
        return None

    def at(self, run: str, view: LineageView, step: int, epoch: int | None = None) -> Recovered | None:
        """The whole checkpoint of a step: the newest on the lineage, or that of the epoch that is named."""
        ids = [one for one in paths.committed(self._store.list(paths.checkpoints_prefix(run))) if one.step == step]
        current = (one for one in ids if standing(view, one.epoch, one.step) is Standing.CURRENT)
        chosen = current if epoch is None else (one for one in ids if one.epoch == epoch)
        whole = (found for found in map(self.verified, sorted(chosen, reverse=True)) if found is not None)
        return next((found for found in whole if self._stands(found)), None)

    def branch(self, run: str, view: LineageView, epoch: int, step: int) -> Recovered | None:
        """A checkpoint that is not on the lineage, of that epoch and step; None unless it is whole here."""
        if standing(view, epoch, step) is not Standing.BRANCH:
            return None
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        found = [self.verified(one) for one in ids if (one.epoch, one.step) == (epoch, step)]
        whole = (one for one in found if one is not None and self._stands(one))
        return max(whole, key=lambda one: one.manifest.attempt, default=None)

    def verified(self, checkpoint: paths.CheckpointId) -> Recovered | None:
        """The manifest of a checkpoint; None if it is absent, was abandoned, or is not to be trusted."""
        key = checkpoint.manifest
        if key in self._verified:
            self._verified.move_to_end(key)
            return self._verified[key]
        envelope = self._store.get(key)
        if envelope is None:
            return None
        self._verified[key] = found = self._open(checkpoint, envelope)
        if len(self._verified) > CACHE_MANIFESTS_MAX:
            self._verified.popitem(last=False)
        return found

    def _stands(self, found: Recovered) -> bool:
        """Whether the manifest is in the store at this moment."""
        checkpoint = paths.parse_checkpoint(found.key)
        envelope = self._store.get(found.key)
        now = None if envelope is None else self._open(checkpoint, envelope)
        if now is None or now.digest != found.digest:
            self._verified.pop(found.key, None)
            return False
        return True

    def _open(self, checkpoint: paths.CheckpointId, envelope: bytes) -> Recovered | None:
        try:
            payload = self._signer.verify(envelope)
            record = self._codec.decode(payload)
        except (CorruptError, DecodeError):
            return None  # the replicator, which met it first, has reported it; here it is merely not a candidate
        if not isinstance(record, Manifest) or record.prefix != checkpoint.prefix:
            return None
        return Recovered(record, digest(payload), checkpoint.manifest)
