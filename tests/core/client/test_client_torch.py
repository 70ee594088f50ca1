"""The storage writer and reader: what is loaded equals what was saved, verified, and no pickle takes part."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import ReadItem

import farside
from farside import _checkpoint, _spool
from farside.reader import IndexReader

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """DCP warns that there is no process group; that is what these tests want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def started(folder: Path) -> farside.Run:
    """A rank with a grant."""
    launch = _spool.launch_folder(folder, "gpt", "l1")
    run = farside.Run.attach(run="gpt", node_dir=folder, launch="l1", rank=0, world_size=1)
    answer = {"launch": "l1", "epoch": 1, "attempt": 1, "step": 0, "mode": "exact", "exact": True, "folder": None}
    _spool.write_json_atomically(_spool.grant_path(launch), answer)
    run.start()
    return run


def records(folder: Path) -> list[dict[str, Any]]:
    """The records that the run has appended."""
    logs = sorted(_spool.producers_folder(folder, "gpt").glob("*/log"))
    return [record for log in logs for _, record in _spool.scan(log).entries]


def indexed(folder: Path, intent: dict[str, Any]) -> Path:
    """Turn the checkpoint's own folder into an index folder."""
    place = _spool.checkpoint_folder(folder, "gpt", 1, 1, intent["step"])
    body = intent["body"]
    index = {name: body[name] for name in ("mode", "world_size", "items", "planner", "data_version")}
    index |= {"manifest_digest": "", "epoch": 1, "attempt": 1, "step": intent["step"]}
    index |= {"files": {"0": _spool.shard_name(0)}, "rank_states": {}}
    _checkpoint.write_index(place, index)
    return place


def save(folder: Path, state: dict[str, Any], step: int = 1) -> Path:
    """Save through DCP; the index folder."""
    run = started(folder)
    dcp.save(state, storage_writer=run.writer(step, health={"loss": 1.5}), no_dist=True)
    (intent,) = [record for record in records(folder) if record["kind"] == "intent"]
    return indexed(folder, intent)


def load(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Load through DCP, in place."""
    dcp.load(state, storage_reader=IndexReader(folder), no_dist=True)
    return state


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Types, no dimension, no elements, views, several chunks; digests of chunks and file as the bytes are."""
    state = {
        "large": torch.randn(1200, 1000),
        "brain": torch.randn(7, 3).to(torch.bfloat16),
        "whole": torch.arange(11),
        "yes": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "view": torch.arange(24.0).reshape(4, 6).t()[1:3],
        "complex": torch.randn(3, dtype=torch.complex64),
    }
    place = save(tmp_path, state)
    blank = {name: torch.full_like(tensor, 1) for name, tensor in state.items()}
    load(place, blank)
    for name, tensor in state.items():
        assert torch.equal(blank[name], tensor), name
    (intent,) = records(tmp_path)
    (shard,) = intent["body"]["ranks"]
    data = (place / _spool.shard_name(0)).read_bytes()
    assert (shard["size"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    offset = 0
    for chunk in shard["chunks"]:
        assert hashlib.sha256(data[offset : offset + chunk["size"]]).hexdigest() == chunk["sha256"]
        offset += chunk["size"]
    assert (offset, len(shard["chunks"])) == (len(data), 2)


def test_plain_values_are_json_in_the_shard_and_keep_their_types(tmp_path: Path) -> None:
    """Learning rates, counters, tuples; nested as an optimizer has them."""
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "params": [0, 1]}]
    place = save(tmp_path, {"optimizer": {"param_groups": groups}, "step": 7, "name": "gpt"})
    blank = [{"lr": 0.0, "betas": (), "fused": 1, "params": []}]
    found = load(place, {"optimizer": {"param_groups": blank}, "step": 0, "name": ""})
    assert found == {"optimizer": {"param_groups": groups}, "step": 7, "name": "gpt"}
    assert b'{"$tuple":[0.9,0.999]}' in (place / _spool.shard_name(0)).read_bytes()


def test_a_value_that_only_a_pickle_could_hold_is_refused_by_name(tmp_path: Path) -> None:
    """One error, on every rank, that names the key and the way out."""
    run = started(tmp_path)
    with pytest.raises(
        CheckpointException, match=r"loader\.seen holds a builtins\.set, which cannot be stored"
    ) as raised:
        dcp.save({"loader": {"seen": {1, 2}}}, storage_writer=run.writer(1), no_dist=True)
    assert "run.rank_state()" in str(raised.value)


@pytest.mark.parametrize("key", ["weights", "rate"])
def test_a_flipped_bit_is_named_and_not_loaded(tmp_path: Path, key: str) -> None:
    """The error tells the item, the rank and both digests."""
    place = save(tmp_path, {"weights": torch.ones(100), "rate": 0.5})
    index = _checkpoint.read_index(place)
    (item,) = [one for one in index["items"] if one["fqn"] == key]
    shard = place / _spool.shard_name(0)
    data = bytearray(shard.read_bytes())
    data[item["offset"]] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CheckpointException, match=f"{key} in the shard of rank 0 is not what was saved") as raised:
        load(place, {"weights": torch.zeros(100), "rate": 0.0})
    assert item["sha256"] in str(raised.value)


def test_a_shortened_or_missing_shard_is_corrupt(tmp_path: Path) -> None:
    """Half a file is no tensor."""
    place = save(tmp_path, {"weights": torch.ones(100)})
    shard = place / _spool.shard_name(0)
    os.truncate(shard, 200)
    with pytest.raises(CheckpointException, match="is not what was saved"):
        load(place, {"weights": torch.zeros(100)})
    shard.unlink()
    with pytest.raises(CheckpointException, match="the shard of rank 0 cannot be read"):
        load(place, {"weights": torch.zeros(100)})


def test_a_step_is_never_written_twice_in_an_attempt(tmp_path: Path) -> None:
    """Nothing is written over: the second is skipped, the first stays."""
    run = started(tmp_path)
    for value in (1.0, 2.0):
        dcp.save({"x": torch.tensor([value])}, storage_writer=run.writer(1), no_dist=True)
    assert [record["kind"] for record in records(tmp_path)] == ["intent", "skipped"]
    (intent, _) = records(tmp_path)
    assert load(indexed(tmp_path, intent), {"x": torch.zeros(1)})["x"].item() == 1.0


def test_a_degraded_run_saves_into_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line of the script works without Farside."""
    monkeypatch.delenv("FARSIDE_RUN", raising=False)
    run = farside.Run.attach()
    run.start()
    dcp.save({"x": torch.zeros(2), "odd": {1, 2}}, storage_writer=run.writer(1), no_dist=True)


def test_a_planner_with_its_own_load_bytes_still_gets_what_it_expects(tmp_path: Path) -> None:
    """Its form is made from the decoded value, in memory."""
    seen: list[Any] = []

    class Own(dcp.DefaultLoadPlanner):
        def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
            seen.append((read_item.dest_index.fqn, torch.load(value, weights_only=True)))

    place = save(tmp_path, {"rate": 0.5})
    dcp.load({"rate": 0.0}, storage_reader=IndexReader(place), planner=Own(), no_dist=True)
    assert seen == [("rate", 0.5)]


_TRIPWIRES = """
import pickle, sys, warnings
from pathlib import Path
import torch
import torch.distributed.checkpoint as dcp
warnings.simplefilter("ignore")
sys.path[:0] = [sys.argv[3]]
from test_client_torch import load, save

def refuse(*arguments, **options):
    raise SystemExit("PICKLED")

def model():
    torch.manual_seed(1)
    net = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(4)).sum().backward()
    optimizer.step()
    return {"net": net, "optimizer": optimizer, "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 3), "step": 9}

state, blank = model(), model()
with torch.no_grad():
    blank["net"].weight.zero_()
torch.save = torch.load = refuse
for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler", "_Pickler", "_Unpickler"):
    setattr(pickle, name, refuse)
armed = True
sys.addaudithook(lambda event, _: refuse() if armed and event == "pickle.find_class" else None)
if sys.argv[2] == "farside":
    load(save(Path(sys.argv[1]), state), blank)
    assert torch.equal(blank["net"].weight, state["net"].weight)
else:
    dcp.save(state, checkpoint_id=sys.argv[1], no_dist=True)
armed = False
print("CLEAN")
"""


@pytest.mark.parametrize(("store", "outcome"), [("farside", "CLEAN"), ("torch's own", "PICKLED")])
def test_a_save_and_a_load_touch_no_pickle(tmp_path: Path, store: str, outcome: str) -> None:
    """Every door to pickle is a tripwire; that the wires hold is shown on torch's own file writer."""
    paths = os.pathsep.join([str(Path(_spool.__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", _TRIPWIRES, str(tmp_path / "store"), store, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout + done.stderr, done.stderr[-3000:]
