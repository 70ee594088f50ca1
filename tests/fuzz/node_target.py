"""Intents, and everything else that lies on a node's disk or in its region's store: refused or skipped, with a reason.

`intents` reads a record of a log as the agent does and lays the checkpoint out as a standby does. `node_files` turns a
whole agent over a damaged directory that it shares with another run, whose files are good.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from farside import _checkpoint, _spool
from pipelines import paths
from pipelines.core.checkpoint_contents import PATH_NUMBER_MAX, check_contents
from pipelines.core.manifests import build, checkpoint_of, intent_of, objects
from pipelines.errors import CorruptError
from pipelines.paths import CheckpointId
from schemas.codec import digest
from schemas.records import Abandoned, Manifest, RankState, Receipt, Record
from services.adapters.arena import write_index_folder
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.node_files import UNREADABLE, record_of
from tests.agent_world import CODEC, GOOD, ITEM, PRODUCER, AgentWorld
from tests.fuzz.mutations import changed, mutated
from tests.manifests import OWN, SHARD, shard_of

STATE = b"rng"
HUGE_BYTES = 8 << 30  # of a file without a byte in it
_VALUE = b'{"lr":0.1}'


def _item(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    item: dict[str, Any] = ITEM | fields
    return item | {"sha256": digest(SHARD[item["offset"] : item["offset"] + item["length"]])}


@cache
def _bodies() -> tuple[dict[str, Any], ...]:
    """Good intents: of one rank and a tensor, and of two ranks with tensors in pieces, a number and plain values."""
    piece = {"dtype": "bfloat16", "shape": [4, 2], "chunk_sizes": [2, 2], "length": 8}
    items = [
        *(_item(**piece, rank=rank, offset=64, chunk_offsets=[2 * rank, 0], fqn="model.w") for rank in (0, 1)),
        _item(fqn="step", shape=[], chunk_offsets=[], chunk_sizes=[], length=4),
        _item(fqn="optim.0", kind="json", dtype="", shape=[], chunk_offsets=[], chunk_sizes=[], length=10, rank=1),
    ]
    planner = {"model.w": ["model", "w"], "step": ["step"], "optim.0": ["optim", 0]}
    ranks = [GOOD["ranks"][0] | {"rank": rank} for rank in (0, 1)]
    wide = GOOD | {"world_size": 2, "ranks": ranks, "items": items, "health": {"loss": 1.5}, "previous_step": 7}
    return GOOD, wide | {"planner": planner}, wide | {"planner": json.dumps(planner)}


def _record(generator: random.Random, body: Any) -> bytes:  # noqa: ANN401 - JSON
    """The payload of an intent's frame, whose body or fields were damaged or made up."""
    record = {"lane": "checkpoints", "seq": 1, "kind": "intent", "run": "gpt", "epoch": 1, "attempt": 1, "step": 10}
    record |= {"time_ms": 5, "body": body}
    chance = generator.random()
    if chance < 0.6:
        record["body"] = changed(generator, body)
    elif chance < 0.7:
        record = changed(generator, record)
    payload = json.dumps(record).encode()
    return mutated(generator, payload, 2) if chance > 0.7 else payload


@cache
def _store() -> MemoryObjectStore:
    """The objects of a good intent's ranks."""
    store = MemoryObjectStore()
    for rank in (0, 1):
        for index, chunk in enumerate((SHARD[:60], SHARD[60:])):
            store.put(OWN.chunk(rank, index), chunk)
        store.put(OWN.rank_state(rank), STATE)
    return store


def intents(generator: random.Random, folder: Path) -> None:
    """A record that a log holds: a manifest that every standby can load, or a refusal before anything is signed."""
    try:
        entry = json.loads(_record(generator, generator.choice(_bodies())))
    except (ValueError, RecursionError):
        return  # no frame: the segments' target
    if not isinstance(entry, dict):
        return
    record = record_of("gpt", PRODUCER, entry, 99)
    if record.kind == UNREADABLE:
        assert record.body["why"], "unreadable without a reason"
        return
    own = CheckpointId("gpt", record.epoch, record.attempt, record.step)
    try:
        intent = intent_of(
            own,
            producer=record.producer,
            seq=record.seq,
            time_ms=record.time_ms,
            body=record.body,
            start_manifest_digest="",
            start_lineage_seq=0,
        )
        encoded = CODEC.encode(intent)
        states = {shard.rank: RankState(rank=shard.rank, size=3, sha256=digest(STATE)) for shard in intent.shards}
        place: dict[str, Any] = {"run": "gpt", "epoch": own.epoch, "attempt": own.attempt, "step": own.step}
        receipts = [Receipt(**place, shard=one, rank_state=states[one.rank]) for one in intent.shards]
        manifest = build(intent, receipts, "east", "", 1)
        payload = CODEC.encode(manifest)
    except (CorruptError, OverflowError, UnicodeEncodeError) as error:  # as the agent, which abandons it
        assert str(error), "abandoned without a reason"
        return
    for written in (encoded, payload):
        assert CODEC.encode(CODEC.decode(written)) == written, "read, it is something else"
    _judge_layout(manifest, folder / "arena")


def _judge_layout(manifest: Manifest, target: Path) -> None:
    """A standby lays it out as it was described, or says which byte is not there."""
    try:
        write_index_folder(_store(), manifest, "d", target)
    except CorruptError as error:
        assert str(error), "refused without a reason"
        return
    index = _checkpoint.read_index(target)
    sizes = {rank: (target / name).stat().st_size for rank, name in index["files"].items()}
    assert all(0 <= one["offset"] <= one["offset"] + one["length"] <= sizes[str(one["rank"])] for one in index["items"])
    for path in index["planner"].values():
        assert isinstance(path[0], str), "a path that begins in no dictionary"
        assert all(0 <= part <= PATH_NUMBER_MAX for part in path if isinstance(part, int)), "a list of any length"


# --- a node's directory ---

Damage = Callable[[random.Random, Path], None]


def _mutate(generator: random.Random, path: Path) -> None:
    path.write_bytes(mutated(generator, path.read_bytes() if path.is_file() else b"{}"))


def _change(generator: random.Random, path: Path) -> None:
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError):
        plain = {"offset": 5}
    path.write_bytes(json.dumps(changed(generator, plain)).encode())


def _fold(_generator: random.Random, path: Path) -> None:
    path.mkdir()


def _link(generator: random.Random, path: Path) -> None:
    path.symlink_to(generator.choice((path, Path("/dev/zero"), Path("/nowhere/at/all"))))


def _pipe(_generator: random.Random, path: Path) -> None:
    os.mkfifo(path)


def _swell(_generator: random.Random, path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(HUGE_BYTES)


def _remove(_generator: random.Random, _path: Path) -> None:
    """It is gone already."""


IN_PLACE: tuple[Damage, ...] = (_mutate, _mutate, _change, _change, _change)
ANEW: tuple[Damage, ...] = (_fold, _link, _pipe, _swell, _remove)
NAMES = ("GPT!", "x" * 200, "-", "a b", "..x", os.fsdecode(b"\xff\xfe"), "two\nlines", "torn-1", ".hidden")


def _files(world: AgentWorld) -> tuple[Path, ...]:
    producer, launch = world.producer("gpt"), _spool.launch_folder(world.node_dir, "gpt", "l1")
    checkpoint = _spool.checkpoint_folder(world.node_dir, "gpt", 1, 1, 10)
    names = (_spool.shard_name(0), _spool.state_name(0), _spool.state_descriptor_name(0))
    position = world.node_dir / "agent" / "positions" / "gpt" / PRODUCER
    small = (_spool.beat_path(producer), _spool.request_path(launch), _spool.grant_path(launch), position)
    return (*small, *(checkpoint / name for name in names))


def _damage(generator: random.Random, world: AgentWorld) -> None:
    """One to three files, which may be there or not, and now and then the log itself or a folder's name."""
    for path in generator.sample(_files(world), generator.randint(1, 3)):
        path.parent.mkdir(parents=True, exist_ok=True)
        damage = generator.choice(IN_PLACE if generator.random() < 0.7 else ANEW)
        if damage not in IN_PLACE or not path.is_file():
            path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
        damage(generator, path)
    if generator.random() < 0.1:
        log = world.writers["gpt"].path
        log.unlink()
        generator.choice((_fold, _link, _pipe, _remove))(generator, log)
    if generator.random() < 0.2:
        runs = world.node_dir / "runs"
        places = (runs, runs / "gpt" / "producers", runs / "gpt" / "launches", runs / "gpt" / "checkpoints")
        (generator.choice(places) / generator.choice(NAMES)).mkdir(parents=True, exist_ok=True)


def _objects(generator: random.Random, world: AgentWorld) -> None:
    """An object that an agent before this one left in the store, damaged there."""
    (chunks,) = (GOOD["ranks"][0]["chunks"],)
    shard = shard_of(0, SHARD[: chunks[0]["size"]], SHARD[chunks[0]["size"] :])
    state = RankState(rank=0, size=len(STATE), sha256=digest(STATE))
    receipt = Receipt(run="gpt", epoch=1, attempt=1, step=10, shard=shard, rank_state=state)
    start = {"name": "l1", "epoch": 1, "attempt": 1, "start_digest": "", "start_seq": 0}
    bodies = {OWN.receipt(0): CODEC.encode(receipt), OWN.rank_state(0): STATE, OWN.chunk(0, 0): SHARD[:60]}
    bodies |= {paths.start("gpt", "n0", "l1"): json.dumps(start).encode(), OWN.intent: b"", OWN.manifest: b""}
    key = generator.choice(list(bodies))
    body = json.dumps(changed(generator, start)).encode() if "starts" in key and generator.random() < 0.7 else None
    world.store.create(key, mutated(generator, bodies[key]) if body is None else body)


def node_files(generator: random.Random, folder: Path) -> None:
    """Anything may lie in a node's directory: the agent turns, says what it left alone, and the other run goes on.

    What it signs is whole, and a checkpoint that has no outcome has its reason.
    """
    home = folder / "agent"
    home.mkdir()
    world = AgentWorld(home)
    try:
        world.save(10, GOOD)
        if generator.random() < 0.3:
            world.turn(1)  # it is granted, and its checkpoint is under way or done
        if generator.random() < 0.3:
            _objects(generator, world)
        if generator.random() < 0.5:
            _append(world, _record(generator, GOOD | {"previous_step": 10}))
        _damage(generator, world)
        if generator.random() < 0.2:
            world.writers["gpt"].close()  # its writer is gone
        world.turn(4)
        world.check_the_other_goes_on()
        _judge(world)
    finally:
        for writer in world.writers.values():
            writer.close()
        shutil.rmtree(home)


def _append(world: AgentWorld, payload: bytes) -> None:
    """A frame of a foreign writer: whatever the payload is, its checksums fit."""
    start = _spool.encode_frame({})[:3] + struct.pack("<I", len(payload))
    with world.writers["gpt"].path.open("ab") as log:
        log.write(start + struct.pack("<II", zlib.crc32(start), zlib.crc32(payload)) + payload)


def _judge(world: AgentWorld) -> None:
    status = world.agent.status()
    surprises = [fields["stack"] for _, fields in world.said if "stack" in fields]
    assert not surprises, surprises[0]
    assert all(fields["why"] for event, fields in world.said if event == "spool.skipped")
    for topic in paths.TOPICS:
        assert all(isinstance(one, Record) for one in world.events(topic, "gpt")), "it does not decode"
    outcomes = [key for key in world.store.list("runs/gpt/") if key.endswith("/manifest")]
    for key in outcomes:
        _judge_outcome(world, key)
    said = [*status.troubles, *world.renewal.status().hard_troubles, *world.said]
    assert OWN.manifest in outcomes or status.waiting_checkpoints["gpt"] or said, "no outcome, and not a word"


def _judge_outcome(world: AgentWorld, key: str) -> None:
    """All that the agent has signed fits together, and is in the store."""
    try:
        outcome = CODEC.decode(world.signer.verify(world.store.objects[key]))
    except CorruptError:
        return  # it lay there before
    assert isinstance(outcome, Manifest | Abandoned)
    if isinstance(outcome, Abandoned):
        assert outcome.reason, "abandoned without a reason"
        return
    check_contents(
        key, world_size=outcome.world_size, shards=outcome.shards, items=outcome.items, planner=outcome.planner
    )
    assert checkpoint_of(outcome).manifest == key
    for named in objects(outcome):
        assert len(world.store.objects[named.key]) == named.size, "it names what is not there"
