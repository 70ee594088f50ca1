"""What may be swept from a region's store, and why everything else stays there (design 6.10 and 9).

A checkpoint is the unit. Referenced is what the lineage, a branch, a pin, a launch, another region, or an upload or
copy that goes on still needs; what no rule names is not touched. The rest is a *candidate*: it goes once every note of
the last grace period, and one from before it, has found it unreferenced and unchanged. The grace is longer than the
longest upload may take.

**No race with a commit.** The manifest's key has one outcome, and creating it is atomic. So who sweeps takes that key
first, with the record that there will be no manifest (`tombstone`); only then do other objects go. An agent or a
replicator that comes too late finds the record and says so; one that comes first has a reference, and the sweep gives
way. Whatever is interrupted in between, a manifest never stands over objects that are gone.
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
    """How many proven generations stay, and for how long a thing must have been unreferenced before it goes."""

    generations: int = 3
    grace_s: float = 172_800.0


class Outcome(enum.Enum):
    """What stands at a manifest's key."""

    NONE = "none"  # nothing: an upload or a copy that is not settled
    WHOLE = "whole"  # a manifest, and everything that it names is there
    BROKEN = "broken"  # something that cannot be trusted or understood, or that names what is not there
    GONE = "gone"  # the record that there will be none


@dataclass(frozen=True, slots=True)
class Found:
    """One checkpoint as it lies in the region's store.

    What follows it in its attempt hangs on `digest` and `lineage_seq`: its manifest's own; its parent's, of one that is
    gone; those of the attempt's start, of one that has an intent only.
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
    """What is referenced from elsewhere."""

    view: LineageView | None
    epoch_max: int = 0  # the newest epoch that any region whose store we saw has written down
    pinned: frozenset[CheckpointId] = frozenset()
    discarded: frozenset[int] = frozenset()  # epochs whose branch a person called useless
    starts: frozenset[str] = frozenset()  # manifests from which the newest attempt's launches start
    shared: frozenset[CheckpointId] = frozenset()  # the newest that each other region has as well
    unseen: tuple[str, ...] = ()  # other regions whose store did not answer


class Hold(enum.Enum):
    """Why nothing at all may go: who does not see everything deletes nothing."""

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
    """Why a checkpoint may go."""

    OLDER = "an older generation"
    DISCARDED = "a discarded branch"
    UNFINISHED = "an upload or a copy that was given up"
    LEFTOVER = "what an abandoned or swept one left"
    TOMBSTONE = "the record of a swept one, with a later one behind it"


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by two clocks: what one of them jumps does not shorten the grace."""

    wall_ms: int
    store_ms: int


@dataclass(frozen=True, slots=True)
class Note:
    """What an earlier sweep found unreferenced: by prefix, in which state."""

    at: Moment
    candidates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one checkpoint, and why. `keys`: what goes, in this order; nothing of one that is kept."""

    own: CheckpointId
    reason: Keep | Go
    size_bytes: int
    keys: tuple[str, ...] = ()
    state: str = ""
    unreferenced_s: float = 0.0
    due: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One verdict for each checkpoint; `held`: why nothing may go."""

    verdicts: tuple[Verdict, ...] = ()
    held: Hold | None = None
    unseen: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Verdict, ...]:
        """What stays."""
        return tuple(one for one in self.verdicts if isinstance(one.reason, Keep))

    @property
    def candidates(self) -> tuple[Verdict, ...]:
        """What is unreferenced now."""
        return tuple(one for one in self.verdicts if isinstance(one.reason, Go))

    @property
    def due(self) -> tuple[Verdict, ...]:
        """What goes now."""
        return tuple(one for one in self.verdicts if one.due)


def understood(own: CheckpointId, listed: Iterable[Listed]) -> tuple[Listed, ...]:
    """Of the objects under a checkpoint's prefix, those that we know; the others are nobody's to delete."""
    found = (one for one in listed if one.key.startswith(f"{own.prefix}/"))
    return tuple(one for one in found if _OBJECT.fullmatch(one.key.removeprefix(f"{own.prefix}/")))


def newest_first(found: Iterable[Found], view: LineageView) -> list[Found]:
    """The whole checkpoints on the lineage."""
    whole = (one for one in found if one.outcome is Outcome.WHOLE)
    current = [one for one in whole if standing(view, one.own.epoch, one.own.step) is Standing.CURRENT]
    return sorted(current, key=lambda one: (one.own.epoch, one.lineage_seq, one.own), reverse=True)


def plan(found: Sequence[Found], roots: Roots, policy: SweepPolicy, notes: Sequence[Note], now: Moment) -> Plan:
    """What stays and what goes of a run's checkpoints in one region, each with its reason."""
    held = _hold(found, roots)
    if held is not None or roots.view is None:
        kept = tuple(Verdict(one.own, Keep.HELD, _size(one.objects)) for one in found)
        return Plan(kept, held, roots.unseen)
    references = _references(found, roots, roots.view, policy)
    passed_by = max((one.own for one in newest_first(found, roots.view)), default=None)
    last = _last_words(found)
    verdicts = []
    for one in found:
        young = _newest_ms(one) > now.store_ms - policy.grace_s * 1000
        reason = references.get(one.own) or _judge(
            one,
            place=standing(roots.view, one.own.epoch, one.own.step),
            discarded=one.own.epoch in roots.discarded,
            young=young,
            passed=passed_by is not None and passed_by > one.own,
            last=one.own in last,
        )
        verdicts.append(_verdict(one, reason, policy, notes, now))
    return Plan(tuple(verdicts))


def tombstone(one: Found, reason: Keep | Go, found: Iterable[Found]) -> Abandoned:
    """What takes the manifest's key when a checkpoint is swept; what follows in its attempt hangs on it as before."""
    parent, seq = one.digest, one.lineage_seq
    if one.outcome is not Outcome.WHOLE:
        settled = [other for other in _attempt(one.own, found) if other.own.step < one.own.step]
        before = max(settled, key=lambda other: other.own.step, default=one)
        parent, seq = before.digest, before.lineage_seq + 1
    own = one.own
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
    """The keys of notes that say nothing more: older than the grace, but for the newest of those."""
    old = sorted((at.store_ms, key) for key, at in notes if _elapsed_s(at, now) >= policy.grace_s)
    return tuple(key for _, key in old[:-1])


def _hold(found: Sequence[Found], roots: Roots) -> Hold | None:
    if roots.view is None:
        return Hold.NO_LINEAGE
    if max((roots.epoch_max, *(one.own.epoch for one in found))) > roots.view.epoch:
        return Hold.BEHIND
    return Hold.UNSEEN if roots.unseen else None


def _references(
    found: Sequence[Found], roots: Roots, view: LineageView, policy: SweepPolicy
) -> dict[CheckpointId, Keep]:
    """What something else needs, by the first reason that applies."""
    current = [one.own for one in newest_first(found, view)]
    before = [own for own in current if own.epoch < view.epoch]
    marks: tuple[tuple[Keep, Iterable[CheckpointId]], ...] = (
        (Keep.NEWEST, current[: policy.generations]),
        (Keep.PINNED, roots.pinned),
        (Keep.START, (one.own for one in found if one.own.manifest in roots.starts)),
        (Keep.FORK, before[:1]),
        (Keep.SHARED, roots.shared),
        (Keep.PREVIOUS, (one.previous for one in found if one.previous and one.outcome is Outcome.NONE)),
    )
    references: dict[CheckpointId, Keep] = {}
    for why, ones in marks:
        for own in ones:
            references.setdefault(own, why)
    return references


def _judge(one: Found, *, place: Standing, discarded: bool, young: bool, passed: bool, last: bool) -> Keep | Go:
    """What becomes of a checkpoint that nothing else needs: the first rule that applies."""
    unsettled, gone, branch = one.outcome is Outcome.NONE, one.outcome is Outcome.GONE, place is Standing.BRANCH
    left = any(listed.key != one.own.manifest for listed in one.objects)
    rules: tuple[tuple[bool, Keep | Go], ...] = (
        (place is Standing.UNKNOWN, Keep.UNKNOWN),
        (one.outcome is Outcome.BROKEN, Keep.BROKEN),
        (gone and left, Go.LEFTOVER),
        (gone and one.swept and not last, Go.TOMBSTONE),
        (gone, Keep.OUTCOME),
        (unsettled and young, Keep.OPEN),
        (branch and discarded, Go.DISCARDED),
        (branch, Keep.BRANCH),
        (unsettled and not passed, Keep.OPEN),  # nothing newer is whole: it may still become the newest
        (unsettled, Go.UNFINISHED),
    )
    return next((reason for applies, reason in rules if applies), Go.OLDER)


def _verdict(one: Found, reason: Keep | Go, policy: SweepPolicy, notes: Sequence[Note], now: Moment) -> Verdict:
    if isinstance(reason, Keep):
        return Verdict(one.own, reason, _size(one.objects))
    goes = one.objects if reason is not Go.LEFTOVER else tuple(o for o in one.objects if o.key != one.own.manifest)
    ordered = sorted(goes, key=lambda listed: (_turn(one.own, listed.key), listed.key))
    state = _state(one)
    since_s = _unreferenced_s(one.own.prefix, state, notes, now)
    keys = tuple(listed.key for listed in ordered)
    return Verdict(one.own, reason, _size(goes), keys, state, since_s, due=since_s >= policy.grace_s)


def _turn(own: CheckpointId, key: str) -> int:
    """Manifest, receipts, chunks and states, intent: nothing ever names what is gone before it."""
    match = _OBJECT.fullmatch(key.removeprefix(f"{own.prefix}/"))
    return 0 if match is None or match.lastindex is None else match.lastindex


def _state(one: Found) -> str:
    """Changes with every object that comes or goes, and with what it is taken for."""
    plain = "\n".join(sorted(f"{listed.key} {listed.size} {listed.modified_ms}" for listed in one.objects))
    return digest(f"{one.outcome.value} {plain}".encode())[:32]


def _unreferenced_s(prefix: str, state: str, notes: Sequence[Note], now: Moment) -> float:
    """Since the first of the unbroken row of notes, up to the newest, that found it so."""
    found_s = 0.0
    for note in sorted(notes, key=lambda one: one.at.store_ms, reverse=True):
        if note.candidates.get(prefix) != state:
            break
        found_s = _elapsed_s(note.at, now)
    return found_s


def _elapsed_s(at: Moment, now: Moment) -> float:
    return max(0, min(now.wall_ms - at.wall_ms, now.store_ms - at.store_ms)) / 1000


def _last_words(found: Iterable[Found]) -> frozenset[CheckpointId]:
    """The newest settled checkpoint of each attempt: what its next one hangs on."""
    newest: dict[tuple[int, int], CheckpointId] = {}
    for one in found:
        if one.outcome is not Outcome.NONE:
            name = (one.own.epoch, one.own.attempt)
            newest[name] = max(one.own, newest.get(name, one.own))
    return frozenset(newest.values())


def _attempt(own: CheckpointId, found: Iterable[Found]) -> list[Found]:
    """The settled checkpoints of one attempt."""
    wanted = (Outcome.WHOLE, Outcome.GONE)
    return [o for o in found if (o.own.epoch, o.own.attempt) == (own.epoch, own.attempt) and o.outcome in wanted]


def _newest_ms(one: Found) -> int:
    return max((listed.modified_ms for listed in one.objects), default=0)


def _size(objects: Iterable[Listed]) -> int:
    return sum(listed.size for listed in objects)
