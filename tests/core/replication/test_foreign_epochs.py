"""I17: who signs is who may. What a region says of an epoch that it does not hold never counts, in any lane or flow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.ledger import Ledger
from pipelines.core.lineage import LineageView
from pipelines.core.record_filter import facts_of
from pipelines.core.replay_rules import Fate, Known, fate
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.replication.redrive_requests import RedriveRequest
from pipelines.flows.replication.visible_index import VisibleIndex
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec, digest
from schemas.records import DataVersion, Manifest, Metric, MetricBatch, MetricColumn
from services.adapters.memory.kafka import MemoryLog, MemorySource
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemClock
from tests.core.replication.test_event_rebuild import _commit, _intent
from tests.core.replication.test_lane_replicator import _World
from tests.lineages import lineage_of
from tests.manifests import committed, manifest_of, shard_of, state_of

CODEC = Codec()
FAR = 999_999_999
WEST_HOLDS_2 = lineage_of((1, 0, -1), (2, 1, 20), west=2)
UNKNOWN_2 = LineageView(3, ((1, 0, -1), (2, 1, 20), (3, 2, 40)), ((1, "east"), (3, "west")))


@pytest.fixture
def fleet(tmp_path: Path) -> dict[str, Ed25519Signer]:
    """East's signer and west's; each trusts both."""
    keys = {name: generate_keypair(tmp_path, name) for name in ("east", "west")}
    trusted = {name: public for name, (_, public) in keys.items()}
    return {
        name: Ed25519Signer(key_id=name, private_key_path=private, trusted=trusted)
        for name, (private, _) in keys.items()
    }


@pytest.fixture
def world(fleet: dict[str, Ed25519Signer]) -> _World:
    """West follows east, and holds epoch 2 since step 20."""
    return _World(fleet["east"], view=WEST_HOLDS_2)


def _turn(world: _World, lane: str = "checkpoints") -> LaneReplicator:
    replicator = world.replicator(lane=lane)
    for _ in range(8):
        replicator.turn()
    return replicator


def _event(lane: str, epoch: int) -> DataVersion | Metric | MetricBatch:
    common: dict[str, Any] = {
        "event_id": f"e{epoch}",
        "run": "gpt",
        "region": "east",
        "epoch": epoch,
        "attempt": 1,
        "producer": "r0",
        "seq": 2,
        "step": 5,
        "time_ms": 0,
    }
    if lane == "data-versions":
        return DataVersion(**common, name="v1", digest="", shards=(), sampler="", data_seed=0)
    if lane == "batch":
        columns = (MetricColumn(name="loss", rows=(), values=(1.0, 1.0)),)
        return MetricBatch(**common, first_seq=1, steps=(4, 5), times_ms=(0, 0), columns=columns)
    return Metric(**common, values={"loss": 1.0})


def _numbers(world: _World) -> dict[Any, int]:
    return read_ledger(MemorySource(world.west), CODEC, SystemClock()).watermarks


def test_I17_a_checkpoint_of_anothers_epoch_is_never_copied_visible_or_chosen(world: _World) -> None:
    """West holds epoch 2; east signs "epoch 2, step 999999999" with its own key: a dead letter, and not a byte here."""
    world.commit(FAR, 1, epoch=2)
    _turn(world)
    assert world.visible() == []
    assert [letter.reason for letter in world.dead()] == ["foreign_epoch"]
    assert world.dead()[0].detail == "west holds epoch 2, its event names east"
    assert not world.west_store.list("runs/gpt/e")


@pytest.mark.parametrize("lane", ["metrics", "batch", "data-versions"])
@pytest.mark.parametrize("epoch", [2, 0])
def test_I17_every_lane_refuses_what_is_of_anothers_epoch_and_takes_none_of_its_numbers(
    world: _World, lane: str, epoch: int
) -> None:
    """Neither of west's epoch, nor of one that nobody ever held; the numbers stay free for whom they belong to."""
    event = _event(lane, epoch)
    world.send(event)
    _turn(world, event.lane)
    assert world.visible(event.lane) == []
    assert [letter.reason for letter in world.dead()] == ["foreign_epoch"]
    assert not [stream for stream in _numbers(world) if stream[1] == epoch]


def test_I17_what_it_says_of_its_own_epoch_goes_on_beside_it(world: _World) -> None:
    """East's late checkpoint of epoch 1 is visible; the forged one before it holds nothing up."""
    world.commit(FAR, 1, epoch=2)
    own = world.commit(10, 1)
    _turn(world)
    assert world.visible() == [own]
    assert len(world.dead()) == 1


@pytest.mark.parametrize("epoch", [2, 1])
def test_I17_bytes_that_nobody_can_read_take_only_numbers_of_their_own_epoch(world: _World, epoch: int) -> None:
    """Their headers name a number: of west's epoch it stays free, of east's own it is taken as ever."""
    event = dataclasses.replace(_event("metrics", epoch), seq=1)
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", b"\x00junk", headers_of(event, "metric"))])
    _turn(world, "metrics")
    assert [letter.reason for letter in world.dead()] == ["undecodable"]
    assert [stream[1] for stream in _numbers(world) if stream[1] == epoch] == ([1] if epoch == 1 else [])


@pytest.mark.parametrize(("signer", "named"), [("west", "east"), ("east", "west"), ("west", "west")])
def test_I17_a_manifest_that_another_region_signed_or_is_named_in_is_foreign(
    fleet: dict[str, Ed25519Signer], world: _World, signer: str, named: str
) -> None:
    """The event is east's own; its manifest is signed by, or names, another region: not copied, set aside."""
    own = CheckpointId("gpt", 1, 1, 10)
    payload = CODEC.encode(dataclasses.replace(_manifest(own), region=named))
    world.east_store.create(own.manifest, fleet[signer].sign(payload))
    world.send(committed(own, digest(payload), seq=1, lineage_seq=1, size_bytes=8))
    _turn(world)
    assert world.visible() == []
    assert [letter.reason for letter in world.dead()] == ["foreign_epoch"]
    assert own.manifest not in world.west_store.objects


def test_I17_an_epoch_whose_holder_is_not_known_here_waits_until_it_is(world: _World) -> None:
    """An older release missed epoch 2: nothing is believed of it, and nothing is lost."""
    world.view = UNKNOWN_2
    event = dataclasses.replace(_event("metrics", 2), seq=1)
    world.send(event)
    flow = _turn(world, "metrics")
    assert (world.visible("metrics"), world.dead()) == ([], [])
    assert flow.status().waits == {"gpt": "epoch 2 is not known here yet"}
    world.view = dataclasses.replace(UNKNOWN_2, holders=((1, "east"), (2, "east"), (3, "west")))
    for _ in range(4):
        flow.turn()
    assert world.visible("metrics") == [event]


def test_I17_nothing_gives_way_to_a_checkpoint_of_anothers_epoch(fleet: dict[str, Ed25519Signer]) -> None:
    """A forged newer one waits behind a copy that has begun: the copy is completed."""
    world = _World(fleet["east"], view=WEST_HOLDS_2, per_turn=1)
    own = world.commit(10, 1)
    world.commit(30, 2, epoch=2)
    _turn(world)
    assert world.visible() == [own]


def test_I17_a_foreign_letter_is_not_redriven_and_hides_nothing(world: _World) -> None:
    """The cause still holds; and the numbers that it names are not taken for dead letters of whom they belong to."""
    world.send(_event("metrics", 2))
    flow = _turn(world, "metrics")
    place = next(at for at, item in enumerate(world.west.topic(paths.DEAD_LETTERS)) if item is not None)
    request = RedriveRequest("ask", 0, place, force=False, actor="ada")
    flow.redrive(request)
    for _ in range(4):
        flow.turn()
    answer = flow.redrive(request)
    assert (answer.state, "foreign_epoch" in answer.why) == ("refused", True)
    index = VisibleIndex("metrics", MemorySource(world.west), CODEC, SystemClock())
    assert index.read_on()
    assert not index.known(("gpt", 2, "r0", "metrics")).dead


def test_I17_a_replay_refuses_what_is_of_anothers_epoch_even_if_an_older_release_showed_it() -> None:
    """Visible or not, it is foreign; of an epoch that may still become known nothing is said."""
    facts, shown = facts_of(_event("metrics", 2), ()), Known(SequenceRanges([(1, 9)]))
    assert fate(facts, "east", Ledger(), Known(), WEST_HOLDS_2) is Fate.FOREIGN
    assert fate(facts, "east", Ledger(), shown, WEST_HOLDS_2) is Fate.FOREIGN
    assert fate(facts, "east", Ledger(), shown, UNKNOWN_2) is Fate.DONE
    assert fate(facts_of(_event("metrics", 1), ()), "east", Ledger(), shown, WEST_HOLDS_2) is Fate.DONE


@pytest.mark.parametrize("forged", [(2, "east"), (1, "west")])
def test_I17_what_is_rebuilt_from_manifests_is_the_peers_own(
    fleet: dict[str, Ed25519Signer], world: _World, forged: tuple[int, str]
) -> None:
    """East's log lost all; in its store lies also one of west's epoch, or of west's hand: that is not the lost one."""
    first = _commit(world, 10, 1)
    _turn(world)
    lost, false = _commit(world, 20, 2), CheckpointId("gpt", forged[0], 1, 15)
    manifest = _manifest(false)
    world.east_store.create(false.chunk(0, 0), b"chunk")
    world.east_store.create(false.rank_state(0), b"rng")
    world.east_store.create(false.manifest, fleet[forged[1]].sign(CODEC.encode(manifest)))
    world.east_store.create(false.intent, CODEC.encode(_intent(false, 3, manifest)))
    world.east.create_again(paths.CHECKPOINTS)
    _turn(world)
    assert world.visible() == [first, lost]
    assert not world.west_store.list(false.prefix)
    assert world.dead() == [], "it was not even tried"


def _manifest(own: CheckpointId) -> Manifest:
    return manifest_of(own, lineage_seq=1, shards=(shard_of(0, b"chunk"),), rank_states=(state_of(0, b"rng"),))
