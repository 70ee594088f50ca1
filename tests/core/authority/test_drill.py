"""A drill's own parts: the simulated primary, the history, and writing beside the real objects."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines import paths
from pipelines.core.lease import Held
from pipelines.core.lease_profiles import FAST
from pipelines.core.lineage import view_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.authority.drill_history import DAY_S, Drill, DrillHistory, history, keep
from pipelines.flows.authority.simulated_primary import DrillPorts, LostPrimary, SimulatedPrimary
from schemas.codec import Codec
from schemas.http_bodies import DrillStatus
from schemas.records import Heartbeat
from services.adapters.memory.kafka import MemoryKafka, MemoryLog
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.system_clock import SystemEntropy
from services.wrappers.overlay import OverlayStore
from tests.manual_clock import ManualClock

GOOD = Drill(
    drill_id="west-1",
    run="gpt",
    region="west",
    holder="east",
    time_ms=0,
    actor="ops",
    good=True,
    from_step=30,
    first_step=31,
    predicted_parts_s={"detect_and_fence": 5.0, "restore": 1.0},
    measured_parts_s={"detect": 3.0, "fence": 2.0, "restore": 1.5, "first_step": 0.5},
)


def test_I10_what_is_written_aside_leaves_the_real_objects_as_they_were() -> None:
    """Reads go through; a key that is really there cannot be created again, and none is written."""
    base, own = MemoryObjectStore(), MemoryObjectStore()
    base.create("runs/gpt/epochs/000001", b"real")
    aside = OverlayStore(base, own, "drills/now/d1/")
    assert aside.get("runs/gpt/epochs/000001") == b"real"
    assert aside.create("runs/gpt/epochs/000001", b"other") is False
    assert aside.create("runs/gpt/epochs/000002", b"drill") is True
    aside.put("runs/gpt/epochs/000001", b"shadow")
    assert aside.get("runs/gpt/epochs/000001") == b"shadow"
    assert aside.size("runs/gpt/epochs/000001") == len(b"shadow")
    assert aside.list("runs/gpt/epochs/") == ("runs/gpt/epochs/000001", "runs/gpt/epochs/000002")
    assert base.list("") == ("runs/gpt/epochs/000001",)
    assert base.get("runs/gpt/epochs/000001") == b"real"
    assert all(key.startswith("drills/now/d1/") for key in own.list(""))


def simulated_primary_of(leases: MemoryLeaseStore, kafka: MemoryKafka, clock: ManualClock) -> SimulatedPrimary:
    """East, simulated at epoch 2, forked at step 30."""
    return SimulatedPrimary(
        lost=LostPrimary(
            region="east",
            run="gpt",
            view=dataclasses.replace(view_of(()), epoch=2, forks=((1, 0, -1), (2, 1, 30))),
            step=40,
        ),
        ports=DrillPorts(leases=leases, log=MemoryLog(kafka), codec=Codec(), clock=clock, entropy=SystemEntropy()),
        profile=FAST,
    )


def test_a_simulated_primary_holds_its_lease_and_beats_until_it_dies() -> None:
    """As a primary does, at the profile's pace; and then not at all."""
    leases, kafka, clock = MemoryLeaseStore(), MemoryKafka("west"), ManualClock(100.0)
    simulated_primary = simulated_primary_of(leases, kafka, clock)
    for _ in range(30):
        clock.now_s += simulated_primary.turn()
    held = leases.read("gpt")
    assert isinstance(held, Held)
    assert (held.lease.holder, held.lease.epoch, held.lease.renew_seq) == ("east", 2, 2)
    assert view_of(held.lease.lineage).forks == ((1, 0, -1), (2, 1, 30))
    beats = [Codec().decode(one.value) for one in kafka.topic(paths.HEARTBEATS) if one is not None]
    assert [type(one) for one in beats] == [Heartbeat] * 3
    simulated_primary.die()
    for _ in range(30):
        clock.now_s += simulated_primary.turn()
    after = leases.read("gpt")
    assert after is not None
    assert after.lease.renew_seq == 2
    assert len(kafka.topic(paths.HEARTBEATS)) == 3


def test_a_simulated_primary_whose_lease_somebody_else_writes_ends_the_drill() -> None:
    """It must not go on as if it held anything."""
    leases, clock = MemoryLeaseStore(), ManualClock(100.0)
    first, second = (simulated_primary_of(leases, MemoryKafka("west"), clock) for _ in range(2))
    first.turn()
    with pytest.raises(CorruptError, match="somebody else"):
        second.turn()


def test_the_history_says_how_old_the_last_good_drill_is_and_warns() -> None:
    """Never drilled, drilled, failed since, too old."""
    store, clock = MemoryObjectStore(), ManualClock(0.0)
    drills = DrillHistory(run="gpt", store=store, clock=clock, most_days=30)
    assert drills.status().warning == "", "not looked yet"
    drills.turn()
    assert "never drilled" in str(drills.status().warning)
    keep(store, GOOD)
    keep(store, dataclasses.replace(GOOD, drill_id="west-2", time_ms=1_000, good=False, why="gave way"))
    assert [one.drill_id for one in history(store, "gpt")] == ["west-1", "west-2"]
    drills.turn()
    assert drills.status() == DrillStatus(age_days=0.0, measured_rto_s=7.0, warning="", trouble="")
    clock.now_s = 31 * DAY_S
    assert drills.status().warning == "the last good drill is 31 days old, 30 are allowed"


class _AwayStore(MemoryObjectStore):
    """A store that may not answer."""

    away = True

    def list(self, prefix: str) -> tuple[str, ...]:
        if self.away:
            raise RetryableError("the store does not answer")
        return super().list(prefix)


def test_drills_that_cannot_be_read_are_not_called_never_drilled() -> None:
    """Nobody can tell: that is a trouble with its reason, in status; what was read before stands."""
    store, clock = _AwayStore(), ManualClock(0.0)
    drills = DrillHistory(run="gpt", store=store, clock=clock, most_days=30)
    drills.turn()
    assert drills.status().warning == "its drills cannot be read: the store does not answer"
    store.away = False
    keep(store, GOOD)
    drills.turn()
    store.away = True
    drills.turn()
    status = drills.status()
    assert (status.measured_rto_s, status.warning, status.trouble) == (7.0, "", "the store does not answer")


def test_a_drill_that_reached_no_step_has_no_recovery_time() -> None:
    """Parts that were measured before it broke off add up to nothing that could be promised."""
    assert GOOD.measured_rto_s == 7.0
    assert GOOD.predicted_rto_s == 6.0
    assert dataclasses.replace(GOOD, first_step=-1).measured_rto_s is None
