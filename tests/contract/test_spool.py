"""The promises of every Spool, whoever wrote into it: in memory, and on disk by the client's own writer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from farside import _checkpoint, _spool
from pipelines.core.resume_mode import StartRequest
from pipelines.errors import CorruptError, RetryableError
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, Spool
from services.adapters.memory.spool import MemorySpool
from services.adapters.spool import NodeSpool

PRODUCER = "r00000-0123456789abcdef"
OWN = CheckpointId("gpt", 1, 1, 10)
SHARD = bytes(range(200))


class _Trainer(Protocol):
    """Writes as a trainer does; `agent` makes a new view of the same node."""

    def accept(self, lane: str, step: int) -> None: ...
    def wants(self, launch: str, request: StartRequest, producer: str = "") -> None: ...
    def beat(self, beat: Beat) -> None: ...
    def ends(self) -> None: ...
    def save(self, state: bytes | None) -> None: ...
    def damage_state(self) -> None: ...
    def answer(self, launch: str) -> tuple[dict[str, Any], dict[str, Any]]: ...
    def may_compute(self, launch: str) -> dict[str, Any] | None: ...
    def agent(self) -> Spool: ...


class _InMemory:
    def __init__(self) -> None:
        self.spool = MemorySpool("gpt")

    def accept(self, lane: str, step: int) -> None:
        self.spool.accept(PRODUCER, lane, "metric", step, {"values": {"loss": 0.5}})

    def wants(self, launch: str, request: StartRequest, producer: str = "") -> None:
        self.spool.wants(launch, request, producer)

    def beat(self, beat: Beat) -> None:
        self.spool.beat(beat)

    def ends(self) -> None:
        self.spool.ends(PRODUCER)

    def save(self, state: bytes | None) -> None:
        self.spool.save(OWN, 0, SHARD, state)

    def damage_state(self) -> None:
        self.spool.damage_state(OWN, 0)

    def answer(self, launch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.spool.granted[launch], self.spool.told[launch][-1]

    def may_compute(self, launch: str) -> dict[str, Any] | None:
        return next(reversed(self.spool.validities.get(launch, [])), None)

    def agent(self) -> Spool:
        return self.spool


class _OnDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = _spool.SpoolWriter(_spool.producer_folder(folder, "gpt", PRODUCER), "gpt")

    def accept(self, lane: str, step: int) -> None:
        self.writer.append(lane, "metric", epoch=1, attempt=1, step=step, body={"values": {"loss": 0.5}})
        self.writer.sync()

    def wants(self, launch: str, request: StartRequest, producer: str = "") -> None:
        folder = _spool.launch_folder(self.folder, "gpt", launch)
        folder.mkdir(parents=True)
        asked = {"mode": request.mode, "world_size": request.world_size, "fingerprint": dict(request.fingerprint)}
        asked |= {"producer": producer} if producer else {}
        _spool.write_json_atomically(_spool.request_path(folder), asked)

    def beat(self, beat: Beat) -> None:
        body = dataclasses.asdict(beat)
        folder = _spool.producer_folder(self.folder, "gpt", body.pop("producer"))
        _spool.write_json_atomically(_spool.beat_path(folder), body, durable=False)

    def ends(self) -> None:
        self.writer.close()

    def save(self, state: bytes | None) -> None:
        folder = _spool.checkpoint_folder(self.folder, "gpt", OWN.epoch, OWN.attempt, OWN.step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _spool.shard_name(0)).write_bytes(SHARD)
        if state is not None:
            _checkpoint.write_rank_state(folder, 0, state)

    def damage_state(self) -> None:
        path = _spool.checkpoint_folder(self.folder, "gpt", OWN.epoch, OWN.attempt, OWN.step) / _spool.state_name(0)
        body = bytearray(path.read_bytes())
        body[1] ^= 1
        path.write_bytes(body)

    def answer(self, launch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        folder = _spool.launch_folder(self.folder, "gpt", launch)
        granted, told = (_spool.read_json(path(folder)) for path in (_spool.grant_path, _spool.standing_path))
        assert granted is not None
        assert told is not None
        return granted, told

    def may_compute(self, launch: str) -> dict[str, Any] | None:
        return _spool.read_json(_spool.validity_path(_spool.launch_folder(self.folder, "gpt", launch)))

    def agent(self) -> Spool:
        return NodeSpool(self.folder)


@pytest.fixture(params=["memory", "disk"])
def trainer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Trainer]:
    """One rank of run gpt."""
    made: _Trainer = _InMemory() if request.param == "memory" else _OnDisk(tmp_path)
    yield made
    made.ends()


def test_I14_records_are_read_in_order_by_offset_and_a_new_agent_goes_on_where_the_last_one_settled(
    trainer: _Trainer,
) -> None:
    """Numbers per lane, ends that name the next offset, and a position that outlives the agent."""
    for lane, step in (("metrics", 1), ("checkpoints", 1), ("metrics", 2)):
        trainer.accept(lane, step)
    agent = trainer.agent()
    assert agent.runs() == ("gpt",)
    assert agent.producers("gpt") == (PRODUCER,)
    found = agent.read("gpt", PRODUCER, 0)
    assert [(one.lane, one.seq, one.step) for one in found] == [
        ("metrics", 1, 1),
        ("checkpoints", 1, 1),
        ("metrics", 2, 2),
    ]
    assert agent.read("gpt", PRODUCER, 0, most=2) == found[:2]
    assert agent.read("gpt", PRODUCER, found[1].end) == found[2:]
    assert agent.position("gpt", PRODUCER) == 0
    agent.advance("gpt", PRODUCER, found[0].end)
    again = trainer.agent()
    assert again.position("gpt", PRODUCER) == found[0].end
    assert again.read("gpt", PRODUCER, found[2].end) == ()


def test_a_log_is_retired_only_when_its_writer_is_gone_and_all_of_it_is_published(trainer: _Trainer) -> None:
    """Then it is no producer any more, and its end is that of a log that is not there."""
    trainer.accept("metrics", 1)
    trainer.accept("metrics", 2)
    agent = trainer.agent()
    first, last = agent.read("gpt", PRODUCER, 0)
    assert agent.end("gpt", PRODUCER) == last.end
    assert not agent.retire("gpt", PRODUCER, last.end)
    trainer.ends()
    assert not agent.retire("gpt", PRODUCER, first.end)
    agent.advance("gpt", PRODUCER, last.end)
    assert agent.retire("gpt", PRODUCER, last.end)
    assert (agent.producers("gpt"), agent.end("gpt", PRODUCER), agent.position("gpt", PRODUCER)) == ((), 0, 0)


def test_what_nobody_wrote_is_empty_and_no_error(trainer: _Trainer) -> None:
    """A run or a producer that this node does not know, and positions of one run are not those of another."""
    trainer.accept("metrics", 1)
    agent = trainer.agent()
    agent.advance("gpt", PRODUCER, 50)
    assert agent.read("gpt", "r00001-0123456789abcdef", 0) == ()
    assert agent.read("other", PRODUCER, 0) == ()
    assert (agent.producers("other"), agent.launches("other"), agent.beats("other")) == ((), (), ())
    assert agent.position("other", PRODUCER) == 0


def test_the_newest_beat_counts_and_only_while_its_process_lives(trainer: _Trainer) -> None:
    """The records that a process accepted are read also after it is gone."""
    trainer.accept("metrics", 1)
    agent = trainer.agent()
    assert agent.beats("gpt") == ()
    first = Beat(PRODUCER, 10, "train", 60.0, 5, 1, 1, {"metrics": 1})
    trainer.beat(first)
    assert agent.beats("gpt") == (first,)
    newest = dataclasses.replace(first, step=11, phase="save", time_ms=6)
    trainer.beat(newest)
    assert agent.beats("gpt") == (newest,)
    trainer.ends()
    assert agent.beats("gpt") == ()
    assert agent.producers("gpt") == (PRODUCER,)
    assert len(agent.read("gpt", PRODUCER, 0)) == 1


def test_a_launch_waits_until_it_is_granted_and_its_request_is_read_as_it_was_made(trainer: _Trainer) -> None:
    """Then it is told how it stands, as often as that changes."""
    asked = StartRequest("same_state", 3, {"cpu": "one"})
    trainer.wants("l1", asked)
    trainer.wants("l2", StartRequest())
    agent = trainer.agent()
    assert agent.launches("gpt") == ("l1", "l2")
    assert agent.request("gpt", "l1") == asked
    with pytest.raises(RetryableError, match="not readable"):
        agent.request("gpt", "l3")
    agent.grant("gpt", "l1", {"launch": "l1", "epoch": 1})
    agent.standing("gpt", "l1", {"state": "granted"})
    agent.standing("gpt", "l1", {"state": "provisional"})
    assert agent.launches("gpt") == ("l2",)
    granted, told = trainer.answer("l1")
    assert (granted["epoch"], told["state"]) == (1, "provisional")


def test_a_launch_that_died_while_it_waited_is_not_answered_any_more(trainer: _Trainer) -> None:
    """In a standby launches wait for weeks, and restart: a grant to a dead one would supersede the living one."""
    trainer.accept("metrics", 1)
    trainer.wants("l1", StartRequest(), PRODUCER)
    trainer.wants("l2", StartRequest())
    agent = trainer.agent()
    assert agent.launches("gpt") == ("l1", "l2")
    trainer.ends()
    assert agent.launches("gpt") == ("l2",), "who did not say that it lives counts as living"


def test_every_grant_that_was_written_is_told_also_to_the_agent_that_comes_after(trainer: _Trainer) -> None:
    """Whole, by name, of this run only: hard launches are watched by them after a restart."""
    for launch in ("l2", "l1", "l3"):
        trainer.wants(launch, StartRequest())
    agent = trainer.agent()
    assert agent.grants("gpt") == ()
    second: dict[str, object] = {"launch": "l2", "epoch": 1, "attempt": 2, "fencing": "hard", "valid_until_s": 12.5}
    first: dict[str, object] = {"launch": "l1", "epoch": 1, "attempt": 1, "fencing": "soft", "folder": None}
    agent.grant("gpt", "l2", second)
    assert agent.grants("gpt") == (second,)
    agent.grant("gpt", "l1", first)
    assert agent.grants("gpt") == (first, second), "l3 has asked only"
    assert trainer.agent().grants("gpt") == (first, second)
    assert agent.grants("other") == ()


def test_the_last_word_on_a_launchs_validity_replaces_the_one_before(trainer: _Trainer) -> None:
    """As its guard reads it: the newest, whole, and nothing of other launches'."""
    for launch in ("l1", "l2"):
        trainer.wants(launch, StartRequest())
    agent = trainer.agent()
    assert trainer.may_compute("l1") is None
    last = {"launch": "l1", "epoch": 1, "attempt": 1, "state": "superseded", "valid_s": 0.0, "valid_until_s": 9.0}
    agent.validity("gpt", "l1", {**last, "state": "granted", "valid_s": 3.4, "valid_until_s": 12.4, "held": False})
    trainer.agent().validity("gpt", "l1", dict(last))
    assert trainer.may_compute("l1") == last
    assert trainer.may_compute("l2") is None
    assert agent.launches("gpt") == ("l1", "l2"), "a validity is no grant"


def test_shards_are_read_by_range_and_what_is_short_or_gone_is_corrupt(trainer: _Trainer) -> None:
    """Never half a chunk; after the release nothing is there."""
    trainer.save(None)
    agent = trainer.agent()
    assert agent.rank_state(OWN, 0) is None
    trainer.save(b"rng")
    assert agent.rank_state(OWN, 0) == b"rng"
    body = agent.chunk(OWN, 0, 0, 120) + agent.chunk(OWN, 0, 120, 80)
    assert hashlib.sha256(body).hexdigest() == hashlib.sha256(SHARD).hexdigest()
    with pytest.raises(CorruptError, match="79 of 80 bytes at 121"):
        agent.chunk(OWN, 0, 121, 80)
    agent.release(OWN)
    agent.release(OWN)
    assert agent.rank_state(OWN, 0) is None
    with pytest.raises(CorruptError):
        agent.chunk(OWN, 0, 0, 1)


def test_I7_a_rank_state_that_a_disk_changed_is_corrupt(trainer: _Trainer) -> None:
    """Seen: a byte flipped before the upload was digested as it was read, committed and replicated."""
    trainer.save(b"rng")
    trainer.damage_state()
    with pytest.raises(CorruptError, match="trainer wrote"):
        trainer.agent().rank_state(OWN, 0)


def test_a_rank_state_that_is_given_again_is_not_taken_for_damage(tmp_path: Path) -> None:
    """Between the old state and the new one there is no descriptor, so there is none to differ from."""
    trainer = _OnDisk(tmp_path)
    trainer.save(b"rng")
    trainer.save(b"another rng")
    assert trainer.agent().rank_state(OWN, 0) == b"another rng"
    folder = _spool.checkpoint_folder(tmp_path, "gpt", OWN.epoch, OWN.attempt, OWN.step)
    (folder / _spool.state_descriptor_name(0)).write_bytes(b"{")
    with pytest.raises(CorruptError, match="no descriptor"):
        trainer.agent().rank_state(OWN, 0)
    trainer.ends()
