"""What Farside may raise inside a training process: little. A sick Farside is logged, not raised.

::

    Exception ├── CorruptCheckpointError   what was to be loaded is not what was saved: do not train on
    it └── UnsupportedValueError    the state holds something that cannot be stored without code: move
    it to rank_state SystemExit └── SupersededError          another region has this run now; ends the
    process at a step boundary

The first two come out of ``dcp.load`` and ``dcp.save`` inside torch's CheckpointException, whose text quotes them.
"""

from __future__ import annotations

from typing import Final

SUPERSEDED_EXIT_CODE: Final = 75


class CorruptCheckpointError(Exception):
    """What was to be loaded is not what was saved: its text names the item, the rank and both digests."""


class UnsupportedValueError(TypeError):
    """A value in the state is neither a tensor nor plain data: only a pickle could hold it."""


class SupersededError(SystemExit):
    """Another region holds this run; raised by ``beat`` under ``on_superseded="exit"``."""

    def __init__(self, reason: str) -> None:
        super().__init__(SUPERSEDED_EXIT_CODE)
        self.reason = reason

    def __str__(self) -> str:
        return f"superseded: {self.reason}"
