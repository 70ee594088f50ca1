"""The verifier: reads a run's checkpoints in its region back, digests them, and says which are still what they were.

Bytes were right when they were copied; disks, operators and faulty servers change that in silence. The newest
checkpoints are read back as soon as they are there and then in rounds, every other one once a day, and at once what
somebody waits for: a takeover (`core/fork_choice.py`, I20), a launch. The time that counts is when a reading *began*.

`follow`, `ask`, `verified_at_s`, `damaged` and `damages` may be used from the controller's thread: they leave and read
values. Everything else belongs to the thread of `turn`, each of which reads one object, so that no run holds up others.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.fork_choice import ROUNDS, Reading, Rounds, next_reading
from pipelines.core.lease import NEVER_S
from pipelines.core.manifests import Named
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.standby.damage_notes import Damage, leave_note
from pipelines.flows.standby.recoverable import RecoverableCheckpoint, RecoverableFinder
from pipelines.ports import Clock, Journal, ObjectStore, PieceStore, Verifier
from schemas.codec import Codec

IDLE_S = 15.0  # whoever has work for the verifier wakes it
RETRY_S = 1.0
LIST_S = 600.0  # between two listings for the older checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierPorts:
    """The world outside, as one verifier reaches it.

    Attributes:
        store: the region's own bucket; notes of damage are left there.
        pieces: the same bucket, for reading large objects.
        signer: verifies the manifests in it.
        codec: of manifests.
        clock: the machine's own.
        journal: hears of damage, and of its end.
    """

    store: ObjectStore
    pieces: PieceStore
    signer: Verifier
    codec: Codec
    clock: Clock
    journal: Journal


@dataclass(slots=True)
class _Known:
    """One checkpoint, and what its last readings showed."""

    own: paths.CheckpointId
    seen_at_s: float
    digest: str = ""
    newest: bool = False
    asked_s: float = NEVER_S
    verified_at_s: float = NEVER_S
    tried_at_s: float = NEVER_S
    damages: tuple[Damage, ...] = ()


@dataclass(slots=True)
class _Job:
    """A reading under way."""

    known: _Known
    checkpoint: RecoverableCheckpoint
    objects: tuple[Named, ...]
    began_s: float
    damages: list[Damage]
    place: int = 0


class CheckpointVerifier:
    """Reads one run's checkpoints in one region back.

    Args:
        run: whose.
        ports: the world outside.
        rounds: how often each checkpoint is read back.
        wake: called when `turn` has something to do before it is due.
        tell: called when a reading has ended.
    """

    def __init__(
        self,
        *,
        run: str,
        ports: VerifierPorts,
        rounds: Rounds = ROUNDS,
        wake: Callable[[], None] = lambda: None,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._rounds, self._wake, self._tell = run, rounds, wake, tell
        self._store, self._pieces = ports.store, ports.pieces
        self._clock, self._journal = ports.clock, ports.journal
        self._finder = RecoverableFinder(ports.store, ports.signer, ports.codec)
        self._known: dict[str, _Known] = {}
        self._newest: tuple[RecoverableCheckpoint, ...] = ()
        self._distrusted: Mapping[str, str] = {}
        self._asks: dict[str, tuple[RecoverableCheckpoint, float]] = {}
        self._news = False
        self._listed_s = NEVER_S
        self._job: _Job | None = None
        self.damaged: frozenset[str] = frozenset()  # keys of the manifests of checkpoints that are not to be used
        self.trouble = ""

    # --- what the controller asks ---

    def follow(self, newest: Sequence[RecoverableCheckpoint], distrusted: Mapping[str, str]) -> None:
        """Take note of the region's newest checkpoints on the lineage, and of manifests that cannot be read.

        Args:
            newest: the newest first.
            distrusted: why, by key of the manifest.
        """
        if (tuple(newest), dict(distrusted)) != (self._newest, self._distrusted):
            self._newest, self._distrusted, self._news = tuple(newest), dict(distrusted), True
            self._wake()

    def ask(self, checkpoint: RecoverableCheckpoint, since_s: float) -> None:
        """Ask that a checkpoint be read back before all others, unless a reading began after `since_s`.

        Args:
            checkpoint: which.
            since_s: on the verifier's clock.
        """
        asked = self._asks.get(checkpoint.key)
        if asked is None or asked[0].digest != checkpoint.digest or asked[1] < since_s:
            self._asks[checkpoint.key] = (checkpoint, since_s)
            self._news = True
            self._wake()

    def verified_at_s(self, checkpoint: RecoverableCheckpoint) -> float:
        """When the last reading began that found all bytes right; NEVER_S if none did, or the last one found damage."""
        known = self._known.get(checkpoint.key)
        if known is None or known.digest != checkpoint.digest or known.damages:
            return NEVER_S
        return known.verified_at_s

    def damages(self) -> tuple[Damage, ...]:
        """Every object that is damaged now, as far as is known."""
        return tuple(damage for known in list(self._known.values()) for damage in known.damages)

    # --- the loop ---

    def turn(self) -> float:
        """Read one object of the checkpoint that is most urgent; seconds until the next turn."""
        try:
            rests_s = self._read_on()
        except (RetryableError, MisconfiguredError) as error:
            if str(error) != self.trouble:
                self._journal.say("verifier.waits", run=self._run, why=str(error))
            self.trouble = str(error)
            return RETRY_S
        self.trouble = ""
        return rests_s

    def _read_on(self) -> float:
        now_s = self._clock.boottime_s()
        if self._news:
            self._take_news(now_s)
        if now_s - self._listed_s >= LIST_S and self._newest:
            self._list(now_s)
        if self._job is None:
            self._job = self._begin(now_s)
        if self._job is None:
            return min(IDLE_S, self._rounds.damaged_s)
        if self._job.place < len(self._job.objects):
            self._read(self._job)
        if self._job.place >= len(self._job.objects):
            self._end(self._job)
            self._job = None
        return 0.0

    def _take_news(self, now_s: float) -> None:
        """Enter what the controller left; a reading gives way to one that somebody waits for."""
        self._news = False
        newest, distrusted, asks = self._newest, self._distrusted, dict(self._asks)
        for known in self._known.values():
            known.newest = False
        for checkpoint in newest:
            self._entry(checkpoint, now_s).newest = True
        for checkpoint, since_s in asks.values():
            self._entry(checkpoint, now_s).asked_s = since_s
        for key, why in distrusted.items():
            known = self._known.setdefault(key, _Known(paths.parse_checkpoint(key), now_s))
            self._found(known, [Damage(key, f"cannot be read: {why}", self._clock.wall_ms())], now_s)
        waited = next_reading(self._readings(), now_s, self._rounds)
        if self._job is not None and waited is not None and waited.verified_at_s < waited.asked_s:
            known = self._job.known
            if known.own.manifest != waited.key or self._job.began_s < waited.asked_s:
                self._job = None

    def _entry(self, checkpoint: RecoverableCheckpoint, now_s: float) -> _Known:
        known = self._known.get(checkpoint.key)
        if known is None or known.digest != checkpoint.digest:
            own = paths.parse_checkpoint(checkpoint.key)
            known = self._known[checkpoint.key] = _Known(own, now_s, checkpoint.digest)
        return known

    def _list(self, now_s: float) -> None:
        """Learn of older checkpoints, and forget what is gone."""
        listed = {own.manifest: own for own in paths.committed(self._store.list(paths.checkpoints_prefix(self._run)))}
        for key, own in listed.items():
            self._known.setdefault(key, _Known(own, now_s))
        self._known = {key: known for key, known in self._known.items() if key in listed}
        self._asks = {key: asked for key, asked in self._asks.items() if key in listed}
        self._listed_s = now_s
        self._publish()

    def _readings(self) -> list[Reading]:
        newest_first = sorted(self._known.values(), key=lambda known: known.own, reverse=True)
        return [
            Reading(
                key=known.own.manifest,
                newest=known.newest,
                asked_s=known.asked_s,
                seen_at_s=known.seen_at_s,
                verified_at_s=known.verified_at_s,
                tried_at_s=known.tried_at_s if known.damages else NEVER_S,
            )
            for known in newest_first
        ]

    def _begin(self, now_s: float) -> _Job | None:
        """The next reading; None if none is due. What is no whole checkpoint any more is forgotten."""
        while (due := next_reading(self._readings(), now_s, self._rounds)) is not None:
            known = self._known[due.key]
            checkpoint = self._finder.verified(known.own)
            if checkpoint is not None:
                known.digest = checkpoint.digest
                objects = manifests.objects(checkpoint.manifest)
                return _Job(known, checkpoint, objects, self._clock.boottime_s(), [])
            if due.key in self._finder.distrusted:
                why = f"cannot be read: {self._finder.distrusted[due.key]}"
                self._found(known, [Damage(due.key, why, self._clock.wall_ms())], now_s)
            else:  # it was abandoned or swept
                self._known.pop(due.key)
                self._publish()
        return None

    def _read(self, job: _Job) -> None:
        named = job.objects[job.place]
        why = self._wrong(named)
        if why:
            job.damages.append(Damage(named.key, why, self._clock.wall_ms()))
        job.place += 1

    def _wrong(self, named: Named) -> str:
        """Why an object is not what its manifest names; "" if it is. Reads no further than the manifest says."""
        pieces = self._pieces.pieces(named.key)
        if pieces is None:
            return "is not there"
        hashed, size = hashlib.sha256(), 0
        with contextlib.closing(pieces):
            for piece in pieces:
                hashed.update(piece)
                size += len(piece)
                if size > named.size:
                    break
        return manifests.mismatch(named, size, hashed.hexdigest())

    def _end(self, job: _Job) -> None:
        """Note what a reading showed, its manifest included. A checkpoint that was swept meanwhile is not damaged."""
        if not self._finder.stands(job.checkpoint):
            key = job.known.own.manifest
            why = self._finder.distrusted.get(key)
            if why is None:
                self._known.pop(key, None)
                self._publish()
                return
            job.damages.append(Damage(key, f"cannot be read: {why}", self._clock.wall_ms()))
        if job.damages:
            self._found(job.known, job.damages, job.began_s)
            return
        if job.known.damages:
            self._journal.say("checkpoint.sound", run=self._run, step=job.known.own.step, epoch=job.known.own.epoch)
        job.known.damages, job.known.verified_at_s = (), job.began_s
        self._publish()

    def _found(self, known: _Known, damages: list[Damage], began_s: float) -> None:
        """Say once which objects are damaged, here and to whoever may repair them."""
        before = {damage.key: damage for damage in known.damages}
        known.damages = tuple(before.get(damage.key, damage) for damage in damages)
        known.tried_at_s = began_s
        self._publish()
        for damage in known.damages:
            if damage.key not in before:
                self._journal.say(
                    "checkpoint.damaged",
                    run=self._run,
                    epoch=known.own.epoch,
                    step=known.own.step,
                    key=damage.key,
                    why=damage.why,
                )
            leave_note(self._store, damage)

    def _publish(self) -> None:
        self.damaged = frozenset(key for key, known in self._known.items() if known.damages)
        self._tell()
