"""Faults on real processes, one after the other on one running pair; `make faults ROUNDS=200` is the long run."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from farside import _spool
from infra.local.layout import WITNESS
from pipelines import paths
from pipelines.core.lineage import Standing, standing
from pipelines.flows.authority.epoch_store import EpochStore
from services.runtime.clients import store_of
from tests.integration.fault_clocks import true_s
from tests.integration.fault_judge import Writes
from tests.integration.fault_kinds import Faults
from tests.integration.fault_pair import REGIONS, RUN, SETTLES_S
from tests.integration.fault_rounds import Rounds, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.alone]
ROUNDS, SEED = 10, 246  # of this seed's first ten, most are of different kinds


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    """Two regions that train and replicate."""
    with running(tmp_path_factory.mktemp("faults") / "stack", random.Random(SEED)) as found:
        yield found


def _other(region: str) -> str:
    return next(one for one in REGIONS if one != region)


@pytest.mark.torch
def test_I4_I16_requests_arrive_at_the_witness_and_no_answer_does(rounds: Rounds) -> None:
    """The holder's renewals land and it cannot know; it trains on, nobody is promoted, and it goes on in its epoch."""
    holder, epoch = rounds.pair.holder()
    found = rounds.play("witness_one_way", lambda: rounds.faults.half_cut([(holder, WITNESS)], answers=True))
    assert found.trained > 0
    assert found.after == (holder, epoch)


@pytest.mark.torch
@pytest.mark.parametrize("answers", [True, False], ids=["no_answers", "no_requests"])
def test_I10_a_link_that_is_cut_one_way_promotes_nobody(rounds: Rounds, answers: bool) -> None:
    """Connections stay open and nothing comes: the standby hears nobody, sees the renewals, and waits."""
    holder, epoch = rounds.pair.holder()
    found = rounds.play("one_way", lambda: rounds.faults.half_cut([(_other(holder), holder)], answers=answers))
    assert found.trained > 0
    assert found.after == (holder, epoch)


@pytest.mark.torch
def test_I1_I16_a_slow_witness_stops_no_training_and_makes_no_second_holder(rounds: Rounds) -> None:
    """Answers that come later than a lease can be renewed: training goes on, and one region holds the run after it."""
    holder, epoch = rounds.pair.holder()
    found = rounds.play("slow_witness", lambda: rounds.faults.slow([(region, WITNESS) for region in REGIONS]))
    assert found.trained > 0
    assert found.after == (holder, epoch), "its nodes were heard all the time"


@pytest.mark.torch
def test_I1_a_holder_whose_clocks_jump_lets_go_or_goes_on_and_never_holds_too_long(rounds: Rounds) -> None:
    """As after a suspended machine: CLOCK_BOOTTIME an hour ahead, the wall clock three hours behind."""
    holder, _ = rounds.pair.holder()
    names = ["controller", "agent"]
    found = rounds.play("clock", lambda: rounds.faults.jump(holder, names, -3 * 3600.0, 3600.0))
    assert found.trained > 0
    assert found.before[0] == holder


@pytest.mark.torch
def test_I5_I7_a_region_that_slept_in_mid_upload_wakes_up_as_a_branch(rounds: Rounds) -> None:
    """The classic zombie: what it had begun to upload it finishes after the other took over, and it never counts."""
    holder, epoch = rounds.pair.holder()
    found = rounds.play("zombie")
    winner, later = found.after
    assert (winner, later) == (_other(holder), epoch + 1)
    spooled = _spool.run_folder(rounds.pair.settings.region(holder).node_dir, RUN) / "checkpoints"
    waking = f"e{epoch:06d}-a*/s*"
    wait_until(lambda: not list(spooled.glob(waking)), SETTLES_S, "an outcome for what was on its way")
    view = EpochStore(store_of(rounds.pair.settings.region(winner)))(RUN)
    assert view is not None
    ids = paths.committed(store_of(rounds.pair.settings.region(winner)).list(paths.checkpoints_prefix(RUN)))
    assert [one for one in ids if standing(view, one.epoch, one.step) is not Standing.CURRENT] == []


@pytest.mark.torch
def test_I1_I2_I7_I9_I13_I14_one_holder_one_chain_and_no_lost_event_after_every_random_fault(rounds: Rounds) -> None:
    """Ten of all kinds; after each, one region holds the run, trains on, and nothing accepted is missing anywhere."""
    rounds.faults = Faults(rounds.pair, random.Random(SEED))  # whatever was drawn before
    done = [rounds.play(rounds.faults.draw()) for _ in range(ROUNDS)]
    assert len(done) == ROUNDS
    assert all(one.after[1] >= one.before[1] for one in done)


def test_the_judge_sees_two_holders_at_once_and_a_write_that_two_have_won() -> None:
    """One after the other is right; a moment together, or one number for two writes, is not."""
    writes = Writes()
    assert writes.won("east", 1, 1, (10.0, 13.5)) == []
    assert writes.won("east", 1, 2, (11.0, 14.5)) == []
    assert writes.won("west", 2, 3, (14.5, 18.0)) == []
    assert writes.won("west", 2, 4, None) == []
    assert writes.won("east", 3, 5, (17.75, 21.0)) == ["I1: east and west held the lease for 0.250 s at once"]
    assert writes.won("west", 4, 5, (30.0, 33.5)) == [
        "I3: write 5 was won twice, by east, epoch 3 and by west, epoch 4"
    ]


def test_a_clock_that_jumped_ahead_is_turned_back_into_true_time() -> None:
    """Skipped times map to the moment of the jump; before and after it, times are shifted by the lead of that time."""
    jumps = [(100.0, 0.0), (200.0, 50.0), (300.0, 60.0)]
    shown = [150.0, 200.0, 225.0, 250.0, 260.0, 350.0, 355.0, 360.0, 400.0]
    assert [true_s(jumps, one) for one in shown] == [150.0, 200.0, 200.0, 200.0, 210.0, 300.0, 300.0, 300.0, 340.0]
