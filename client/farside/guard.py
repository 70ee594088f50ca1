"""Runs a training command, and kills it when the region's authority over the run has ended.

    python -m farside.guard -- torchrun --nproc-per-node 8 train.py        (or: farside-guard -- ...)

Under the policy ``runs.<run>.fencing = "hard"`` the command may compute only while its grant is valid. The agent
renews a small file; when that is not renewed (the witness, the controller or the agent is away, frozen or gone) or
says that the attempt is superseded, everything the command started gets SIGTERM and, a grace later, SIGKILL, which
also ends processes that are stopped. The grace fits into the lease's margin, so that nothing computes any more when
another region may begin. Under ``soft``, before a grant (a standby), and without Farside, it only waits.

Exit codes: the command's own, or 128 + n if signal n ended it; 79 if it was killed because its authority ended; 126
and 127 as a shell's, for a command that cannot be run; 2 for wrong arguments. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1
and SIGUSR2 are passed on to the command's process group.

Two processes, each of which outlives the other just long enough to kill what is left: the guard watches, and its
*keeper* is the command's parent. Both collect orphans (PR_SET_CHILD_SUBREAPER), since launchers give their ranks
sessions of their own: whatever the command starts stays a descendant of the guard and is found by /proc. If the guard
is killed, the keeper sees its pipe end; if the keeper is killed, its children become the guard's. If both are killed
at once, PR_SET_PDEATHSIG still ends the command itself.

What it cannot do: a guard that is itself stopped guards nothing until it goes on. The other regions are safe then all
the same: what a superseded trainer writes is a branch that no reader counts.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from farside import _spool
from farside._validity import Watch, Word, ending, grace_s, next_look_s

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

FENCED_EXIT_CODE: Final = 79
NOT_EXECUTABLE, NOT_FOUND = 126, 127
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LOOK_S = 0.1
REPEAT_S = 0.01
GIVES_UP_S = 10.0  # a process in an uninterruptible call may outlive SIGKILL
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_log = logging.getLogger("farside.guard")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command under guard; its exit code."""
    parser = argparse.ArgumentParser(prog="farside-guard", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--grace-s", type=float, help="from SIGTERM to SIGKILL; at most 0.8 of the lease's margin")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the training command")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command: farside-guard -- torchrun ...")
    if args.grace_s is not None and args.grace_s < 0:
        parser.error("--grace-s must not be negative")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return Guard(command, args.grace_s, _watch(name := _name()), name).run()


def _name() -> str:
    """A name for this guard that no other one has, also after a restart of the machine."""
    return f"guard-{os.getpid()}-{os.urandom(8).hex()}"


def _watch(name: str) -> Watch | None:
    run, node_dir = os.environ.get("FARSIDE_RUN"), os.environ.get("FARSIDE_NODE_DIR")
    try:
        if run and node_dir:
            return Watch(_spool.launches_folder(Path(node_dir), _spool.safe_name(run, "FARSIDE_RUN")), name)
        reason = "FARSIDE_RUN or FARSIDE_NODE_DIR is not set"
    except ValueError as error:
        reason = str(error)
    _log.warning("farside.unguarded reason=%s", reason)
    return None


class Guard:
    """One command, watched until it ends.

    Args:
        command: program and arguments.
        grace_s: from SIGTERM to SIGKILL; None: half the lease's margin.
        watch: where the launch's authority is read; None: nowhere, so nothing is killed.
        name: under which the client names this guard to the agent.
    """

    def __init__(self, command: Sequence[str], grace_s: float | None, watch: Watch | None, name: str) -> None:
        self._command, self._grace_s, self._watch, self._name = list(command), grace_s, watch, name
        self._signals: list[int] = []
        self._complained = False

    def run(self) -> int:
        """Start the command and wait until it ends; kill it when the validity has ended."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wake = self._listen()
        keeper, trainer = self._start()
        word: Word | None = None
        while True:
            status = _ended(keeper)
            if status is not None:
                return _after(status, word)
            while self._signals:
                _signal_group(trainer, self._signals.pop(0))
            now_s = _now_s()
            word = self._look(now_s, word)
            why = ending(word, now_s)
            if why is not None and word is not None:
                return self._fence(word, why, keeper)
            select.select([wake], [], [], next_look_s(word, now_s, LOOK_S))
            _drain(wake)

    def _look(self, now_s: float, before: Word | None) -> Word | None:
        """Read the grant's validity. If it cannot be read, the earlier one stays, and ends unless it is renewed."""
        if self._watch is None:
            return None
        try:
            return self._watch.look(now_s)
        except (OSError, KeyError, TypeError, ValueError) as error:
            if not self._complained:
                self._complained = True
                _log.warning("farside.guard_cannot_read reason=%r", error)
            return before

    def _listen(self) -> int:
        """A descriptor that becomes readable with each signal; terminal stops are refused: a stopped guard is none."""
        reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        for number in PASSED_ON:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        return reads

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals.append(number)

    def _start(self) -> tuple[int, int]:
        """(keeper, command): their process ids."""
        alive, alive_here = os.pipe2(os.O_CLOEXEC)
        told, tells = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        keeper = os.fork()
        if keeper == 0:
            os.close(alive_here)
            _keep(self._command, self._name, alive, tells)
        os.close(alive)
        os.close(tells)
        trainer = int(os.read(told, 32) or b"0")
        os.close(told)
        return keeper, trainer

    def _fence(self, word: Word, why: str, keeper: int) -> int:
        begun_s, grace = _now_s(), grace_s(self._grace_s, word.margin_s)
        killed, left = _end_all(grace, keeper)
        os.kill(keeper, signal.SIGKILL)  # not collected yet, so the number is still its own
        os.waitpid(keeper, 0)
        _log.error(
            "farside.fenced launch=%s epoch=%d attempt=%d processes=%d left=%d grace_s=%.3f took_s=%.3f margin_s=%.3f:"
            " %s",
            word.launch,
            word.epoch,
            word.attempt,
            killed,
            left,
            grace,
            _now_s() - begun_s,
            word.margin_s,
            why,
        )
        return FENCED_EXIT_CODE


def _after(status: int, word: Word | None) -> int:
    """The exit code after the command has ended by itself, or after the keeper was killed."""
    if os.WIFSIGNALED(status):
        _log.error("farside.keeper_lost signal=%d: killing everything it kept", os.WTERMSIG(status))
        _end_all(0.0, 0)
        return 128 + os.WTERMSIG(status)
    if word is not None and word.hard:
        _end_all(0.0, 0)  # a rank that its launcher left behind would compute unwatched
    return os.WEXITSTATUS(status)


# --- the keeper ------------------------------------------------------------------------------------------


def _keep(command: list[str], name: str, alive: int, tells: int) -> NoReturn:
    """Run the command as its parent, and kill it if the guard is killed. Exits with the command's exit code."""
    code = NOT_EXECUTABLE
    try:
        os.setsid()  # the terminal's signals reach the guard only
        signal.set_wakeup_fd(-1)
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
        reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        own = os.getpid()
        trainer = os.fork()
        if trainer == 0:
            _become(command, name, own)
        os.write(tells, str(trainer).encode())
        os.close(tells)
        code = _kept(trainer, reads, alive)
    finally:
        os._exit(code)


def _kept(trainer: int, reads: int, alive: int) -> int:
    while True:
        code = _reaped(trainer)
        if code is not None:
            return code
        ready, _, _ = select.select([reads, alive], [], [])
        if alive in ready:  # its other end is closed: the guard is gone
            _end_all(0.0, 0)
            return NOT_EXECUTABLE
        _drain(reads)


def _reaped(trainer: int) -> int | None:
    """Collect the children that have ended; the command's exit code if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == trainer:
            code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _become(command: list[str], name: str, keeper: int) -> NoReturn:
    """The command itself, in a process group of its own."""
    code = NOT_EXECUTABLE
    try:
        signal.set_wakeup_fd(-1)
        for number in (*PASSED_ON, signal.SIGCHLD, signal.SIGTSTP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:  # else it died before the call above, and no signal would ever come
            os.execvpe(command[0], command, {**os.environ, "FARSIDE_GUARD": name})  # noqa: S606 - it is what was asked
    except OSError as error:
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        os.write(2, f"farside-guard: {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(code)


# --- processes -------------------------------------------------------------------------------------------


def _end_all(grace: float, keeper: int) -> tuple[int, int]:
    """SIGTERM to every descendant but the keeper, SIGKILL a grace later, until none is left; (how many, how many left).

    A stopped process is not continued: it gets SIGKILL, which needs no consent.
    """
    found: set[int] = set()
    begun_s = _now_s()
    if grace > 0:
        found |= _signal_all(signal.SIGTERM, keeper)
        while _now_s() - begun_s < grace and _descendants(keeper):
            time.sleep(REPEAT_S)
    left = set(_descendants(keeper))
    while left and _now_s() - begun_s < grace + GIVES_UP_S:
        found |= _signal_all(signal.SIGKILL, keeper)
        time.sleep(REPEAT_S)
        left = set(_descendants(keeper))
    return len(found), len(left)


def _signal_all(number: int, keeper: int) -> set[int]:
    found = set(_descendants(keeper))
    for pid in found:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return found


def _descendants(keeper: int) -> list[int]:
    """Everything below this process that still runs, as it is now, without the keeper itself."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command's name, in parentheses, may hold blanks.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return [pid for pid in found[1:] if pid != keeper]


def _signal_group(trainer: int, number: int) -> None:
    if trainer == 0:
        return  # it could not be started
    try:
        os.killpg(trainer, number)
    except ProcessLookupError:
        try:
            os.kill(trainer, number)  # it has not made its group yet, or has left it
        except ProcessLookupError:
            return  # it has ended: the keeper will say so


def _ended(pid: int) -> int | None:
    """The wait status of a child that has ended; None while it runs."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return status if found else None


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        return


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal wakes us."""
    del number, frame


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sys.exit(main())
