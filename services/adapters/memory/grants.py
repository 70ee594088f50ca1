"""Asking a controller of the same process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pipelines.errors import RetryableError
from pipelines.ports import GrantReply


class Granting(Protocol):
    """As much of a run's controller as an agent asks."""

    def grant(self, launch: str, committed_step: int, *, node: str, begins: bool) -> GrantReply:
        """The standing of a launch."""


class MemoryGrants:
    """Implements Grants: asks the controllers of a region in the same process."""

    def __init__(self, controls: Mapping[str, Granting]) -> None:
        self._controls = controls

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        """The standing of a launch."""
        if run not in self._controls:
            raise RetryableError(f"run {run!r} is not served here")
        return self._controls[run].grant(launch, committed_step, node=node, begins=begins)
