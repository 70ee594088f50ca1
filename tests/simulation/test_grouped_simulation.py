"""The shipped controllers with their run's record in a lease group, whose object others move all the time."""

from __future__ import annotations

import random
from typing import Any

import greenlet
import pytest

from pipelines.core.lease import Held
from pipelines.core.lease_groups import Change, applied, etag_of, member_of
from pipelines.errors import UnknownOutcomeError
from schemas.codec import Codec
from schemas.records import Lease, LeaseGroup, LeaseMember
from services.adapters.signer import Ed25519Signer
from services.wrappers.grouped_leases import GroupedLeases
from tests.simulation.failover_judge import hold
from tests.simulation.failover_world import RUN, Region, World
from tests.simulation.register_checker import READ, REFUSED, UNKNOWN, WROTE, Operation

GROUP, NEIGHBOUR = "g", "neighbour"
SMOKE_SEEDS, FULL_SEEDS = range(12), range(12, 212)


class GroupedRegion(Region):
    """Reaches the witness for its group's object; every process of it gathers for itself."""

    def __init__(self, world: World, name: str, generator: random.Random) -> None:
        super().__init__(world, name, generator)
        self._of_process: dict[Any, GroupedLeases] = {}

    def _grouped(self) -> GroupedLeases:
        process = greenlet.getcurrent()
        if process not in self._of_process:
            own: Any = self
            self._of_process[process] = GroupedLeases(
                own, own, group_of={RUN: GROUP}, codec=Codec(), clock=own, entropy=own, gathers_s=0.0
            )
        return self._of_process[process]

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore through the group."""
        invoked_s = self.world.now_s
        held = self._grouped().read(run)
        self._saw(READ, None if held is None else held.lease.write_id, invoked_s)
        return held

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore through the group."""
        invoked_s, named = self.world.now_s, None if expected_etag is None else expected_etag.strip('"')
        if self.control is not None and self.control._belief.releases:
            self.close_claim()
        self.world.operations.append(Operation(self.name, UNKNOWN, lease.write_id, invoked_s, invoked_s))
        etag = self._grouped().write(lease, expected_etag)
        self._saw(*((REFUSED, named) if etag is None else (WROTE, lease.write_id)), invoked_s)
        return etag

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """Implements GroupStore over a link that may be cut."""
        self._reach()
        found = self.world.witness.read_group(group)
        self._reach()
        return found

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """Implements GroupStore: a write may be lost, land late, or win without an answer."""
        fate = self.random.random() if self.world.faults else 1.0
        if self.world.now_s < self.cut_until_s or fate < 0.05:
            self.pause(1.0)
            raise UnknownOutcomeError("never arrived")
        if fate < 0.12:
            self.world.at(self.random.uniform(0, 60), lambda: self.world.witness.write_group(group, expected_etag))
            self.pause(1.0)
            raise UnknownOutcomeError("arrives late")
        self.pause(self.random.uniform(0.01, 0.3))
        etag = self.world.witness.write_group(group, expected_etag)
        self.pause(self.random.uniform(0.01, 0.3))
        if fate < 0.2:
            raise UnknownOutcomeError("the answer was lost")
        return etag


class GroupedWorld(World):
    """A neighbour in the group writes its own record every few seconds, from nowhere in particular."""

    def __post_init__(self) -> None:
        """Regions that reach the group."""
        super().__post_init__()
        self.regions = {name: GroupedRegion(self, name, random.Random(self.random.random())) for name in self.regions}
        self.moved = 0
        self.at(1.0, self._neighbour)

    def _neighbour(self) -> None:
        found = self.witness.read_group(GROUP)
        before = None if found is None else found[0]
        own = member_of(before, NEIGHBOUR)
        self.moved += 1
        lease = neighbours_lease(self.moved)
        member = LeaseMember(run=NEIGHBOUR, write_id=lease.write_id, lease=Codec().encode(lease))
        change = Change(member, None if own is None else etag_of(own))
        after, _ = applied(before, [change], GROUP, f"moved-{self.moved}")
        self.witness.write_group(after, None if found is None else found[1])
        self.witness.history.pop()  # the checkers judge the controllers' run
        self.at(self.random.uniform(0.05, 5.0), self._neighbour)


def neighbours_lease(number: int) -> Lease:
    """Some record of another run."""
    return Lease(
        run=NEIGHBOUR,
        epoch=1,
        holder="east",
        incarnation="n",
        mode="active",
        renew_seq=number,
        write_id=f"neighbour-{number}",
        predecessor=f"neighbour-{number - 1}",
        lease_s=20.0,
        attempt=0,
        launch="",
        committed_step=-1,
        reason="renewal_due",
        actor="controller",
        profile="simulated",
        time_ms=0,
    )


def test_I1_I2_I3_I4_hold_for_a_member_of_a_lease_group_in_every_smoke_seed(signer: Ed25519Signer) -> None:
    """As for a record of its own, while the object is moved by others; takeovers come about."""
    takeovers = moves = 0
    for seed in SMOKE_SEEDS:
        world = GroupedWorld(seed, signer)
        world.run()
        hold(world)
        takeovers += world.witness.history[-1].epoch - 1
        moves += world.moved
    assert takeovers > 0, "the faults must lead to takeovers, or nothing was tested"
    assert moves > 50 * len(SMOKE_SEEDS)


@pytest.mark.full
@pytest.mark.parametrize("block", range(2))
def test_I1_I2_I3_I4_hold_for_a_member_of_a_lease_group_in_every_seed(block: int, signer: Ed25519Signer) -> None:
    """200 seeds."""
    for seed in FULL_SEEDS[block::2]:
        world = GroupedWorld(seed, signer)
        world.run()
        hold(world)


def test_a_group_whose_object_is_gone_promotes_nobody(signer: Ed25519Signer) -> None:
    """I11: for each member it is a witness that lost its record; nobody writes, and nobody makes it anew."""
    world = GroupedWorld(2, signer, faults=False, length_s=200.0)
    written = [0]

    def lose() -> None:
        world.witness.groups.clear()
        written[0] = len(world.witness.history)

    world.at(60.0, lose)
    world.run()
    ours = [one for one in world.witness.history[written[0] :] if one.run == RUN]
    assert ours == []
    assert any("record_missing" in line for line in world.trace)
