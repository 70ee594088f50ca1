"""Which checkpoints may be deleted: the plan alone, over checkpoints that hypothesis makes up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.lineage import Standing, standing
from pipelines.core.retention import (
    Go,
    Hold,
    Keep,
    Listed,
    Moment,
    Note,
    Outcome,
    Plan,
    Roots,
    StoredCheckpoint,
    SweepPolicy,
    needless,
    newest_first,
    plan,
    tombstone,
    understood,
)
from pipelines.paths import CheckpointId
from services.cli.retention import _show
from tests.lineages import lineage_of

DAY_MS = 86_400_000
POLICY = SweepPolicy(generations=2, grace_s=86_400.0)
FORKED = lineage_of((1, 0, -1), (2, 1, 30))
LATE = Moment(10 * DAY_MS, 10 * DAY_MS)


def _stored(
    step: int,
    outcome: Outcome = Outcome.WHOLE,
    *,
    epoch: int = 2,
    attempt: int = 1,
    at_ms: int = 0,
    previous: int | None = None,
    swept: bool = False,
) -> StoredCheckpoint:
    own = CheckpointId("gpt", epoch, attempt, step)
    chunks = tuple(Listed(own.chunk(0, index), 10, at_ms) for index in range(2))
    settled = () if outcome is Outcome.NONE else (Listed(own.manifest, 5, at_ms),)
    return StoredCheckpoint(
        own,
        (*chunks, Listed(own.receipt(0), 1, at_ms), Listed(own.intent, 1, at_ms), *settled),
        outcome,
        digest=f"d{step}",
        lineage_seq=step,
        previous=None if previous is None else dataclasses.replace(own, step=previous),
        swept=swept,
    )


def _noted(stored: Sequence[StoredCheckpoint], roots: Roots, at: Moment, policy: SweepPolicy = POLICY) -> Note:
    """The note that a sweep at that moment writes."""
    first = plan(stored, roots, policy, [], at)
    return Note(at, {one.own.prefix: one.state for one in first.candidates})


def _long_after(stored: Sequence[StoredCheckpoint], roots: Roots) -> Plan:
    """The plan at a time when what is unreferenced was noted two days ago."""
    note = _noted(stored, roots, Moment(LATE.wall_ms - 2 * DAY_MS, LATE.store_ms - 2 * DAY_MS))
    return plan(stored, roots, POLICY, [note], LATE)


def _reasons(planned: Plan) -> dict[int, Keep | Go]:
    return {one.own.step: one.reason for one in planned.verdicts}


CHECKPOINTS = st.lists(
    st.builds(
        _stored,
        st.integers(0, 8).map(lambda n: n * 10),
        st.sampled_from(Outcome),
        epoch=st.integers(1, 2),
        attempt=st.integers(1, 2),
        at_ms=st.integers(0, 10).map(lambda days: days * DAY_MS),
        previous=st.none() | st.just(0),
        swept=st.booleans(),
    ),
    max_size=14,
    unique_by=lambda one: one.own,
)
IDS = st.builds(
    CheckpointId, st.just("gpt"), st.integers(1, 2), st.integers(1, 2), st.integers(0, 8).map(lambda n: n * 10)
)
ROOTS = st.builds(
    Roots,
    st.just(FORKED),
    epoch_max=st.just(2),
    pinned=st.frozensets(IDS, max_size=2),
    discarded=st.sampled_from([frozenset(), frozenset({1})]),
    starts=st.frozensets(IDS.map(lambda own: own.manifest), max_size=1),
    shared=st.frozensets(IDS, max_size=1),
)


def _reachable(stored: Sequence[StoredCheckpoint], roots: Roots, now: Moment) -> set[CheckpointId]:
    """The checkpoints that must never be deleted, by a rule written independently of the product's."""
    kept = {*roots.pinned, *roots.shared, *(one.own for one in stored if one.own.manifest in roots.starts)}
    current = newest_first(stored, FORKED)
    kept |= {one.own for one in current[: POLICY.generations]}
    kept |= {one.own for one in current if one.own.epoch == 1 and one is next(o for o in current if o.own.epoch == 1)}
    for one in stored:
        if one.outcome is Outcome.BROKEN:
            kept.add(one.own)
        branch = standing(FORKED, one.own.epoch, one.own.step) is Standing.BRANCH
        if branch and one.own.epoch not in roots.discarded and one.outcome is not Outcome.GONE:
            kept.add(one.own)
        if one.outcome is Outcome.NONE:
            kept |= {one.previous} if one.previous else set()
            if max(listed.modified_ms for listed in one.objects) > now.store_ms - POLICY.grace_s * 1000:
                kept.add(one.own)
            if not branch and not any(other.own > one.own for other in current):
                kept.add(one.own)
    return kept


@given(stored=CHECKPOINTS, roots=ROOTS, age_days=st.integers(0, 4))
def test_nothing_that_is_reachable_from_a_root_is_ever_planned_to_go(
    stored: list[StoredCheckpoint], roots: Roots, age_days: int
) -> None:
    """However long ago it was noted; and of what goes, nothing is a key of another checkpoint."""
    at = Moment(LATE.wall_ms - age_days * DAY_MS, LATE.store_ms - age_days * DAY_MS)
    note = Note(at, {one.own.prefix: _state(one, roots) for one in stored})
    planned = plan(stored, roots, POLICY, [note], LATE)
    kept = _reachable(stored, roots, LATE)
    assert not {one.own for one in planned.candidates} & kept
    for verdict in planned.due:
        assert age_days >= 1
        assert all(key.startswith(f"{verdict.own.prefix}/") for key in verdict.keys)


def _state(one: StoredCheckpoint, roots: Roots) -> str:
    """As a note has it of a checkpoint that was a candidate in this very state."""
    alone = plan([one], dataclasses.replace(roots, discarded=frozenset({1})), POLICY, [], LATE)
    return alone.verdicts[0].state


def _after(planned: Plan, stored: Sequence[StoredCheckpoint]) -> list[StoredCheckpoint]:
    """The store as it is when the whole plan was carried out."""
    due = {verdict.own: verdict for verdict in planned.due}
    left = []
    for one in stored:
        if one.own not in due:
            left.append(one)
        elif due[one.own].reason is not Go.TOMBSTONE:
            record = (Listed(one.own.manifest, 5, LATE.store_ms),)
            left.append(dataclasses.replace(one, objects=record, outcome=Outcome.GONE, swept=True, previous=None))
    return left


@given(stored=CHECKPOINTS, roots=ROOTS)
def test_what_is_unreachable_and_old_goes_in_the_end_and_a_second_sweep_changes_nothing_more(
    stored: list[StoredCheckpoint], roots: Roots
) -> None:
    """Sweep after sweep, each after another grace: only what is referenced, and small records, stay."""
    now, before, rests = LATE, None, 0
    while rests < 2:  # what is young at first is noted in the sweep after, and goes in the next
        rests = rests + 1 if before == stored else 0
        before = stored
        note = _noted(stored, roots, now)
        now = Moment(now.wall_ms + 2 * DAY_MS, now.store_ms + 2 * DAY_MS)
        stored = _after(plan(stored, roots, POLICY, [note], now), stored)
    kept = _reachable(stored, roots, now)
    for one in stored:
        assert one.own in kept or [listed.key for listed in one.objects] == [one.own.manifest]


def test_the_newest_generations_the_fork_and_what_is_pinned_shared_or_started_from_stay() -> None:
    """Each for its own reason; the others are older generations."""
    stored = [_stored(step, epoch=1) for step in (0, 10, 20, 30)] + [_stored(step) for step in range(40, 100, 10)]
    own = {one.own.step: one.own for one in stored}
    roots = Roots(
        FORKED,
        pinned=frozenset({own[10]}),
        starts=frozenset({own[40].manifest}),
        shared=frozenset({own[70]}),
    )
    reasons = _reasons(_long_after(stored, roots))
    assert {step for step, why in reasons.items() if why is Go.OLDER} == {0, 20, 50, 60}
    assert (reasons[90], reasons[80], reasons[30]) == (Keep.NEWEST, Keep.NEWEST, Keep.FORK)
    assert (reasons[10], reasons[40], reasons[70]) == (Keep.PINNED, Keep.START, Keep.SHARED)


def test_I5_a_branch_goes_only_when_a_person_discarded_it() -> None:
    """All of it, not only its newest checkpoint; the half of an upload at its end too."""
    stored = [_stored(step, epoch=1) for step in (20, 30, 40, 50)] + [_stored(60, Outcome.NONE, epoch=1)]
    kept = _reasons(_long_after(stored, Roots(FORKED)))
    assert (kept[40], kept[50], kept[60]) == (Keep.BRANCH, Keep.BRANCH, Keep.BRANCH)
    gone = _reasons(_long_after(stored, Roots(FORKED, discarded=frozenset({1}))))
    assert (gone[40], gone[50], gone[60]) == (Go.DISCARDED, Go.DISCARDED, Go.DISCARDED)
    assert (gone[20], gone[30]) == (Keep.NEWEST, Keep.NEWEST)


def test_an_upload_that_is_not_settled_stays_while_it_moves_or_may_become_the_newest() -> None:
    """Given up is what has stood still for a grace and has something whole beyond it; its forerunner stays with it."""
    whole = [_stored(step) for step in (40, 50, 60, 70)]
    stuck, moving = _stored(55, Outcome.NONE, previous=40), _stored(45, Outcome.NONE, at_ms=LATE.store_ms)
    newest = _stored(80, Outcome.NONE)
    reasons = _reasons(_long_after([*whole, stuck, moving, newest], Roots(FORKED)))
    assert (reasons[55], reasons[45], reasons[80]) == (Go.UNFINISHED, Keep.OPEN, Keep.OPEN)
    assert (reasons[40], reasons[50]) == (Keep.PREVIOUS, Go.OLDER)


@pytest.mark.parametrize(
    ("roots", "hold"),
    [
        (Roots(None), Hold.NO_LINEAGE),
        (Roots(FORKED, epoch_max=3), Hold.BEHIND),
        (Roots(FORKED, unseen=("west",)), Hold.UNSEEN),
        (Roots(lineage_of((1, 0, -1))), Hold.BEHIND),
    ],
)
def test_who_does_not_see_everything_deletes_nothing(roots: Roots, hold: Hold) -> None:
    """No lineage, one that is behind another region's or behind what lies here, another region that does not answer."""
    stored = [_stored(step) for step in range(0, 100, 10)]
    planned = _long_after(stored, roots)
    assert planned.held is hold
    assert planned.candidates == ()


def test_the_grace_counts_from_the_first_note_of_an_unbroken_row_and_by_both_clocks() -> None:
    """A note without it begins anew, so does a change of its objects; a clock that jumps shortens nothing."""
    stored = [_stored(step) for step in (40, 50, 60)]
    roots, oldest = Roots(FORKED), CheckpointId("gpt", 2, 1, 40)

    def noted(hours: int) -> Note:
        return _noted(stored, roots, Moment(hours * 3_600_000, hours * 3_600_000))

    def due(notes: list[Note], wall_h: int, store_h: int) -> bool:
        planned = plan(stored, roots, POLICY, notes, Moment(wall_h * 3_600_000, store_h * 3_600_000))
        return oldest in {one.own for one in planned.due}

    assert due([noted(0)], 24, 24)
    assert not due([noted(0)], 23, 23)
    assert not due([noted(0)], 99, 23)
    assert not due([noted(0)], 23, 99)
    assert not due([], 99, 99)
    assert not due([noted(0), dataclasses.replace(noted(12), candidates={})], 99, 99)
    assert not due([noted(0), dataclasses.replace(noted(12), candidates={}), noted(13)], 30, 30)
    assert due([noted(0), noted(12), noted(13)], 24, 24)
    stored[0] = _stored(40, at_ms=7)
    assert not due([Note(Moment(0, 0), {oldest.prefix: "another state"})], 99, 99)


def test_nothing_goes_before_what_names_it() -> None:
    """Manifest, receipts, chunks, intent."""
    (verdict,) = _long_after([_stored(step) for step in (40, 50, 60)], Roots(FORKED)).due
    own = verdict.own
    assert verdict.keys == (own.manifest, own.receipt(0), own.chunk(0, 0), own.chunk(0, 1), own.intent)
    assert verdict.size_bytes == 27


def test_what_takes_a_swept_manifests_place_is_what_the_next_step_hangs_on() -> None:
    """The digest and number of the manifest that was there; of an upload, those of what came before it."""
    whole = [_stored(step) for step in (40, 50)]
    half = _stored(60, Outcome.NONE)
    swept = tombstone(whole[1], Go.OLDER, whole)
    assert (swept.parent_digest, swept.lineage_seq, swept.step) == ("d50", 50, 50)
    ended = tombstone(half, Go.UNFINISHED, [*whole, half])
    assert (ended.parent_digest, ended.lineage_seq) == ("d50", 51)
    first = tombstone(half, Go.UNFINISHED, [half])
    assert (first.parent_digest, first.lineage_seq) == ("d60", 61)


def test_the_record_of_a_swept_checkpoint_goes_last_and_never_an_attempts_last_word() -> None:
    """One of an agent, which abandoned it, stays for good; and what is left under it goes without it."""
    bare = [
        dataclasses.replace(_stored(step, Outcome.GONE, swept=swept), objects=())
        for step, swept in ((40, True), (50, False), (60, True))
    ]
    stored = [dataclasses.replace(one, objects=(Listed(one.own.manifest, 5, 0),)) for one in bare]
    reasons = _reasons(_long_after(stored, Roots(FORKED)))
    assert reasons == {40: Go.TOMBSTONE, 50: Keep.OUTCOME, 60: Keep.OUTCOME}
    (left,) = _long_after([_stored(50, Outcome.GONE)], Roots(FORKED)).due
    assert left.reason is Go.LEFTOVER
    assert left.own.manifest not in left.keys


def test_keys_that_we_do_not_understand_are_nobodys_to_delete() -> None:
    """Beside the objects of a checkpoint, and in any other spelling than ours."""
    own = CheckpointId("gpt", 1, 1, 10)
    ours = [own.manifest, own.intent, own.receipt(0), own.chunk(3, 0), own.rank_state(3)]
    others = [f"{own.prefix}/{name}" for name in ("notes.txt", "manifest.bak", "rank-00000/x", "receipts/rank-1")]
    listed = [Listed(key, 1, 0) for key in (*ours, *others)]
    assert [one.key for one in understood(own, listed)] == ours


def test_notes_are_kept_for_as_long_as_they_prove_something() -> None:
    """All of the last grace, and the one before it."""
    ages_h = {"a": 80, "b": 50, "c": 30, "d": 20, "e": 1}
    notes = [(key, Moment(LATE.wall_ms - h * 3_600_000, LATE.store_ms - h * 3_600_000)) for key, h in ages_h.items()]
    assert needless(notes, POLICY, LATE) == ("a", "b")


def test_the_table_counts_what_stays_waits_and_is_due_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """With bytes and steps; and a plan that is held says who is out of sight."""
    stored = [_stored(step) for step in range(0, 50, 10)]
    _show(_long_after(stored, Roots(FORKED)), "gpt", "west")
    _show(plan(stored, Roots(FORKED, unseen=("west",)), POLICY, [], LATE), "gpt", "east")
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["due", "an", "older", "generation", "3", "81", "0", "to", "20"] in lines
    assert ["stays", "one", "of", "the", "newest", "generations", "2", "54", "30", "to", "40"] in lines
    assert ["stays", "held", "5", "135", "0", "to", "40"] in lines
    assert "does not answer: what it still needs of ours is not known (west)" in printed.err
