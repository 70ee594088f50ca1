"""Whether a lane moves: what stands and since when, a backlog that grows, and a bound that was missed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.lane_progress import (
    CALM_S,
    GROWS_S,
    STANDS_S,
    Committed,
    Completions,
    LaneProgress,
    Mark,
    Standing,
)
from pipelines.core.newest_wins import lag_s_max
from services.adapters.signer import Ed25519Signer
from tests.core.replication.test_lane_replicator import _metric, _turn, _World
from tests.manual_clock import ManualClock

COPYING = Mark((7, 100), 3, "step 30 is being copied")


def test_I19_what_does_not_move_stands_and_what_moves_does_not() -> None:
    """A copy that goes on stands for nothing, however long it takes."""
    progress = LaneProgress()
    for second in range(40):
        progress.turned(second, {"gpt": COPYING, "bert": Mark((1, second), 1, "a copy")}, 4)
    assert progress.standing(39.0) == (Standing("gpt", 3, "step 30 is being copied", 39.0),)
    progress.turned(40.0, {"gpt": Mark((7, 101), 3, "step 30 is being copied")}, 4)
    assert progress.standing(40.0 + STANDS_S / 2) == ()


def test_a_lane_whose_source_does_not_answer_stands_with_an_unknown_rest() -> None:
    """Since the first failure; one good turn between two failures does not make it new."""
    progress = LaneProgress()
    progress.failed(10.0, "the link is cut")
    progress.turned(11.0, {}, None)
    progress.failed(12.0, "the link is cut again")
    assert progress.standing(20.0) == (Standing("*", None, "the link is cut again", 10.0),)
    progress.turned(21.0, {}, 0)
    progress.turned(21.0 + CALM_S, {}, 0)
    assert progress.standing(30.0) == ()


@pytest.mark.parametrize(
    ("backlog_at", "grows"),
    [
        (lambda second: second * 50, True),
        (lambda _second: 5_000, False),
        (lambda second: 500 if second % 6 else 0, False),
        (lambda second: max(0, 5_000 - 100 * second), False),
        (lambda second: second, False),
    ],
    ids=["grows", "stays", "comes and goes", "shrinks", "a few"],
)
def test_a_backlog_grows_if_its_newer_half_was_always_above_the_older(backlog_at: object, grows: bool) -> None:
    """A batch that comes and goes is no growth."""
    progress = LaneProgress()
    for second in range(int(2 * GROWS_S)):
        progress.turned(second, {}, backlog_at(second))  # type: ignore[operator]
    assert progress.backlog_grows == grows


def test_I21_a_bound_counts_from_the_first_checkpoint_that_waits_also_if_it_gave_way() -> None:
    """Superseded ones are still waited for, until a newer one is visible."""
    completions = Completions()
    for seq in range(1, 6):
        completions.heard(Committed(1, seq, 1_000, seq * 3_000), seq * 3.0)
        completions.heard(Committed(1, seq, 1_000, seq * 3_000), seq * 3.0 + 1)
    found = completions.completion(33.0, 100.0)
    assert found is not None
    assert (found.waiting_s, found.bound_s) == (30.0, lag_s_max(1_000, 100.0, 3.0))
    completions.settled(1, 2, visible=False)
    found = completions.completion(33.0, 100.0)
    assert found is not None
    assert found.waiting_s == 30.0, "set aside is not visible"
    completions.settled(1, 3, visible=True)
    found = completions.completion(33.0, None)
    assert found is not None
    assert (found.waiting_s, found.bound_s) == (33.0 - 12.0, None)
    completions.settled(1, 5, visible=True)
    assert completions.completion(99.0, 100.0) is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30), st.booleans()), max_size=80))
def test_I21_the_oldest_that_waits_is_never_forgotten(story: list[tuple[int, int, bool]]) -> None:
    """However many come, as long as no newer one is visible and their epoch is the newest."""
    completions = Completions()
    oldest: dict[tuple[int, int], float] = {}
    for now, (epoch, seq, visible) in enumerate(story):
        if visible:
            completions.settled(epoch, seq, visible=True)
            oldest = {one: at for one, at in oldest.items() if one > (epoch, seq)}
        else:
            if oldest and all(one[0] < epoch for one in oldest):
                oldest = {}
            oldest.setdefault((epoch, seq), float(now))
            completions.heard(Committed(epoch, seq, 10, now), now)
        found = completions.completion(100.0, 1.0)
        assert (found is None) == (not oldest)
        assert found is None or found.waiting_s >= 100.0 - min(oldest.values())


def test_I19_a_lane_below_the_end_of_its_source_says_so(signer: Ed25519Signer) -> None:
    """The shipped replicator: a copy of which no byte moves, with the reason and since when."""
    world, clock = _World(signer), ManualClock(100.0)
    flow = world.replicator(lane="metrics")
    world.send(_metric(1, 1))
    _turn(world, flow)
    assert (flow.status().backlog, flow.status().standing) == (0, ())
    world.commit(10, 1)
    world.per_turn = 0
    copies = world.replicator(clock=clock)
    for _ in range(400):
        copies.turn()
        clock.now_s += 0.1
    (standing,) = copies.status().standing
    assert (standing.run, standing.records, standing.reason) == ("gpt", 1, "step 10 is being copied")
    assert standing.since_s >= STANDS_S
    assert copies.status().backlog == 1
