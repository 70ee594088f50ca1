"""Real processes on the local stack: a region lost, a link lost, and a region that was only asleep."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from services import local_config
from services.cli.ask import ask
from services.demo import figures, report, roundtrip
from services.demo.actors import Actors
from services.demo.roundtrip import Roundtrip
from services.demo.story import Story
from services.settings import Settings, load
from tests.waiting import wait_until

SERVERS = ("kafka-east", "s3-east")
DEADLINE_S = 60.0


@pytest.mark.servers
@pytest.mark.torch
def test_I7_I13_I14_a_lost_region_changes_nothing_in_the_result(tmp_path: Path) -> None:
    """The demo's story: bit-identical, no accepted event lost, the zombie set aside, the lease never held twice."""
    told: list[str] = []
    story = Story(tmp_path / "demo", 11, 60, told.append)
    story.play()
    found = report.write(story, tmp_path / "report")
    assert report.passed(found), found
    assert found["warm_ready_before_loss"]
    assert found["events"]["accepted"] == found["events"]["visible"] > 60
    assert found["resumed_from_step"] <= found["killed_at_step"]
    assert (tmp_path / "report" / "loss.png").stat().st_size > 10_000
    assert len(told) >= 8


@pytest.mark.servers
@pytest.mark.torch
def test_I9_a_failback_loses_no_step_and_changes_nothing_in_the_result(tmp_path: Path) -> None:
    """Lost, and back by the operator's own command: bit-identical, no event lost, the lease never held twice."""
    story = Roundtrip(tmp_path / "demo", 5, 140, lambda _text: None)
    story.play()
    found = roundtrip.write(story, tmp_path / "report")
    assert roundtrip.passed(found), found
    assert [(one["from"], one["to"], one["reason"]) for one in found["moves"]] == [
        ("east", "west", "region_lost"),
        ("west", "east", "switchover"),
    ]
    reasons = [one["reason"] for one in story.answers["history"]]
    assert [one for one in reasons if one in {"region_lost", "switchover", "handover_drained"}] == [
        "region_lost",
        "switchover",
        "handover_drained",
        "switchover",
    ], "asked for, given away, taken"
    assert story.answers["history"][-1]["lineage"][-1]["note"] == "east is repaired"


class _Regions:
    """Two regions with controllers and agents, and no trainer."""

    def __init__(self, stack: Stack, actors: Actors, settings: Settings) -> None:
        self.stack, self.actors, self.settings = stack, actors, settings

    def control(self, region: str) -> dict[str, Any]:
        """What a controller says of the run; empty if it does not answer."""
        found: dict[str, Any] = (ask(self.settings.region(region).ports.controller, "/status") or {}).get("gpt", {})
        return found

    def timeline(self) -> list[dict[str, Any]]:
        """What all of them said."""
        return figures.timeline(self.settings.state_dir)


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[_Regions]:
    """East holds the lease and west hears its agent."""
    with Stack(tmp_path / "stack", Tools.cached(), ("east", "west"), LinkShape()) as stack:
        stack.start()
        config = local_config.write(stack.layout)
        settings = load(config, {})
        actors = Actors(stack.folder, config, settings.service_ports())
        try:
            for here in settings.regions.values():
                (here.node_dir / "runs" / "gpt").mkdir(parents=True)
            for region in ("east", "west"):
                actors.service("controller", region)
                actors.service("agent", region)
            found = _Regions(stack, actors, settings)
            wait_until(lambda: found.control("east").get("is_holder") is True, DEADLINE_S, "east holds the lease")
            wait_until(lambda: found.control("west").get("reason") == "primary_well", DEADLINE_S, "west hears east")
            yield found
        finally:
            actors.stop()


@pytest.mark.servers
def test_I10_a_lost_link_is_an_alarm_and_promotes_nobody(regions: _Regions) -> None:
    """East goes on renewing at the witness, so its silence is the link's (6.7); healed, all is well again."""
    regions.stack.cut("west", "east")
    wait_until(lambda: regions.control("west").get("reason") == "link_lost", DEADLINE_S, "the alarm")
    before = len([one for one in regions.timeline() if one["event"] == "lease.written"])

    def renewed_often() -> bool:
        return len([one for one in regions.timeline() if one["event"] == "lease.written"]) >= before + 8

    wait_until(renewed_often, DEADLINE_S, "eight more renewals, twice the lease")
    assert {one["epoch"] for one in regions.timeline() if one["event"] == "lease.written"} == {1}
    assert regions.control("west")["action"] == "alarm"
    regions.stack.heal("west", "east")
    wait_until(lambda: regions.control("west").get("reason") == "primary_well", DEADLINE_S, "the link is back")
    assert regions.control("east")["is_holder"] is True


@pytest.mark.servers
def test_I1_a_region_that_was_only_asleep_stands_down_when_it_wakes(regions: _Regions) -> None:
    """SIGSTOP to all of east; west takes over; thawed, east reads the witness before it acts, and gives way."""
    services = ("controller-east", "agent-east")
    with _asleep(regions, services):
        wait_until(lambda: regions.control("west").get("is_holder") is True, DEADLINE_S, "west takes over")
    wait_until(lambda: regions.control("east").get("primary") == "west", DEADLINE_S, "east sees who holds it")
    assert regions.control("east")["is_holder"] is False

    def later() -> list[str]:
        timeline = regions.timeline()
        taken = figures.first_of(timeline, "failover.promoted", at="west") or {"time_ms": float("inf")}
        written = [one for one in timeline if one["event"] == "lease.written"]
        return [one["at"] for one in written if one["time_ms"] > taken["time_ms"]]

    wait_until(lambda: len(later()) >= 4, DEADLINE_S, "four renewals after the takeover")
    assert set(later()) == {"west"}
    assert figures.first_of(regions.timeline(), "failover.stood_down", at="east") is not None
    assert figures.overlap_s(regions.timeline()) == 0


@contextlib.contextmanager
def _asleep(regions: _Regions, services: tuple[str, ...]) -> Iterator[None]:
    pids = [pid for name in services for pid in regions.actors.pids(name)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for name in SERVERS:
        regions.stack.freeze(name)
    try:
        yield
    finally:
        for name in SERVERS:
            regions.stack.thaw(name)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
