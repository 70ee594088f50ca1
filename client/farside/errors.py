"""The few errors that Farside raises inside a training process. Trouble of Farside itself is logged, not raised.

- ``CorruptCheckpointError`` (an ``Exception``): the loaded checkpoint differs from the saved one: do not train on it.
- ``UnsupportedValueError`` (a ``TypeError``): the state has a value that cannot be stored without code: move it to
  ``rank_state``.
- ``SupersededError`` (a ``SystemExit``): another region has this run now; it ends the process at a step boundary.

The first two come out of ``dcp.load`` and ``dcp.save`` inside torch's CheckpointException, whose text quotes them.
"""

from __future__ import annotations

from typing import Final

SUPERSEDED_EXIT_CODE: Final = 75


class CorruptCheckpointError(Exception):
    """The loaded checkpoint differs from the saved one; the text names the item, the rank and both digests."""


class UnsupportedValueError(TypeError):
    """A value in the state is neither a tensor nor plain data: only a pickle could hold it."""


class SupersededError(SystemExit):
    """Another region holds this run; raised by ``beat`` under ``on_superseded="exit"``."""

    def __init__(self, reason: str) -> None:
        super().__init__(SUPERSEDED_EXIT_CODE)
        self.reason = reason

    def __str__(self) -> str:
        return f"superseded: {self.reason}"
