"""Starting, watching and ending server processes, safe against a reused process id."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
_POLL_S = 0.02
# The parent-death signal comes when the *thread* that forked dies, so all servers are started by one thread that
# lives as long as the interpreter does.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="farside-spawner")


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none, or only its unreaped remains."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses and may itself hold any character, so count from the last one.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def state_letter(pid: int) -> str:
    """The kernel's one-letter state of a process (R, S, T for stopped, ...), or "" if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process id with its start time: together they never name another process."""

    pid: int
    ticks: int

    def alive(self) -> bool:
        """Whether that very process still runs (or is stopped)."""
        return start_ticks(self.pid) == self.ticks

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return  # it ended between the look and the signal: the caller sees it by `alive`

    def uptime_s(self) -> float:
        """Seconds since the process started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.ticks / os.sysconf("SC_CLK_TCK")


def own_id() -> ProcessId:
    """This process."""
    ticks = start_ticks(os.getpid())
    if ticks is None:
        raise OSError("cannot read /proc: this runs on Linux only")
    return ProcessId(os.getpid(), ticks)


def family(pid: int) -> list[int]:
    """A process and its descendants, as they are now."""
    pids = [pid]
    for at in pids:
        try:
            tasks = list(Path(f"/proc/{at}/task").iterdir())
            children = [(task / "children").read_text(encoding="utf-8").split() for task in tasks]
        except OSError:
            continue  # it ended meanwhile
        pids += [int(child) for of_task in children for child in of_task]
    return pids


def kill_families(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """SIGKILL processes with all their descendants at once, and collect them."""
    for pid in [pid for child in children for pid in family(child.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for child in children:
        child.wait()


def compiling_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours and more, but with bytecode kept: torch takes four times as long to import without it."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | dict(more)


def spawn(argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Starts a server that dies with this process, its output appended to a log, deaf to the terminal's Ctrl-C."""

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), *argv],
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return _SPAWNER.submit(start).result()


def wait_for(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Waits until the condition holds; False when the deadline passes first."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_S)
    return True


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error's text."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
