"""The recoverable step of a region: its newest checkpoint whose manifest is there and counts.

It counts if it is on the lineage, and signed by the region that holds its epoch (I17). A manifest is written last,
after every chunk was verified, so its presence shows that the bytes were right once; that they still are, `verifier.py`
shows, and what it found damaged is left out. Ordered by (epoch, lineage sequence), since a run may rewind. Verified
manifests are cached, since they are create-only; but a sweep may have deleted one, so the one that is chosen is read
once more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.authorship import MANIFEST, disagreement, foreign, made_by
from pipelines.core.lease import Fork
from pipelines.core.lineage import LineageView, Standing, standing, view_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import ObjectStore, Verifier
from schemas.codec import Codec, DecodeError, UnknownSchemaError, digest
from schemas.records import Lease, Manifest, Record

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

    def __init__(self, store: ObjectStore, signer: Verifier, codec: Codec) -> None:
        self._store = store
        self._signer = signer
        self._codec = codec
        self._verified: OrderedDict[str, RecoverableCheckpoint | None] = OrderedDict()
        self._seqs: dict[str, int | None] = {}  # of every manifest ever opened; None: not to be chosen
        self._unread: dict[str, CorruptError | DecodeError] = {}  # manifests that could not be opened, and why
        self.foreign: dict[str, str] = {}  # manifests by whom does not hold their epoch, and why; never chosen

    @property
    def distrusted(self) -> dict[str, str]:
        """The keys of manifests that were no manifests of ours when they were opened last, and why.

        One in a schema that this process does not know yet is not among them: it may be a newer region's.
        """
        unread = list(self._unread.items())
        return {key: str(error) for key, error in unread if not isinstance(error, UnknownSchemaError)}

    def newest(self, run: str, view: LineageView, but: Collection[str] = ()) -> RecoverableCheckpoint | None:
        """The newest checkpoint on the lineage; None if there is none.

        Args:
            run: whose.
            view: the run's lineage.
            but: keys of manifests that are left out.

        Raises:
            RetryableError: the store does not answer.
        """
        return next(iter(self.newest_first(run, view, 1, but)), None)

    def newest_first(
        self, run: str, view: LineageView, most: int, but: Collection[str] = ()
    ) -> tuple[RecoverableCheckpoint, ...]:
        """The newest checkpoints on the lineage, the newest first.

        Looks from the newest epoch down, and in each attempt of it from the newest step down until one stands: an
        attempt's lineage numbers rise with its steps. So an old run costs one list call, however many checkpoints it
        has: this is called between two renewals of a lease.

        Args:
            run: whose.
            view: the run's lineage.
            most: so many at most.
            but: keys of manifests that are left out.

        Raises:
            RetryableError: the store does not answer.
        """
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        current = [one for one in ids if standing(view, one.epoch, one.step) is Standing.CURRENT]
        chosen: list[RecoverableCheckpoint] = []
        left_out = set(but)
        while len(chosen) < most:
            left = [checkpoint for checkpoint in current if checkpoint.manifest not in left_out]
            newest = self._newest_in(left)
            if newest is None:
                break
            left_out.add(newest.key)
            if self.counts(newest, view):
                chosen.append(newest)
        return tuple(chosen)

    def _newest_in(self, current: list[paths.CheckpointId]) -> RecoverableCheckpoint | None:
        for epoch in sorted({checkpoint.epoch for checkpoint in current}, reverse=True):
            attempts: dict[int, list[paths.CheckpointId]] = {}
            for checkpoint in current:
                if checkpoint.epoch == epoch:
                    attempts.setdefault(checkpoint.attempt, []).append(checkpoint)
            best = self._best_of(attempts.values())
            if best is not None:
                return best
        return None

    def _best_of(self, attempts: Collection[list[paths.CheckpointId]]) -> RecoverableCheckpoint | None:
        """The newest checkpoint of some attempts, by lineage number, that is in the store at this moment."""
        for _ in range(sum(map(len, attempts))):  # each round that finds none shows one more to be gone
            newest = [candidate for candidate in map(self._newest_of, attempts) if candidate is not None]
            if not newest:
                return None
            _, best, just_opened = max(newest, key=lambda candidate: (candidate[0], candidate[1].attempt))
            candidate = self.verified(best)
            if candidate is not None and (just_opened or self.stands(candidate)):
                return candidate
            self._seqs.pop(best.manifest, None)
        return None

    def _newest_of(self, attempt: list[paths.CheckpointId]) -> tuple[int, paths.CheckpointId, bool] | None:
        """The newest checkpoint of an attempt with its lineage number, and whether its manifest was read just now."""
        for checkpoint in sorted(attempt, key=lambda checkpoint: checkpoint.step, reverse=True):
            just_opened = checkpoint.manifest not in self._seqs
            if just_opened:
                recoverable = self.verified(checkpoint)
                if recoverable is None and checkpoint.manifest not in self._verified:
                    continue  # it is gone again, or cannot be read; ask anew next time
                self._seqs[checkpoint.manifest] = None if recoverable is None else recoverable.manifest.lineage_seq
            seq = self._seqs[checkpoint.manifest]
            if seq is not None:
                return seq, checkpoint, just_opened
        return None

    def at(self, run: str, view: LineageView, step: int, epoch: int | None = None) -> RecoverableCheckpoint | None:
        """The whole checkpoint of a step: the newest on the lineage, or the one of a named epoch."""
        ids = [one for one in paths.committed(self._store.list(paths.checkpoints_prefix(run))) if one.step == step]
        current = (one for one in ids if standing(view, one.epoch, one.step) is Standing.CURRENT)
        chosen = current if epoch is None else (checkpoint for checkpoint in ids if checkpoint.epoch == epoch)
        whole = (found for found in map(self.verified, sorted(chosen, reverse=True)) if found is not None)
        return next((found for found in whole if self.counts(found, view) and self.stands(found)), None)

    def start(self, lease: Lease, but: Collection[str] = ()) -> RecoverableCheckpoint | None:
        """The checkpoint from which a launch starts; None: from step 0.

        It is the newest checkpoint of the epoch itself, or else the fork that was fixed when the epoch was won (I9): a
        newer checkpoint of an older epoch that was verified since then does not take its place.

        Args:
            lease: the run's record.
            but: keys of manifests that are left out; the fork has no substitute.

        Raises:
            RetryableError: the store does not answer, or the fork is not in it.
        """
        view, entry = view_of(lease.lineage), lease.lineage[-1]
        newest = self.newest(lease.run, view, but)
        if newest is not None and newest.manifest.epoch == lease.epoch:
            return newest
        if entry.fork_step < 0:
            return None
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(lease.run)))
        at_fork = [self.verified(checkpoint) for checkpoint in ids if checkpoint.step == entry.fork_step]
        fork = next((one for one in at_fork if one is not None and one.digest == entry.fork_manifest_digest), None)
        if fork is None or not self.counts(fork, view) or not self.stands(fork):
            raise RetryableError(f"epoch {lease.epoch} goes on from step {entry.fork_step}, which is not in this store")
        return fork

    def branch(self, run: str, view: LineageView, epoch: int, step: int) -> RecoverableCheckpoint | None:
        """A checkpoint that is not on the lineage, of that epoch and step; None unless it is whole here."""
        if standing(view, epoch, step) is not Standing.BRANCH:
            return None
        ids = paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        candidates = [self.verified(one) for one in ids if (one.epoch, one.step) == (epoch, step)]
        ours = (one for one in candidates if one is not None and self.counts(one, view))
        whole = (checkpoint for checkpoint in ours if self.stands(checkpoint))
        return max(whole, key=lambda checkpoint: checkpoint.manifest.attempt, default=None)

    def counts(self, recoverable: RecoverableCheckpoint, view: LineageView) -> bool:
        """Whether the region that made a checkpoint holds its epoch; `foreign` keeps why it does not (I17)."""
        manifest = recoverable.manifest
        why = foreign(view, manifest.epoch, {MANIFEST: manifest.region})
        if why:
            self.foreign[recoverable.key] = why
        else:
            self.foreign.pop(recoverable.key, None)
        return not why

    def verified(self, checkpoint: paths.CheckpointId) -> RecoverableCheckpoint | None:
        """The manifest of a checkpoint, signed by the region that it names, whoever holds its epoch (see `counts`).

        None if it is absent, was abandoned, or is not to be trusted.
        """
        key = checkpoint.manifest
        if key in self._verified:
            self._verified.move_to_end(key)
            return self._verified[key]
        envelope = self._store.get(key)
        if envelope is None:
            return None
        recoverable = self._open(checkpoint, envelope)
        if key in self._unread:
            return None
        self._verified[key] = recoverable
        if len(self._verified) > CACHE_MANIFESTS_MAX:
            self._verified.popitem(last=False)
        return recoverable

    def stands(self, recoverable: RecoverableCheckpoint) -> bool:
        """Whether the store holds the same manifest at this moment.

        Raises:
            RetryableError: the store does not answer.
        """
        checkpoint = paths.parse_checkpoint(recoverable.key)
        envelope = self._store.get(recoverable.key)
        now = None if envelope is None else self._open(checkpoint, envelope)
        if now is None or now.digest != recoverable.digest:
            self._verified.pop(recoverable.key, None)
            return False
        return True

    def _open(self, checkpoint: paths.CheckpointId, envelope: bytes) -> RecoverableCheckpoint | None:
        try:
            opened = self._signer.opened(envelope)
            record = self._codec.decode(opened.payload)
            _check_author(record, opened.region)
        except (CorruptError, DecodeError) as error:
            self._unread[checkpoint.manifest] = error
            return None
        self._unread.pop(checkpoint.manifest, None)
        if not isinstance(record, Manifest) or record.prefix != checkpoint.prefix:
            return None
        return RecoverableCheckpoint(record, digest(opened.payload), checkpoint.manifest)


def _check_author(record: Record, signer: str) -> None:
    """CorruptError if a manifest names another region than the one that signed it."""
    why = disagreement(made_by(record, signer))
    if why:
        raise CorruptError(why)
