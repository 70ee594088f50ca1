"""A ledger that was lost: what was done is read from the region's own lanes, so nothing becomes visible twice."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines import paths
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.replication.lane_replicator import REFRESH_S, LaneReplicator
from pipelines.ports import Message
from schemas.records import MetricBatch
from services.adapters.memory.kafka import MemoryLog
from services.adapters.signer import Ed25519Signer
from tests.core.replication.test_gaps import _of
from tests.core.replication.test_lane_replicator import CODEC, FORKED_AT_20, _metric, _turn, _World
from tests.core.replication.test_metric_batch_replication import _batch, _rows
from tests.lineages import lineage_of
from tests.manual_clock import ManualClock
from tests.replaying import places
from tests.tripwire import Crash, Tripwire


@pytest.fixture
def world(signer: Ed25519Signer) -> _World:
    """East and west, whose topics are there, as a service makes them."""
    regions = _World(signer)
    for name in paths.TOPICS:
        regions.west.topic(name)
    return regions


def _kinds(flow: LaneReplicator) -> list[str]:
    return [alarm.kind for alarm in flow.status().alarms.newest]


def _seqs(world: _World) -> list[int]:
    return [one.seq for one in world.visible("metrics")]


def test_I15_with_the_ledger_lost_nothing_becomes_visible_twice_and_it_is_said(world: _World) -> None:
    """Positions and watermarks are gone: all is looked up again, and none of it has an effect."""
    for seq in (1, 2, 3):
        world.send(_metric(seq, seq))
    _turn(world, world.replicator(lane="metrics"))
    world.west.create_again(paths.LEDGER)
    world.send(_metric(4, 4))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert _seqs(world) == [1, 2, 3, 4]
    assert _kinds(flow) == ["ledger_lost"]
    (reported,) = [fields for name, fields in world.said if name == "replicate.alarm"]
    assert "3 events that were done were found in the lanes, all of it" in reported["text"]
    later = world.replicator(lane="metrics")
    _turn(world, later)
    assert (_seqs(world), _kinds(later)) == ([1, 2, 3, 4], ["ledger_lost"]), "once, and it lasts"


def test_I15_losing_the_positions_costs_look_ups_and_no_duplicates(world: _World) -> None:
    """Every record of the peer is fetched once more; the watermarks, which are still there, know them all."""
    for seq in (1, 2, 3):
        world.send(_metric(seq, seq))
    _turn(world, world.replicator(lane="metrics"))
    kept = [one for one in world.west.topic(paths.LEDGER) if one is not None and not one.key.startswith(b"position|")]
    world.west.topic(paths.LEDGER)[:] = kept
    assert len(kept) >= 1
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert _seqs(world) == [1, 2, 3]
    assert _kinds(flow) == [], "nothing was done of which the ledger did not know"


def test_I15_dead_letters_and_checkpoints_are_known_again_too(world: _World) -> None:
    """Events that were set aside are not set aside again, and those that gave way do not come."""
    world.view = FORKED_AT_20
    events = [world.commit(10, 1), world.commit(30, 2)]
    torn = CODEC.encode(dataclasses.replace(events[1], seq=3))[:-2]
    headers = headers_of(dataclasses.replace(events[1], seq=3), "checkpoint")
    MemoryLog(world.east).publish([Message(paths.CHECKPOINTS, b"gpt", torn, headers)])
    _turn(world, world.replicator())
    assert [one.reason for one in world.dead()] == ["branch", "undecodable"]
    world.west.create_again(paths.LEDGER)
    flow = world.replicator()
    _turn(world, flow)
    assert [one.step for one in world.visible()] == [10]
    assert len(world.dead()) == 2
    assert _kinds(flow) == ["ledger_lost"]


def test_I15_a_ledger_that_is_lost_while_the_replicator_runs_is_noticed(world: _World) -> None:
    """Another flow may have written to the new one already: what counts is whose mark it has."""
    world.send(_metric(1, 1))
    world.commit(10, 1)
    clock = ManualClock(1000.0)
    flow, other = world.replicator(lane="metrics", clock=clock), world.replicator()
    _turn(world, flow)
    _turn(world, other)
    world.west.create_again(paths.LEDGER)
    world.commit(20, 2)
    world.send(_metric(2, 2))
    _turn(world, other)
    _turn(world, flow)
    clock.now_s += REFRESH_S
    _turn(world, flow)
    assert _kinds(flow) == ["ledger_lost"]
    for chosen in places(world.east, "metrics"):
        flow.replay(chosen)
    _turn(world, flow)
    assert _seqs(world) == [1, 2]


def test_I14_I15_the_holes_are_known_again_where_the_log_is_whole(world: _World) -> None:
    """Also where the alarms are gone with the ledger: a number that is in no log of this region can still come."""
    for event in (_metric(1, 1), _metric(4, 4)):
        world.send(event)
    _turn(world, world.replicator(lane="metrics"))
    for name in (paths.LEDGER, paths.ALARMS):
        world.west.create_again(name)
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert sorted(_kinds(flow)) == ["hole", "ledger_lost"]
    world.send(_metric(3, 3))
    _turn(world, flow)
    assert _seqs(world) == [1, 4, 3]


def test_I15_where_the_own_log_is_not_whole_no_hole_is_made_up(world: _World) -> None:
    """Events that retention took may have been visible."""
    for seq in (1, 2, 3, 4):
        world.send(_metric(seq, seq))
    _turn(world, world.replicator(lane="metrics"))
    world.west.trim(paths.METRICS, 2)
    world.west.create_again(paths.LEDGER)
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert _seqs(world) == [3, 4], "neither of the first two came again"
    (reported,) = [fields for name, fields in world.said if name == "replicate.alarm"]
    assert "as far back as this region's log goes" in reported["text"]


def test_I15_batches_and_garbage_are_known_by_their_headers(world: _World) -> None:
    """All rows of a batch; and a number that leaps in the headers of garbage is not believed."""
    world.send(_batch(1, 5))
    leap = tuple((name, b"900" if name == "farside_seq" else value) for name, value in headers_of(_metric(1, 1), "m"))
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", b"garbage", leap)])
    _turn(world, world.replicator(lane="metrics"))
    world.west.create_again(paths.LEDGER)
    world.send(_batch(4, 8))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert _rows(world) == list(range(1, 9))
    assert _kinds(flow) == ["ledger_lost"], "no hole up to the number that leaps"
    assert isinstance(world.visible("metrics")[-1], MetricBatch)


def test_the_highest_epoch_of_a_region_is_known_again(world: _World) -> None:
    """An epoch that goes backwards is still one."""
    world.view = lineage_of((1, 0, -1), (2, 1, 20), (3, 2, 40))
    for event in (_of(1, 1, 10), _of(3, 1, 41)):
        world.send(event)
    _turn(world, world.replicator(lane="metrics"))
    world.west.create_again(paths.LEDGER)
    world.send(_of(1, 2, 25))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert sorted(_kinds(flow)) == ["epoch_backwards", "ledger_lost"]


def test_I15_a_crash_at_any_port_call_of_the_recall_doubles_nothing(world: _World, signer: Ed25519Signer) -> None:
    """The ledger is lost, and the process that reads the lanes dies before and after every call."""
    at, crashes = 1, 0
    while True:
        world = _World(signer)
        for name in paths.TOPICS:
            world.west.topic(name)
        for seq in (1, 2, 3):
            world.send(_metric(seq, seq))
        _turn(world, world.replicator(lane="metrics"))
        world.west.create_again(paths.LEDGER)
        try:
            _turn(world, world.replicator(Tripwire(at), lane="metrics"), 4)
            crashed = False
        except Crash:
            crashed = True
        flow = world.replicator(lane="metrics")
        _turn(world, flow, 4)
        assert (_seqs(world), _kinds(flow)) == ([1, 2, 3], ["ledger_lost"]), f"died at {at}"
        if not crashed:
            break
        at, crashes = at + 1, crashes + 1
    assert crashes > 20


def test_a_region_that_begins_has_lost_nothing(world: _World) -> None:
    """There is no alarm where nothing was ever done, also with events of its own in the lane."""
    MemoryLog(world.west).publish(
        [
            Message(
                paths.METRICS,
                b"gpt",
                CODEC.encode(dataclasses.replace(_metric(1, 1), region="west")),
                headers_of(dataclasses.replace(_metric(1, 1), region="west"), "metric"),
            )
        ]
    )
    world.send(dataclasses.replace(_metric(1, 1), producer="r1"))
    flow = world.replicator(lane="metrics")
    _turn(world, flow)
    assert _kinds(flow) == []
    assert len(world.visible("metrics")) == 2
