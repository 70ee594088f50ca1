"""A person's failover: what is refused, who is told, and that a statement of a fence is not believed against signs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.core.lease import Author, Belief, Fork, takeover
from pipelines.core.lease_profiles import FAST
from pipelines.flows.authority.takeover_requests import (
    EXPIRED,
    LOST,
    REFUSED,
    WAITS,
    WON,
    Operator,
    TakeoverRequest,
)
from schemas.http_bodies import FailoverAnswer
from tests.manual_world import ManualWorld, signer_in, world_with_step_10

ANN = TakeoverRequest(actor="ann", note="by hand", key="ann-1", epoch=1)
BOB = TakeoverRequest(actor="bob", note="by hand", key="bob-1", epoch=1)


@pytest.fixture
def world(tmp_path: Path) -> ManualWorld:
    """East trains, west stands by."""
    return world_with_step_10(signer_in(tmp_path))


def _ask(world: ManualWorld, request: TakeoverRequest) -> FailoverAnswer:
    return world.west.control.ask_takeover(request)


def _lose_east(world: ManualWorld) -> None:
    world.east.witness.away, world.link = True, False


def _settled(world: ManualWorld, request: TakeoverRequest) -> FailoverAnswer:
    world.until(lambda: _ask(world, request).state != WAITS, f"{request.actor} is answered")
    return _ask(world, request)


def test_who_asks_again_is_told_and_nothing_is_done_twice(world: ManualWorld) -> None:
    """Until it is settled it waits; then the answer stays the same under its key."""
    _lose_east(world)
    assert _ask(world, ANN).state == WAITS
    assert _settled(world, ANN).state == WON
    assert (world.lease.holder, world.lease.epoch, world.lease.lineage[-1].actor) == ("west", 2, "ann")
    assert _ask(world, ANN).state == WON
    other = TakeoverRequest(actor="bob", note="by hand", key="ann-1", epoch=1)
    assert (_ask(world, other).state, _ask(world, other).why) == (REFUSED, "this key was used for another request")


def test_of_two_who_ask_one_wins_and_the_other_is_told_who(world: ManualWorld) -> None:
    """Whoever comes second does not take the first one's place in the history."""
    _lose_east(world)
    assert _ask(world, ANN).state == WAITS
    second = _ask(world, BOB)
    assert (second.state, second.why.startswith("ann has asked for the same")) == (REFUSED, True)
    assert _settled(world, ANN).state == WON
    late = _ask(world, TakeoverRequest(actor="bob", key="bob-2", epoch=1))
    assert (late.state, late.why) == (LOST, "west holds epoch 2, won by ann (operator): by hand")


def test_of_two_regions_one_wins_and_the_other_controller_tells_why(world: ManualWorld) -> None:
    """The request was about epoch 1: it is never tried against epoch 2, which somebody else has won."""
    assert _ask(world, ANN).state == WAITS
    held = world.west.witness.records["gpt"]
    carl = Author("north", "north-1", "w" * 16, "operator", "carl", 5, "by hand")
    world.west.witness.write(takeover(held.lease, carl, Fork(10, "d" * 64, 1), FAST), held.etag)
    lost = _settled(world, ANN)
    assert lost.state == LOST
    assert lost.why.startswith("north holds epoch 2, won by carl (operator)")
    assert world.west.control.status().operator_pending is False


def test_an_expired_request_has_the_gates_that_stayed_closed(world: ManualWorld) -> None:
    """East renews: the conditional write would not win, and the person learns why not."""
    assert _ask(world, ANN).state == WAITS
    expired = _settled(world, ANN)
    closed = [gate.name for gate in expired.gates if not gate.open and not gate.advisory]
    assert (expired.state, "lease_expired_s" in closed or closed != []) == (EXPIRED, True)
    assert world.lease.epoch == 1


def test_a_region_that_lives_is_not_fenced_because_somebody_says_so(world: ManualWorld) -> None:
    """Only for an epoch that is named once more, and only for the one that is held."""
    refused = _ask(world, TakeoverRequest(actor="ann", key="1", epoch=1, fenced=True))
    assert refused.state == REFUSED
    assert "east does not look fenced: its record changed" in refused.why
    assert refused.why.endswith("--fenced-epoch 1")
    wrong = _ask(world, TakeoverRequest(actor="ann", key="2", epoch=1, fenced=True, fenced_epoch=2))
    assert (wrong.state, wrong.why) == (REFUSED, "epoch 2 is said to be fenced; east holds epoch 1")
    alone = _ask(world, TakeoverRequest(actor="ann", key="3", epoch=1, fenced_epoch=1))
    assert alone.state == REFUSED
    named = TakeoverRequest(actor="ann", key="4", epoch=1, fenced=True, fenced_epoch=1)
    assert _ask(world, named).state == WAITS
    assert _settled(world, named).state == WON


def test_heartbeats_alone_are_signs_of_life(world: ManualWorld) -> None:
    """Its way to the witness is cut, and it is heard."""
    world.east.witness.away = True
    _pass_s(world, 3.0)
    refused = _ask(world, TakeoverRequest(actor="ann", key="1", epoch=1, fenced=True))
    assert (refused.state, "it was heard" in refused.why, "record" in refused.why) == (REFUSED, True, False)


def test_a_region_of_which_nothing_is_seen_counts_as_fenced_when_a_person_says_so(world: ManualWorld) -> None:
    """Its lease is not waited for."""
    _lose_east(world)
    _pass_s(world, 3.0)
    request = TakeoverRequest(actor="ann", key="1", epoch=1, fenced=True)
    assert _ask(world, request).state == WAITS
    assert _settled(world, request).state == WON
    assert world.lease.lineage[-1].note.endswith("(the old region was stated to be fenced)")


def test_a_fence_that_a_renewal_shows_to_be_false_does_not_count(world: ManualWorld) -> None:
    """It was believed while nothing was seen of the region; one that names its epoch is believed all the same."""
    held = world.west.witness.records["gpt"]
    belief = Belief(region="west", incarnation="w", held=held, seen_at_s=5.0)
    said = Operator(TakeoverRequest(actor="ann", fenced=True), 1, 5.0, 60.0)
    assert said.has_fenced(belief)
    assert not said.has_fenced(dataclasses.replace(belief, seen_at_s=6.0))
    repeated = Operator(TakeoverRequest(actor="ann", fenced=True, fenced_epoch=1), 1, 5.0, 60.0)
    assert repeated.has_fenced(dataclasses.replace(belief, seen_at_s=6.0))
    assert not dataclasses.replace(repeated, epoch=2).has_fenced(belief)


def _pass_s(world: ManualWorld, seconds: float) -> None:
    until_s = world.clock.now_s + seconds
    world.until(lambda: world.clock.now_s >= until_s, "time passes")
