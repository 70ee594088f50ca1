"""Runs do not wait for each other, however much of one of them waits; and what waits is bounded."""

from __future__ import annotations

import dataclasses
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import paths
from pipelines.core.lineage import LineageView
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.replication.intake import AGAIN_RECORDS, QUEUED_MAX, RUN_QUEUED_MAX, SHARE, Intake
from pipelines.flows.replication.lane_replicator import BATCH_MAX, LaneReplicator
from pipelines.ports import Fetched, Message, Partition
from schemas.codec import Codec
from schemas.http_bodies import LaneAlarmsStatus
from schemas.records import Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.signer import Ed25519Signer
from services.adapters.system_clock import SystemClock
from tests.core.replication.test_lane_replicator import CODEC, ONE_EPOCH, _metric, _World
from tests.replaying import places

MANY = QUEUED_MAX + 8 * RUN_QUEUED_MAX


@pytest.fixture
def world(signer: Ed25519Signer) -> _World:
    """East and west."""
    return _World(signer)


class _Stuck:
    """A lineage that knows every run but one."""

    def __init__(self, *runs: str) -> None:
        self.runs = set(runs)

    def __call__(self, run: str) -> LineageView | None:
        return None if run in self.runs else ONE_EPOCH


def _send(world: _World, run: str, *seqs: int) -> None:
    messages = []
    for seq in seqs:
        event = dataclasses.replace(_metric(seq, seq), run=run, event_id=f"{run}/{seq}")
        messages.append(Message(paths.METRICS, run.encode(), CODEC.encode(event), headers_of(event, "metric")))
    MemoryLog(world.east).publish(messages)


def _of(world: _World, run: str) -> list[int]:
    """The numbers of a run's visible events; those of other runs, by the message's key, are not even decoded."""
    topic = world.west.topic(paths.METRICS)
    events = [CODEC.decode_as(Metric, message.value) for message in topic if message and message.key == run.encode()]
    return [event.seq for event in events if event.run == run]


def _queued(flow: LaneReplicator) -> dict[str, int]:
    return flow.status().queued


def _position(world: _World) -> int:
    ledger = read_ledger(MemorySource(world.west), Codec(), SystemClock())
    (offset,) = [place.offset for place in ledger.positions.values() if place.topic == paths.METRICS]
    return offset


def test_a_run_of_which_very_much_waits_delays_no_other_run(world: _World) -> None:
    """6,000 events of a stuck run stand before one of another, which is visible; and when it goes on, all come once."""
    _send(world, "stuck", *range(1, MANY + 1))
    _send(world, "other", 1)
    lineage = _Stuck("stuck")
    flow = world.replicator(lane="metrics", lineage=lineage)
    for _ in range(40):
        flow.turn()
    assert _of(world, "other") == [1]
    assert _queued(flow) == {"stuck": RUN_QUEUED_MAX}
    assert _position(world) == 0, "the stuck run is read again from there after a restart"
    _send(world, "other", 2, 3)
    for _ in range(10):
        flow.turn()
    assert _of(world, "other") == [1, 2, 3]
    lineage.runs.clear()
    behind = []
    for seq in range(4, 104):
        _send(world, "other", seq)
        flow.turn()
        behind.append(seq - len(_of(world, "other")))
    assert max(behind) <= AGAIN_RECORDS // BATCH_MAX + 1, "the head is read between any two slices of the other"
    for _ in range(5):
        flow.turn()
    assert _of(world, "stuck") == list(range(1, MANY + 1)), "each once, in order"
    assert _of(world, "other") == list(range(1, 104))
    assert flow.status().alarms == LaneAlarmsStatus(open=0, newest=())


def test_a_lane_with_many_stuck_runs_still_has_room_for_one_that_is_not(world: _World) -> None:
    """Together they wait for more than all the room that there is."""
    stuck = [f"stuck{number}" for number in range(8)]
    for run in stuck:
        _send(world, run, *range(1, RUN_QUEUED_MAX + 200))
    _send(world, "other", *range(1, SHARE + 30))
    flow = world.replicator(lane="metrics", lineage=_Stuck(*stuck))
    most = 0
    for _ in range(60):
        flow.turn()
        most = max(most, sum(_queued(flow).values()))
    assert _of(world, "other") == list(range(1, SHARE + 30))
    assert most <= QUEUED_MAX + SHARE * (len(stuck) + 1)


def test_a_restart_with_spilled_events_loses_and_doubles_nothing(world: _World) -> None:
    """The position is the first event that was passed over, and what was published beyond it is known."""
    _send(world, "stuck", *range(1, MANY + 1))
    _send(world, "other", *range(1, 50))
    flow = world.replicator(lane="metrics", lineage=_Stuck("stuck"))
    for _ in range(40):
        flow.turn()
    later = world.replicator(lane="metrics")
    for _ in range(150):
        later.turn()
    assert _of(world, "stuck") == list(range(1, MANY + 1))
    assert _of(world, "other") == list(range(1, 50))
    assert _position(world) > MANY


@pytest.mark.full
def test_the_position_never_passes_an_event_that_was_passed_over(world: _World) -> None:
    """The run's queue is empty, and the rest of it is not read again yet: what a restart finds is before that."""
    _send(world, "stuck", *range(1, MANY + 1))
    lineage = _Stuck("stuck")
    flow = world.replicator(lane="metrics", lineage=lineage)
    for _ in range(20):
        flow.turn()
    lineage.runs.clear()
    was_empty = 0
    while len(_of(world, "stuck")) < MANY:
        flow.turn()
        assert _position(world) <= len(_of(world, "stuck"))
        was_empty += not _queued(flow)
    assert was_empty > 0


def test_a_replay_while_events_are_spilled_loses_and_doubles_nothing(world: _World) -> None:
    """All is looked at once more, also what is queued."""
    _send(world, "stuck", *range(1, MANY + 1))
    lineage = _Stuck("stuck")
    flow = world.replicator(lane="metrics", lineage=lineage)
    for _ in range(20):
        flow.turn()
    for chosen in places(world.east, "metrics"):
        flow.replay(chosen)
    flow.turn()
    lineage.runs.clear()
    for _ in range(150):
        flow.turn()
    assert _of(world, "stuck") == list(range(1, MANY + 1))


def test_a_run_with_a_long_backlog_does_not_take_the_others_place_in_a_transaction(world: _World) -> None:
    """The records of one transaction are shared among the runs that wait."""
    _send(world, "busy", *range(1, 2 * BATCH_MAX))
    _send(world, "other", *range(1, 5))
    lineage = _Stuck("busy", "other")
    flow = world.replicator(lane="metrics", lineage=lineage)
    for _ in range(4):
        flow.turn()
    assert _queued(flow) == {"busy": RUN_QUEUED_MAX, "other": 4}
    lineage.runs.clear()
    flow.turn()
    assert _of(world, "other") == [1, 2, 3, 4]
    assert 0 < len(_of(world, "busy")) < BATCH_MAX


def test_a_paused_run_does_not_delay_another_lane(world: _World) -> None:
    """A lane is a flow of its own: nothing is shared but the ledger's topic."""
    world.commit(10, 1)
    _send(world, "gpt", 1, 2)
    checkpoints, metrics = world.replicator(lineage=_Stuck("gpt")), world.replicator(lane="metrics")
    for _ in range(6):
        checkpoints.turn()
        metrics.turn()
    assert world.visible() == []
    assert _of(world, "gpt") == [1, 2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 700)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 900)), max_size=60),
)
def test_whatever_is_taken_when_every_run_comes_whole_and_in_order(
    sent: list[tuple[int, int]], taken: list[tuple[int, int]]
) -> None:
    """The queues are emptied by as much as the case says, in the end wholly; the bounds hold after each reading."""
    kafka, log = MemoryKafka("east"), []
    for run, count in sent:
        log += [Message("t", str(run).encode(), b"") for _ in range(count)]
    MemoryLog(kafka).publish(log)
    source, partition = MemorySource(kafka), kafka.partition("t")
    queues: dict[str, deque[Fetched]] = {}
    followed: dict[Partition, int] = {partition: 0}
    source.seek(partition, 0)
    intake = Intake(source, followed, queues, lambda run, item: queues.setdefault(run, deque()).append(item))
    came: dict[str, list[int]] = {}

    def empty(run: str, count: int) -> None:
        queue = queues.get(run, deque())
        for _ in range(min(count, len(queue))):
            came.setdefault(run, []).append(queue.popleft().offset)

    for run, count in taken:
        intake.take(0.0)
        lengths = [len(queue) for queue in queues.values()]
        assert max(lengths, default=0) <= RUN_QUEUED_MAX
        assert sum(lengths) <= QUEUED_MAX + SHARE * len(lengths)
        oldest = min((queue[0].offset for queue in queues.values() if queue), default=followed[partition])
        lost = {at for at, one in enumerate(log) if at not in came.get(one.key.decode(), [])}
        assert min(lost, default=len(log)) >= min(oldest, intake.floor(partition, followed[partition]))
        empty(str(run), count)
    for _ in range(100):
        intake.take(0.0)
        for number in range(5):
            empty(str(number), 10_000)
    for name in {one.key.decode() for one in log}:
        assert came[name] == [at for at, one in enumerate(log) if one.key.decode() == name]
        assert not intake.is_spilled(name)
