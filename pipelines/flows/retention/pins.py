"""Pins: checkpoints that an operator wants to keep.

A pin is a create-only object with a number that rises, so that no object is ever changed: while the highest number of a
checkpoint is odd, it is pinned; an even one ends the pin.
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


def pin(store: ObjectStore, own: CheckpointId, entry: dict[str, object]) -> bool:
    """Pin a checkpoint; False if it was pinned already. `entry`: who, when and why."""
    return _write_next(store, own, entry, odd=True)


def unpin(store: ObjectStore, own: CheckpointId, entry: dict[str, object]) -> bool:
    """End a pin; False if there was none. `entry`: who, when and why."""
    return _write_next(store, own, entry, odd=False)


def _write_next(store: ObjectStore, own: CheckpointId, entry: dict[str, object], *, odd: bool) -> bool:
    """Write the next number if it has the wanted parity; True if it had.

    Of two writers of one number the second changes nothing: the first wrote the same.
    """
    number = _numbers(store, own.run).get(own, 0) + 1
    if (number % 2 == 1) != odd:
        return False
    store.create(paths.pin(own, number), json.dumps(entry, sort_keys=True).encode())
    return True


def _numbers(store: ObjectStore, run: str) -> dict[CheckpointId, int]:
    numbers: dict[CheckpointId, int] = {}
    for key in store.list(paths.pins_prefix(run)):
        own, number = paths.parse_pin(key)
        numbers[own] = max(number, numbers.get(own, 0))
    return numbers
