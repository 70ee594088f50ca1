"""Three regions: two standbys follow one primary, each for itself, and a standby of a standby is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import paths
from pipelines.core.manifests import objects
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Event, Manifest, Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.cli import app
from services.replicator import check_follows
from services.settings import load
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of
from tests.manual_clock import ManualClock
from tests.manual_world import signer_in

CODEC = Codec()
NAMES = ("east", "west", "north")
TURNS = 12


class _World:
    """The durable parts of three regions; a flow for each lane of each pair."""

    def __init__(self, folder: Path) -> None:
        self.signer, self.clock = signer_in(folder), ManualClock(1000.0)
        self.kafkas = {name: MemoryKafka(name) for name in NAMES}
        self.stores = {name: MemoryObjectStore() for name in NAMES}
        self.view = lineage_of((1, 0, -1))
        self.flows = {
            (at, peer, lane): self.start(at, peer, lane)
            for at in NAMES
            for peer in NAMES
            if peer != at
            for lane in ("checkpoints", "metrics")
        }

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        del event, fields

    def start(self, at: str, peer: str, lane: str) -> LaneReplicator:
        """One process's flow."""
        return LaneReplicator(
            PeerLane(peer, lane),
            LanePorts(
                peer_source=MemorySource(self.kafkas[peer]),
                own_source=MemorySource(self.kafkas[at]),
                log=MemoryLog(self.kafkas[at], paths.transactional_id(at, peer, lane)),
                store=self.stores[at],
                peer_store=self.stores[peer],
                transfers=MemoryTransfers({peer: self.stores[peer]}, self.stores[at]),
                lineage=lambda _run: self.view,
                signer=self.signer,
                codec=Codec(),
                clock=self.clock,
                journal=self,
            ),
        )

    def turn(self, *at: str) -> None:
        """These regions' flows work for a while."""
        for _ in range(TURNS):
            for (name, _, _), flow in self.flows.items():
                if name in at:
                    flow.turn()
            self.clock.now_s += 1.0

    def publish(self, event: Event) -> None:
        """As the agent of its region does."""
        message = Message(paths.topic(event.lane), b"gpt", CODEC.encode(event), headers_of(event, "test"))
        MemoryLog(self.kafkas[event.region]).publish([message])

    def commit(self, region: str, epoch: int, seq: int, step: int) -> Checkpoint:
        """A checkpoint as the region's agent leaves it."""
        own = CheckpointId("gpt", epoch, 1, step)
        chunk, state = f"{region} {step}".encode(), b"rng"
        shards, states = (shard_of(0, chunk),), (state_of(0, state),)
        manifest = manifest_of(own, lineage_seq=seq, region=region, shards=shards, rank_states=states)
        payload = CODEC.encode(manifest)
        found = {own.chunk(0, 0): chunk, own.rank_state(0): state, own.manifest: self.signer.sign(payload)}
        for key, body in found.items():
            self.stores[region].create(key, body)
        event = Checkpoint(
            **_identity(region, epoch, seq, step, "checkpoints"),
            state="committed",
            manifest_key=own.manifest,
            manifest_digest=digest(payload),
            lineage_seq=seq,
            size_bytes=len(chunk) + len(state),
            reason="",
        )
        self.publish(event)
        return event

    def visible(self, at: str, lane: str) -> list[Any]:
        """The events in a region's log."""
        return [CODEC.decode(one.value) for one in self.kafkas[at].topic(paths.topic(lane)) if one is not None]


def _identity(region: str, epoch: int, seq: int, step: int, lane: str) -> dict[str, Any]:
    producer = f"r0-{region}"
    return {
        "event_id": f"gpt/{epoch}/{producer}/{lane}/{seq}",
        "run": "gpt",
        "region": region,
        "epoch": epoch,
        "attempt": 1,
        "producer": producer,
        "seq": seq,
        "step": step,
        "time_ms": 0,
    }


def _metric(region: str, epoch: int, seq: int, step: int) -> Metric:
    return Metric(**_identity(region, epoch, seq, step, "metrics"), values={"loss": 1.0})


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """Nothing was published yet."""
    return _World(tmp_path)


def test_I13_I15_two_standbys_follow_one_primary_each_for_itself(world: _World) -> None:
    """One of them is away for a while: the other does not wait, and in the end both have everything once."""
    events = [world.commit("east", 1, 1, 10)]
    metrics = [_metric("east", 1, seq, seq) for seq in (1, 2, 3)]
    for one in metrics:
        world.publish(one)
    world.turn("east", "west")
    assert (world.visible("west", "checkpoints"), world.visible("west", "metrics")) == (events, metrics)
    assert world.visible("north", "checkpoints") == []
    events.append(world.commit("east", 1, 2, 20))
    world.turn(*NAMES)
    world.turn(*NAMES)
    for at in ("west", "north"):
        assert world.visible(at, "metrics") == metrics, f"{at}: once, though two logs have them"
        assert world.visible(at, "checkpoints")[-1] == events[-1]
        manifest = CODEC.decode_as(Manifest, world.signer.verify(world.stores[at].objects[events[-1].manifest_key]))
        assert all(one.key in world.stores[at].objects for one in objects(manifest))
    assert world.visible("east", "metrics") == metrics, "and nothing comes back to where it was first"
    assert all(flow.status().alarms.open == 0 for flow in world.flows.values())


def test_I5_I15_after_a_failover_to_one_standby_the_other_follows_it_and_the_old_one(world: _World) -> None:
    """West goes on from step 10: north has west's events, east's up to the fork, and of both none twice."""
    world.commit("east", 1, 1, 10)
    for seq in (1, 2):
        world.publish(_metric("east", 1, seq, 10 * seq))
    world.turn("east", "west")
    world.view = lineage_of((1, 0, -1), (2, 1, 10), west=2)
    newest = world.commit("west", 2, 1, 20)
    world.publish(_metric("west", 2, 1, 11))
    world.turn(*NAMES)
    world.turn(*NAMES)
    seen = [(one.region, one.epoch, one.step) for one in world.visible("north", "metrics")]
    assert sorted(seen) == [("east", 1, 10), ("west", 2, 11)], "and step 20 of epoch 1 was past the fork"
    assert newest in world.visible("north", "checkpoints")
    assert newest in world.visible("east", "checkpoints"), "the lost region is a standby when it comes back"


def test_what_a_standby_has_published_again_is_followed_at_its_own_region_only(world: _World) -> None:
    """North reads west's log: east's events in it are passed over; they come from east."""
    world.publish(_metric("east", 1, 1, 1))
    world.turn("west")
    assert len(world.visible("west", "metrics")) == 1
    for _ in range(TURNS):
        world.flows["north", "west", "metrics"].turn()
    assert world.visible("north", "metrics") == []
    world.turn("north")
    assert len(world.visible("north", "metrics")) == 1


# --- a standby of a standby ---


def _text(folder: Path, links: dict[str, dict[str, str]]) -> Path:
    """Settings of three regions; of each the others that it links to, with their Kafka."""
    lines = [f'state_dir = "{folder}"', "[runs.gpt]", 'first_region = "east"', 'standby = ["west", "north"]']
    lines += ["[witness]", 'bucket = "w"']
    for name in NAMES:
        files = ("witness_credentials_file", "credentials_file", "signing_key_file", "public_key_file")
        lines += [f"[regions.{name}]", f'kafka = "{name}:9092"', 's3 = "http://s"', 'witness = "http://w"']
        lines += ['bucket = "b"', 'node_dir = "n"', 'arena_dir = "a"', *(f'{one} = "f"' for one in files)]
        for peer, kafka in links[name].items():
            lines += [f"[regions.{name}.links.{peer}]", f'kafka = "{kafka}"', 's3 = "http://s"', 'bucket = "b"']
            lines += ['credentials_file = "f"']
    path = folder / "farside.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _whole() -> dict[str, dict[str, str]]:
    return {at: {peer: f"{at}-to-{peer}:9092" for peer in NAMES if peer != at} for at in NAMES}


def test_regions_that_all_follow_one_another_are_served(tmp_path: Path) -> None:
    """The refusal is of chains alone."""
    for at in NAMES:
        check_follows(load(_text(tmp_path, _whole()), {}), at)


@pytest.mark.parametrize("kafka", ["", "north-to-west:9092", "north:9092"])
def test_a_standby_of_a_standby_is_refused_at_the_start_in_one_line(tmp_path: Path, kafka: str) -> None:
    """North reaches west only, or reaches "east" at the Kafka of west, or at its own."""
    links = _whole()
    del links["north"]["east"]
    if kafka:
        links["north"] = {**links["north"], "east": kafka}
    config = _text(tmp_path, links)
    ended = CliRunner().invoke(app, ["replicator", "--region", "north", "--config", str(config)])
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("farside: regions.north.links.")
    assert "a standby of a standby" in line
    assert "east" in line
    check_follows(load(config, {}), "west")
