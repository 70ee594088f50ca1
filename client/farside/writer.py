"""The StorageWriter for ``torch.distributed.checkpoint``: into the node's spool, without a pickle.

DCP calls, on each rank: ``prepare_local_plan``, ``write_data``; on the coordinator also
``prepare_global_plan`` and, when every rank's results are gathered, ``finish``. So ``finish`` is the
one place that knows the checkpoint to be complete, and there the *intent* is recorded. A rank that
could not write says so in its result instead of raising: the checkpoint is then given up as a whole,
and training goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, SupportsFloat

import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from farside import _checkpoint, _spool
from farside._values import encode_value, portable_float
from farside.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from farside._session import Session

_STATE_FLUSH_S = 30.0


class DroppingWriter(StorageWriter):
    """The writer of a degraded run: accepts every checkpoint and stores nothing."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Does nothing: this writer keeps no state."""

    def set_up_storage_writer(
        self,
        is_coordinator: bool,  # noqa: FBT001 - DCP's signature
        *args: Any,  # noqa: ANN401 - DCP's signature
        **kwargs: Any,  # noqa: ANN401 - DCP's signature
    ) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The plans as they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write nothing."""
        del plan, planner
        return _done([])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Record nothing."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Never chosen by an id: there are none."""
        del checkpoint_id
        return False


class SpoolStorageWriter(DroppingWriter):
    """Writes one checkpoint of this attempt into the node's spool.

    Args:
        session: this rank's attachment, with a grant.
        step: the checkpoint's step.
        health: numbers for its record.
    """

    def __init__(self, session: Session, step: int, health: Mapping[str, SupportsFloat]) -> None:
        self._session = session
        self._step = step
        self._health = {name: portable_float(value) for name, value in health.items()}
        self._chunk_bytes = int(os.environ.get("FARSIDE_CHUNK_BYTES") or _checkpoint.CHUNK_BYTES)
        quota = os.environ.get("FARSIDE_SPOOL_QUOTA_BYTES")
        self._quota_bytes = int(quota) if quota else None

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's shard; the one result carries its description, or why there is none."""
        folder = self._session.checkpoint_folder(self._step)
        rank = self._session.who.rank
        if folder is None:
            raise RuntimeError("a checkpoint is written under a grant")  # run.writer() sees to it
        encoded = _encode_plain_items(plan, planner)  # a value that cannot be stored is the script's error: it raises
        try:
            self._session.write_once(self._step)
            shard = self._write_shard(folder, plan, planner, encoded)
        except OSError as error:
            outcome: dict[str, Any] = {"rank": rank, "failed": f"rank {rank}: {error}"}
        else:
            outcome = shard
        # A rank state that was given before the save is safe when the save says that it is done.
        self._session.background.flush(_STATE_FLUSH_S)
        size = int(outcome.get("size", 0))
        return _done([WriteResult(MetadataIndex(f"farside.rank.{rank}"), size, outcome)])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Record the intent, or that this checkpoint was given up."""
        shards = sorted((result.storage_data for rank in results for result in rank), key=lambda one: int(one["rank"]))
        failures = [str(shard["failed"]) for shard in shards if "failed" in shard]
        if failures:
            self._session.skipped(self._step, "; ".join(failures))
            return
        body = {
            "health": self._health,
            "ranks": [{name: shard[name] for name in ("rank", "size", "sha256", "chunks")} for shard in shards],
            "items": [item for shard in shards for item in shard["items"]],
            "planner": {fqn: list(path) for fqn, path in (metadata.planner_data or {}).items()},
        }
        try:
            self._session.intent(self._step, body)
        except _spool.SpoolError as error:
            self._session.skipped(self._step, str(error))

    def _write_shard(
        self, folder: Path, plan: SavePlan, planner: SavePlanner, encoded: dict[MetadataIndex, bytes]
    ) -> dict[str, Any]:
        rank, size = self._session.who.rank, _planned_size(plan, encoded)
        with _checkpoint.reservation(self._session.run_folder, size, self._quota_bytes):
            shard = _checkpoint.ShardWriter(folder, rank, size, self._chunk_bytes)
        with contextlib.ExitStack() as undo:
            undo.callback(shard.discard)
            items = []
            for item in plan.items:
                data = memoryview(encoded[item.index]) if item.index in encoded else _raw(item, planner)
                offset, digest = shard.write_item(data)
                items.append(_describe(item, rank, offset, len(data), digest))
            description = {**shard.finish(), "items": items}
            undo.pop_all()
        _spool.write_json_atomically(folder / _spool.descriptor_name(rank), description)
        return description


def _encode_plain_items(plan: SavePlan, planner: SavePlanner) -> dict[MetadataIndex, bytes]:
    """The plan's items that are not tensors, as JSON, taken before the planner would pickle them."""
    plain = [item.index for item in plan.items if item.type is WriteItemType.BYTE_IO]
    if not plain:
        return {}
    look_up = getattr(planner, "lookup_object", None)
    if look_up is None:
        raise UnsupportedValueError(f"{type(planner).__name__} has no lookup_object; derive it from DefaultSavePlanner")
    return {index: encode_value(index.fqn, look_up(index)) for index in plain}


def _planned_size(plan: SavePlan, encoded: dict[MetadataIndex, bytes]) -> int:
    end = 0
    for item in plan.items:
        length = len(encoded[item.index]) if item.index in encoded else item.tensor_storage_size() or 0
        end = _checkpoint.aligned(end) + length
    return end


def _raw(item: WriteItem, planner: SavePlanner) -> memoryview:
    """A tensor's bytes: contiguous, in row order, little-endian."""
    value = planner.resolve_data(item)
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_quantized:
        raise UnsupportedValueError(f"{item.index.fqn}: only dense tensors can be stored")
    if sys.byteorder != "little":
        raise UnsupportedValueError("checkpoints are little-endian; this machine is not")
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy().data)


def _describe(item: WriteItem, rank: int, offset: int, length: int, digest: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "fqn": item.index.fqn,
        "kind": "json",
        "rank": rank,
        "offset": offset,
        "length": length,
        "sha256": digest,
        "dtype": "",
        "shape": [],
        "chunk_offsets": [],
        "chunk_sizes": [],
    }
    if item.tensor_data is not None:
        described["kind"] = "tensor"
        described["dtype"] = str(item.tensor_data.properties.dtype).removeprefix("torch.")
        described["shape"] = list(item.tensor_data.size)
        described["chunk_offsets"] = list(item.tensor_data.chunk.offsets)
        described["chunk_sizes"] = list(item.tensor_data.chunk.sizes)
    return described


def _done(results: list[WriteResult]) -> Future[list[WriteResult]]:
    future: Future[list[WriteResult]] = Future()
    future.set_result(results)
    return future
