"""The hook around a service's ports that does nothing; tests pass another, which puts faults or counters there."""

from __future__ import annotations

from typing import Protocol, TypeVar

P = TypeVar("P")


class Wrap(Protocol):
    """Puts something around a port of a service, by the port's name, or gives it back as it is."""

    def __call__(self, name: str, port: P, /) -> P:
        """The port that the service's flows use."""


def unwrapped(_name: str, port: P, /) -> P:
    """As it is."""
    return port
