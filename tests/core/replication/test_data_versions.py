"""Data versions with a list of their own, and records that were set aside at their source, seen from a standby."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.data_versions import with_list_at
from pipelines.core.set_aside import place_of
from pipelines.errors import RetryableError
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import DataShard, DataVersion, DeadLetter, Metric, ShardList
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer, generate_keypair
from tests.lineages import lineage_of
from tests.manual_clock import ManualClock

CODEC = Codec()


class _World(ManualClock):
    """Implements Journal and Clock: east, and the replicator in west of one of its lanes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(100.0)
        self.east, self.west = MemoryKafka("east"), MemoryKafka("west")
        self.east_store, self.west_store = MemoryObjectStore(), MemoryObjectStore()
        self.transfers = MemoryTransfers({"east": self.east_store}, self.west_store)
        self.said: list[str] = []
        private, public = generate_keypair(folder, "east")
        self.signer = Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})

    def say(self, event: str, **fields: object) -> None:
        del fields
        self.said.append(event)

    def replicator(self, lane: str) -> LaneReplicator:
        """A fresh process."""
        return LaneReplicator(
            PeerLane("east", lane),
            LanePorts(
                peer_source=MemorySource(self.east),
                own_source=MemorySource(self.west),
                log=MemoryLog(self.west, f"farside-replicator-west-east-{lane}"),
                store=self.west_store,
                peer_store=self.east_store,
                transfers=self.transfers,
                lineage=lambda _run: lineage_of((1, 0, -1)),
                signer=self.signer,
                codec=Codec(),
                clock=self,
                journal=self,
                visible_source=MemorySource(self.west),
                replay_source=MemorySource(self.east),
            ),
        )

    def turn(self, replicator: LaneReplicator, turns: int = 6) -> None:
        for _ in range(turns):
            replicator.turn()
            self.now_s += 1.0

    def send(self, event: DataVersion | Metric) -> None:
        """Publish an event in east."""
        value = CODEC.encode(event)
        MemoryLog(self.east).publish([Message(paths.topic(event.lane), b"gpt", value, headers_of(event, "test"))])

    def visible(self, lane: str) -> list[Any]:
        return [CODEC.decode(one.value) for one in self.west.topic(paths.topic(lane)) if one is not None]

    def dead(self) -> list[DeadLetter]:
        topic = self.west.topic(paths.DEAD_LETTERS)
        return [CODEC.decode_as(DeadLetter, one.value) for one in topic if one is not None]


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """Both regions, empty."""
    return _World(tmp_path)


def _identity(lane: str, seq: int) -> dict[str, Any]:
    place = {"event_id": f"gpt/1/r0/{lane}/{seq}", "run": "gpt", "region": "east", "epoch": 1, "attempt": 1}
    return {**place, "producer": "r0", "seq": seq, "step": seq, "time_ms": 0}


def _metric(seq: int) -> Metric:
    return Metric(**_identity("metrics", seq), values={"loss": 1.0})


def _version(seq: int, **changes: Any) -> tuple[DataVersion, bytes]:  # noqa: ANN401 - any field's
    """A data version whose list lies in an object, and the object's bytes."""
    shards = tuple(DataShard(path=f"part-{at}", size=at, sha256="d" * 64) for at in range(3))
    identity = _identity("data-versions", seq)
    plain = DataVersion(**identity, name="v", digest="d" * 64, shards=shards, sampler="s", data_seed=1)
    listed = CODEC.encode(ShardList(shards=shards))
    return dataclasses.replace(with_list_at(plain, listed), **changes), listed


def test_I13_a_data_version_is_visible_only_after_its_list_is_verified_here(world: _World) -> None:
    """It waits while the object cannot be had, metrics do not; then it comes, and its list before it."""
    event, listed = _version(1)
    world.send(event)
    world.transfers.per_turn = 0
    replicator = world.replicator("data-versions")
    world.east_store.create(event.list_key, listed)
    world.turn(replicator, 3)
    assert (world.visible("data-versions"), list(world.west_store.objects)) == ([], [])
    assert "the list of data version 'v'" in replicator.status().waits["gpt"]
    world.transfers.per_turn = 1
    world.turn(replicator)
    assert world.visible("data-versions") == [event]
    assert world.west_store.objects[event.list_key] == listed


@pytest.mark.parametrize(
    ("changes", "stored", "why"),
    [
        ({}, None, "is not in the store of east"),
        ({}, b"other bytes of any kind", "its manifest names"),
        ({"list_key": "runs/other/data-versions/" + "d" * 64}, b"", "is its own"),
        ({"list_bytes": 0}, b"", "is its own"),
    ],
)
def test_I13_a_data_version_whose_list_is_not_what_it_names_is_a_dead_letter(
    world: _World, changes: dict[str, Any], stored: bytes | None, why: str
) -> None:
    """Nothing of it is visible, its number counts, and the next one goes on."""
    event, _ = _version(1, **changes)
    if stored is not None:
        world.east_store.create(event.list_key, stored)
    world.send(event)
    following, _ = _version(2, list_key="", list_sha256="", list_bytes=0)
    world.send(following)
    world.turn(world.replicator(lane="data-versions"))
    assert world.visible("data-versions") == [following]
    (letter,) = world.dead()
    assert (letter.reason, why in letter.detail) == ("corrupt", True), letter.detail


def test_a_record_that_was_set_aside_at_its_source_leaves_no_hole_here(world: _World) -> None:
    """Its place is filled in its lane; here it is a dead letter that says why, and no alarm."""
    world.send(_metric(1))
    filled = place_of(headers_of(_metric(2), "metric"), "too_large", "an event of 1200000 bytes")
    assert filled is not None
    MemoryLog(world.east).publish([Message(filled[0], b"gpt", *filled[1:])])
    world.send(_metric(3))
    world.turn(world.replicator(lane="metrics"))
    assert [one.seq for one in world.visible("metrics")] == [1, 3]
    (letter,) = world.dead()
    assert (letter.reason, letter.detail) == ("too_large", "at its source: an event of 1200000 bytes")
    assert [name for name in world.said if "alarm" in name] == []


def test_a_list_that_the_peer_cannot_give_now_is_asked_for_again(world: _World) -> None:
    """A link that is cut is no verdict."""
    event, listed = _version(1)
    world.east_store.create(event.list_key, listed)
    world.send(event)
    fetch = world.east_store.get
    world.east_store.get = _cut  # type: ignore[method-assign] # the link
    replicator = world.replicator("data-versions")
    world.turn(replicator)
    assert (world.visible("data-versions"), world.dead()) == ([], [])
    world.east_store.get = fetch  # type: ignore[method-assign] # it is back
    world.turn(replicator)
    assert world.visible("data-versions") == [event]


def _cut(key: str) -> bytes:
    raise RetryableError(f"the link is cut: {key}")
