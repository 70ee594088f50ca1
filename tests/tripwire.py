"""Something happens before or after one port call, counted off: the process dies there, or somebody else acts there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Crash(BaseException):
    """The process dies at this port call."""


class Tripwire:
    """Stands before ports, counts their calls; at the one that it was set to, `does` is called, or the process ends."""

    def __init__(self, at: int = -1, does: Callable[[], object] | None = None) -> None:
        self.at = at
        self.calls = 0
        self._does = does

    def before(self, port: Any) -> Any:  # noqa: ANN401 - any port
        """The same port, counted."""
        return _Counted(self, port)

    def pass_by(self) -> None:
        """One moment between two effects."""
        self.calls += 1
        if self.calls == self.at:
            if self._does is None:
                raise Crash
            self._does()


class _Counted:
    def __init__(self, wire: Tripwire, port: object) -> None:
        self._wire, self._port = wire, port

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._port, name)

        def counted(*args: object, **kwargs: object) -> object:
            self._wire.pass_by()
            result = method(*args, **kwargs)
            self._wire.pass_by()
            return result

        return counted
