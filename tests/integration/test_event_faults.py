"""The event plane under faults of real processes: exact kills, dead brokers, cut links, a full disk, wrong clocks.

After each fault, every event that a node had accepted is visible in both regions, and `farside events audit` finds none
missing, none early, and none twice at a standby. `make event-faults` plays every point and cuts the link for a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from farside import _spool
from services.cli import app
from services.demo.actors import read_lines
from tests.integration import death_points, dying_service
from tests.integration.death_points import AGENT, REPLICATOR, RETIRE, START
from tests.integration.dying_service import Point
from tests.integration.fault_kinds import HOUR_S, Fault
from tests.integration.fault_pair import REGIONS, RUN, TRAINER, Cast
from tests.integration.fault_rounds import Round, Rounds, running
from tests.integration.small_disk import SmallDisk, mounted

pytestmark = [pytest.mark.servers, pytest.mark.alone]
EVERY = os.environ.get("POINTS") == "all"
POINTS = death_points.ALL if EVERY else death_points.SHORT
CUT_S = float(os.environ.get("CUT_S") or 10.0)
COMES_S = 45.0
AUDIT_S = 60.0
GOES_ON_LINES = 4
LOG_BYTES = 300_000  # of a spool that a disk can be small for


@dataclass
class _Plane:
    """A pair of regions whose agents and replicators die when they are told to."""

    rounds: Rounds
    points: Path
    disks: dict[str, SmallDisk]

    def where(self, service: str) -> str:
        """The region in which a service has the most to do now."""
        holder, _ = self.rounds.pair.holder()
        return holder if service == AGENT else next(one for one in REGIONS if one != holder)

    def audit(self) -> dict[str, Any]:
        """The audit's report, once it finds nothing; AssertionError with what it finds if that lasts."""
        report: dict[str, Any] = {}

        def clean() -> bool:
            argv = ["events", "audit", "--run", RUN, "--json", "--config", str(self.rounds.pair.config)]
            result = CliRunner().invoke(app, argv)
            report.clear()
            report.update(json.loads(result.stdout) if result.stdout else {"unaccounted": [result.stderr]})
            return result.exit_code == 0

        try:
            self.rounds.pair.wait(clean, "an audit that finds nothing", AUDIT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {report.get('unaccounted')}") from error
        return report

    def play(self, kind: str, begin: Callable[[], Fault]) -> Round:
        """A round, in which everything accepted arrives, and its audit."""
        found = self.rounds.play(kind, begin)
        report = self.audit()
        assert report["lines"], "the audit saw nothing"
        assert [one for one in report["lines"] if one["gaps"] or one["early"]] == []
        assert [one for one in report["lines"] if not one["is_source"] and one["duplicates"]] == []
        return found

    def dies_at(self, *points: Point) -> Fault:
        """Each service dies at its point, and is started again at once."""
        pair = self.rounds.pair
        left = {point: self.where(point.service) for point in points}
        for point, region in left.items():
            pair.down.add(f"{point.service}-{region}")
            dying_service.arm(self.points, region, point)
        anew = bool(set(points) & {*RETIRE, *START})
        if anew:
            pair.kill(f"{TRAINER}-{self.where(AGENT)}")
            pair.start(TRAINER, self.where(AGENT))

        def over() -> bool:
            for point, region in list(left.items()):
                code = pair.actors.ended(f"{point.service}-{region}")
                assert code in {None, -signal.SIGKILL}, f"{point.service} in {region} ended with {code} by itself"
                if code is not None:
                    del left[point]
                    pair.start(point.service, region)
            return not left

        def undo() -> None:
            for point, region in left.items():  # the point was not reached in its time
                dying_service.disarm(self.points, point.service, region)
                pair.actors.kill(f"{point.service}-{region}")  # it may be dying of it right now
                pair.start(point.service, region)

        words = f"kill -9 at {' and '.join(point.name for point in points)}"
        return Fault(words, undo, COMES_S, over, trains=not anew)

    def brokers_die(self, point: Point, *, both: bool) -> Fault:
        """The broker that a call goes to dies in the middle of that call; with it the other one, if wanted."""
        pair, region = self.rounds.pair, self.where(point.service)
        own, other = (f"kafka-{one}" for one in sorted(REGIONS, key=lambda one: one != region))
        names = (own, other) if both else (own,)
        servers = {one.name: one for one in pair.stack.states()}
        pids = tuple(pid for one in names if (pid := servers[one].pid))
        assert len(pids) == len(names), f"not all of {names} run"
        dying_service.arm(self.points, region, replace(point, kills=pids))

        def over() -> bool:
            return {one.name for one in pair.stack.states() if one.state == "gone"} >= set(names)

        def undo() -> None:
            dying_service.disarm(self.points, point.service, region)
            for name in names:
                pair.stack.restart(name)

        return Fault(f"kill -9 of {' and '.join(names)} inside {point.name}", undo, COMES_S, over)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Plane]:
    """Once for all faults of this file; nothing is left of it, and nothing stays mounted."""
    folder = tmp_path_factory.mktemp("event-faults")
    points = folder / "points"
    points.mkdir()
    more = {
        dying_service.FOLDER: str(points),
        "FARSIDE_PUBLISH__BATCH_AGE_S": "0.3",
        "FARSIDE_PUBLISH__KEEP_LOGS_S": "0",
    }
    modules = dict.fromkeys((AGENT, REPLICATOR), "tests.integration.dying_service")
    # Under the default lease nobody takes over while a service or a broker starts again, on a slow machine either.
    cast = Cast(every_steps=8, step_s=0.12, values=100, modules=modules, environment=more, profile="default")
    with contextlib.ExitStack() as stack:
        disks: dict[str, SmallDisk] = {}
        with contextlib.suppress(OSError, subprocess.CalledProcessError):  # we may not: the test of the disk says so
            for region in REGIONS:
                disks[region] = stack.enter_context(mounted(folder / "stack" / "nodes" / region))
        rounds = stack.enter_context(running(folder / "stack", random.Random(1), cast))
        yield _Plane(rounds, points, disks)


@pytest.mark.parametrize("points", POINTS, ids=lambda points: "+".join(point.name for point in points))
def test_I13_I14_I15_a_service_that_dies_at_this_point_loses_and_doubles_nothing(
    plane: _Plane, points: tuple[Point, ...]
) -> None:
    """Killed exactly there, started again: all that was accepted arrives, once at the standby, and never too early."""
    plane.play("point", lambda: plane.dies_at(*points))


SOURCE = Point(AGENT, "log", "publish", "inside", r"metrics")
TARGET = Point(REPLICATOR, "metrics.log", "transaction", "inside", r"metrics")


BROKERS = {"source": (SOURCE, False), "both": (TARGET, True)} | ({"target": (TARGET, False)} if EVERY else {})


@pytest.mark.parametrize(("point", "both"), BROKERS.values(), ids=BROKERS)
def test_I14_I15_brokers_killed_in_the_middle_of_a_batch_lose_and_double_nothing(
    plane: _Plane, point: Point, *, both: bool
) -> None:
    """With a batch about to be sent, or sent and not committed; all are started again on their data."""
    plane.play("brokers", lambda: plane.brokers_die(point, both=both))


def test_I14_I16_a_link_that_is_cut_holds_events_up_and_loses_none(plane: _Plane) -> None:
    """The standby hears nothing and reads nothing for a while; the trainer goes on, and then all of it arrives."""
    pair = plane.rounds.pair
    holder, standby = plane.where(AGENT), plane.where(REPLICATOR)

    def begin() -> Fault:
        pair.stack.cut(standby, holder)
        return Fault(f"cut of {standby}'s way to {holder}", lambda: pair.stack.heal(standby, holder), CUT_S)

    found = plane.play("cut", begin)
    assert found.trained > 0
    assert found.after == (holder, found.before[1]), "the lease was renewed all the time"


@pytest.mark.parametrize(
    ("service", "wall_s", "boot_s"),
    [(AGENT, -3 * HOUR_S, HOUR_S), (REPLICATOR, 5 * HOUR_S, 2 * HOUR_S)],
    ids=[AGENT, REPLICATOR],
)
def test_I14_I15_a_clock_that_jumps_changes_nothing_of_what_arrives(
    plane: _Plane, service: str, wall_s: float, boot_s: float
) -> None:
    """Wall clock and CLOCK_BOOTTIME jump, as after a suspended machine; the wall clock jumps back at the end."""

    def begin() -> Fault:
        fault = plane.rounds.faults.jump(plane.where(service), [service], wall_s, boot_s)
        return replace(fault, lasts_s=3.0)

    found = plane.play("clock", begin)
    assert found.trained > 0


def test_I14_I16_a_full_disk_thins_metrics_first_and_stops_no_trainer(plane: _Plane) -> None:
    """Little room: fewer metrics, every checkpoint. None: an alarm on each side, training goes on. Room again: all."""
    if len(plane.disks) < len(REGIONS):
        pytest.skip("mounting a small disk takes root, and CAP_SYS_ADMIN in a container")
    pair, (region, epoch) = plane.rounds.pair, plane.rounds.pair.holder()
    disk = plane.disks[region]
    trainer = pair.stack.folder / "logs" / f"{TRAINER}-{region}.log"
    timeline = pair.settings.state_dir / "timeline" / f"agent-{region}.jsonl"

    def step_lines() -> list[str]:
        return [one for one in trainer.read_text(encoding="utf-8").splitlines() if one.startswith("step ")]

    def count_in_log(what: str) -> int:
        return trainer.read_text(encoding="utf-8").count(what)

    def journal_entries(event: str) -> list[dict[str, Any]]:
        return [one for one in read_lines(timeline) if one["event"] == event]

    def logs_bytes() -> int:
        folder = _spool.producers_folder(disk.folder, RUN)
        return sum(one.stat().st_size for one in folder.glob("*/log*"))

    pair.wait(lambda: logs_bytes() >= LOG_BYTES, "a log that a disk can be small for")
    thinned, alarms, fulls = (
        count_in_log("metrics_thinned"),
        count_in_log("farside.spool_full"),
        len(journal_entries("spool.full")),
    )
    skips, saved = count_in_log("checkpoint_skipped"), len(journal_entries("checkpoint.committed"))
    try:
        disk.leave(logs_bytes() * 3 // 4)  # four sevenths of the room are used: every second step's metric is kept
        pair.wait(lambda: count_in_log("metrics_thinned") > thinned, "thinned metrics")
        pair.wait(lambda: len(journal_entries("checkpoint.committed")) >= saved + 2, "checkpoints with little room")
        assert count_in_log("checkpoint_skipped") == skips, "metrics are thinned first"
        assert count_in_log("farside.spool_full") == alarms

        def begin() -> Fault:
            disk.leave(0)
            before = len(step_lines())

            def over() -> bool:
                disk.leave(0)  # what was uploaded meanwhile gave room
                alarmed = count_in_log("farside.spool_full") > alarms and len(journal_entries("spool.full")) > fulls
                return alarmed and len(step_lines()) >= before + GOES_ON_LINES

            return Fault(f"{region}'s spool has no room", disk.empty, COMES_S, over, trains=False)

        plane.play("disk", begin)
    finally:
        disk.empty()
    assert pair.holder() == (region, epoch)
    assert count_in_log("farside.spool_full") == alarms + 1
    (figures,) = journal_entries("spool.full")[fulls:]
    assert figures["free_bytes"] < figures["disk_bytes"]
    assert figures["log_bytes"] >= LOG_BYTES
    assert journal_entries("spool.has_room")
    pair.wait(lambda: bool(journal_entries("publish.metrics_thinned")), "the account of what was left out")
