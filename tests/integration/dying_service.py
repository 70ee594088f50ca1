"""A service that ends itself with SIGKILL at one exact call of one of its ports: for tests only.

`python -m tests.integration.dying_service SERVICE REGION CONFIG` is the real service with its real wiring; each port
that it passes to its flows is asked before and after every call whether this is the moment. The moment is read from
the file named by FARSIDE_FAULT_POINTS, a folder with one file for each service and region, while the service runs:
whoever lays it there has seen the service catch up first.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pipelines.ports import CopyJob, Message
from services.settings import load
from services.wrappers.watched import WatchedLog

P = TypeVar("P")
FOLDER = "FARSIDE_FAULT_POINTS"


@dataclass(frozen=True, slots=True)
class Point:
    """One moment at which a process dies.

    Attributes:
        service: whose.
        port: the name under which the service offers its port to be wrapped.
        method: of the port.
        when: before the call, after it (only if it gave something, where `gave`), or inside: see `_inside`.
        about: a pattern that the call's subject (key, topics) must match.
        call: of such calls, the n-th.
        kills: other processes that die in place of this one, as a broker in the middle of a batch.
    """

    service: str
    port: str
    method: str
    when: str
    about: str = ""
    gave: bool = False
    call: int = 1
    kills: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """For people and test ids."""
        words = [self.when, self.port, self.method, re.sub(r"\W+", "", self.about)]
        return "-".join([self.service, *(word for word in words if word)])


def arm(folder: Path, region: str, point: Point) -> None:
    """Let a running service die there."""
    path = _path(folder, point.service, region)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(asdict(point)), encoding="utf-8")
    fresh.rename(path)


def disarm(folder: Path, service: str, region: str) -> None:
    """Let the service's next process live."""
    _path(folder, service, region).unlink(missing_ok=True)


def _path(folder: Path, service: str, region: str) -> Path:
    return folder / f"{service}-{region}.json"


def subject(args: Sequence[Any]) -> str:
    """A call's subject: a key, or the topics of the messages that are published."""
    first = args[0] if args else ""
    if isinstance(first, CopyJob):
        return first.key
    if isinstance(first, Sequence) and not isinstance(first, str):
        return " ".join(one.topic for one in first if isinstance(one, Message))
    return str(first)


class DyingPort:
    """Any port around a port of that kind; its calls are counted from the moment on at which the point is laid down."""

    def __init__(self, name: str, port: Any, path: Path) -> None:  # noqa: ANN401 - any port
        self._name, self._port, self._path = name, port, path
        self._calls = 0

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - whatever the port has there
        found = getattr(self._port, method)
        if not callable(found):
            return found

        def called(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - as the port's own
            point = self._point(method, args)
            self._calls += point is not None
            dies = point is not None and self._calls >= point.call
            if point is not None and dies and point.when == "before":
                self._die(point)
            if point is not None and dies and point.when == "inside":
                with self._inside(point):
                    return found(*args, **more)
            gave = found(*args, **more)
            if point is not None and dies and point.when == "after" and (gave or not point.gave):
                self._die(point)
            return gave

        return called

    def _die(self, point: Point) -> None:
        try:
            self._path.unlink()  # once
        except FileNotFoundError:
            return  # it was taken away in this moment
        for process in point.kills:
            os.kill(process, signal.SIGKILL)
        if not point.kills:
            os.kill(os.getpid(), signal.SIGKILL)
            raise SystemExit(1)  # not reached

    @contextlib.contextmanager
    def _inside(self, point: Point) -> Iterator[None]:
        """Somebody dies in the middle of the one call that is made meanwhile.

        Of a publish: when its records lie in the producer and are about to be sent. Of a transaction: when the broker
        has acknowledged its records, before the commit. Of an advance: when the old segments are gone, before the
        position is replaced.
        """
        owner, name = _MIDDLE[point.method](self._port)
        real = getattr(owner, name)

        def dies(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - as the real one's
            self._die(point)
            return real(*args, **more)

        setattr(owner, name, dies)
        try:
            yield
        finally:
            setattr(owner, name, real)

    def _point(self, method: str, args: Sequence[Any]) -> Point | None:
        """The point that this call may be, if one is laid down."""
        try:
            fields = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        point = Point(**{**fields, "kills": tuple(fields["kills"])})
        here = (point.port, point.method) == (self._name, method)
        return point if here and re.search(point.about, subject(args)) else None


def _within(log: Any) -> Any:  # noqa: ANN401 - a log of either library
    """The log that holds a producer: a watched log has another log inside."""
    return log._client.log if isinstance(log, WatchedLog) and log._client is not None else log


_MIDDLE: dict[str, Callable[[Any], tuple[Any, str]]] = {
    "publish": lambda log: (_within(log), "_flush"),
    "transaction": lambda log: (_within(log), "_commit_transaction"),
    "advance": lambda spool: (spool, "_replace"),
}


def main() -> int:
    """The service, until it dies."""
    service, region, config = sys.argv[1:]
    path = _path(Path(os.environ[FOLDER]), service, region)

    def wrap(name: str, port: P, /) -> P:
        return cast("P", DyingPort(name, port, path))

    run: Callable[..., int] = importlib.import_module(f"services.{service}").run
    return run(load(Path(config)), region, wrap)


if __name__ == "__main__":
    sys.exit(main())
