"""Pins: checkpoints that a person wants to stay.

Create-only objects with rising numbers, so that none is ever changed: an odd last one pins, an even one ends that.
"""

from __future__ import annotations

import json

from pipelines import paths
from pipelines.paths import CheckpointId
from pipelines.ports import ObjectStore


def pinned(store: ObjectStore, run: str) -> frozenset[CheckpointId]:
    """The checkpoints of a run that are pinned in this region."""
    return frozenset(own for own, number in _numbers(store, run).items() if number % 2 == 1)


def is_pinned(store: ObjectStore, own: CheckpointId) -> bool:
    """Whether one checkpoint is pinned in this region."""
    return len(store.list(paths.pins_of(own))) % 2 == 1


def pin(store: ObjectStore, own: CheckpointId, said: dict[str, object]) -> bool:
    """Pin a checkpoint; False if it was pinned already. `said`: who, when and why."""
    return _say(store, own, said, odd=True)


def unpin(store: ObjectStore, own: CheckpointId, said: dict[str, object]) -> bool:
    """Say that a pin is over; False if there was none."""
    return _say(store, own, said, odd=False)


def _say(store: ObjectStore, own: CheckpointId, said: dict[str, object], *, odd: bool) -> bool:
    """Who comes second under one number has nothing left to say: the first one said the same."""
    number = _numbers(store, own.run).get(own, 0) + 1
    if (number % 2 == 1) != odd:
        return False
    store.create(paths.pin(own, number), json.dumps(said, sort_keys=True).encode())
    return True


def _numbers(store: ObjectStore, run: str) -> dict[CheckpointId, int]:
    numbers: dict[CheckpointId, int] = {}
    for key in store.list(paths.pins_prefix(run)):
        own, number = paths.parse_pin(key)
        numbers[own] = max(number, numbers.get(own, 0))
    return numbers
