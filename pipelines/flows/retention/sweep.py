"""Sweeps one run in one region: lists its checkpoints, lets `pipelines/core/retention.py` plan, and deletes.

Each sweep looks at everything anew, and notes the unreferenced checkpoints, create-only. A checkpoint that was noted
for longer than the grace is deleted; directly before that, its objects and every reference in this region are looked at
once more. `pipelines/core/retention.py` says why this cannot race with a commit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.authorship import foreign, made_by
from pipelines.core.lineage import LineageView
from pipelines.core.retention import (
    SWEPT,
    Go,
    Listed,
    Moment,
    Note,
    Outcome,
    Plan,
    Roots,
    StoredCheckpoint,
    SweepPolicy,
    Verdict,
    needless,
    newest_first,
    plan,
    tombstone,
    understood,
)
from pipelines.errors import CorruptError, ForeignEpochError, RetryableError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.retention.pins import pinned
from pipelines.flows.standby.damage_notes import open_notes
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.paths import CheckpointId
from pipelines.ports import Clock, Entropy, Journal, ObjectStore, Signer
from schemas.codec import Codec, DecodeError, digest
from schemas.records import Abandoned, Intent, Manifest


@dataclass(frozen=True, slots=True)
class Swept:
    """The plan of one sweep, and the verdicts that it carried out; the others of `plan.due` were overtaken."""

    plan: Plan
    gone: tuple[Verdict, ...] = ()

    @property
    def size_bytes(self) -> int:
        """How many bytes were deleted."""
        return sum(verdict.size_bytes for verdict in self.gone)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPorts:
    """The world outside, as one sweep reaches it.

    Attributes:
        store: the region's own bucket, for the one user who may delete there.
        peers: the other regions' buckets by region, which are only read.
        signer: verifies manifests, and signs the record that takes a swept manifest's place.
        codec: of records.
        clock: the wall's time, beside the store's own.
        entropy: names the notes.
        journal: hears what is removed, and why a sweep holds back.
    """

    store: ObjectStore
    peers: Mapping[str, ObjectStore]
    signer: Signer
    codec: Codec
    clock: Clock
    entropy: Entropy
    journal: Journal


class Sweep:
    """Finds and removes the checkpoints of one run in one region that nothing references any more.

    Args:
        run: whose checkpoints.
        ports: the world outside.
        policy: how much stays, and for how long a thing must have been unreferenced.
    """

    def __init__(self, *, run: str, ports: SweepPorts, policy: SweepPolicy) -> None:
        self._run, self._store, self._policy = run, ports.store, policy
        self._signer, self._codec = ports.signer, ports.codec
        self._clock, self._entropy, self._journal = ports.clock, ports.entropy, ports.journal
        self._peers = {
            name: (EpochStore(peer), RecoverableFinder(peer, ports.signer, ports.codec), peer)
            for name, peer in ports.peers.items()
        }
        self._lineage = EpochStore(ports.store)
        self._launches: dict[str, tuple[int, int, str]] = {}

    def plan(self) -> Plan:
        """The plan of a sweep at this moment; nothing is changed, and no note is made."""
        wall_ms = self._clock.wall_ms()
        checkpoints = self._checkpoints()
        roots = self._elsewhere(checkpoints, self._roots())
        return plan(checkpoints, roots, self._policy, self._notes(), Moment(wall_ms, wall_ms))

    def execute(self) -> Swept:
        """Note the unreferenced checkpoints, and delete those that have been unreferenced for the whole grace.

        Raises:
            RetryableError: a store does not answer; a later sweep finishes what this one began.
        """
        now = Moment(self._clock.wall_ms(), self._store_ms())
        checkpoints = self._checkpoints()
        roots = self._elsewhere(checkpoints, self._roots())
        notes = self._notes()
        planned = plan(checkpoints, roots, self._policy, notes, now)
        if planned.held is not None:
            self._journal.say("sweep.held", run=self._run, why=planned.held.value, unseen=planned.unseen)
            return Swept(planned)
        self._note(planned, now)
        gone = []
        for verdict in planned.due:
            fresh = self._look_again(verdict, checkpoints, roots, notes, now)
            if fresh is not None and self._remove(verdict, fresh, checkpoints):
                gone.append(verdict)
                checkpoints = [other for other in checkpoints if other.own != verdict.own]
        self._tidy(now)
        done = Swept(planned, tuple(gone))
        counts = {"candidates": len(planned.candidates), "gone": len(gone), "size_bytes": done.size_bytes}
        self._journal.say("sweep.done", run=self._run, **counts)
        return done

    # --- the checkpoints in the store ---

    def _checkpoints(self) -> list[StoredCheckpoint]:
        grouped: dict[CheckpointId, list[Listed]] = {}
        for listed in self._store.entries(paths.checkpoints_prefix(self._run)):
            own = paths.canonical(listed.key)
            if own is not None:
                grouped.setdefault(own, []).append(listed)
        known = {own: understood(own, objects) for own, objects in grouped.items()}
        view = self._lineage(self._run)
        return [self._read_or_broken(own, objects, view) for own, objects in known.items() if objects]

    def _read_or_broken(
        self, own: CheckpointId, objects: tuple[Listed, ...], view: LineageView | None
    ) -> StoredCheckpoint:
        try:
            return self._read(own, objects, view)
        except (CorruptError, DecodeError):
            return StoredCheckpoint(own, objects, Outcome.BROKEN)

    def _read(self, own: CheckpointId, objects: tuple[Listed, ...], view: LineageView | None) -> StoredCheckpoint:
        keys = {listed.key for listed in objects}
        envelope = self._store.get(own.manifest) if own.manifest in keys else None
        if envelope is None:
            return self._unsettled(own, objects, keys)
        opened = self._signer.opened(envelope)
        record = self._codec.decode(opened.payload)
        if isinstance(record, Abandoned):
            swept = record.reason.startswith(SWEPT)
            return StoredCheckpoint(own, objects, Outcome.GONE, record.parent_digest, record.lineage_seq, swept=swept)
        if not isinstance(record, Manifest):
            raise CorruptError(f"{own.manifest} holds a {type(record).__name__}")
        manifests.check(record, own)
        why = "" if view is None else foreign(view, own.epoch, made_by(record, opened.region))
        if why:  # it keeps no generation that counts from being kept
            raise ForeignEpochError(why)
        whole = not manifests.missing(record, {listed.key: listed.size for listed in objects}) and not open_notes(
            self._store, paths.damages_of(own)
        )
        return StoredCheckpoint(
            own, objects, Outcome.WHOLE if whole else Outcome.BROKEN, digest(opened.payload), record.lineage_seq
        )

    def _unsettled(self, own: CheckpointId, objects: tuple[Listed, ...], keys: set[str]) -> StoredCheckpoint:
        body = self._store.get(own.intent) if own.intent in keys else None
        if body is None:
            return StoredCheckpoint(own, objects, Outcome.NONE)
        intent = self._codec.decode_as(Intent, body)
        before = None if intent.previous_step < 0 else replace(own, step=intent.previous_step)
        start = (intent.start_manifest_digest, intent.start_lineage_seq)
        return StoredCheckpoint(own, objects, Outcome.NONE, *start, previous=before)

    # --- the references to them ---

    def _roots(self) -> Roots:
        """The references in this region's store, looked up anew before each deletion."""
        view = self._lineage(self._run)
        launches = [self._launch(key) for key in self._store.list(paths.launches_prefix(self._run))]
        newest = max(((epoch, attempt) for epoch, attempt, _ in launches), default=None)
        discarded = self._store.list(paths.discarded_prefix(self._run))
        return Roots(
            view=view,
            epoch_max=0 if view is None else view.epoch,
            pinned=pinned(self._store, self._run),
            discarded=frozenset(int(key.rpartition("/")[2]) for key in discarded),
            starts=frozenset(start for epoch, attempt, start in launches if (epoch, attempt) == newest),
        )

    def _launch(self, key: str) -> tuple[int, int, str]:
        if key not in self._launches:
            try:
                plain = json.loads(self._store.get(key) or b"")
                self._launches[key] = (int(plain["epoch"]), int(plain["attempt"]), str(plain["start_manifest_key"]))
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptError(f"{key} is no launch: nothing is deleted until it is understood") from error
        return self._launches[key]

    def _elsewhere(self, checkpoints: Sequence[StoredCheckpoint], roots: Roots) -> Roots:
        """The roots with the other regions' newest epoch, and the newest checkpoint that each of them has whole too."""
        shared, unseen, epoch_max = set(), [], roots.epoch_max
        for name, (epoch_store, recoverable, store) in self._peers.items():
            try:
                view = epoch_store(self._run)
                epoch_max = max(epoch_max, 0 if view is None else view.epoch)
                there = set(paths.committed(store.list(paths.checkpoints_prefix(self._run))))
                common = (
                    [checkpoint.own for checkpoint in newest_first(checkpoints, roots.view) if checkpoint.own in there]
                    if roots.view
                    else []
                )
                shared |= set(next(([own] for own in common if recoverable.verified(own) is not None), []))
            except RetryableError as error:
                self._journal.say("sweep.unseen", run=self._run, peer=name, why=str(error))
                unseen.append(name)
        return replace(roots, shared=frozenset(shared), unseen=tuple(unseen), epoch_max=epoch_max)

    # --- the notes ---

    def _store_ms(self) -> int:
        """The store's own time, read from an object that is put there now."""
        key = paths.sweep_clock(self._run)
        self._store.put(key, b"")
        return max(
            (entry.modified_ms for entry in self._store.entries(key) if entry.key == key),
            default=0,
        )

    def _notes(self) -> list[Note]:
        notes = []
        for listed in self._store.entries(paths.sweeps_prefix(self._run)):
            body = self._store.get(listed.key)
            if body is not None:
                notes.append(Note(_moment(listed), json.loads(body)))
        return notes

    def _note(self, planned: Plan, now: Moment) -> None:
        plain = {verdict.own.prefix: verdict.state for verdict in planned.candidates}
        key = paths.sweep_note(self._run, now.wall_ms, self._entropy.new_id()[:12])
        self._store.create(key, json.dumps(plain, sort_keys=True).encode())

    def _tidy(self, now: Moment) -> None:
        listed = [(entry.key, _moment(entry)) for entry in self._store.entries(paths.sweeps_prefix(self._run))]
        for key in needless(listed, self._policy, now):
            self._store.delete(key)

    # --- deleting ---

    def _look_again(
        self,
        verdict: Verdict,
        checkpoints: Sequence[StoredCheckpoint],
        roots: Roots,
        notes: Sequence[Note],
        now: Moment,
    ) -> StoredCheckpoint | None:
        """The checkpoint as it is now; None unless the verdict on it is still the same."""
        own = verdict.own
        objects = understood(own, self._store.entries(f"{own.prefix}/"))
        fresh = self._read_or_broken(own, objects, self._lineage(self._run))
        others = [checkpoint for checkpoint in checkpoints if checkpoint.own != own]
        seen = replace(self._roots(), shared=roots.shared, unseen=roots.unseen)
        seen = replace(seen, epoch_max=max(seen.epoch_max, roots.epoch_max))
        if verdict in plan([*others, fresh], seen, self._policy, notes, now).due:
            return fresh
        self._journal.say("sweep.overtaken", run=self._run, checkpoint=own.prefix, why="it has changed")
        return None

    def _remove(self, verdict: Verdict, checkpoint: StoredCheckpoint, checkpoints: Sequence[StoredCheckpoint]) -> bool:
        """Delete a checkpoint; the manifest's key is taken first, so that no manifest stands over deleted objects."""
        own = verdict.own
        if verdict.reason is not Go.TOMBSTONE and not self._settled(verdict, checkpoint, checkpoints):
            self._journal.say("sweep.overtaken", run=self._run, checkpoint=own.prefix, why="it was committed")
            return False
        for key in verdict.keys:
            if key != own.manifest or verdict.reason is Go.TOMBSTONE:
                self._store.delete(key)
        size = verdict.size_bytes
        self._journal.say("sweep.gone", run=self._run, checkpoint=own.prefix, why=verdict.reason.value, size_bytes=size)
        return True

    def _settled(self, verdict: Verdict, checkpoint: StoredCheckpoint, checkpoints: Sequence[StoredCheckpoint]) -> bool:
        """Take the manifest's key for good; True if it says that there is no manifest."""
        if checkpoint.outcome is Outcome.GONE:
            return True
        envelope = self._signer.sign(self._codec.encode(tombstone(checkpoint, verdict.reason, checkpoints)))
        if checkpoint.outcome is Outcome.WHOLE:
            self._store.delete(checkpoint.own.manifest)
        # After a lost reply the key may be taken by ourselves.
        return (
            self._store.create(checkpoint.own.manifest, envelope)
            or self._store.get(checkpoint.own.manifest) == envelope
        )


def _moment(listed: Listed) -> Moment:
    """When a note was made: its name has the wall time, its listing the store's own."""
    return Moment(int(listed.key.rpartition("/")[2].partition("-")[0]), listed.modified_ms)
