"""Real processes on the local stack: a region lost, a link lost, and a region that was only asleep."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from schemas.codec import record_types
from services.cli import app
from services.demo import figures, local_config, report, roundtrip
from services.demo.actors import Actors
from services.demo.roundtrip import Roundtrip
from services.demo.story import Story
from services.http.bodies import plain
from services.http.endpoints import controller_of
from services.runtime.clients import store_of
from services.settings import Settings, load
from tests.callers import scraped
from tests.waiting import wait_until

SERVERS = ("kafka-east", "s3-east")
pytestmark = [pytest.mark.servers, pytest.mark.alone]
DEADLINE_S = 60.0


@pytest.mark.torch
def test_I7_I13_I14_a_lost_region_changes_nothing_in_the_result(tmp_path: Path) -> None:
    """The demo's story: bit-identical, no accepted event lost, the zombie set aside, the lease never held twice."""
    story_lines: list[str] = []
    story = Story(tmp_path / "demo", 11, 60, story_lines.append)
    story.play()
    found = report.write(story, tmp_path / "report")
    assert report.passed(found), found
    assert found["warm_ready_before_loss"]
    assert found["events"]["accepted"] == found["events"]["visible"] > 60
    assert found["resumed_from_step"] <= found["killed_at_step"]
    assert (tmp_path / "report" / "loss.png").stat().st_size > 10_000
    assert len(story_lines) >= 8


@pytest.mark.torch
def test_I9_a_failback_loses_no_step_and_changes_nothing_in_the_result(tmp_path: Path) -> None:
    """Lost, and back by the operator's own command: bit-identical, no event lost, the lease never held twice."""
    story = Roundtrip(tmp_path / "demo", 5, 200, lambda _text: None)
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
    drill = story.answers["drill"]
    assert drill["good"], drill["why"]
    assert drill["first_step"] == drill["from_step"] + 1
    assert set(drill["measured_parts_s"]) == {"detect", "fence", "restore", "first_step"}
    assert drill["predicted_rto_s"] == pytest.approx(sum(drill["predicted_parts_s"].values()))
    assert story.answers["left_by_drill"] == [], "it swept what it wrote"
    assert [one["drill_id"] for one in story.answers["drills"]] == [drill["drill_id"]]


class _Regions:
    """Two regions with controllers and agents, and no trainer."""

    def __init__(self, stack: Stack, actors: Actors, settings: Settings) -> None:
        self.stack, self.actors, self.settings = stack, actors, settings

    def control(self, region: str) -> dict[str, Any]:
        """A controller's status of the run; empty if it does not answer."""
        status = controller_of(self.settings, region).status_of("gpt")
        return {} if status is None else dict(plain(status))

    def timeline(self) -> list[dict[str, Any]]:
        """The merged timeline of all services."""
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


def test_I12_an_operators_commands_change_the_mode_and_are_kept_with_who_and_why(regions: _Regions) -> None:
    """Pause, resume, acknowledge, a switchover that cannot be, and the history of it all, through real processes."""

    def farside(*words: str, code: int = 0) -> Any:  # noqa: ANN401 - whatever the command prints as JSON
        config = str(regions.stack.folder / "farside.toml")
        done = CliRunner().invoke(app, [words[0], "--run", "gpt", "--config", config, *words[1:]])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in words and code == 0 else done.output

    paused = farside("pause", "--reason", "link works", "--yes", "--wait", "--json")
    assert (paused["before"]["mode"], paused["after"]["mode"]) == ("active", "paused")
    gates = {name: {gate["name"]: gate["open"] for gate in one["gates"]} for name, one in _gates(farside)}
    assert gates["west"]["mode_paused"] is False, "an automatic move is held back"
    assert "mode paused -> active" in farside("resume", "--yes")
    assert "nothing is paused" in farside("resume", "--yes", code=1)
    assert "is its warmer running" in farside("switchover", "--to", "west", "--yes", code=1)
    assert "never had gpt" in farside("failback", "--to", "west", "--yes", code=1)
    assert "is no standby" in farside("drill", "--region", "east", "--", "true", code=1)
    assert "nothing to resume from" in farside("drill", "--region", "west", "--", "true", code=1)
    assert "drill_command" in farside("drill", "--region", "west", code=2)
    assert farside("switchover", "--to", "west", "--scheduled", "+8h", "--yes", "--json")["after"]["scheduled_ms"] > 0
    assert "moves to west in" in farside("explain")
    assert farside("resume", "--cancel", "--yes", "--json")["after"]["scheduled_ms"] == 0
    assert "a time with its zone" in farside("switchover", "--to", "west", "--scheduled", "tomorrow", code=2)
    assert "not done" in farside("adopt", "--branch", "1:10", "--yes", code=1), "there is no such checkpoint"
    assert "is no branch" in farside("adopt", "--branch", "east", "--yes", code=1)
    assert "no branch of epoch 1" in farside("discard", "--region", "east", "--epoch", "1", "--yes", code=1)
    assert farside("acknowledge", "--yes", "--json")["after"]["acknowledged"] == 1

    def recorded_requests() -> list[tuple[str, str]]:
        found = [(one["reason"], one["note"]) for one in farside("history", "--json")]
        return [one for one in found if one[0] in {"pause", "resume", "schedule", "cancel", "acknowledge"}]

    wait_until(
        lambda: len(recorded_requests()) == 5, DEADLINE_S, "the history, which is written right after the record"
    )
    requests = [("pause", "link works"), ("resume", ""), ("schedule", ""), ("cancel", ""), ("acknowledge", "")]
    assert recorded_requests() == requests
    assert [entry["region"] for entry in farside("lineage", "--json")["lineage"]] == ["east"]
    assert "renews in" in farside("explain")
    for here in regions.settings.regions.values():
        assert len(store_of(here).list("schemas/")) == len(record_types()), "stored before the services' first use"
    shown = scraped(regions.settings, "controller", "east")
    assert 'farside_epoch{run="gpt"} 1.0' in shown
    assert 'farside_promise_kept{run="gpt"} 1.0' in shown
    assert 'farside_lease_valid_seconds{run="gpt"} 0.0' not in shown
    assert 'farside_events_total{event="service.started"} 1.0' in scraped(regions.settings, "agent", "west")


def _gates(farside: Callable[..., Any]) -> list[tuple[str, Any]]:
    """The gates of each controller, as `explain` shows them now."""
    found: dict[str, Any] = farside("explain", "--json")
    return list(found.items())


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
