"""What a launch of the trainer was granted, fixed create-only before it is told (6.5)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pipelines import paths
from pipelines.errors import CorruptError
from pipelines.flows.standby.recoverable import RecoverableCheckpoint
from pipelines.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: its authority and from where it starts."""

    name: str
    epoch: int
    attempt: int
    start_step: int = 0
    start_manifest_key: str = ""
    start_manifest_digest: str = ""
    start_lineage_seq: int = 0


def starting_from(name: str, epoch: int, attempt: int, start: RecoverableCheckpoint | None) -> Launch:
    """A launch under an attempt, from a checkpoint or from step 0."""
    if start is None:
        return Launch(name, epoch, attempt)
    manifest = start.manifest
    return Launch(name, epoch, attempt, manifest.step, start.key, start.digest, manifest.lineage_seq)


def recall(store: ObjectStore, run: str, name: str) -> Launch | None:
    """What was fixed for a launch; None if it never was."""
    body = store.get(paths.launched(run, name))
    return None if body is None else Launch(**json.loads(body))


def fix(store: ObjectStore, run: str, launch: Launch) -> Launch:
    """Write it down and return what stands there: whoever came first."""
    store.create(paths.launched(run, launch.name), json.dumps(asdict(launch), sort_keys=True).encode())
    found = recall(store, run, launch.name)
    if found is None:
        raise CorruptError(f"{paths.launched(run, launch.name)} was created and is gone")
    return found
