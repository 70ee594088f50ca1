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
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import Beat
from schemas.codec import digest, fingerprint
from schemas.records import Abandoned, Checkpoint, Heartbeat, Manifest, RankState, Receipt
from services.adapters.node_files import NodeFileError, beat_of, request_of
from services.adapters.spool import NodeSpool
from tests.agent_world import BEAT, CODEC, GOOD, ITEM, PRODUCER, REQUEST, AgentWorld
from tests.fuzz.mutations import mutated
from tests.manifests import INTENT, OWN


@pytest.fixture
def world(tmp_path: Path) -> AgentWorld:
    """Two runs on one node."""
    return AgentWorld(tmp_path)


def _launch(world: AgentWorld, name: str = "l1") -> Path:
    return _spool.launch_folder(world.node_dir, "gpt", name)


def _odd_names(world: AgentWorld) -> None:
    for name in ("GPT!", "x" * 200, "UPPER", "-", "a b", os.fsdecode(b"\xff\xfe")):
        (world.node_dir / "runs" / name / "producers").mkdir(parents=True)
    for place in ("producers", "launches"):
        (world.node_dir / "runs" / "gpt" / place / "no name!").mkdir()
    (world.node_dir / "runs" / "a-file").write_bytes(b"x")


def _a_folder(path: Callable[[AgentWorld], Path]) -> Callable[[AgentWorld], None]:
    def damage(world: AgentWorld) -> None:
        path(world).unlink(missing_ok=True)
        path(world).mkdir(parents=True)

    return damage


def _a_pipe(path: Callable[[AgentWorld], Path]) -> Callable[[AgentWorld], None]:
    """Who opens it waits for somebody who writes."""

    def damage(world: AgentWorld) -> None:
        path(world).unlink(missing_ok=True)
        os.mkfifo(path(world))

    return damage


def _a_loop(path: Callable[[AgentWorld], Path]) -> Callable[[AgentWorld], None]:
    def damage(world: AgentWorld) -> None:
        path(world).unlink(missing_ok=True)
        path(world).symlink_to(path(world))

    return damage


def _content(path: Callable[[AgentWorld], Path], value: object) -> Callable[[AgentWorld], None]:
    return lambda world: world.put(path(world), value)


def _beat(world: AgentWorld) -> Path:
    return _spool.beat_path(world.producer("gpt"))


def _request(world: AgentWorld) -> Path:
    return _spool.request_path(_launch(world))


def _position(world: AgentWorld) -> Path:
    path = world.node_dir / "agent" / "positions" / "gpt" / PRODUCER
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _log(world: AgentWorld) -> Path:
    return _spool.log_path(world.producer("gpt"))


def _grant(world: AgentWorld) -> Path:
    return _spool.grant_path(_launch(world))


@pytest.mark.parametrize(
    "damage",
    [
        _odd_names,
        *[_a_folder(path) for path in (_beat, _request, _position, _grant)],
        *[_a_pipe(path) for path in (_beat, _request, _position, _grant)],
        *[no_file(_log) for no_file in (_a_folder, _a_pipe, _a_loop)],
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
    world: AgentWorld, damage: Callable[[AgentWorld], None]
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
        {"planner": {"w": ["model", 10**12]}},
        {"planner": {"w": ["model", -1]}},
        {"planner": {"w": [7]}},
        {"previous_step": 999},
        {"ranks": INTENT["ranks"] * 2},
        {"ranks": [INTENT["ranks"][0] | {"size": 2**60, "chunks": [{"size": 2**60, "sha256": "x"}]}]},
        {"health": {"loss": "much"}},
        {"fingerprint": None},
    ],
)
def test_I18_an_intent_that_does_not_fit_is_abandoned_by_name_and_the_trainer_is_told(
    world: AgentWorld, changes: dict[str, Any]
) -> None:
    """Before anything of it is signed; the next checkpoint of the same rank goes on."""
    world.turn()
    for step, body in ((10, GOOD | changes), (20, GOOD | {"previous_step": 10})):
        world.save(step, body)
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


def _shard(world: AgentWorld) -> Path:
    return _spool.checkpoint_folder(world.node_dir, "gpt", 1, 1, 10) / _spool.shard_name(0)


def _state(world: AgentWorld) -> Path:
    return _shard(world).with_name(_spool.state_name(0))


def _descriptor(world: AgentWorld) -> Path:
    return _shard(world).with_name(_spool.state_descriptor_name(0))


def _swollen(world: AgentWorld) -> None:
    with _state(world).open("wb") as stream:
        stream.truncate(1 << 40)


def _receipt(world: AgentWorld) -> None:
    world.store.put(OWN.receipt(0), b"\xc3\x01" + bytes.fromhex(fingerprint(Receipt)) + b"\xff")


@pytest.mark.parametrize(
    "damage",
    [
        *[no_file(path) for no_file in (_a_folder, _a_pipe, _a_loop) for path in (_shard, _state, _descriptor)],
        _content(_descriptor, b"[" * 100_000),
        _content(_descriptor, b'{"size": 1e400, "sha256": ""}'),
        _content(_descriptor, {"size": -1, "sha256": "x"}),
        _content(_descriptor, [3, "x"]),
        _content(_state, b"RNG"),
        _swollen,
        _receipt,
    ],
)
def test_I18_a_checkpoint_whose_own_file_cannot_be_used_is_abandoned_and_the_next_one_commits(
    world: AgentWorld, damage: Callable[[AgentWorld], None]
) -> None:
    """Nothing is waited for, nothing is read in the size that a file has, and the lane goes on."""
    world.turn()
    world.save(10, GOOD)
    damage(world)
    world.save(20, GOOD | {"previous_step": 10})
    world.turn(6)
    events = world.events(paths.CHECKPOINTS, "gpt")
    assert [(one.step, one.state) for one in events] == [(10, "abandoned"), (20, "committed")]
    assert events[0].reason
    assert not [fields for _, fields in world.said if "stack" in fields]
    world.check_the_other_goes_on()


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b'{"name": "l1"}', b'{"name": 1, "epoch": "x"}', b"[]"])
def test_I18_a_damaged_record_of_a_launch_is_told_and_holds_up_no_other_launch(world: AgentWorld, body: bytes) -> None:
    """It lay in the store when this agent began; the run's next launch is granted."""
    key = paths.start("gpt", "n0", "l0")
    world.store.put(key, body)
    world.turn()
    assert key in world.agent.status().troubles
    assert _spool.grant_path(_launch(world)).exists()
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


def test_real_files_with_flipped_bytes_never_end_the_agent(world: AgentWorld) -> None:
    """Log, beat, request, state and descriptor of a real save, each mutated a few dozen times."""
    world.writers["gpt"].append("metrics", "metric", epoch=1, attempt=1, step=1, body={"values": {"loss": 1.0}})
    world.save(10, GOOD)
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
    world = AgentWorld(tmp_path)
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


def test_I18_a_surprise_in_one_runs_part_is_told_with_its_stack_and_stops_no_other_run(world: AgentWorld) -> None:
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
