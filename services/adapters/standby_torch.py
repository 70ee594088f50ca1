"""The standby pool on this node: an A/B arena in shared memory, proven by a rehearsed torch load.

Only this adapter, of all services, imports torch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from farside.errors import CorruptCheckpointError
from farside.reader import IndexReader
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import Clock, ObjectStore, PoolHealth, Spool
from schemas.records import Item, Manifest
from services.adapters.arena import Arena


class TorchStandbyPool:
    """Implements StandbyPool for one run on one node.

    Args:
        arena_dir: where the arena lies, in shared memory; twice the node's shards must fit.
        store: this region's object store.
        spool: the node directory in which waiting trainers ask for their start.
        run: whose pool it is.
        clock: measures.
    """

    def __init__(self, *, arena_dir: Path, store: ObjectStore, spool: Spool, run: str, clock: Clock) -> None:
        self._arena = Arena(arena_dir)
        self._store = store
        self._spool = spool
        self._run = run
        self._clock = clock
        self._staged: Manifest | None = None
        self._staged_digest = ""
        self._load_s = 0.0
        torch.set_num_threads(1)

    def stage(self, manifest: Manifest, manifest_digest: str) -> float:
        """Fetch, verify and rehearse a checkpoint; seconds it took. CorruptError: it does not load."""
        began_s = self._clock.boottime_s()
        try:
            folder = self._arena.stage(self._store, manifest, manifest_digest)
        except OSError as error:
            raise RetryableError(f"the arena of {self._run}: {error}") from error
        staged_s = self._clock.boottime_s()
        try:
            self._rehearse(folder, manifest)
        except (CorruptError, RetryableError):
            self._arena.drop(manifest_digest)
            raise
        ended_s = self._clock.boottime_s()
        self._load_s = ended_s - staged_s
        self._staged, self._staged_digest = manifest, manifest_digest
        return ended_s - began_s

    def health(self) -> PoolHealth:
        """Ready means: something proven is resident and a launch of trainers waits for its grant."""
        waiting = len(self._spool.launches(self._run))
        staged = self._staged
        return PoolHealth(
            ready=staged is not None and waiting > 0,
            waiting_ranks=0 if staged is None else waiting * staged.world_size,
            staged_digest=self._staged_digest,
            staged_step=0 if staged is None else staged.step,
            load_s=self._load_s,
            proof="loaded" if staged is not None else "",
        )

    def folder(self, manifest_digest: str) -> Path | None:
        """Where a staged checkpoint lies."""
        return self._arena.folder(manifest_digest)

    def _rehearse(self, folder: Path, manifest: Manifest) -> None:
        """Load everything into fresh tensors, each item compared with its digest: proof level `loaded`."""
        try:
            state = {item.fqn: _empty(item) for item in manifest.items}
            load(state, storage_reader=IndexReader(folder), no_dist=True)
        except (CheckpointException, CorruptCheckpointError) as error:
            raise CorruptError(f"step {manifest.step} does not load: {_cause(error)}") from error
        except OSError as error:
            raise RetryableError(f"step {manifest.step}: {folder}: {error}") from error
        except Exception as error:  # what torch raises of contents that it does not understand has no common class
            raise CorruptError(f"step {manifest.step} does not load: {type(error).__name__}: {error}") from error


def _cause(error: CheckpointException | CorruptCheckpointError) -> str:
    if isinstance(error, CorruptCheckpointError):
        return str(error)
    return "; ".join(str(failure[0]) for failure in error.failures.values())


def _empty(item: Item) -> torch.Tensor | None:
    if item.kind == "json":
        return None
    return torch.empty(item.shape, dtype=getattr(torch, item.dtype))
