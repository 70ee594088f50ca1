"""A process that ends is started again: later each time, soon again once it was well; nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RetryableError
from services.runtime.child_processes import spawn
from services.runtime.restarts import RestartPolicy, Restarts, after_end
from services.runtime.supervision import Supervised, Supervisor
from tests.waiting import wait_until

POLICY = RestartPolicy()


def test_the_waits_double_up_to_a_cap_and_begin_again_after_a_healthy_time() -> None:
    """0.5 s, 1 s, 2 s ... 30 s; one that ran for a minute was well."""
    restarts, waits = Restarts(), []
    for _ in range(9):
        restarts = after_end(restarts, 1, 0.1, POLICY)
        waits.append(restarts.wait_s)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    well = after_end(restarts, -9, POLICY.healthy_s, POLICY)
    assert (well.wait_s, well.count, well.reason) == (0.5, 10, "signal 9 after 60 s")


def test_one_that_is_misconfigured_is_named_so_and_tried_again_slowly() -> None:
    """Somebody may have put it right."""
    restarts = after_end(Restarts(), 2, 1.0, POLICY)
    assert restarts.wait_s == POLICY.misconfigured_s
    assert "misconfigured: see its log" in restarts.reason


@given(st.lists(st.tuples(st.integers(-15, 3), st.floats(0, 1_000)), max_size=40))
def test_every_end_is_counted_and_every_wait_is_bounded(ends: list[tuple[int, float]]) -> None:
    """Whatever the codes and times."""
    restarts = Restarts()
    for code, ran_s in ends:
        restarts = after_end(restarts, code, ran_s, POLICY)
        assert 0 < restarts.wait_s <= max(POLICY.longest_s, POLICY.misconfigured_s)
        assert restarts.reason
    assert restarts.count == len(ends)


class _World:
    """A supervisor of real processes in time that is told."""

    def __init__(self, folder: Path, scripts: dict[str, str]) -> None:
        self.now_s, self.said = 100.0, list[str]()
        self.started: dict[str, list[subprocess.Popen[bytes]]] = {name: [] for name in scripts}

        def start(name: str, script: str) -> subprocess.Popen[bytes]:
            child = spawn([sys.executable, "-c", script], {}, folder, folder / f"{name}.log")
            self.started[name].append(child)
            return child

        processes = [Supervised(name, lambda name=name: start(name, scripts[name])) for name in scripts]  # type: ignore[misc]
        self.supervisor = Supervisor(processes, POLICY, self.said.append, lambda: self.now_s)


STAYS = "import signal; signal.pause()"


def test_what_ends_is_started_again_and_the_others_are_left_alone(tmp_path: Path) -> None:
    """Two ends, two waits; the one that stays is the same process all the time; at the end none is left."""
    world = _World(tmp_path, {"ends": "raise SystemExit(3)", "stays": STAYS})
    look = world.supervisor.look
    try:
        assert look()
        wait_until(lambda: look() and len(world.said) == 1, 20, "its end")
        assert world.said[0].startswith("ends ended with exit code 3 after 0 s; it is started again in 0.5 s")
        assert not look()
        world.now_s += 0.6
        assert look()
        assert (len(world.started["ends"]), len(world.started["stays"])) == (2, 1)
        wait_until(lambda: look() and "in 1.0 s" in world.said[-1], 20, "its second end")
        assert [process.restarts.count for process in world.supervisor.processes] == [2, 0]
        assert [process.pid is None for process in world.supervisor.processes] == [True, False]
    finally:
        world.supervisor.end()
    assert all(child.poll() is not None for children in world.started.values() for child in children)
    assert world.started["stays"][0].returncode == -15


def test_what_cannot_be_started_is_tried_again_and_named() -> None:
    """A program that is gone, or a port that cannot be claimed, is an end like any other."""

    def cannot() -> subprocess.Popen[bytes]:
        raise RetryableError("no such program")

    said: list[str] = []
    supervisor = Supervisor([Supervised("gone", cannot)], POLICY, said.append, lambda: 5.0)
    assert supervisor.look()
    assert said[0] == "gone could not be started: no such program"
    assert supervisor.processes[0].restarts.count == 1
    with pytest.raises(RetryableError):
        supervisor.processes[0].start()
