"""Metrics make room when the spool's bound comes near, by a rule that is recorded; nothing else ever does."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farside
from farside import _spool, _thinning
from farside._session import Session, identity
from farside._thinning import ACCOUNT_S, NONE, MetricGate, Room, keep_every


class _Log:
    """A rank's log and its surroundings: what enters it, the room it has, and a clock."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int, dict[str, Any]]] = []
        self.room = Room(0, 100, 1_000)
        self.full = False
        self.now_s = 0.0
        self.gate = MetricGate(self.append, lambda: self.room, lambda job: job(), lambda: self.now_s)

    def append(self, kind: str, step: int, body: dict[str, Any]) -> None:
        if self.full:
            raise _spool.SpoolError(errno.ENOSPC, "no space left")
        self.records.append((kind, step, body))

    def train(self, begin: int, end: int, step_s: float = 1.0) -> None:
        for step in range(begin, end):
            self.gate.offer(step, {"values": {"loss": 1.0}})
            self.now_s += step_s

    def kept(self) -> list[int]:
        return [step for kind, step, _ in self.records if kind == "metric"]

    def thinned(self) -> list[dict[str, Any]]:
        return [body for kind, _, body in self.records if kind == "thinned"]


def _accounted(log: _Log) -> set[int]:
    """The steps that the records of thinning say are missing."""
    found: set[int] = set()
    for body in log.thinned():
        steps = range(body["first_step"], body["last_step"] + 1)
        every = body["keep_every"]
        left_out = [step for step in steps if every == NONE or step % every] if body["dropped"] else []
        assert len(left_out) == body["dropped"]
        found.update(left_out)
    return found


def test_with_room_every_metric_is_kept_and_nothing_is_told() -> None:
    """The ordinary case costs no record."""
    log = _Log()
    log.room = Room(49, 100, 1_000)
    log.train(0, 30)
    assert log.kept() == list(range(30))
    assert log.thinned() == []


def test_I14_every_step_is_kept_or_accounted_for_while_the_room_shrinks_and_grows() -> None:
    """By exact numbers: kept and told of as left out are together all steps, and never both."""
    log = _Log()
    at = 0
    for used in (10, 60, 80, 92, 95, 99, 100, 99, 80, 60, 10):
        log.room = Room(used, 100, 1_000)
        log.train(at, at + 37)
        at += 37
    log.gate.finish()
    kept, told = set(log.kept()), _accounted(log)
    assert kept | told == set(range(at))
    assert kept & told == set()
    rules = [body["keep_every"] for body in log.thinned()]
    assert {2, 4, 8, 16, NONE} <= set(rules)
    assert all((body["bytes_max"], body["free_bytes"]) == (100, 1_000) for body in log.thinned())


def test_the_beginning_of_a_rule_is_on_record_before_the_first_step_it_leaves_out() -> None:
    """A process that dies before it tells its account has at least said from which step on one is missing."""
    log = _Log()
    log.room = Room(60, 100, 1_000)
    log.train(1, 3)
    assert [(kind, step) for kind, step, _ in log.records[:1]] == [("thinned", 1)]
    assert (log.thinned()[0]["dropped"], log.thinned()[0]["keep_every"]) == (0, 2)


def test_under_one_rule_the_account_is_told_from_time_to_time_and_not_for_every_step() -> None:
    """Telling must cost less than what it saves."""
    log = _Log()
    log.room = Room(80, 100, 1_000)
    log.train(0, 1_000, step_s=0.1)
    assert len(log.thinned()) <= 5
    assert len(log.kept()) == pytest.approx(250, abs=10)
    assert log.now_s > 9 * ACCOUNT_S


def test_I16_a_full_disk_gives_one_alarm_with_its_figures_and_training_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However long it is full; once there is room, what was refused is told of in the log itself."""
    log = _Log()
    log.train(0, 5)
    log.full = True
    with caplog.at_level(logging.WARNING, "farside"):
        log.train(5, 205)
        alarms = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
        log.full = False
        log.train(205, 210)
    assert len(alarms) == 1
    for figure in ("farside.spool_full", "used_bytes=0", "bytes_max=100", "free_bytes=1000", "no space left"):
        assert figure in alarms[0]
    assert "refused=200" in caplog.messages[-1]
    log.gate.finish()
    assert set(log.kept()) | _accounted(log) == set(range(210))
    assert _accounted(log) == set(range(5, 205))


def test_a_log_that_is_sick_otherwise_is_not_taken_for_a_full_disk() -> None:
    """It is reported as what it is."""
    log = _Log()

    def sick(*_: object) -> None:
        raise _spool.SpoolError(errno.EIO, "input/output error")

    gate = MetricGate(sick, lambda: log.room, lambda job: job(), lambda: log.now_s)
    with pytest.raises(_spool.SpoolError):
        gate.offer(1, {"values": {}})


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.integers(0, 10**12))
def test_the_rule_depends_on_the_share_alone_and_tightens_with_it(used: int, most: int, free: int) -> None:
    """More used never keeps more; nothing free keeps nothing; the bound is never passed."""

    def strictness(room: Room) -> float:
        return keep_every(room) or float("inf")

    here = Room(used, most, free)
    assert strictness(Room(used + 1, most, free)) >= strictness(here)
    assert strictness(Room(used, most, free + 1)) <= strictness(here)
    assert keep_every(Room(used, most, 0)) == NONE
    assert used < most or keep_every(here) == NONE


def test_the_room_is_measured_over_all_ranks_of_the_node_and_shrinks_with_the_disk(tmp_path: Path) -> None:
    """Their logs share the bound; published segments count no more; the disk's free bytes are what it says."""
    writers = []
    for rank in range(3):
        writer = _spool.SpoolWriter(tmp_path / f"r{rank}", "gpt")
        writer.append("metrics", "metric", epoch=1, attempt=1, step=1, body={"pad": "p" * 1_000})
        writers.append(writer)
    room = _thinning.measure(tmp_path, 5_000)
    sizes = sum(one.path.stat().st_size for one in writers)
    assert (room.used_bytes, room.bytes_max) == (sizes, 5_000)
    disk = os.statvfs(tmp_path)
    assert room.free_bytes == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.2)
    assert keep_every(room) == 2
    for writer in writers:
        writer.close()


def test_a_run_over_its_bound_thins_its_metrics_and_still_records_its_data_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the trainer's own interface, with `FARSIDE_SPOOL_BYTES_MAX`: numbers have no hole."""
    monkeypatch.setenv("FARSIDE_SPOOL_BYTES_MAX", "20000")
    rank = identity(run="gpt", node_dir=tmp_path, launch="l1", rank=0, world_size=1)
    assert rank is not None
    session = Session(rank, clock=iter(range(10**6)).__next__)  # every metric looks at the room first
    run = farside.Run(session, on_superseded="exit")
    _spool.write_json_atomically(
        _spool.grant_path(session.launch_folder), {"launch": "l1", "epoch": 1, "attempt": 1, "step": 0, "folder": None}
    )
    run.start()
    for step in range(400):
        run.metric(step, loss=0.5, grad_norm=1.0)
        assert session.background.flush(10)
    run.data_version("corpus", "d" * 64, [], "sampler", 7)
    run.finish(400)
    (folder,) = _spool.producers_folder(tmp_path, "gpt").iterdir()
    found = [record for _, record in _spool.scan_producer(folder).entries]
    metrics = [record for record in found if record["lane"] == "metrics"]
    assert [record["seq"] for record in metrics] == list(range(1, len(metrics) + 1))
    kept = [record["step"] for record in metrics if record["kind"] == "metric"]
    dropped = sum(record["body"]["dropped"] for record in metrics if record["kind"] == "thinned")
    assert len(kept) + dropped == 400
    assert dropped > 100
    assert found[-2]["kind"] == "data_version" or found[-1]["kind"] == "data_version"
    assert _spool.end_of(folder) < 20_000 + 5_000, "what tells of the thinning is small, and comes ever more seldom"


_FULL = """
import resource, signal, sys
import farside
from farside import _spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = farside.Run.attach(run="gpt", node_dir=sys.argv[1], launch="l1", rank=0, world_size=1)
session = run._session
answer = {"launch": "l1", "epoch": 1, "attempt": 1, "step": 0, "folder": None}
_spool.write_json_atomically(_spool.grant_path(session.launch_folder), answer)
run.start()
run.metric(1, loss=0.5)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
for step in range(2, 50):
    run.metric(step, loss=0.5)
run.data_version("corpus", "d" * 64, [], "sampler", 7)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
run.beat(50)
run.metric(50, loss=0.5)
run.finish(50)
"""


def test_I16_a_data_version_that_found_no_room_is_recorded_once_there_is_some(tmp_path: Path) -> None:
    """A real log that the system refuses to let grow: one alarm, and nothing but metrics is missing in the end."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(_spool.__file__).parents[1])},
    )
    assert done.stderr.count("farside.spool_full") == 1
    (folder,) = _spool.producers_folder(tmp_path, "gpt").iterdir()
    found = [(record["kind"], record["step"]) for _, record in _spool.scan_producer(folder).entries]
    assert found == [("metric", 1), ("data_version", 0), ("thinned", 49), ("metric", 50)]
