"""The recoverable step of a region: its newest checkpoint whose manifest is there, signed and on the lineage.

A manifest is written last, after every chunk was verified, so its presence is the proof of the bytes. Ordered by
(epoch, lineage sequence), since a run may rewind. Verified manifests are cached, since they are create-only; but a
sweep may have taken one away, so the one that is chosen is read once more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
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
class RecoverableCheckpoint:
    """A verified manifest, its digest and its key."""

    manifest: Manifest
    digest: str
    key: str

    @property
    def fork(self) -> Fork:
        """The point from which an epoch goes on that begins here."""
        return Fork(self.manifest.step, self.digest, self.manifest.lineage_seq)


class RecoverableFinder:
    """Looks for the newest recoverable checkpoint of a run in one region's store."""

    def __init__(self, store: ObjectStore, signer: Signer, codec: Codec) -> None:
        self._store = store
        self._signer = signer
        self._codec = codec
        self._verified: OrderedDict[str, RecoverableCheckpoint | None] = OrderedDict()
        self._seqs: dict[str, int | None] = {}  # of all that were ever opened; None: not to be chosen

    def newest(self, run: str, view: LineageView) -> RecoverableCheckpoint | None:
        """The newest checkpoint on the lineage; None if there is none.

        Looks from the newest epoch down, and in each attempt of it from the newest step down until one stands: an
        attempt's lineage numbers rise with its steps. So an old run costs one list call, however many checkpoints it
        has: this is called between two renewals of a lease.
        """
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        current = [one for one in ids if standing(view, one.epoch, one.step) is Standing.CURRENT]
        for epoch in sorted({one.epoch for one in current}, reverse=True):
            attempts: dict[int, list[paths.CheckpointId]] = {}
            for one in current:
                if one.epoch == epoch:
                    attempts.setdefault(one.attempt, []).append(one)
            best = self._best_of(attempts.values())
            if best is not None:
                return best
        return None

    def _best_of(self, attempts: Collection[list[paths.CheckpointId]]) -> RecoverableCheckpoint | None:
        """The newest of some attempts by lineage number that is in the store at this moment."""
        for _ in range(sum(map(len, attempts))):  # each round that finds none shows one more to be gone
            newest = [found for found in map(self._newest_of, attempts) if found is not None]
            if not newest:
                return None
            _, best, just_opened = max(newest, key=lambda found: (found[0], found[1].attempt))
            found = self.verified(best)
            if found is not None and (just_opened or self._stands(found)):
                return found
            self._seqs.pop(best.manifest, None)
        return None

    def _newest_of(self, attempt: list[paths.CheckpointId]) -> tuple[int, paths.CheckpointId, bool] | None:
        """The newest of an attempt that stood when it was opened, with its lineage number, and whether that was now."""
        for one in sorted(attempt, key=lambda one: one.step, reverse=True):
            just_opened = one.manifest not in self._seqs
            if just_opened:
                found = self.verified(one)
                if found is None and one.manifest not in self._verified:
                    continue  # it is gone again; ask anew next time
                self._seqs[one.manifest] = None if found is None else found.manifest.lineage_seq
            seq = self._seqs[one.manifest]
            if seq is not None:
                return seq, one, just_opened
        return None

    def at(self, run: str, view: LineageView, step: int, epoch: int | None = None) -> RecoverableCheckpoint | None:
        """The whole checkpoint of a step: the newest on the lineage, or that of the epoch that is named."""
        ids = [one for one in paths.committed(self._store.list(paths.checkpoints_prefix(run))) if one.step == step]
        current = (one for one in ids if standing(view, one.epoch, one.step) is Standing.CURRENT)
        chosen = current if epoch is None else (one for one in ids if one.epoch == epoch)
        whole = (found for found in map(self.verified, sorted(chosen, reverse=True)) if found is not None)
        return next((found for found in whole if self._stands(found)), None)

    def start(self, lease: Lease) -> RecoverableCheckpoint | None:
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
        if fork is None or not self._stands(fork):
            raise RetryableError(f"epoch {lease.epoch} goes on from step {entry.fork_step}, which is not in this store")
        return fork

    def branch(self, run: str, view: LineageView, epoch: int, step: int) -> RecoverableCheckpoint | None:
        """A checkpoint that is not on the lineage, of that epoch and step; None unless it is whole here."""
        if standing(view, epoch, step) is not Standing.BRANCH:
            return None
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        found = [self.verified(one) for one in ids if (one.epoch, one.step) == (epoch, step)]
        whole = (one for one in found if one is not None and self._stands(one))
        return max(whole, key=lambda one: one.manifest.attempt, default=None)

    def verified(self, checkpoint: paths.CheckpointId) -> RecoverableCheckpoint | None:
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

    def _stands(self, found: RecoverableCheckpoint) -> bool:
        """Whether the manifest is in the store at this moment."""
        checkpoint = paths.parse_checkpoint(found.key)
        envelope = self._store.get(found.key)
        now = None if envelope is None else self._open(checkpoint, envelope)
        if now is None or now.digest != found.digest:
            self._verified.pop(found.key, None)
            return False
        return True

    def _open(self, checkpoint: paths.CheckpointId, envelope: bytes) -> RecoverableCheckpoint | None:
        try:
            payload = self._signer.verify(envelope)
            record = self._codec.decode(payload)
        except (CorruptError, DecodeError):
            return None  # the replicator, which met it first, has reported it; here it is merely not a candidate
        if not isinstance(record, Manifest) or record.prefix != checkpoint.prefix:
            return None
        return RecoverableCheckpoint(record, digest(payload), checkpoint.manifest)
