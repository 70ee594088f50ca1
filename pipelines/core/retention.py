"""Decides which checkpoints a sweep may delete from a region's store, and why every other one stays (design 6.10, 9).

A checkpoint is the unit. It is *referenced* while the lineage, a branch, a pin, a launch, another region, or an upload
or copy under way still needs it; objects that no rule names are not touched. An unreferenced checkpoint is a
*candidate*: it is deleted once every note of the last grace period, and one from before it, has found it unreferenced
and unchanged. The grace is longer than the longest upload may take.

**No race with a commit.** The manifest's key has one outcome, and creating it is atomic. So the sweep takes that key
first, with the record that there will be no manifest (`tombstone`); only then does it delete other objects. An agent or
a replicator that comes later finds the record and reports it; one that came first has made a reference, and the sweep
gives way. Whatever is interrupted in between, a manifest never stands over objects that are gone.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.paths import CheckpointId
from schemas.codec import digest
from schemas.records import Abandoned

SWEPT = "swept: "
_OBJECT = re.compile(r"(manifest)|(receipts/rank-\d{5,})|(rank-\d{5,}/(?:chunk-\d{6,}|state))|(intent)")


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as a store lists it; `modified_ms` is the store's own time."""

    key: str
    size: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """How many proven generations stay, and how long a checkpoint must be unreferenced before it is deleted."""

    generations: int = 3
    grace_s: float = 172_800.0


class Outcome(enum.Enum):
    """The object that stands at a manifest's key."""

    NONE = "none"  # nothing: an upload or a copy that is not settled
    WHOLE = "whole"  # a manifest, and everything that it names is there
    BROKEN = "broken"  # something that cannot be trusted or understood, or that names what is not there
    GONE = "gone"  # the record that there will be none


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """One checkpoint as it lies in the region's store.

    The next checkpoint of its attempt names `digest` and `lineage_seq` as its parent's. They are the manifest's own; of
    a checkpoint that is gone, its parent's; of one that has an intent only, those of the attempt's start.
    """

    own: CheckpointId
    objects: tuple[Listed, ...]  # those whose keys we understand
    outcome: Outcome
    digest: str = ""
    lineage_seq: int = 0
    previous: CheckpointId | None = None  # which an intent names
    swept: bool = False


@dataclass(frozen=True, slots=True)
class Roots:
    """References to checkpoints from outside of their own objects."""

    view: LineageView | None
    epoch_max: int = 0  # the newest epoch that any region whose store we saw has written down
    pinned: frozenset[CheckpointId] = frozenset()
    discarded: frozenset[int] = frozenset()  # epochs whose branch a person called useless
    starts: frozenset[str] = frozenset()  # manifests from which the newest attempt's launches start
    shared: frozenset[CheckpointId] = frozenset()  # the newest that each other region has as well
    unseen: tuple[str, ...] = ()  # other regions whose store did not answer


class Hold(enum.Enum):
    """Why nothing at all is deleted: a sweep that does not see everything deletes nothing."""

    NO_LINEAGE = "no epoch is known in this region"
    BEHIND = "a newer epoch is known elsewhere: this region's lineage is behind"
    UNSEEN = "another region's store does not answer: what it still needs of ours is not known"


class Keep(enum.Enum):
    """Why a checkpoint stays."""

    NEWEST = "one of the newest generations"
    PINNED = "pinned"
    START = "the newest launches start from it"
    FORK = "the current epoch began at it"
    SHARED = "the newest that another region has as well"
    PREVIOUS = "an open upload follows it"
    BRANCH = "a branch that nobody discarded"
    OPEN = "an upload or a copy that may go on"
    UNKNOWN = "of an epoch that is not known here"
    BROKEN = "not understood, or not whole"
    OUTCOME = "the record that it was abandoned or swept"
    HELD = "held"


class Go(enum.Enum):
    """Why a checkpoint may be deleted."""

    OLDER = "an older generation"
    DISCARDED = "a discarded branch"
    UNFINISHED = "an upload or a copy that was given up"
    LEFTOVER = "what an abandoned or swept one left"
    TOMBSTONE = "the record of a swept one, with a later one behind it"


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by two clocks: a jump of one of them does not shorten the grace."""

    wall_ms: int
    store_ms: int


@dataclass(frozen=True, slots=True)
class Note:
    """The checkpoints that an earlier sweep found unreferenced: the state of each, by prefix."""

    at: Moment
    candidates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one checkpoint stays or goes, and why. `keys`: the objects to delete, in this order; none if it stays."""

    own: CheckpointId
    reason: Keep | Go
    size_bytes: int
    keys: tuple[str, ...] = ()
    state: str = ""
    unreferenced_s: float = 0.0
    due: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One verdict for each checkpoint; `held`: why nothing is deleted."""

    verdicts: tuple[Verdict, ...] = ()
    held: Hold | None = None
    unseen: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Verdict, ...]:
        """The checkpoints that stay."""
        return tuple(verdict for verdict in self.verdicts if isinstance(verdict.reason, Keep))

    @property
    def candidates(self) -> tuple[Verdict, ...]:
        """The checkpoints that are unreferenced now."""
        return tuple(verdict for verdict in self.verdicts if isinstance(verdict.reason, Go))

    @property
    def due(self) -> tuple[Verdict, ...]:
        """The checkpoints to delete now."""
        return tuple(verdict for verdict in self.verdicts if verdict.due)


def understood(own: CheckpointId, listed: Iterable[Listed]) -> tuple[Listed, ...]:
    """The objects under a checkpoint's prefix whose kind we know; no other object is ever deleted."""
    below = (entry for entry in listed if entry.key.startswith(f"{own.prefix}/"))
    return tuple(entry for entry in below if _OBJECT.fullmatch(entry.key.removeprefix(f"{own.prefix}/")))


def newest_first(checkpoints: Iterable[StoredCheckpoint], view: LineageView) -> list[StoredCheckpoint]:
    """The whole checkpoints on the lineage, newest first."""
    whole = (checkpoint for checkpoint in checkpoints if checkpoint.outcome is Outcome.WHOLE)
    current = [one for one in whole if standing(view, one.own.epoch, one.own.step) is Standing.CURRENT]
    return sorted(current, key=lambda one: (one.own.epoch, one.lineage_seq, one.own), reverse=True)


def plan(
    checkpoints: Sequence[StoredCheckpoint], roots: Roots, policy: SweepPolicy, notes: Sequence[Note], now: Moment
) -> Plan:
    """Which of a run's checkpoints in one region stay and which go, each with its reason."""
    held = _hold(checkpoints, roots)
    if held is not None or roots.view is None:
        kept = tuple(Verdict(checkpoint.own, Keep.HELD, _size(checkpoint.objects)) for checkpoint in checkpoints)
        return Plan(kept, held, roots.unseen)
    references = _references(checkpoints, roots, roots.view, policy)
    passed_by = max((checkpoint.own for checkpoint in newest_first(checkpoints, roots.view)), default=None)
    last = _last_settled(checkpoints)
    verdicts = []
    for checkpoint in checkpoints:
        young = _newest_ms(checkpoint) > now.store_ms - policy.grace_s * 1000
        reason = references.get(checkpoint.own) or _judge(
            checkpoint,
            place=standing(roots.view, checkpoint.own.epoch, checkpoint.own.step),
            discarded=checkpoint.own.epoch in roots.discarded,
            young=young,
            passed=passed_by is not None and passed_by > checkpoint.own,
            last=checkpoint.own in last,
        )
        verdicts.append(_verdict(checkpoint, reason, policy, notes, now))
    return Plan(tuple(verdicts))


def tombstone(checkpoint: StoredCheckpoint, reason: Keep | Go, checkpoints: Iterable[StoredCheckpoint]) -> Abandoned:
    """The record that takes a swept manifest's key; the next checkpoint of the attempt names it as its parent."""
    parent, seq = checkpoint.digest, checkpoint.lineage_seq
    if checkpoint.outcome is not Outcome.WHOLE:
        settled = [other for other in _attempt(checkpoint.own, checkpoints) if other.own.step < checkpoint.own.step]
        before = max(settled, key=lambda other: other.own.step, default=checkpoint)
        parent, seq = before.digest, before.lineage_seq + 1
    own = checkpoint.own
    return Abandoned(
        run=own.run,
        epoch=own.epoch,
        attempt=own.attempt,
        step=own.step,
        parent_digest=parent,
        lineage_seq=seq,
        reason=f"{SWEPT}{reason.value}",
    )


def needless(notes: Sequence[tuple[str, Moment]], policy: SweepPolicy, now: Moment) -> tuple[str, ...]:
    """The keys of notes that are not needed any more: those older than the grace, but for the newest of them."""
    old = sorted((at.store_ms, key) for key, at in notes if _elapsed_s(at, now) >= policy.grace_s)
    return tuple(key for _, key in old[:-1])


def _hold(checkpoints: Sequence[StoredCheckpoint], roots: Roots) -> Hold | None:
    if roots.view is None:
        return Hold.NO_LINEAGE
    if max((roots.epoch_max, *(checkpoint.own.epoch for checkpoint in checkpoints))) > roots.view.epoch:
        return Hold.BEHIND
    return Hold.UNSEEN if roots.unseen else None


def _references(
    checkpoints: Sequence[StoredCheckpoint], roots: Roots, view: LineageView, policy: SweepPolicy
) -> dict[CheckpointId, Keep]:
    """The checkpoints that something else needs, with the first reason that applies."""
    current = [checkpoint.own for checkpoint in newest_first(checkpoints, view)]
    before = [own for own in current if own.epoch < view.epoch]
    unsettled = [checkpoint for checkpoint in checkpoints if checkpoint.outcome is Outcome.NONE]
    marks: tuple[tuple[Keep, Iterable[CheckpointId]], ...] = (
        (Keep.NEWEST, current[: policy.generations]),
        (Keep.PINNED, roots.pinned),
        (Keep.START, (checkpoint.own for checkpoint in checkpoints if checkpoint.own.manifest in roots.starts)),
        (Keep.FORK, before[:1]),
        (Keep.SHARED, roots.shared),
        (Keep.PREVIOUS, (open_upload.previous for open_upload in unsettled if open_upload.previous)),
    )
    references: dict[CheckpointId, Keep] = {}
    for why, ones in marks:
        for own in ones:
            references.setdefault(own, why)
    return references


def _judge(
    checkpoint: StoredCheckpoint, *, place: Standing, discarded: bool, young: bool, passed: bool, last: bool
) -> Keep | Go:
    """Whether a checkpoint that nothing else needs stays or goes: by the first rule that applies."""
    unsettled, gone = checkpoint.outcome is Outcome.NONE, checkpoint.outcome is Outcome.GONE
    branch = place is Standing.BRANCH
    left = any(listed.key != checkpoint.own.manifest for listed in checkpoint.objects)
    rules: tuple[tuple[bool, Keep | Go], ...] = (
        (place is Standing.UNKNOWN, Keep.UNKNOWN),
        (checkpoint.outcome is Outcome.BROKEN, Keep.BROKEN),
        (gone and left, Go.LEFTOVER),
        (gone and checkpoint.swept and not last, Go.TOMBSTONE),
        (gone, Keep.OUTCOME),
        (unsettled and young, Keep.OPEN),
        (branch and discarded, Go.DISCARDED),
        (branch, Keep.BRANCH),
        (unsettled and not passed, Keep.OPEN),  # nothing newer is whole: it may still become the newest
        (unsettled, Go.UNFINISHED),
    )
    return next((reason for applies, reason in rules if applies), Go.OLDER)


def _verdict(
    checkpoint: StoredCheckpoint, reason: Keep | Go, policy: SweepPolicy, notes: Sequence[Note], now: Moment
) -> Verdict:
    if isinstance(reason, Keep):
        return Verdict(checkpoint.own, reason, _size(checkpoint.objects))
    goes = checkpoint.objects
    if reason is Go.LEFTOVER:
        goes = tuple(listed for listed in goes if listed.key != checkpoint.own.manifest)
    ordered = sorted(goes, key=lambda listed: (_removal_order(checkpoint.own, listed.key), listed.key))
    state = _state(checkpoint)
    since_s = _unreferenced_s(checkpoint.own.prefix, state, notes, now)
    keys = tuple(listed.key for listed in ordered)
    return Verdict(checkpoint.own, reason, _size(goes), keys, state, since_s, due=since_s >= policy.grace_s)


def _removal_order(own: CheckpointId, key: str) -> int:
    """The place of an object in the order of deletion: manifest, receipts, chunks and states, intent.

    So no object that is left ever names one that is gone.
    """
    match = _OBJECT.fullmatch(key.removeprefix(f"{own.prefix}/"))
    return 0 if match is None or match.lastindex is None else match.lastindex


def _state(checkpoint: StoredCheckpoint) -> str:
    """A digest that changes with every object that comes or goes, and with the outcome."""
    plain = "\n".join(sorted(f"{listed.key} {listed.size} {listed.modified_ms}" for listed in checkpoint.objects))
    return digest(f"{checkpoint.outcome.value} {plain}".encode())[:32]


def _unreferenced_s(prefix: str, state: str, notes: Sequence[Note], now: Moment) -> float:
    """For how long every note, from the newest back, has found the checkpoint unreferenced in this state."""
    unreferenced_s = 0.0
    for note in sorted(notes, key=lambda note: note.at.store_ms, reverse=True):
        if note.candidates.get(prefix) != state:
            break
        unreferenced_s = _elapsed_s(note.at, now)
    return unreferenced_s


def _elapsed_s(at: Moment, now: Moment) -> float:
    return max(0, min(now.wall_ms - at.wall_ms, now.store_ms - at.store_ms)) / 1000


def _last_settled(checkpoints: Iterable[StoredCheckpoint]) -> frozenset[CheckpointId]:
    """The newest settled checkpoint of each attempt, which the attempt's next checkpoint names as its parent."""
    newest: dict[tuple[int, int], CheckpointId] = {}
    for checkpoint in checkpoints:
        if checkpoint.outcome is not Outcome.NONE:
            name = (checkpoint.own.epoch, checkpoint.own.attempt)
            newest[name] = max(checkpoint.own, newest.get(name, checkpoint.own))
    return frozenset(newest.values())


def _attempt(own: CheckpointId, checkpoints: Iterable[StoredCheckpoint]) -> list[StoredCheckpoint]:
    """The settled checkpoints of one attempt."""
    wanted = (Outcome.WHOLE, Outcome.GONE)
    settled = (checkpoint for checkpoint in checkpoints if checkpoint.outcome in wanted)
    return [one for one in settled if (one.own.epoch, one.own.attempt) == (own.epoch, own.attempt)]


def _newest_ms(checkpoint: StoredCheckpoint) -> int:
    return max((listed.modified_ms for listed in checkpoint.objects), default=0)


def _size(objects: Iterable[Listed]) -> int:
    return sum(listed.size for listed in objects)
