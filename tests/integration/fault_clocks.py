"""The clocks of the services in the rounds: made to jump from outside, turned back into true time for the checks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from farside import _spool
from services.demo.actors import read_lines

SHIFTER = Path(__file__).with_name("fault_clock")
Jump = tuple[float, float]  # the machine's boottime at which a process took it; what its own is ahead since then


class Clocks:
    """One file a process; `fault_clock/sitecustomize.py` reads it inside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[str, dict[str, float]] = {}
        folder.mkdir(parents=True)

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a process whose clocks can be made to jump; a restarted one keeps its shift."""
        if name not in self._offsets:
            self._write(name, {"wall_s": 0.0, "boot_s": 0.0})
        return {"PYTHONPATH": str(SHIFTER), "FARSIDE_FAULT_CLOCK": str(self._path(name))}

    def jump(self, name: str, *, wall_s: float, boot_s: float) -> None:
        """The wall clock is off by so much from now on; CLOCK_BOOTTIME jumps ahead, and never back."""
        if boot_s < 0:
            raise ValueError("CLOCK_BOOTTIME never goes back")
        self._write(name, {"wall_s": wall_s, "boot_s": self._offsets[name]["boot_s"] + boot_s})

    def true_s(self, name: str, shown_s: float) -> float:
        """The machine's boottime at which a process's own showed this."""
        taken = read_lines(self._path(name).with_name(f"{self._path(name).name}.taken"))
        return true_s([(float(one["at_s"]), float(one["boot_s"])) for one in taken], shown_s)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _write(self, name: str, offsets: dict[str, float]) -> None:
        self._offsets[name] = offsets
        _spool.write_json_atomically(self._path(name), offsets, durable=False)


def true_s(jumps: Iterable[Jump], shown_s: float) -> float:
    """Times that a jump ahead skipped all map to the moment of the jump: nobody lived through them."""
    ahead_s = 0.0
    for at_s, since_s in jumps:
        if shown_s <= at_s + ahead_s:
            break
        if shown_s <= at_s + since_s:
            return at_s
        ahead_s = since_s
    return shown_s - ahead_s
