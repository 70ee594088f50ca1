"""A process dies, or is stopped and goes on later, before or after one chosen call of a port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import greenlet


class Death(BaseException):
    """The process ends at this call."""


def die() -> None:
    """End the process, and with it all that was in its memory."""
    raise Death


def stop() -> None:
    """Stop the process until it is thawed."""
    parent = greenlet.getcurrent().parent
    assert parent is not None, "only a Stoppable can be stopped"
    parent.switch()


class Moments:
    """Counts the calls of ports while it is armed, two moments each, and acts at one of them; 0: it only counts."""

    def __init__(self, at: int = 0, act: Callable[[], None] = die, *, armed: bool = True) -> None:
        self.at, self.act, self.armed = at, act, armed
        self.seen: list[str] = []
        self.hit = ""

    def of(self, port: object) -> Any:  # noqa: ANN401 - the same port
        """The same port, each of whose calls is two moments."""
        return _Port(self, port)

    def moment(self, what: str) -> None:
        """Something may happen here."""
        if self.armed:
            self.seen.append(what)
            if len(self.seen) == self.at:
                self.armed, self.hit = False, what
                self.act()


class _Port:
    def __init__(self, moments: Moments, port: object) -> None:
        self._moments, self._port = moments, port

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._port, name)
        if name == "say":
            return method  # the journal is no dependency

        def called(*args: object, **kwargs: object) -> object:
            what = f"{name} {args[0]}" if args and isinstance(args[0], str) else name
            self._moments.moment(f"before {what}")
            result = method(*args, **kwargs)
            self._moments.moment(f"after {what}")
            return result

        return called


class Stoppable:
    """A process that can be stopped within a turn, and goes on later with what it knew."""

    def __init__(self, turn: Callable[[], object]) -> None:
        self._turn = turn
        self._actor: greenlet.greenlet | None = None

    @property
    def is_stopped(self) -> bool:
        """It stands still within a turn."""
        return self._actor is not None and not self._actor.dead

    def turn(self) -> None:
        """One turn, unless it is stopped."""
        if not self.is_stopped:
            self._actor = greenlet.greenlet(self._turn)
            self._actor.switch()

    def thaw(self) -> None:
        """It goes on where it stood, to the end of its turn."""
        assert self._actor is not None
        self._actor.switch()
