"""Whatever lies on a node's disk: the agent lives, the other run goes on, and nothing that does not fit is signed."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farside import _spool
from pipelines import paths
from pipelines.core.manifests import build, intent_of
from pipelines.core.set_aside import MARK
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts
from pipelines.flows.agent.grant_renewal import GrantRenewal
from pipelines.flows.agent.publisher import Publisher
from pipelines.ports import Beat, GrantReply
from schemas.codec import Codec, digest
from schemas.records import Abandoned, Checkpoint, Heartbeat, Manifest, Metric, RankState, Receipt
from services.adapters.memory.kafka import MemoryKafka, MemoryLog
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.node_files import NodeFileError, beat_of, request_of
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.spool import NodeSpool
from services.adapters.system_clock import SystemEntropy
from tests.fuzz.mutations import mutated
from tests.manifests import INTENT, OWN, SHARD
from tests.manual_clock import ManualClock

CODEC = Codec()
PRODUCER = "r00000-0123456789abcdef"
BEAT = {"step": 10, "phase": "train", "budget_s": 60.0, "time_ms": 5, "last_seq": {"metrics": 1}}
REQUEST = {"launch": "l1", "producer": PRODUCER, "run": "gpt", "world_size": 1, "mode": "exact", "fingerprint": {}}
ITEM = {
    "fqn": "w",
    "kind": "tensor",
    "rank": 0,
    "offset": 0,
    "length": 24,
    "sha256": digest(SHARD[:24]),
    "dtype": "float32",
    "shape": [2, 3],
    "chunk_offsets": [0, 0],
    "chunk_sizes": [2, 3],
}
GOOD = INTENT | {"items": [ITEM], "planner": {"w": ["model", "w"]}}


class _World(ManualClock):
    """Implements Grants, Journal and Clock: an agent on a real node directory with two runs of one launch each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(100.0)
        self.node_dir = folder / "node"
        self.kafka, self.store = MemoryKafka("east"), MemoryObjectStore()
        self.said: list[tuple[str, dict[str, Any]]] = []
        private, public = generate_keypair(folder, "east")
        self.signer = Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
        self.writers = {run: self.begin(run) for run in ("gpt", "other")}
        fake: Any = self
        self.spool = NodeSpool(self.node_dir, fake)
        self.agent = Publisher(
            AgentNode("east", "n0"),
            AgentPorts(
                spool=self.spool,
                store=self.store,
                log=MemoryLog(self.kafka),
                grants=fake,
                signer=self.signer,
                codec=Codec(),
                clock=fake,
                entropy=SystemEntropy(),
                journal=fake,
            ),
        )
        self.renewal = GrantRenewal(node="n0", spool=self.spool, grants=fake, clock=self, journal=fake)

    def begin(self, run: str) -> _spool.SpoolWriter:
        """A rank of a run that beats and asks for its start."""
        writer = _spool.SpoolWriter(_spool.producer_folder(self.node_dir, run, PRODUCER), run)
        self.put(_spool.beat_path(self.producer(run)), BEAT | {"epoch": 1, "attempt": 1})
        launch = _spool.launch_folder(self.node_dir, run, "l1")
        launch.mkdir(parents=True)
        self.put(_spool.request_path(launch), REQUEST | {"run": run})
        return writer

    def producer(self, run: str) -> Path:
        return _spool.producer_folder(self.node_dir, run, PRODUCER)

    def put(self, path: Path, value: object) -> None:
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())

    def say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - as the port
        self.said.append((event, fields))

    def ask(self, *_: object) -> GrantReply:
        return GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, forks=((1, 0, -1),), fencing="hard")

    def turn(self, turns: int = 4) -> None:
        for _ in range(turns):
            self.agent.turn()
            self.renewal.turn()
            self.now_s += 1.0

    def events(self, topic: str, run: str) -> list[Any]:
        records = [one for one in self.kafka.topic(topic) if one is not None and MARK not in dict(one.headers)]
        return [CODEC.decode(one.value) for one in records if one.key == run.encode()]

    def skipped(self) -> str:
        return "\n".join(f"{fields['path']}: {fields['why']}" for name, fields in self.said if name == "spool.skipped")

    def check_the_other_goes_on(self) -> None:
        """A metric, a heartbeat and a grant of the run whose files are good."""
        seq = self.writers["other"].append(
            "metrics", "metric", epoch=1, attempt=1, step=1, body={"values": {"loss": 1.0}}
        )
        beats = len(self.events(paths.HEARTBEATS, "other"))
        self.now_s += 10.0
        self.turn(2)
        metrics = self.events(paths.METRICS, "other")
        assert isinstance(metrics[-1], Metric)
        assert (metrics[-1].seq, len(self.events(paths.HEARTBEATS, "other")) > beats) == (seq, True)
        assert _spool.grant_path(_spool.launch_folder(self.node_dir, "other", "l1")).exists()


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """Two runs on one node."""
    return _World(tmp_path)


def _launch(world: _World, name: str = "l1") -> Path:
    return _spool.launch_folder(world.node_dir, "gpt", name)


def _odd_names(world: _World) -> None:
    for name in ("GPT!", "x" * 200, "UPPER", "-", "a b", os.fsdecode(b"\xff\xfe")):
        (world.node_dir / "runs" / name / "producers").mkdir(parents=True)
    for place in ("producers", "launches"):
        (world.node_dir / "runs" / "gpt" / place / "no name!").mkdir()
    (world.node_dir / "runs" / "a-file").write_bytes(b"x")


def _a_folder(path: Callable[[_World], Path]) -> Callable[[_World], None]:
    def damage(world: _World) -> None:
        path(world).unlink(missing_ok=True)
        path(world).mkdir(parents=True)

    return damage


def _content(path: Callable[[_World], Path], value: object) -> Callable[[_World], None]:
    return lambda world: world.put(path(world), value)


def _beat(world: _World) -> Path:
    return _spool.beat_path(world.producer("gpt"))


def _request(world: _World) -> Path:
    return _spool.request_path(_launch(world))


def _position(world: _World) -> Path:
    path = world.node_dir / "agent" / "positions" / "gpt" / PRODUCER
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _grant(world: _World) -> Path:
    return _spool.grant_path(_launch(world))


@pytest.mark.parametrize(
    "damage",
    [
        _odd_names,
        *[_a_folder(path) for path in (_beat, _request, _position, _grant)],
        _a_folder(lambda world: _spool.log_path(world.producer("gpt"))),
        *[
            _content(_beat, value)
            for value in (
                b"",
                b"[]",
                b"\xff",
                b"{" * 100_000,
                b'{"step": ' + b"9" * 5_000 + b"}",
                BEAT,
                BEAT | {"epoch": "1", "attempt": None},
                BEAT | {"epoch": 1, "attempt": 1, "budget_s": float("inf")},
                BEAT | {"epoch": 1, "attempt": 1, "phase": "x" * 2_000_000},
                BEAT | {"epoch": 1, "attempt": 1, "last_seq": {f"lane-{at}": at for at in range(100_000)}},
                BEAT | {"epoch": 2**70, "attempt": 1, "unknown": 1},
            )
        ],
        *[
            _content(_request, REQUEST | changes)
            for changes in (
                {"world_size": "many"},
                {"world_size": 0},
                {"fingerprint": ["torch"]},
                {"producer": "../../other"},
                {"producer": 5},
                {"mode": ["exact"]},
            )
        ],
        _content(_position, {"offset": "x"}),
        _content(_position, {"offset": 10**15}),
        _content(_position, {}),
        _content(_grant, {"launch": "l1", "fencing": "hard"}),
        _content(_grant, b"[1, 2]"),
    ],
)
def test_I18_no_file_of_one_run_ends_the_agent_or_holds_up_another_run(
    world: _World, damage: Callable[[_World], None]
) -> None:
    """Each is left alone, said once in the journal or shown as the trouble of its run."""
    damage(world)
    world.turn()
    world.check_the_other_goes_on()
    said = world.skipped().splitlines()
    assert said or world.agent.status().troubles or world.renewal.status().hard_troubles
    assert len(said) == len(set(said)), "once"


@pytest.mark.parametrize(
    "changes",
    [
        {"world_size": 10**9},
        {"world_size": 0},
        {"world_size": float("1e300")},
        {"items": [ITEM | {"dtype": "nn"}]},
        {"items": [ITEM | {"dtype": "qint8"}]},
        {"items": [ITEM | {"shape": [2**62, 2**62]}]},
        {"items": [ITEM | {"shape": "2x3"}]},
        {"items": [ITEM | {"length": 2**62}]},
        {"items": 5},
        {"planner": "{"},
        {"planner": {"w": "model"}},
        {"planner": [["w"]]},
        {"previous_step": 999},
        {"ranks": INTENT["ranks"] * 2},
        {"ranks": [INTENT["ranks"][0] | {"size": 2**60, "chunks": [{"size": 2**60, "sha256": "x"}]}]},
        {"health": {"loss": "much"}},
        {"fingerprint": None},
    ],
)
def test_I18_an_intent_that_does_not_fit_is_abandoned_by_name_and_the_trainer_is_told(
    world: _World, changes: dict[str, Any]
) -> None:
    """Before anything of it is signed; the next checkpoint of the same rank goes on."""
    world.turn()
    for step, body in ((10, GOOD | changes), (20, GOOD | {"previous_step": 10})):
        folder = _spool.checkpoint_folder(world.node_dir, "gpt", 1, 1, step)
        folder.mkdir(parents=True)
        (folder / _spool.shard_name(0)).write_bytes(SHARD)
        (folder / _spool.state_name(0)).write_bytes(b"rng")
        world.put(folder / _spool.state_descriptor_name(0), {"size": 3, "sha256": digest(b"rng")})
        world.writers["gpt"].append("checkpoints", "intent", epoch=1, attempt=1, step=step, body=body)
    world.turn(6)
    events = world.events(paths.CHECKPOINTS, "gpt")
    assert all(isinstance(one, Checkpoint) for one in events)
    assert [(one.step, one.state) for one in events] == [(10, "abandoned"), (20, "committed")]
    outcome = CODEC.decode(world.signer.verify(world.store.objects[OWN.manifest]))
    assert isinstance(outcome, Abandoned)
    standing = _spool.read_json(_spool.standing_path(_launch(world)))
    assert standing is not None
    (told,) = standing["given_up"]
    assert (told["step"], told["reason"][:200]) == (10, outcome.reason[:200])
    world.check_the_other_goes_on()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def _places(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in _places(one, (*at, key)))]


@given(st.sampled_from(_places(GOOD)[1:]), _JSON | st.sampled_from([10**9, -1, 2**63, 2**80, "9" * 30]))
@settings(max_examples=300)
def test_a_changed_intent_is_corrupt_or_makes_a_manifest(place: tuple[Any, ...], value: object) -> None:
    """One value anywhere in it is another one: never any other error, never memory in the size that it claims."""
    body = copy.deepcopy(GOOD)
    inner: Any = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        intent = intent_of(
            OWN, producer="p", seq=1, time_ms=5, body=body, start_manifest_digest="", start_lineage_seq=0
        )
        states = [RankState(rank=one.rank, size=3, sha256=digest(b"rng")) for one in intent.shards]
        receipts = [
            Receipt(run="gpt", epoch=1, attempt=1, step=10, shard=shard, rank_state=state)
            for shard, state in zip(intent.shards, states, strict=True)
        ]
        manifest = build(intent, receipts, "east", "", 1)
    except CorruptError:
        return
    assert isinstance(manifest, Manifest)
    with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair: the agent abandons it
        CODEC.encode(manifest)


@given(_JSON, st.sampled_from(sorted({*BEAT, *REQUEST, "epoch", "attempt", "guard"})))
@settings(max_examples=300)
def test_a_changed_beat_or_request_is_refused_or_can_be_sent(value: object, name: str) -> None:
    """One field is any JSON: a refusal with its reason, or a beat that a heartbeat can carry."""
    with contextlib.suppress(NodeFileError):
        beat = beat_of(PRODUCER, BEAT | {"epoch": 1, "attempt": 1} | {name: value})
        json.dumps([beat.phase, beat.step]).encode("ascii")
        assert 0 <= beat.budget_s < 2**63
        assert all(0 <= seq < 2**63 for seq in beat.last_seq.values())
    with contextlib.suppress(NodeFileError):
        assert request_of(REQUEST | {name: value}).world_size >= 1


def test_real_files_with_flipped_bytes_never_end_the_agent(world: _World) -> None:
    """Log, beat, request, state and descriptor of a real save, each mutated a few dozen times."""
    folder = _spool.checkpoint_folder(world.node_dir, "gpt", 1, 1, 10)
    folder.mkdir(parents=True)
    (folder / _spool.shard_name(0)).write_bytes(SHARD)
    (folder / _spool.state_name(0)).write_bytes(b"rng")
    world.put(folder / _spool.state_descriptor_name(0), {"size": 3, "sha256": digest(b"rng")})
    world.writers["gpt"].append("metrics", "metric", epoch=1, attempt=1, step=1, body={"values": {"loss": 1.0}})
    world.writers["gpt"].append("checkpoints", "intent", epoch=1, attempt=1, step=10, body=GOOD)
    files = [one for one in (world.node_dir / "runs" / "gpt").rglob("*") if one.is_file()]
    kept = {one: one.read_bytes() for one in files}
    generator = random.Random(16)
    for _ in range(60):
        for path, body in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mutated(generator, body) if generator.random() < 0.5 else body)
        world.turn(1)
    world.check_the_other_goes_on()
    assert all(isinstance(one, Heartbeat) for one in world.events(paths.HEARTBEATS, "gpt"))


def test_a_disk_that_cannot_be_read_is_a_trouble_and_is_over_when_it_can(tmp_path: Path) -> None:
    """The folder of all runs is a loop of links: no run can be served, and the process lives."""
    world = _World(tmp_path)
    runs = world.node_dir / "runs"
    runs.rename(world.node_dir / "away")
    runs.symlink_to(runs)
    with pytest.raises(RetryableError, match="node's directory"):
        world.spool.runs()
    world.turn()
    assert "spool" in world.agent.status().troubles
    runs.unlink()
    (world.node_dir / "away").rename(runs)
    world.check_the_other_goes_on()
    assert "spool" not in world.agent.status().troubles


def test_I18_a_surprise_in_one_runs_part_is_told_with_its_stack_and_stops_no_other_run(world: _World) -> None:
    """Whatever class of error it is: a fault of ours that one run's files set off stays with that run."""
    beats = NodeSpool.beats

    def surprised(spool: NodeSpool, run: str) -> tuple[Beat, ...]:
        if run == "gpt":
            raise LookupError("nobody thought of this")
        return beats(spool, run)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(NodeSpool, "beats", surprised)
        world.agent.turn()
        world.agent.turn()
        (told,) = [
            fields for name, fields in world.said if name == "publish.waits" and fields["part"] == "gpt/heartbeat"
        ]
        assert "nobody thought of this" in told["stack"]
        assert len(world.events(paths.HEARTBEATS, "other")) == 1
    world.turn()
    world.check_the_other_goes_on()
    assert not world.agent.status().troubles
