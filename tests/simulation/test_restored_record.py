"""I2, I11 in the world of failover: the record is deleted, or restored from a backup, and controllers begin anew."""

from __future__ import annotations

from functools import partial

import pytest

from pipelines.core.failover_decision import Action, Reason
from services.adapters.signer import Ed25519Signer
from tests.simulation.failover_judge import TO_WEST, ask
from tests.simulation.failover_world import RUN, World
from tests.simulation.lease_checker import faults_of_history, overlaps

SEEDS = range(4)


def _copy(world: World, copies: list[object]) -> None:
    copies.append(world.witness.records[RUN])


def _put_back(world: World, copies: list[object], *, deleted: bool, audit_too: bool) -> None:
    """As a person does who restores the witness's bucket; the copy was made in epoch 1."""
    world.say("the record is " + ("deleted" if deleted else "put back"))
    copies.append(len(world.witness.history))
    if audit_too:
        world.witness.claims.clear()
    if deleted:
        del world.witness.records[RUN]
    else:
        world.witness.records[RUN] = copies[0]  # type: ignore[assignment] # the first of them is the record


@pytest.mark.parametrize("audit_too", [False, True])
@pytest.mark.parametrize("deleted", [False, True])
def test_I1_I2_I11_a_record_of_a_backup_moves_nobody_whoever_is_restarted(
    signer: Ed25519Signer, deleted: bool, audit_too: bool
) -> None:
    """West holds epoch 2 when the copy of epoch 1 is put back; both controllers begin anew, the old holder's first."""
    for seed in SEEDS:
        world = World(seed, signer, faults=False, trains=True, length_s=320.0)
        copies: list[object] = []
        world.at(60.0, partial(_copy, world, copies))
        world.at(70.0, partial(ask, world, "west", TO_WEST))
        world.at(70.0, partial(ask, world, "east", TO_WEST))
        world.at(200.0, partial(_put_back, world, copies, deleted=deleted, audit_too=audit_too))
        world.at(200.5 + seed, world.regions["east"].restart)
        world.at(210.0, world.regions["west"].restart)
        world.run()
        assert [*overlaps(world.claims), *faults_of_history(world.witness.history)] == [], f"seed {seed}"
        assert world.witness.history[-1].epoch == 2
        landed = world.witness.history[int(str(copies[1])) :]
        assert not landed, f"seed {seed}: {[lease.reason for lease in landed]}"
        for region in world.regions.values():
            assert region.control is not None
            decision = region.control._decision
            expected = Reason.RECORD_MISSING if deleted else Reason.RECORD_WENT_BACK
            assert (decision.action, decision.reason) == (Action.ALARM, expected), f"seed {seed}"
