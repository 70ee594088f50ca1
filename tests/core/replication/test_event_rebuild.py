"""Checkpoint events that a peer's log lost, rebuilt from its manifests: the same event, once, by the normal path."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines import paths
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import digest
from schemas.records import Abandoned, Checkpoint, Intent, Manifest
from services.adapters.memory.kafka import MemoryLog
from services.adapters.signer import Ed25519Signer
from tests.core.replication.test_lane_replicator import CODEC, FORKED_AT_20, _turn, _World
from tests.lineages import lineage_of
from tests.replaying import places
from tests.tripwire import Crash, Tripwire


@pytest.fixture
def world(signer: Ed25519Signer) -> _World:
    """East and west."""
    return _World(signer)


def _commit(world: _World, step: int, seq: int, **more: Any) -> Checkpoint:  # noqa: ANN401 - as `_World.commit`
    """A checkpoint with its intent beside it, as east's agent leaves both."""
    event = world.commit(step, seq, **more)
    own = CheckpointId("gpt", event.epoch, 1, step)
    manifest = CODEC.decode_as(Manifest, world.signer.verify(world.east_store.objects[own.manifest]))
    world.east_store.create(own.intent, CODEC.encode(_intent(own, seq, manifest)))
    return event


def _intent(own: CheckpointId, seq: int, manifest: Manifest) -> Intent:
    shared = ("mode", "world_size", "fingerprint", "health", "data_version", "shards", "items", "planner", "time_ms")
    return Intent(
        run=own.run,
        epoch=own.epoch,
        attempt=own.attempt,
        step=own.step,
        producer="r0",
        seq=seq,
        previous_step=-1,
        start_manifest_digest="",
        start_lineage_seq=0,
        **{name: getattr(manifest, name) for name in shared},
    )


def _headers(world: _World) -> list[dict[str, bytes]]:
    return [dict(one.headers) for one in world.west.topic(paths.CHECKPOINTS) if one is not None]


def _open(flow: LaneReplicator) -> list[str]:
    return [alarm.kind for alarm in flow.status().alarms.newest]


def test_I13_I14_what_retention_took_is_rebuilt_as_the_very_events_that_they_were(world: _World) -> None:
    """Under their own identity and with their bytes, marked; the alarms of log and numbers are healed."""
    first = _commit(world, 10, 1)
    _turn(world, world.replicator())
    lost, last = _commit(world, 20, 2), _commit(world, 30, 3)
    world.east.trim(paths.CHECKPOINTS, 2)
    flow = world.replicator()
    _turn(world, flow, 12)
    assert world.visible() == [first, last, lost]
    assert [one.get("farside_rebuilt") for one in _headers(world)] == [None, None, lost.manifest_key.encode()]
    assert "farside_from" not in _headers(world)[2], "it was read from no log"
    assert _open(flow) == []
    healed = [fields["kind"] for name, fields in world.said if name == "replicate.alarm_healed"]
    assert sorted(healed) == ["hole", "records_gone"]


def test_I14_a_topic_made_anew_loses_no_checkpoint_although_nothing_comes_after_it(world: _World) -> None:
    """The trainer was done: no later number shows the hole, the manifests do."""
    first = _commit(world, 10, 1)
    _turn(world, world.replicator())
    lost = _commit(world, 20, 2)
    world.east.create_again(paths.CHECKPOINTS)
    flow = world.replicator()
    _turn(world, flow, 12)
    assert world.visible() == [first, lost]
    assert _open(flow) == []


def test_I15_the_original_of_a_rebuilt_event_is_a_duplicate(world: _World) -> None:
    """It turns up after all, also in a replay, also after a restart."""
    first = _commit(world, 10, 1)
    _turn(world, world.replicator())
    lost = _commit(world, 20, 2)
    world.east.create_again(paths.CHECKPOINTS)
    flow = world.replicator()
    _turn(world, flow, 12)
    world.send(lost)
    _turn(world, flow)
    for chosen in places(world.east, "checkpoints"):
        flow.replay(chosen)
    _turn(world, flow)
    world.send(lost)
    _turn(world, world.replicator())
    assert world.visible() == [first, lost]
    assert world.dead() == []


def test_I15_what_is_in_the_log_is_not_rebuilt_however_slow_it_is(world: _World) -> None:
    """Of a new topic everything is read before anything is missed."""
    _commit(world, 10, 1)
    _turn(world, world.replicator())
    world.east.create_again(paths.CHECKPOINTS)
    again = [_commit(world, 20, 2), _commit(world, 30, 3)]
    slow = dataclasses.replace(world, per_turn=1)
    flow = slow.replicator()
    _turn(slow, flow, 20)
    assert not any("farside_rebuilt" in one for one in _headers(world))
    assert world.visible()[-1] == again[-1]


@pytest.mark.full
def test_I15_a_crash_at_any_port_call_rebuilds_each_event_once(signer: Ed25519Signer) -> None:
    """The process dies before and after every single call of the rebuilding."""
    at, crashes = 1, 0
    while True:
        world = _World(signer)
        first = _commit(world, 10, 1)
        _turn(world, world.replicator())
        lost, last = _commit(world, 20, 2), _commit(world, 30, 3)
        world.east.trim(paths.CHECKPOINTS, 2)
        try:
            _turn(world, world.replicator(Tripwire(at)), 12)
            crashed = False
        except Crash:
            crashed = True
        flow = world.replicator()
        _turn(world, flow, 12)
        assert world.visible() == [first, last, lost], f"died at {at}"
        assert _open(flow) == []
        if not crashed:
            break
        at, crashes = at + 1, crashes + 1
    assert crashes > 60


def test_I5_past_the_fork_nothing_is_rebuilt(world: _World) -> None:
    """The branch stays in its own region."""
    _commit(world, 10, 1)
    _turn(world, world.replicator())
    world.view = FORKED_AT_20
    _commit(world, 20, 2)
    _commit(world, 30, 3)
    world.east.create_again(paths.CHECKPOINTS)
    _turn(world, world.replicator(), 12)
    assert [one.step for one in world.visible()] == [10, 20]
    assert dict(_headers(world)[1])["farside_late"] == b"1"


def test_an_epoch_that_is_not_known_here_yet_keeps_the_alarm_open(world: _World) -> None:
    """An event that cannot be judged yet is not given up."""
    _commit(world, 10, 1)
    _turn(world, world.replicator())
    _commit(world, 20, 1, epoch=2)
    world.east.create_again(paths.CHECKPOINTS)
    flow = world.replicator()
    _turn(world, flow, 12)
    assert (_open(flow), [one.step for one in world.visible()]) == (["topic_anew"], [10])
    world.view = lineage_of((1, 0, -1), (2, 1, 10))
    _turn(world, flow, 12)
    assert (_open(flow), [one.step for one in world.visible()]) == ([], [10, 20])


def test_an_abandoned_checkpoint_fills_its_hole(world: _World) -> None:
    """Its outcome lies at the manifest's key, and its number in the intent."""
    first = _commit(world, 10, 1)
    flow = world.replicator()
    _turn(world, flow)
    last = _commit(world, 30, 3)
    own = CheckpointId("gpt", 1, 1, 20)
    gone = CODEC.encode(
        Abandoned(run="gpt", epoch=1, attempt=1, step=20, parent_digest="", lineage_seq=2, reason="a node was lost")
    )
    some = CODEC.decode_as(Manifest, world.signer.verify(world.east_store.objects[first.manifest_key]))
    world.east_store.create(own.manifest, world.signer.sign(gone))
    world.east_store.create(own.intent, CODEC.encode(_intent(own, 2, some)))
    _turn(world, flow, 12)
    rebuilt = world.visible()[-1]
    assert world.visible()[:2] == [first, last]
    assert rebuilt.seq == 2
    assert (rebuilt.state, rebuilt.reason, rebuilt.manifest_digest) == ("abandoned", "a node was lost", digest(gone))
    assert _open(flow) == []


def test_without_an_intent_nobody_knows_the_number_and_that_is_said(world: _World) -> None:
    """No identity is made up: the hole stays open, and the manifest is still what promotion goes by."""
    _commit(world, 10, 1)
    _turn(world, world.replicator())
    world.commit(20, 2)
    _commit(world, 30, 3)
    world.east.trim(paths.CHECKPOINTS, 2)
    flow = world.replicator()
    _turn(world, flow, 12)
    assert [one.step for one in world.visible()] == [10, 30]
    assert _open(flow) == ["hole"]
    (reported,) = [fields for name, fields in world.said if name == "replicate.not_rebuilt"]
    assert "intent" in reported["why"]


def test_a_manifest_that_cannot_be_trusted_is_not_rebuilt(world: _World) -> None:
    """A forged one has no event, whatever its intent says."""
    first = _commit(world, 10, 1)
    _turn(world, world.replicator())
    own = CheckpointId("gpt", 1, 1, 20)
    some = CODEC.decode_as(Manifest, world.signer.verify(world.east_store.objects[first.manifest_key]))
    world.east_store.create(own.manifest, b"forged")
    world.east_store.create(own.intent, CODEC.encode(_intent(own, 2, some)))
    world.east.create_again(paths.CHECKPOINTS)
    _turn(world, world.replicator(), 12)
    assert world.visible() == [first]
    assert [fields["manifest"] for name, fields in world.said if name == "replicate.not_rebuilt"] == [own.manifest]


def test_a_region_that_begins_after_retention_has_every_checkpoint_too(world: _World) -> None:
    """It never followed the lane: what the log has no longer, the store has."""
    for number in (1, 2, 3):
        _commit(world, 10 * number, number)
    world.east.trim(paths.CHECKPOINTS, 3)
    MemoryLog(world.east).publish([Message(paths.CHECKPOINTS, b"gpt", b"", ())])
    flow = world.replicator()
    _turn(world, flow, 20)
    assert _open(flow) == []
    assert sorted(one.seq for one in world.visible()) == [1, 2, 3]
