"""Put on a process's PYTHONPATH, this makes its clocks wrong by what a file says, while it runs.

The file named by FARSIDE_FAULT_CLOCK holds {"wall_s", "boot_s"}: what is added to the wall clock and to CLOCK_BOOTTIME.
CLOCK_MONOTONIC stays as it is, since it stands still too while a machine is suspended. Beside the file, `.taken` gets a
line for each change, with the machine's own boottime of the moment from which this process lived by it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from pathlib import Path

_real_time, _real_time_ns, _real_gettime = time.time, time.time_ns, time.clock_gettime
_plain = dt.datetime


class _Offsets:
    """The shift that the file holds, read again when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path, self._taken = str(path), path.with_name(f"{path.name}.taken")
        self._seen: tuple[int, int] | None = None
        self._now = {"wall_s": 0.0, "boot_s": 0.0}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> float:
        found = os.stat(self._path)  # noqa: PTH116 - at every look at a clock
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            with self._lock:
                self._take(seen)
        return self._now[name]

    def _take(self, seen: tuple[int, int]) -> None:
        if seen == self._seen:
            return
        now = {name: float(value) for name, value in json.loads(Path(self._path).read_bytes()).items()}
        line = json.dumps({"at_s": _real_gettime(time.CLOCK_BOOTTIME), **now})
        with self._taken.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        self._now, self._seen = now, seen


class _AnyDatetime(type):
    """Also an instance of the plain type, which C code makes, counts as ours."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _plain)


class _Datetime(dt.datetime, metaclass=_AnyDatetime):
    """The datetime type, which asks the wrong wall clock."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> _Datetime:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> _Datetime:
        return cls.now(dt.UTC).replace(tzinfo=None)


def _shift(offsets: _Offsets) -> None:
    def clock_gettime(clock: int) -> float:
        name = {time.CLOCK_BOOTTIME: "boot_s", time.CLOCK_REALTIME: "wall_s"}.get(clock)
        return _real_gettime(clock) + (0.0 if name is None else offsets[name])

    time.time = lambda: _real_time() + offsets["wall_s"]
    time.time_ns = lambda: _real_time_ns() + int(offsets["wall_s"] * 1e9)
    time.clock_gettime = clock_gettime
    dt.datetime = _Datetime  # type: ignore[misc]


if "FARSIDE_FAULT_CLOCK" in os.environ:
    _shift(_Offsets(Path(os.environ["FARSIDE_FAULT_CLOCK"])))
