"""A standby pool in memory."""

from __future__ import annotations

from pathlib import Path

from pipelines.core.manifests import objects
from pipelines.errors import CorruptError
from pipelines.ports import ObjectStore, PoolHealth
from schemas.codec import digest
from schemas.records import Manifest


class MemoryStandbyPool:
    """Implements StandbyPool: reads and verifies every object, and calls that loading.

    `waiting_ranks` and `load_s` may be set at any time; `staged` holds the steps in the order in which they came.
    """

    def __init__(self, store: ObjectStore, waiting_ranks: int = 2, load_s: float = 0.5) -> None:
        self.waiting_ranks = waiting_ranks
        self.load_s = load_s
        self.staged: list[int] = []
        self._store = store
        self._resident: dict[str, Manifest] = {}  # the one before, and the newest

    def stage(self, manifest: Manifest, manifest_digest: str) -> float:
        """Make a checkpoint resident; CorruptError if an object of it is missing or not what was saved."""
        for named in objects(manifest):
            body = self._store.get(named.key)
            if body is None:
                raise CorruptError(f"{named.key} is not in the store")
            if digest(body) != named.sha256:
                raise CorruptError(f"{named.key} is not what its manifest names")
        others = [(other, staged) for other, staged in self._resident.items() if other != manifest_digest]
        self._resident = {**dict(others[-1:]), manifest_digest: manifest}
        self.staged.append(manifest.step)
        return self.load_s

    def health(self) -> PoolHealth:
        """Look at the nodes; as long as nothing is staged, how many ranks are wanted is not known."""
        newest = next(reversed(self._resident), "")
        return PoolHealth(
            ready=bool(newest) and self.waiting_ranks > 0,
            waiting_ranks=self.waiting_ranks if newest else 0,
            staged_digest=newest,
            staged_step=self._resident[newest].step if newest else 0,
            load_s=self.load_s if newest else 0.0,
            proof="loaded" if newest else "",
        )

    def folder(self, manifest_digest: str) -> Path | None:
        """Where a staged checkpoint would lie."""
        return Path("/memory") / manifest_digest if manifest_digest in self._resident else None
