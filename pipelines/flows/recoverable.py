"""The recoverable step of a region: its newest checkpoint whose manifest is there, signed and on the lineage.

A manifest is written last, after every chunk was verified, so its presence is the proof of the bytes. Ordered by
(epoch, lineage sequence), since a run may rewind. Verified manifests are cached: they are create-only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.lease import Fork
from pipelines.core.lineage import LineageView, Standing, standing, view_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import ObjectStore, Signer
from schemas.codec import Codec, DecodeError, digest
from schemas.records import Lease, Manifest

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
            best = max(
                (one for one in found if one is not None),
                key=lambda one: (one.manifest.lineage_seq, one.manifest.attempt),
                default=None,
            )
            if best is not None:
                return best
        return None

    def start(self, lease: Lease) -> Recovered | None:
        """From where a launch goes on; None: from step 0.

        The newest checkpoint of the epoch itself, or else the fork that was fixed when the epoch was won (I9): what
        of an older epoch became verified since then may be newer, and does not take its place.
        """
        view, entry = view_of(lease.lineage), lease.lineage[-1]
        found = self.newest(lease.run, view)
        if found is not None and found.manifest.epoch == lease.epoch:
            return found
        if entry.fork_step < 0:
            return None
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(lease.run)))
        at_fork = [self.verified(one) for one in ids if one.step == entry.fork_step]
        fork = next((one for one in at_fork if one is not None and one.digest == entry.fork_manifest_digest), None)
        if fork is None:
            raise RetryableError(f"epoch {lease.epoch} goes on from step {entry.fork_step}, which is not in this store")
        return fork

    def branch(self, run: str, view: LineageView, epoch: int, step: int) -> Recovered | None:
        """A checkpoint that is not on the lineage, of that epoch and step; None unless it is whole here."""
        if standing(view, epoch, step) is not Standing.BRANCH:
            return None
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        found = [self.verified(one) for one in ids if (one.epoch, one.step) == (epoch, step)]
        whole = (one for one in found if one is not None)
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

    def _open(self, checkpoint: paths.CheckpointId, envelope: bytes) -> Recovered | None:
        try:
            payload = self._signer.verify(envelope)
            record = self._codec.decode(payload)
        except (CorruptError, DecodeError):
            return None  # the replicator, which met it first, has reported it; here it is merely not a candidate
        if not isinstance(record, Manifest) or record.prefix != checkpoint.prefix:
            return None
        return Recovered(record, digest(payload), checkpoint.manifest)
