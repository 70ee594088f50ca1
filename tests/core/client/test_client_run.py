"""The client as a training script meets it: attached, waiting, granted, superseded, and without Farside."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farside
from farside import _checkpoint, _session, _spool, _values
from farside._run import OnSuperseded
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.just("$tuple"), inner, max_size=3)
    ),
    max_leaves=8,
)


class Node:
    """A node directory with this test in the agent's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launch = _spool.launch_folder(folder, "gpt", "l1")
        self.pool = ThreadPoolExecutor()

    def attach(self, rank: int = 0, on_superseded: OnSuperseded = "exit") -> farside.Run:
        """One rank of the launch."""
        return farside.Run.attach(
            run="gpt", node_dir=self.folder, launch="l1", rank=rank, world_size=2, on_superseded=on_superseded
        )

    def grant(self, **changes: object) -> None:
        """Answer the launch."""
        answer = {"launch": "l1", "epoch": 3, "attempt": 5, "step": 0, "mode": "exact", "exact": True, "folder": None}
        _spool.write_json_atomically(_spool.grant_path(self.launch), answer | changes)

    def stand(self, state: str, **more: object) -> None:
        """Tell the launch how it stands."""
        _spool.write_json_atomically(
            _spool.standing_path(self.launch), {"state": state, "epoch": 3, "attempt": 5, **more}
        )

    def started(self, rank: int = 0, on_superseded: OnSuperseded = "exit") -> farside.Run:
        """A rank that has its grant."""
        run = self.attach(rank, on_superseded)
        self.grant()
        run.start()
        return run

    def records(self, rank: int = 0) -> list[dict[str, Any]]:
        """The records that a rank has appended."""
        logs = sorted(_spool.producers_folder(self.folder, "gpt").glob(f"r{rank:05d}-*/log"))
        return [record for log in logs for _, record in _spool.scan(log).entries]

    def beat(self, rank: int = 0) -> dict[str, Any]:
        """A rank's newest beat; empty before its first one, which a thread writes, is there."""
        paths = list(_spool.producers_folder(self.folder, "gpt").glob(f"r{rank:05d}-*/beat.json"))
        assert len(paths) <= 1
        return (_spool.read_json(paths[0]) or {}) if paths else {}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A fresh node."""
    made = Node(tmp_path / "node")
    yield made
    made.pool.shutdown()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait, with a deadline."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_start_asks_waits_and_begins_under_the_grant(node: Node) -> None:
    """The request is on disk, nothing begins before the answer, and the answer is what start returns."""
    run = node.attach()
    starting = node.pool.submit(run.start)
    eventually(_spool.request_path(node.launch).exists)
    request = _spool.read_json(_spool.request_path(node.launch)) or {}
    assert (request["run"], request["world_size"], request["mode"]) == ("gpt", 2, "exact")
    assert request["fingerprint"]["world_size"] == "2"
    eventually(lambda: bool(list(_spool.producers_folder(node.folder, "gpt").glob("*/beat.json"))))
    assert node.beat()["phase"] == "waiting"
    assert run.status().state == "waiting"
    assert not starting.done()
    node.grant()
    assert starting.result(10) == farside.Start(3, 5, 0, None, None, "exact", exact=True)
    assert run.status() == farside.Status("granted", 3, 5, None, None, "")


def test_only_the_nodes_first_rank_asks(node: Node) -> None:
    """One request a launch and node."""
    run = node.attach(rank=1)
    node.grant()
    run.start()
    assert not _spool.request_path(node.launch).exists()


def test_a_launch_name_that_is_given_again_asks_under_a_fresh_one_and_all_ranks_follow(node: Node) -> None:
    """A requeued job: the old answer is an attempt that is over. The second rank may come first, and waits."""
    first = node.attach()
    asked = node.pool.submit(first.start)
    eventually(_spool.request_path(node.launch).exists)
    node.grant()
    assert asked.result(10).attempt == 5
    joined = node.attach(rank=1)
    assert joined.start().attempt == 5, "a rank of the same launch that comes late"
    for rank in (first, joined):
        assert rank._session is not None
        rank._session.close()
    second = node.pool.submit(node.attach(rank=1).start)
    again = node.pool.submit(node.attach().start)
    fresh = node.launch.with_name("l1.2")
    eventually(_spool.request_path(fresh).exists)
    assert (_spool.read_json(_spool.request_path(fresh)) or {})["launch"] == "l1.2"
    assert not again.done()
    assert not second.done()
    body = {"launch": "l1.2", "epoch": 4, "attempt": 6, "step": 0, "mode": "exact", "exact": True, "folder": None}
    _spool.write_json_atomically(_spool.grant_path(fresh), body)
    assert [one.result(10).attempt for one in (again, second)] == [6, 6]


def test_a_grant_that_is_not_for_this_launch_is_waited_out(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged or foreign answer starts nobody."""
    run = node.attach()
    node.grant(launch="other")
    starting = node.pool.submit(run.start)
    eventually(lambda: "farside.grant_unreadable" in caplog.text)
    assert not starting.done()
    node.grant(step=0)
    assert starting.result(10).epoch == 3


def test_waiting_costs_near_nothing(node: Node) -> None:
    """A standby waits for hours, polling 50 times a second: less than 2% of a core."""
    run = node.attach()
    starting = node.pool.submit(run.start)
    eventually(_spool.request_path(node.launch).exists)
    begun, used = time.monotonic(), time.process_time()
    eventually(lambda: time.monotonic() - begun > 1.0)
    # The test's own polling, 200 times a second, is in this figure.
    assert time.process_time() - used < 0.05 * (time.monotonic() - begun)
    node.grant()
    starting.result(10)


def test_a_data_version_is_recorded_once_the_grant_is_there_by_rank_0(node: Node) -> None:
    """Said before start, it waits for the epoch; the other ranks only remember it for the intent."""
    for rank in (0, 1):
        run = node.attach(rank)
        run.data_version("books", "d1", [{"path": "a", "size": 1, "sha256": "x"}], "uniform", 7)
        assert node.records(rank) == []
        node.grant()
        run.start()
    assert node.records(1) == []
    (record,) = node.records(0)
    assert (record["kind"], record["epoch"], record["attempt"]) == ("data_version", 3, 5)
    assert record["body"]["digest"] == "d1"


def test_metrics_carry_epoch_step_and_number_also_when_they_are_not_finite(node: Node) -> None:
    """A loss of nan is news: JSON has no word for it, so it travels as a string that float() reads."""
    run = node.started()
    run.metric(1, loss=2.5)
    run.metric(2, loss=math.nan, grad_norm=math.inf)
    first, second = node.records()
    assert (first["seq"], first["step"], first["body"]) == (1, 1, {"values": {"loss": 2.5}})
    assert second["seq"] == 2
    assert math.isnan(float(second["body"]["values"]["loss"]))
    assert float(second["body"]["values"]["grad_norm"]) == math.inf


def test_a_metric_before_start_has_no_epoch_and_is_refused_with_a_word(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Records are never restamped, so nothing is kept for later."""
    node.attach().metric(1, loss=1.0)
    assert "farside.too_early" in caplog.text
    assert node.records() == []


def test_beats_carry_step_phase_budget_and_last_numbers(node: Node) -> None:
    """From the last assigned number the agent sees a lost tail."""
    run = node.started()
    run.metric(1, loss=1.0)
    run.beat(1, phase="evaluate", budget_s=300)
    eventually(lambda: node.beat().get("phase") == "evaluate")
    beat = node.beat()
    assert (beat["step"], beat["budget_s"], beat["last_seq"]) == (1, 300, {"metrics": 1})
    assert (beat["epoch"], beat["attempt"]) == (3, 5)


def test_a_superseded_run_ends_at_a_step_boundary(node: Node) -> None:
    """Default: the process ends with a code of its own."""
    run = node.started()
    run.beat(1)
    node.stand("superseded", reason="epoch 4 is west's")
    with pytest.raises(farside.SupersededError, match="epoch 4 is west's") as raised:
        run.beat(2)
    assert raised.value.code == 75
    assert run.status().state == "superseded"


def test_a_superseded_run_may_only_warn_or_call(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The other two answers, once each."""
    told: list[farside.Status] = []
    warned, called = node.started(on_superseded="warn"), node.started(on_superseded=told.append)
    node.stand("superseded", reason="epoch 4")
    for run in (warned, called):
        run.beat(1)
        run.beat(2)
    assert caplog.text.count("farside.superseded") == 2
    assert [status.reason for status in told] == ["epoch 4"]


def test_status_tells_recoverable_from_committed(node: Node) -> None:
    """The agent's news, read again only when the file changes."""
    run = node.started()
    node.stand("provisional", committed_step=20, recoverable_step=10, reason="witness unreachable")
    assert run.status() == farside.Status("provisional", 3, 5, 20, 10, "witness unreachable")
    node.stand("granted", committed_step=30, recoverable_step=30)
    assert run.status().recoverable_step == 30


def test_status_tells_which_checkpoints_there_will_not_be_and_why(node: Node) -> None:
    """Those that the agent abandoned, also after it was started again and knows of none; and those skipped here."""
    run = node.started()
    assert run.status().given_up == ()
    node.stand("granted", given_up=[{"step": 20, "reason": "rank 1's chunk is not what was digested"}])
    run.beat(21)
    node.stand("granted", given_up=[])
    assert run.status().given_up == (farside.GivenUp(20, "rank 1's chunk is not what was digested"),)
    assert run._session is not None
    run._session.skipped(30, "no space left on device")
    for odd in (None, 7, [1, {"step": "x"}, {"reason": "y"}]):
        node.stand("granted", given_up=odd)
        assert [one.step for one in run.status().given_up] == [20, 30]
    for step in range(100, 140):
        run._session.skipped(step, "no space left on device")
    assert [one.step for one in run.status().given_up] == list(range(124, 140))


def test_the_values_of_one_step_are_divided_into_records_that_fit_and_none_is_lost(node: Node) -> None:
    """Very many, or with very long names; a usual step is one record."""
    run = node.started()
    wide = {f"layer.{at:06d}.grad_norm": float(at) for at in range(20_000)}
    for step, values in enumerate(({"loss": 1.0}, wide, {"y" * 300_000: 1.0, "x": 2.0, "ü" * 50_000: 3.0}), 1):
        run.metric(step, **values)
    run.finish(3)
    records = [one for one in node.records() if one["kind"] == "metric"]
    assert [one["seq"] for one in records] == list(range(1, len(records) + 1))
    assert [one["step"] for one in records].count(1) == 1
    assert {name: value for one in records if one["step"] == 2 for name, value in one["body"]["values"].items()} == wide
    assert max(len(str(one["body"])) for one in records if one["step"] == 2) < 400_000
    assert [list(map(len, one["body"]["values"])) for one in records if one["step"] == 3] == [[300_000], [1], [50_000]]


def test_a_data_version_that_no_record_can_hold_does_not_stop_the_training(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, and not tried again with every step."""
    run = node.started()
    run.data_version("v", "d", [{"path": object()}], "s", 1)
    run.beat(1)
    assert "cannot be kept" in caplog.text
    assert [one for one in node.records() if one["lane"] == "data-versions"] == []


def test_a_planned_move_holds_the_trainer_until_it_is_handed_over_or_called_off(node: Node) -> None:
    """Beside it nothing costs more than a look; while it waits, it says so in its beats."""
    run = node.started()
    assert run.handed_over(10) is False
    node.stand("granted", draining=True)
    for answer, state in ((False, "granted"), (True, "superseded")):
        node.stand("granted", draining=True)
        waits = node.pool.submit(run.handed_over, 10, 0.01)
        wait_until(lambda: _phase(node) == "drained", 10, "the beat that says so")
        node.stand(state, draining=False)
        assert waits.result(10) is answer
        run.beat(10, "train")
        wait_until(lambda: _phase(node) == "train", 10, "the next beat")


def test_without_an_agent_no_planned_move_ever_holds_the_trainer(tmp_path: Path) -> None:
    """I16: degraded, it goes on."""
    del tmp_path
    assert farside.Run(None, "exit").handed_over(10) is False


def _phase(node: Node) -> str:
    (producer,) = _spool.producers_folder(node.folder, "gpt").iterdir()
    return str((_spool.read_json(_spool.beat_path(producer)) or {}).get("phase"))


def test_a_rank_state_is_laid_beside_the_shard_with_its_digest(node: Node) -> None:
    """The descriptor comes last; what an index folder then holds is verified as it is read."""
    run = node.started()
    run.rank_state(10, b"state")
    run.finish(10)
    folder = _spool.checkpoint_folder(node.folder, "gpt", 3, 5, 10)
    described = _spool.read_json(folder / _spool.state_descriptor_name(0)) or {}
    index = {"rank_states": {"0": {"file": _spool.state_name(0), **described}}}
    assert _checkpoint.read_rank_state(folder, index, 0) == b"state"
    assert _checkpoint.read_rank_state(folder, index, 1) is None
    (folder / _spool.state_name(0)).write_bytes(b"stale")
    with pytest.raises(farside.CorruptCheckpointError, match="rank 0's state is not what was saved"):
        _checkpoint.read_rank_state(folder, index, 0)


def test_finish_leaves_the_last_beat_and_gives_up_the_log(node: Node) -> None:
    """After it nothing of the run waits in memory."""
    run = node.started()
    run.metric(1, loss=1.0)
    run.finish(1)
    assert node.beat()["phase"] == "finished"
    (log,) = _spool.producers_folder(node.folder, "gpt").glob("*/log")
    assert not _spool.is_writer_alive(log)
    run.metric(2, loss=1.0)  # late words are not an error of training


def test_without_farside_every_call_does_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Degraded: said once, never raised, and start returns at once."""
    monkeypatch.delenv("FARSIDE_RUN", raising=False)
    run = farside.Run.attach()
    assert run.start() == farside.Start(0, 0, 0, None, None, "exact", exact=False)
    run.data_version("books", "d", [], "uniform", 7)
    run.metric(1, loss=1.0)
    run.rank_state(1, b"")
    run.beat(1)
    run.finish(1)
    assert run.status().state == "degraded"
    assert caplog.text.count("farside.degraded") == 1


@pytest.mark.parametrize("name", ["../gpt", "a/b"])
def test_an_unusable_name_or_folder_degrades(tmp_path: Path, name: str) -> None:
    """A wrong setting is logged; it does not stop a training job that may have waited for its machines."""
    (tmp_path / "file").write_text("")
    assert farside.Run.attach(run=name, node_dir=tmp_path, launch="l1").status().state == "degraded"
    assert farside.Run.attach(run="gpt", node_dir=tmp_path / "file", launch="l1").status().state == "degraded"


def test_a_spool_that_vanishes_under_the_run_is_logged_once_a_kind(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on; the log is not flooded."""
    run = node.started()
    run.finish(0)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 5):
            run.metric(step, loss=1.0)
    assert caplog.text.count("farside.degraded in=metric") == 1


def test_every_torchrun_restart_is_a_launch_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two generations of ranks must never share a grant, whatever the launch is named by."""

    def launch(**variables: str) -> str:
        for name in ("FARSIDE_LAUNCH", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        who = _session.identity("gpt", tmp_path, None, 0, 1)
        assert who is not None
        return who.launch

    assert launch(FARSIDE_LAUNCH="a") == "a"
    assert launch(FARSIDE_LAUNCH="a", TORCHELASTIC_RESTART_COUNT="1") == "a-1"
    assert launch(TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT="2") == "job-2"
    unnamed = launch(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="0")
    assert unnamed.startswith("local-")
    assert unnamed == launch()


@given(_plain)
def test_plain_values_come_back_equal_in_value_and_type(value: object) -> None:
    """Tuples stay tuples, integer keys stay integers, infinities survive, and a key named like a tag is a key."""
    again = _values.decode_value(_values.encode_value("x", value))
    assert repr(again) == repr(value)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, 1j, object(), [{"deep": (b"bytes",)}]])
def test_what_is_not_plain_is_refused_by_name(value: object) -> None:
    """The error names the key and the way out."""
    with pytest.raises(farside.UnsupportedValueError, match=r"optimizer\.x holds a .*rank_state"):
        _values.encode_value("optimizer.x", value)


def test_pythons_random_state_goes_round_without_a_pickle() -> None:
    """And what was given beside it comes back."""
    random.seed(3)
    blob = farside.rng.capture(sampler={"position": 12})
    expected = [random.random() for _ in range(5)]
    assert farside.rng.restore(blob) == {"sampler": {"position": 12}}
    assert [random.random() for _ in range(5)] == expected


def test_the_quota_holds_for_ranks_that_write_at_once(tmp_path: Path) -> None:
    """Eight writers, room for three: reserved one after another, so three get it."""
    gate, outcomes = threading.Barrier(8), []

    def save(rank: int) -> None:
        gate.wait()
        try:
            with _checkpoint.reservation(tmp_path, 1000, 3500):
                _checkpoint.ShardWriter(tmp_path / "checkpoints" / "s1", rank, 1000, 512)
            outcomes.append("written")
        except OSError as error:
            outcomes.append(str(error.strerror).split(",", maxsplit=1)[0])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(8)))
    assert sorted(outcomes) == ["3000 bytes used"] * 5 + ["written"] * 3


def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    """An index comes from the network: it may not point out of its folder."""
    names = ["manifest_digest", "epoch", "attempt", "step", "mode", "world_size", "items", "planner", "data_version"]
    index: dict[str, Any] = {**dict.fromkeys(names), "files": {"0": "../shard"}, "rank_states": {}}
    _checkpoint.write_index(tmp_path, index)
    with pytest.raises(farside.CorruptCheckpointError, match="outside its folder"):
        _checkpoint.read_index(tmp_path)
    del index["items"]
    with pytest.raises(ValueError, match="lacks items"):
        _checkpoint.write_index(tmp_path, index)
