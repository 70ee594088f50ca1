"""The processes of the story: services and trainers, each with its log, none of which outlives the demo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from infra.local.ports import PortClaims
from pipelines.errors import RetryableError
from services.runtime.child_processes import (
    DIE_WITH_PARENT,
    compiling_environment,
    family,
    kill_families,
    spawn,
    tail,
    wait_for,
)

TRAINER = Path("client/examples/train_gpt.py")
RANKS = 2
END_S = 10.0


class Failed(RetryableError):  # noqa: N818 - reads as what happened
    """The story cannot go on; its text says what it waited for."""


class Actors:
    """Starts, kills and ends processes by name."""

    def __init__(self, folder: Path, config: Path, taken: Iterable[int]) -> None:
        # `taken`: ports that the settings give to services, which bind them later.
        self._folder, self._config, self._taken = folder, config, set(taken)
        self._logs = folder / "logs"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._may_end: set[str] = set()
        self._claims = PortClaims()

    def service(self, name: str, region: str, more: Mapping[str, str] | None = None) -> None:
        """Start one service of a region; `more` is added to its environment."""
        argv = [sys.executable, "-m", "services.cli", name, "--region", region, "--config", str(self._config)]
        self.program(f"{name}-{region}", argv, more or {})

    def program(self, name: str, argv: list[str], more: Mapping[str, str]) -> None:
        """Start another process of the story, under a name."""
        self._start(name, argv, more)

    def trainer(
        self,
        name: str,
        out: Path,
        args: list[str],
        farside: Mapping[str, str],
        *,
        guarded: bool = False,
        may_end: bool = False,
    ) -> None:
        """Start `torchrun` with two ranks of the example script, under `farside-guard` if wanted.

        may_end: its end is part of the story, whatever its exit code.
        """
        argv = self.trainer_argv(out, args)
        if guarded:
            argv = [sys.executable, "-m", "farside.guard", "--", *argv]
        if may_end:
            self._may_end.add(name)
        self._start(name, argv, {"OMP_NUM_THREADS": "1", **farside})

    def trainer_argv(self, out: Path, args: list[str]) -> list[str]:
        """The command that starts `torchrun`."""
        argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(RANKS)]
        argv += ["--rdzv-backend", "static", "--master-addr", "127.0.0.1", "--master-port", str(self._free_port())]
        # Ranks die with torchrun, and torchrun with us: it would leave them behind, were it killed.
        argv += ["--no-python", sys.executable, "-I", "-S", str(DIE_WITH_PARENT), "0"]
        return [*argv, sys.executable, str(TRAINER.absolute()), "--out", str(out), *args]

    def kill(self, *names: str) -> None:
        """SIGKILL processes with all their children, at once."""
        kill_families([self._running[name] for name in names])
        for name in names:
            del self._running[name]

    def stop(self) -> None:
        """End every process: SIGTERM, then SIGKILL for those that do not end, ranks included."""
        families = {pid for child in self._running.values() for pid in family(child.pid)}
        for child in self._running.values():
            if child.poll() is None:
                child.terminate()
        for child in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_S)
        for pid in families:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in self._running.values():
            child.wait()
        self._running.clear()
        self._claims.release()

    def pids(self, name: str) -> list[int]:
        """A process and its children."""
        return family(self._running[name].pid)

    def ended(self, name: str) -> int | None:
        """A process's exit code; None while it runs, or if it was killed here."""
        child = self._running.get(name)
        return None if child is None else child.poll()

    def wait(self, what: str, condition: Callable[[], bool], deadline_s: float) -> None:
        """Wait for something; Failed if it does not come, or a process ended badly meanwhile."""
        failed: list[str] = []

        def looked() -> bool:
            needed = [(name, child) for name, child in self._running.items() if name not in self._may_end]
            failed[:] = [name for name, child in needed if child.poll() not in {None, 0}]
            return bool(failed) or condition()

        came = wait_for(looked, deadline_s)
        if failed:
            name = failed[0]
            code = self._running[name].returncode
            raise Failed(f"{name} ended with {code} while waiting for {what}:\n{tail(self._logs / f'{name}.log')}")
        if not came:
            raise Failed(f"{what} did not happen within {deadline_s:.0f} s; logs in {self._logs}")

    def _free_port(self) -> int:
        while (port := self._claims.claim([])) in self._taken:
            continue
        return port

    def _start(self, name: str, argv: list[str], more: Mapping[str, str]) -> None:
        self._running[name] = spawn(argv, compiling_environment(more), Path.cwd(), self._logs / f"{name}.log")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete JSON lines of a file that is still being written; empty if there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
