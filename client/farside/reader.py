"""The StorageReader for ``torch.distributed.checkpoint``: an index folder into existing tensors.

DCP's own metadata file is a pickle, and loading it runs what is in it. Here the metadata is rebuilt
from plain JSON, tensors are copied out of mapped files, and every item is compared with its digest as
it is loaded.
"""

from __future__ import annotations

import hashlib
import io
import mmap
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from farside import _checkpoint
from farside._values import decode_value
from farside.errors import CorruptCheckpointError

if TYPE_CHECKING:
    import os
    from pathlib import Path


class IndexReader(StorageReader):
    """Loads the checkpoint of one index folder.

    Args:
        folder: holds the shards.
        index: its description; read from the folder if not given.

    Raises:
        CorruptCheckpointError: the folder's description cannot be used.
    """

    def __init__(self, folder: Path, index: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._index = _checkpoint.read_index(folder) if index is None else index
        self._maps: dict[int, memoryview] = {}
        try:
            self._items = {_index_of(item): item for item in self._index["items"]}
            self._metadata = _metadata(self._index)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptCheckpointError(f"the index in {folder} is not usable: {error!r}") from error

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to forget."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401 - DCP's signature
        """DCP's metadata, rebuilt from the index."""
        del args, kwargs
        return self._metadata

    def set_up_storage_reader(
        self,
        metadata: Metadata,
        is_coordinator: bool,  # noqa: FBT001 - DCP's signature
        *args: Any,  # noqa: ANN401 - DCP's signature
        **kwargs: Any,  # noqa: ANN401 - DCP's signature
    ) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Verify and copy every item of the plan.

        Raises:
            CorruptCheckpointError: an item's bytes are not those that were saved.
        """
        verified: dict[MetadataIndex, memoryview] = {}
        for read in plan.items:
            key = MetadataIndex(read.storage_index.fqn, read.storage_index.offset)
            if key not in verified:
                verified[key] = self._verified_bytes(self._items[key])
            if read.type is LoadItemType.BYTE_IO:
                _give_value(planner, read, verified[key])
            else:
                _copy_tensor(planner, read, self._items[key], verified[key])
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Never chosen by an id: there are none."""
        del checkpoint_id
        return False

    def _verified_bytes(self, item: dict[str, Any]) -> memoryview:
        data = self._shard(int(item["rank"]))[item["offset"] : item["offset"] + item["length"]]
        digest = hashlib.sha256(data).hexdigest()
        if digest != item["sha256"]:
            raise CorruptCheckpointError(
                f"{item['fqn']} in the shard of rank {item['rank']} is not what was saved: "
                f"its SHA-256 is {digest}, {item['sha256']} was recorded"
            )
        return data

    def _shard(self, rank: int) -> memoryview:
        if rank not in self._maps:
            path = self._folder / self._index["files"][str(rank)]
            try:
                with path.open("rb") as stream:
                    empty = stream.seek(0, io.SEEK_END) == 0
                    # A private mapping: torch wants memory that may be written, the file stays as it is.
                    mapped = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            except OSError as error:
                raise CorruptCheckpointError(f"the shard of rank {rank} cannot be read: {error}") from error
            self._maps[rank] = memoryview(mapped)
        return self._maps[rank]


def _index_of(item: dict[str, Any]) -> MetadataIndex:
    if item["kind"] == "json":
        return MetadataIndex(item["fqn"])
    return MetadataIndex(item["fqn"], torch.Size(item["chunk_offsets"]))


def _metadata(index: dict[str, Any]) -> Metadata:
    stored: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    for item in index["items"]:
        if item["kind"] == "json":
            stored[item["fqn"]] = BytesStorageMetadata()
            continue
        chunk = ChunkStorageMetadata(torch.Size(item["chunk_offsets"]), torch.Size(item["chunk_sizes"]))
        known = stored.get(item["fqn"])
        if isinstance(known, TensorStorageMetadata):
            known.chunks.append(chunk)
        else:
            properties = TensorProperties(dtype=_dtype(item))
            stored[item["fqn"]] = TensorStorageMetadata(properties, torch.Size(item["shape"]), [chunk])
    planner = {fqn: tuple(path) for fqn, path in index["planner"].items()}
    return Metadata(state_dict_metadata=stored, planner_data=planner)


def _dtype(item: dict[str, Any]) -> torch.dtype:
    found = getattr(torch, item["dtype"], None)
    if not isinstance(found, torch.dtype):
        raise CorruptCheckpointError(f"{item['fqn']} has the unknown type {item['dtype']!r}")
    return found


def _copy_tensor(planner: LoadPlanner, read: ReadItem, item: dict[str, Any], data: memoryview) -> None:
    saved = torch.empty(item["chunk_sizes"], dtype=_dtype(item))
    if len(data) != saved.numel() * saved.element_size():
        raise CorruptCheckpointError(f"{item['fqn']}: {len(data)} bytes do not make a {item['chunk_sizes']} tensor")
    if len(data):
        saved = torch.frombuffer(data, dtype=saved.dtype).reshape(item["chunk_sizes"])
    for dimension, (start, length) in enumerate(zip(read.storage_offsets, read.lengths, strict=True)):
        saved = saved.narrow(dimension, start, length)
    target = planner.resolve_tensor(read).detach()
    if target.size() != saved.size():
        raise CorruptCheckpointError(f"{item['fqn']}: {list(saved.size())} was saved, {list(target.size())} is wanted")
    target.copy_(saved)
    planner.commit_tensor(read, target)


def _give_value(planner: LoadPlanner, read: ReadItem, data: memoryview) -> None:
    """Hand a plain value to the planner.

    The default planner would call ``torch.load`` on bytes; its two lines of bookkeeping are done here
    instead, so that no pickle takes part. A planner with a ``load_bytes`` of its own gets the form it
    was written for, made here and now from the decoded value: never bytes that came from a disk or a
    wire.
    """
    try:
        value = decode_value(bytes(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptCheckpointError(f"{read.storage_index.fqn} is not a stored value: {error}") from error
    fqn = read.dest_index.fqn
    if isinstance(planner, DefaultLoadPlanner) and type(planner).load_bytes is DefaultLoadPlanner.load_bytes:
        if planner.flatten_state_dict:
            set_element(planner.original_state_dict, planner.mappings[fqn], value)
        else:
            planner.state_dict[fqn] = value
        return
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    planner.load_bytes(read, buffer)
