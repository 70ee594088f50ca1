"""Stories of the lease: a takeover whose answer is held for long, and two controllers of one region."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import greenlet
import pytest

from pipelines.core.lease_profiles import FAST
from pipelines.errors import UnknownOutcomeError
from pipelines.flows.authority.planned_moves import PAUSE, MoveRequest
from schemas.records import Lease
from services.adapters.signer import Ed25519Signer
from tests.manual_world import ManualWorld, signer_in, world_with_step_10
from tests.simulation.failover_judge import hold
from tests.simulation.failover_world import Region, World
from tests.simulation.register_checker import UNKNOWN, Operation

CUT_S = 20.0
HELD_S = 90.0
LENGTH_S = 220.0


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """One for both regions."""
    return signer_in(tmp_path)


# --- the takeover's answer is held ---


class _HeldRegion(Region):
    """Whatever it writes to take the run over is held, until all of it is let go at once, in order."""

    world: _HeldWorld

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore."""
        world = self.world
        if lease.reason != "region_lost" or world.now_s >= world.lets_go_s:
            return super().write(lease, expected_etag)
        world.hold()
        world.operations.append(Operation(self.name, UNKNOWN, lease.write_id, world.now_s, world.now_s))
        world.at(world.lets_go_s - world.now_s, lambda: self._land(lease, expected_etag))
        world.held.append(lease)
        self.pause(1.0)
        raise UnknownOutcomeError("held")

    def restart(self) -> None:
        """Its controller is killed, with what it knew of its pending writes, and started again."""
        assert self._actor is not None
        self._actor.throw(greenlet.GreenletExit)
        self.close_claim()
        self.begin()


@dataclasses.dataclass
class _HeldWorld(World):
    """East loses witness and link; west tries to take over."""

    faults: bool = False
    trains: bool = True
    length_s: float = LENGTH_S
    restarts: bool = False
    east_is_back_s: float | None = None  # before the held writes are let go; None: not at all
    lets_go_s: float = float("inf")
    held: list[Lease] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """As its parent, with west's way to the witness as above."""
        super().__post_init__()
        west: Any = _HeldRegion(self, "west", self.regions["west"].random)
        self.regions["west"] = west
        self.west: _HeldRegion = west
        self.at(CUT_S, partial(self._cut, LENGTH_S))

    def _cut(self, until_s: float) -> None:
        self.regions["east"].cut_until_s = self.west.deaf_until_s = until_s

    def hold(self) -> None:
        """The first held write decides when all are let go."""
        if self.held:
            return
        self.lets_go_s = self.now_s + HELD_S
        if self.east_is_back_s is not None:
            self._cut(self.lets_go_s - self.east_is_back_s)
        if self.restarts:
            self.at(HELD_S / 3, self.west.restart)
        self.at(0.5, self._look)

    def _look(self) -> None:
        """While it is held, the challenger is neither winner nor loser, and the record is as it was."""
        control = self.west.control
        assert control is not None
        if self.now_s >= self.lets_go_s:
            return
        if self.witness.records["gpt"].lease.epoch != 1 or control._belief.is_holder or control._may_write():
            self.wrong.append(f"{self.now_s:.1f}: west acts")
        if self.west.grant("west-1").state != "wait":
            self.wrong.append(f"{self.now_s:.1f}: west grants")
        self.at(0.5, self._look)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_I1_I4_a_takeover_that_is_held_for_90_seconds_and_then_lands_makes_one_holder(
    signer: Ed25519Signer, seed: int, restarts: bool
) -> None:
    """Reads show the record unchanged; then it lands. Also if the challenger forgot it meanwhile. East is not back."""
    world = _HeldWorld(seed, signer, restarts=restarts)
    world.run()
    hold(world)
    assert world.wrong == []
    first = next(one for one in world.witness.history if one.epoch == 2)
    assert first.write_id == world.held[0].write_id, "the oldest of the held writes is the one that lands"
    assert [one.region for one in world.witness.history[-1].lineage] == ["east", "west"]
    after = world.witness.history[world.witness.history.index(first) + 1]
    assert after.reason == ("new_incarnation" if restarts else "renewal_due"), "its validity is long over: renew first"
    control = world.west.control
    assert control is not None
    assert control._belief.is_holder
    assert (first.incarnation != control._belief.incarnation) == restarts
    assert world.west.job.commits, "west trains"


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("before_s", [0.0, 0.5, 10.0, 60.0])
def test_I1_I3_I4_a_takeover_that_lands_when_the_old_holder_is_back_makes_one_holder(
    signer: Ed25519Signer, before_s: float, restarts: bool
) -> None:
    """East comes back at the moment of the release, or before: whoever writes first has it, and the other knows."""
    world = _HeldWorld(5, signer, restarts=restarts, east_is_back_s=before_s)
    world.run()
    hold(world)
    assert world.wrong == []
    last = world.witness.history[-1]
    assert last.holder == ("west" if before_s == 0 else last.holder)
    assert last.holder == ("east" if before_s >= 10 else last.holder)
    beliefs = {name: region.control._belief.is_holder for name, region in world.regions.items() if region.control}
    assert beliefs == {name: name == last.holder for name in beliefs}
    assert [at_s for at_s, _, _ in world.regions[last.holder].job.commits if at_s > LENGTH_S - 20], "it trains"


# --- two controllers of one region ---


@pytest.fixture
def world(signer: Ed25519Signer) -> ManualWorld:
    """Step 10 is committed in east and verified in west."""
    return world_with_step_10(signer)


def _second_controller(world: ManualWorld) -> float:
    """The first loses the witness, and nothing else; a second is started. When the first one's validity ends."""
    first = world.east.control
    world.east.witness.away = True
    ends_s = first._belief.valid_until_s(FAST)
    _, second = world.east.start()
    world.until(lambda: second._belief.is_holder, "the second holds")
    assert world.lease.incarnation == second._belief.incarnation
    return ends_s


def test_I1_I8_an_older_controller_that_loses_only_the_witness_acts_no_longer_than_its_validity(
    world: ManualWorld,
) -> None:
    """Its grants run out with the lease that it won; it writes nothing, and requests to it wait."""
    older = world.east.control
    ends_s = _second_controller(world)
    mark = len(world.history)
    own = world.save(20)
    while world.clock.now_s < ends_s + 2 * FAST.lease_s:
        reply = older.grant("launch-1", -1)
        assert world.clock.now_s + reply.valid_s <= max(ends_s, world.clock.now_s), "never past its validity"
        older.ask(MoveRequest(PAUSE, "ann"))
        assert older.grant("launch-9", -1).state == "wait", "it begins nothing"
        world.turn()
        assert older._may_write() == (world.clock.now_s < ends_s and not older._belief.unread_writes)
    assert world.outcomes()[20] == "committed", "within the validity, under the same attempt"
    third = world.save(30)
    world.until(lambda: world.east.store.size(third.receipt(0)) is not None, "it is uploaded")
    assert world.trainer_state == "provisional"
    assert 30 not in world.outcomes(), "no grant is valid at this moment"
    assert {one.incarnation for one in world.history[mark:]} == {world.lease.incarnation}
    assert {one.holder for one in world.history} == {"east"}, "west sees the run renewed"
    assert own.manifest in world.east.store.objects


def test_I8_agents_that_ask_the_newer_controller_go_on_under_the_same_attempt(world: ManualWorld) -> None:
    """The launch was fixed in the store; the older one, when the witness is back, stands down and grants nothing."""
    older = world.east.control
    ends_s = _second_controller(world)
    newer = world.east.controls[-1]
    world.until(lambda: world.clock.now_s > ends_s, "the older one's validity is over")
    world.save(20)
    world.until(lambda: world.trainer_state == "provisional", "the older one grants nothing")
    world.east.control = newer
    world.until(lambda: world.outcomes().get(20) == "committed", "ratified")
    assert (world.lease.epoch, world.lease.attempt) == (1, 1)
    newer.grant("launch-2", -1)
    world.until(lambda: newer.grant("launch-2", -1).state == "granted", "a new attempt")
    mark = len(world.history)
    world.east.witness.away = False
    begun_s = world.clock.now_s
    world.until(lambda: world.clock.now_s > begun_s + 2 * FAST.lease_s, "two leases more")
    assert older.status().reason == "replaced"
    assert older.grant("launch-1", -1).state == "superseded"
    assert older.grant("launch-2", -1).valid_s == 0
    assert {one.incarnation for one in world.history[mark:]} == {newer._belief.incarnation}
