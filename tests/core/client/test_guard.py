"""The guard with real processes: what it ends, what it passes through, and what is left when it is killed itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from farside import _spool
from farside.guard import FENCED_EXIT_CODE
from services.runtime.child_processes import family, state_letter
from tests.waiting import wait_until

DEADLINE_S = 30.0
CLIENT = Path(_spool.__file__).parents[1]
# A trainer in small: a child in a session of its own (as torchrun's ranks are), a grandchild that was orphaned, and a
# request that names its guard. Each notes its process id; all wait for ever.
TRAINER = """
import json, os, signal, sys
launch, deaf = sys.argv[1], len(sys.argv) > 2
if deaf:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
def for_ever():
    while True:
        signal.pause()
def note():
    with open("pids", "a") as out:
        out.write(f"{os.getpid()}\\n")
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    note()
    for_ever()
if os.fork() == 0:
    os.setsid()
    note()
    for_ever()
note()
folder = os.path.join(os.environ["FARSIDE_NODE_DIR"], "runs", "gpt", "launches", launch)
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, ".new"), "w") as out:
    json.dump({"launch": launch, "guard": os.environ["FARSIDE_GUARD"]}, out)
os.rename(os.path.join(folder, ".new"), os.path.join(folder, "request.json"))
for_ever()
"""


def now_s() -> float:
    """As agent and guard count."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def runs(pid: int) -> bool:
    """It exists and is no mere remains."""
    return state_letter(pid) not in {"", "Z", "X"}


class Guarded:
    """A command under guard, with a test in the agent's place."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.launch = folder, folder / "node" / "runs" / "gpt" / "launches" / "l1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, flags: tuple[str, ...] = (), farside: bool = True) -> subprocess.Popen[bytes]:
        """Run a command under guard."""
        env = {**os.environ, "PYTHONPATH": str(CLIENT)}
        if farside:
            env |= {"FARSIDE_RUN": "gpt", "FARSIDE_NODE_DIR": str(self.folder / "node")}
        argv = [sys.executable, "-m", "farside.guard", *flags, "--", *command]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, env=env, cwd=self.folder, stdout=log, stderr=log)
        return self.process

    def trainer(self, *more: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Run the small trainer and wait until all three of it are there."""
        process = self.start(sys.executable, "-c", TRAINER, "l1", *more, flags=flags)
        wait_until(lambda: _spool.request_path(self.launch).exists(), DEADLINE_S, "the trainer asks")
        wait_until(lambda: len(self.pids()) == 3, DEADLINE_S, "all of it runs")
        return process

    def pids(self) -> list[int]:
        """The trainer's processes."""
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.folder / "pids").read_text().splitlines()]
        return []

    def alive(self) -> list[int]:
        """Those that run."""
        return [pid for pid in self.pids() if runs(pid)]

    def grant(self, valid_s: float, margin_s: float = 0.5, fencing: str = "hard") -> float:
        """Grant the launch; until when it is valid."""
        until_s = now_s() + valid_s
        times = {"valid_s": valid_s, "valid_until_s": until_s, "margin_s": margin_s}
        body = {"launch": "l1", "epoch": 1, "attempt": 1, "fencing": fencing, **times}
        _spool.write_json_atomically(_spool.grant_path(self.launch), body, durable=False)
        return until_s

    def renew(self, valid_s: float, state: str = "granted") -> float:
        """The agent's next word; until when it is valid."""
        until_s = now_s() + valid_s
        body = {"launch": "l1", "epoch": 1, "attempt": 1, "state": state, "valid_s": valid_s, "valid_until_s": until_s}
        _spool.write_json_atomically(_spool.validity_path(self.launch), body, durable=False)
        return until_s

    def log(self) -> str:
        """The lines that the guard logged."""
        return (self.folder / "log").read_text()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    """Leaves no process behind."""
    found = Guarded(tmp_path)
    yield found
    assert found.process is not None
    for pid in [*family(found.process.pid), *found.pids()]:
        if runs(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    found.process.wait()


def test_I1_nothing_of_a_hard_launch_computes_when_the_validity_and_its_margin_are_over(guarded: Guarded) -> None:
    """An agent that falls silent: the ranks in their own sessions and the orphan end too, within the margin."""
    process = guarded.trainer()
    until_s = guarded.grant(1.0, margin_s=2.0)
    wait_until(lambda: not guarded.alive(), DEADLINE_S, "all are killed")
    ended_s = now_s()
    assert until_s <= ended_s < until_s + 2.0
    assert process.wait(DEADLINE_S) == FENCED_EXIT_CODE
    assert guarded.log().count("farside.fenced launch=l1 epoch=1 attempt=1") == 1


def test_a_trainer_that_ignores_every_signal_is_killed_after_the_grace(guarded: Guarded) -> None:
    """SIGKILL needs no consent; it comes no sooner than the grace that was asked for."""
    process = guarded.trainer("deaf", flags=("--grace-s", "0.6"))
    until_s = guarded.grant(0.5, margin_s=2.0)
    assert process.wait(DEADLINE_S) == FENCED_EXIT_CODE
    assert until_s + 0.6 <= now_s() < until_s + 2.0
    assert guarded.alive() == []


def test_a_stopped_trainer_is_killed_without_being_woken(guarded: Guarded) -> None:
    """SIGSTOP, as of a frozen container: a SIGTERM would wait in it for ever."""
    process = guarded.trainer()
    for pid in guarded.pids():
        os.kill(pid, signal.SIGSTOP)
    guarded.grant(0.3)
    assert process.wait(DEADLINE_S) == FENCED_EXIT_CODE
    assert guarded.alive() == []


def test_a_superseded_launch_is_killed_at_once(guarded: Guarded) -> None:
    """Its validity has an hour left; what counts is that another region has the run."""
    process = guarded.trainer()
    guarded.grant(3600.0)
    guarded.renew(0.0, "superseded")
    assert process.wait(DEADLINE_S) == FENCED_EXIT_CODE
    assert "superseded" in guarded.log()
    assert guarded.alive() == []


def test_renewals_keep_it_running_past_the_first_validity_and_a_standby_waits(guarded: Guarded) -> None:
    """Before the grant nothing happens; then it lives by what is renewed, and ends by what is not."""
    process = guarded.trainer()
    assert process.poll() is None, "no grant yet"
    first_s = guarded.grant(0.8, margin_s=1.0)
    last_s = first_s

    def outlived() -> bool:
        nonlocal last_s
        last_s = guarded.renew(0.8)
        return now_s() > first_s + 1.0

    wait_until(outlived, DEADLINE_S, "a second past the first validity")
    assert len(guarded.alive()) == 3
    assert process.wait(DEADLINE_S) == FENCED_EXIT_CODE
    assert now_s() >= last_s


def test_a_launch_name_that_is_given_again_is_not_killed_for_its_old_grant(guarded: Guarded) -> None:
    """A requeued job under hard: it asks anew, and lives and dies by the new answer only."""
    guarded.launch.mkdir(parents=True)
    _spool.write_json_atomically(_spool.request_path(guarded.launch), {"launch": "l1", "guard": "guard-before"})
    old_s = guarded.grant(0.0)
    process = guarded.start(sys.executable, "-c", "import farside; farside.Run.attach(launch='l1').start()")
    fresh = guarded.launch.with_name("l1.2")
    wait_until(lambda: _spool.request_path(fresh).exists(), DEADLINE_S, "it asks anew")
    wait_until(lambda: now_s() > old_s + 2.0, DEADLINE_S, "well past what the old grant allowed")
    assert process.poll() is None
    body = {"launch": "l1.2", "epoch": 1, "attempt": 2, "step": 0, "mode": "exact", "folder": None, "fencing": "hard"}
    body |= {"valid_s": 60.0, "valid_until_s": now_s() + 60.0, "margin_s": 0.5}
    _spool.write_json_atomically(_spool.grant_path(fresh), body)
    assert process.wait(DEADLINE_S) == 0


def test_I16_under_soft_a_validity_that_ended_kills_nobody(guarded: Guarded) -> None:
    """It computes into its own branch; the guard only waits, and passes its end through."""
    process = guarded.trainer()
    until_s = guarded.grant(0.2, fencing="soft")
    wait_until(lambda: now_s() > until_s + 0.5, DEADLINE_S, "well past the end")
    assert len(guarded.alive()) == 3
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("victim", "name"), [(0, "guard"), (1, "keeper")])
def test_killing_the_guard_or_its_keeper_ends_everything_below(guarded: Guarded, victim: int, name: str) -> None:
    """An unwatched trainer would compute on: whichever of the two is left kills it."""
    process = guarded.trainer()
    guarded.grant(3600.0)
    os.kill(family(process.pid)[victim], signal.SIGKILL)
    wait_until(lambda: not guarded.alive(), DEADLINE_S, f"the {name} is dead, and so is all below it")
    code = process.wait(DEADLINE_S)
    assert code == (-signal.SIGKILL if victim == 0 else 128 + signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([sys.executable, "-c", "raise SystemExit(7)"], 7),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 137),
        (["true"], 0),
        (["no-such-program-here"], 127),
        (["/"], 126),
    ],
)
@pytest.mark.parametrize("farside", [True, False])
def test_the_commands_own_end_is_the_guards(guarded: Guarded, command: list[str], code: int, farside: bool) -> None:
    """With and without Farside; 79 is said by nobody but the guard."""
    assert guarded.start(*command, farside=farside).wait(DEADLINE_S) == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGTERM])
def test_signals_reach_the_command_as_they_came(guarded: Guarded, number: signal.Signals) -> None:
    """A scheduler's warning arrives, and what the command makes of it is its own business."""
    script = (
        "import json, signal, sys\n"
        f"signal.signal({int(number)}, lambda got, _: (open('got', 'w').write(json.dumps(got)), sys.exit(5)))\n"
        "open('ready', 'w').close()\nwhile True: signal.pause()"
    )
    process = guarded.start(sys.executable, "-c", script)
    wait_until((guarded.folder / "ready").exists, DEADLINE_S, "it listens")
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == 5
    assert json.loads((guarded.folder / "got").read_text()) == number


def test_what_a_hard_command_left_behind_ends_with_it(guarded: Guarded) -> None:
    """A launcher that crashes and leaves its ranks: nobody would watch them any more."""
    process = guarded.trainer()
    guarded.grant(3600.0)
    wait_until(lambda: _seen(guarded), DEADLINE_S, "the guard has seen the grant")
    os.kill(_main(guarded), signal.SIGKILL)
    assert process.wait(DEADLINE_S) == 128 + signal.SIGKILL
    assert guarded.alive() == []


def _main(guarded: Guarded) -> int:
    """The command itself: the keeper's child that leads its group but no session of its own."""
    return next(pid for pid in guarded.pids() if os.getsid(pid) != pid and os.getpgid(pid) == pid)


def _seen(guarded: Guarded) -> bool:
    """The grant is older than two of the guard's looks."""
    return time.time() - _spool.grant_path(guarded.launch).stat().st_mtime > 0.5
