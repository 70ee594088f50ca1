"""A training run that is killed and resumed ends with the same parameters, bit for bit; and nothing is pickled."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from farside import _checkpoint, _spool
from services.runtime.child_processes import compiling_environment, family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.torch, pytest.mark.alone]

CLIENT = Path(_spool.__file__).parents[1]
SMALL = ["--steps", "12", "--checkpoint-every", "4", "--batch", "2", "--context", "32"]
SMALL += ["--width", "32", "--layers", "2", "--heads", "2"]
DEADLINE_S = 120.0


@dataclass
class Launch:
    """One torchrun of the example trainer."""

    process: subprocess.Popen[bytes]
    node_dir: Path
    out: Path
    name: str

    @property
    def folder(self) -> Path:
        """The conversation with the agent."""
        return _spool.launch_folder(self.node_dir, "gpt", self.name)

    def kill(self) -> None:
        """SIGKILL to launcher and ranks, as when the machine is lost."""
        for pid in family(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def finish(self) -> dict[str, Any]:
        """Wait for the end; the final step and digest."""
        assert self.process.wait(timeout=DEADLINE_S) == 0, (self.out / "log").read_text()[-4000:]
        result: dict[str, Any] = json.loads((self.out / "final.json").read_text())
        return result


class Node:
    """A training node: its folder, its launches, and a test in the agent's place."""

    def __init__(self, folder: Path, world_size: int) -> None:
        self.folder, self.world_size = folder, world_size
        self.launches: list[Launch] = []

    def launch(self, name: str, *flags: str, **environment: str) -> Launch:
        """Start the trainer under torchrun."""
        out, node_dir = self.folder / name, self.folder / f"{name}-node"
        out.mkdir(parents=True)
        variables = {
            "PYTHONPATH": str(CLIENT),
            "OMP_NUM_THREADS": "1",
            "FARSIDE_RUN": "gpt",
            "FARSIDE_NODE_DIR": str(node_dir),
            "FARSIDE_LAUNCH": name,
            **environment,
        }
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(self.world_size), str(CLIENT / "examples" / "train_gpt.py"), *SMALL, "--out", str(out), *flags]
        with (out / "log").open("wb") as log:
            process = subprocess.Popen(command, env=compiling_environment(variables), stdout=log, stderr=log)
        self.launches.append(Launch(process, node_dir, out, name))
        return self.launches[-1]

    def grant(self, launch: Launch, attempt: int, step: int = 0, folder: Path | None = None) -> None:
        """Answer the launch's request."""
        wait_until(lambda: _spool.request_path(launch.folder).exists(), launch)
        answer = {"launch": launch.name, "epoch": 1, "attempt": attempt, "step": step, "mode": "exact", "exact": True}
        answer |= {"manifest_digest": "", "folder": str(folder) if folder else None}
        _spool.write_json_atomically(_spool.grant_path(launch.folder), answer)


def wait_until(condition: Callable[[], bool], launch: Launch) -> None:
    """Wait for a condition while the launch lives."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert launch.process.poll() is None, (launch.out / "log").read_text()[-4000:]
        assert time.monotonic() < deadline, "the condition did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def node_of(tmp_path: Path) -> Iterator[Callable[[int], Node]]:
    """Makes nodes, and leaves no process behind."""
    nodes: list[Node] = []

    def make(world_size: int) -> Node:
        nodes.append(Node(tmp_path, world_size))
        return nodes[-1]

    yield make
    for node in nodes:
        for launch in node.launches:
            launch.kill()


def records(node_dir: Path, kind: str) -> list[dict[str, Any]]:
    """All records of one kind in the node's logs."""
    logs = sorted(_spool.producers_folder(node_dir, "gpt").glob("*/log"))
    found = [record for log in logs for _, record in _spool.scan(log).entries]
    return [record for record in found if record["kind"] == kind]


def complete_intents(launch: Launch, world_size: int) -> list[dict[str, Any]]:
    """The intents whose rank states are all there: what an agent would commit."""

    def is_complete(intent: dict[str, Any]) -> bool:
        folder = checkpoint_of(launch, intent)
        return all((folder / _spool.state_descriptor_name(rank)).exists() for rank in range(world_size))

    return [intent for intent in records(launch.node_dir, "intent") if is_complete(intent)]


def checkpoint_of(launch: Launch, intent: dict[str, Any]) -> Path:
    """Where an intent's files lie."""
    return _spool.checkpoint_folder(launch.node_dir, "gpt", intent["epoch"], intent["attempt"], intent["step"])


def build_index(launch: Launch, intent: dict[str, Any], target: Path) -> Path:
    """Copies a checkpoint's files and describes them, as the agent or the warmer would."""
    body, source = intent["body"], checkpoint_of(launch, intent)
    shutil.copytree(source, target)
    ranks = [shard["rank"] for shard in body["ranks"]]
    states = {rank: _spool.read_json(source / _spool.state_descriptor_name(rank)) or {} for rank in ranks}
    index = {name: body[name] for name in ("mode", "world_size", "items", "planner", "data_version")}
    index |= {name: intent[name] for name in ("epoch", "attempt", "step")}
    index |= {"manifest_digest": "", "files": {str(rank): _spool.shard_name(rank) for rank in ranks}}
    index["rank_states"] = {str(rank): {"file": _spool.state_name(rank), **states[rank]} for rank in ranks}
    _checkpoint.write_index(target, index)
    return target


def killed_and_resumed(node: Node, whole: Launch, index: Path) -> tuple[Launch, int]:
    """Kill a launch after a checkpoint; a standby, warm and waiting in ``start()`` before that, goes on from there."""
    killed, resumed = node.launch("killed", "--min-step-s", "0.2"), node.launch("resumed")
    for launch in (resumed, killed):
        wait_until(_spool.request_path(launch.folder).exists, launch)
    node.grant(killed, attempt=1)
    wait_until(lambda: bool(complete_intents(killed, node.world_size)), killed)
    killed.kill()
    newest = complete_intents(killed, node.world_size)[-1]
    assert newest["step"] < 12, "the run was to be killed before its end"
    node.grant(resumed, 2, newest["step"], build_index(killed, newest, index))
    assert resumed.finish() == whole.finish()
    return resumed, newest["step"]


def test_two_ranks_killed_and_resumed_end_as_if_farside_and_the_kill_had_not_been(
    node_of: Callable[[int], Node], tmp_path: Path
) -> None:
    """Same final parameters as the same script without Farside, which just trains: said once, nothing on disk."""
    node = node_of(2)
    alone = node.launch("alone", FARSIDE_RUN="")
    killed_and_resumed(node, alone, tmp_path / "index")
    assert (alone.out / "log").read_text().count("farside.degraded") == 2
    assert not alone.node_dir.exists()


def test_three_ranks_killed_and_resumed_are_bit_identical_in_parameters_and_losses(
    node_of: Callable[[int], Node], tmp_path: Path
) -> None:
    """With three ranks the order of a sum matters, so this fails if the warm-up before the load is left out."""
    node = node_of(3)
    whole = node.launch("whole")
    node.grant(whole, attempt=1)
    resumed, step = killed_and_resumed(node, whole, tmp_path / "index")
    losses = {line["step"]: line["loss"] for line in map(json.loads, (whole.out / "losses.jsonl").open())}
    again = {line["step"]: line["loss"] for line in map(json.loads, (resumed.out / "losses.jsonl").open())}
    assert again == {number: loss for number, loss in losses.items() if number > step}
    check_records(whole, 3)


def check_records(launch: Launch, world_size: int) -> None:
    """The spool of an uninterrupted launch is complete, numbered, chained, and plain."""
    intents = records(launch.node_dir, "intent")
    assert [(one["step"], one["body"]["previous_step"]) for one in intents] == [(4, None), (8, 4), (12, 8)]
    (version,) = records(launch.node_dir, "data_version")
    assert {one["body"]["data_version"] for one in intents} == {version["body"]["digest"]}
    assert [one["step"] for one in records(launch.node_dir, "metric")] == list(range(1, 13))
    beats = [_spool.read_json(path) for path in _spool.producers_folder(launch.node_dir, "gpt").glob("*/beat.json")]
    assert [beat and (beat["step"], beat["phase"]) for beat in beats] == [(12, "finished")] * world_size
    for intent in intents:
        check_files(checkpoint_of(launch, intent), intent["body"])


def check_files(folder: Path, body: dict[str, Any]) -> None:
    """Every byte of a shard belongs to an item or is padding; plain items are JSON; nothing else lies there."""
    covered = {shard["rank"]: bytearray(shard["size"]) for shard in body["ranks"]}
    for item in body["items"]:
        data = (folder / _spool.shard_name(item["rank"])).read_bytes()
        piece = data[item["offset"] : item["offset"] + item["length"]]
        assert item["offset"] % 64 == 0
        covered[item["rank"]][item["offset"] : item["offset"] + item["length"]] = b"\x01" * item["length"]
        if item["kind"] == "json":
            json.loads(piece)
    for rank, marks in covered.items():
        data = (folder / _spool.shard_name(rank)).read_bytes()
        assert not any(byte for byte, mark in zip(data, marks, strict=True) if not mark)
        json.loads((folder / _spool.state_name(rank)).read_bytes())
    assert len(list(folder.iterdir())) == 4 * len(covered)


def test_a_checkpoint_over_the_quota_is_given_up_and_training_goes_on(node_of: Callable[[int], Node]) -> None:
    """Disk full: recorded as skipped, its files gone, the result unchanged. The quota lets one checkpoint in."""
    node = node_of(2)
    launch = node.launch("full", FARSIDE_SPOOL_QUOTA_BYTES="800000")
    node.grant(launch, attempt=1)
    assert launch.finish()["step"] == 12
    assert [one["step"] for one in records(launch.node_dir, "intent")] == [4]
    skipped = records(launch.node_dir, "skipped")
    assert [one["step"] for one in skipped] == [8, 12]
    assert "the quota is 800000" in skipped[0]["body"]["reason"]
    shards = list(_spool.run_folder(launch.node_dir, "gpt").rglob("*.shard*"))
    assert {path.parent.name for path in shards} == {"s0000000004"}


def test_the_trainers_last_word_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    """The demo and the doctor read it as soon as it is there: it is put in place, never written in place."""
    import torch  # noqa: PLC0415 - takes seconds, and the other tests start it in processes of their own

    note_end = runpy.run_path(str(CLIENT / "examples" / "train_gpt.py"))["note_end"]
    path = tmp_path / "final.json"
    path.write_text("before")
    with path.open(encoding="utf-8") as reader:
        note_end(tmp_path, 3, 3, torch.nn.Linear(2, 2))
        assert reader.read() == "before"
    assert json.loads(path.read_text(encoding="utf-8"))["step"] == 3
    assert [one.name for one in tmp_path.iterdir()] == ["final.json"]
