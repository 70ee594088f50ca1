"""A region's durable copy of the lineage: one create-only object an epoch (design 6.1), written by its controller.

Every other service of the region reads the lineage from there: all of them work without the witness, and a restart
forgets nothing.

**Who holds an epoch.** Each epoch's own object names the region that won it, in all releases; the newest one has the
chain. So the lineage is read from all of them, and they are never deleted (I2). A controller writes down every epoch of
the record that is missing, also one that was over before this region heard of it: until then its holder is unknown
here, and nothing of it counts (`core/authorship.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

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
        self._read: dict[str, Authority] = {}  # each epoch's object, by its key; none ever changes
        self._newest: dict[str, tuple[tuple[str, ...], Authority]] = {}  # by run: made of these objects

    def __call__(self, run: str) -> LineageView | None:
        """The chain up to the newest epoch seen here; None if there is none. Looks at the store each time."""
        authority = self.newest(run)
        return None if authority is None else authority.view

    def newest(self, run: str) -> Authority | None:
        """The newest epoch seen here; RetryableError if the store does not answer."""
        keys = self._store.list(paths.epochs_prefix(run))
        if not keys:
            return None
        known = self._newest.get(run)
        if known is None or known[0] != keys:
            each = [self._object(key) for key in keys]
            holders = tuple((one.view.epoch, one.region) for one in each)
            known = keys, replace(each[-1], view=replace(each[-1].view, holders=holders))
            self._newest[run] = known
        return known[1]

    def _object(self, key: str) -> Authority:
        """One epoch as its own object tells it: the chain up to it, and the region that won it."""
        if key not in self._read:
            body = self._store.get(key)
            if body is None:
                raise CorruptError(f"{key} was listed and is gone: epochs are never deleted (I2)")
            plain = json.loads(body)
            forks = tuple((int(epoch), int(parent), int(step)) for epoch, parent, step in plain["forks"])
            self._read[key] = Authority(str(plain["region"]), LineageView(int(plain["epoch"]), forks))
        return self._read[key]

    def remember(self, lease: Lease) -> None:
        """Write down every epoch of a record that is not here yet; several controllers of a region write the same.

        The newest first: while the holder of an older one is unknown, what it wrote waits, and nothing past a fork is
        taken for current.

        Raises:
            RetryableError: the store does not answer; what was written stays, and this may be called again.
        """
        there = set(self._store.list(paths.epochs_prefix(lease.run)))
        for length in range(len(lease.lineage), 0, -1):
            entry = lease.lineage[length - 1]
            key = paths.epoch_seen(lease.run, entry.epoch)
            if key not in there:
                forks = view_of(lease.lineage[:length]).forks
                plain = {"run": lease.run, "epoch": entry.epoch, "region": entry.region, "forks": forks}
                self._store.create(key, json.dumps(plain, sort_keys=True).encode())
