"""A region's durable copy of the lineage: one create-only object an epoch (design 6.1), written by its controller.

Every other service of the region reads the lineage from there: all of them work without the witness, and a restart
forgets nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.lineage import LineageView, view_of
from pipelines.errors import CorruptError
from pipelines.ports import ObjectStore
from schemas.records import Lease


@dataclass(frozen=True, slots=True)
class Authority:
    """The newest epoch that was seen in a region, and the region that won it."""

    region: str
    view: LineageView


class EpochStore:
    """Reads and writes `runs/<run>/epochs/` in one region's store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[str, Authority] = {}

    def __call__(self, run: str) -> LineageView | None:
        """The chain up to the newest epoch seen here; None if there is none. Looks at the store each time."""
        authority = self.newest(run)
        return None if authority is None else authority.view

    def newest(self, run: str) -> Authority | None:
        """The newest epoch seen here; RetryableError if the store does not answer."""
        keys = self._store.list(paths.epochs_prefix(run))
        if not keys:
            return None
        if keys[-1] not in self._read:
            body = self._store.get(keys[-1])
            if body is None:
                raise CorruptError(f"{keys[-1]} was listed and is gone: epochs are never deleted (I2)")
            plain = json.loads(body)
            forks = tuple((int(epoch), int(parent), int(step)) for epoch, parent, step in plain["forks"])
            self._read[keys[-1]] = Authority(str(plain["region"]), LineageView(int(plain["epoch"]), forks))
        return self._read[keys[-1]]

    def remember(self, lease: Lease) -> None:
        """Write an epoch down, create-only; several controllers of a region write the same bytes."""
        view = view_of(lease.lineage)
        entry = max(lease.lineage, key=lambda entry: entry.epoch)
        plain = {"run": lease.run, "epoch": view.epoch, "region": entry.region, "forks": view.forks}
        self._store.create(paths.epoch_seen(lease.run, view.epoch), json.dumps(plain, sort_keys=True).encode())
