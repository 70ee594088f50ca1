"""Hard fencing on real processes: a guard ends torchrun and its ranks when the region's authority does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from farside import _spool
from farside.guard import FENCED_EXIT_CODE
from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines.core.lease_profiles import FAST
from services.adapters.system_clock import SystemClock
from services.demo import local_config
from services.demo.actors import Actors, read_lines
from services.runtime.child_processes import state_letter
from services.settings import Settings, load
from tests.benchmarks.witness import LIGHT, PACE
from tests.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.alone]
REGIONS = ("east", "west")
START_S = 180.0
CLOCK = SystemClock()


class _Guarded:
    """Two regions under hard fencing, a launch under guard in each."""

    def __init__(self, stack: Stack, actors: Actors, settings: Settings) -> None:
        self.stack, self.actors, self.settings = stack, actors, settings

    def launch(self, region: str, out: str = "") -> str:
        """Start the region's trainer; its process's name."""
        node_dir, name = self.settings.region(region).node_dir, f"trainer-{region}{out}"
        node_dir.mkdir(parents=True, exist_ok=True)
        named = {"FARSIDE_RUN": "gpt", "FARSIDE_NODE_DIR": str(node_dir), "FARSIDE_LAUNCH": f"job-{region}"}
        self.actors.trainer(name, self._out(name), [*LIGHT, *PACE], named, guarded=True, may_end=True)
        return name

    def folder(self, region: str, launch: str = "") -> Path:
        """Where the launch talks with its agent."""
        return _spool.launch_folder(self.settings.region(region).node_dir, "gpt", launch or f"job-{region}")

    def steps(self, name: str) -> list[dict[str, float]]:
        """The steps that a trainer has computed."""
        return read_lines(self._out(name) / "losses.jsonl")

    def log(self, name: str) -> str:
        """The lines that guard and trainer logged."""
        return (self.stack.folder / "logs" / f"{name}.log").read_text(encoding="utf-8")

    def _out(self, name: str) -> Path:
        return self.stack.folder / "out" / name


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[_Guarded]:
    """Both controllers and agents run."""
    with Stack(tmp_path / "stack", Tools.cached(), REGIONS, LinkShape()) as stack:
        stack.start()
        config = local_config.write(stack.layout)
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("[runs.gpt]\n", '[runs.gpt]\nfencing = "hard"\n'), encoding="utf-8")
        settings = load(config, {})
        actors = Actors(stack.folder, config, settings.service_ports())
        try:
            for region in REGIONS:
                actors.service("controller", region)
                actors.service("agent", region)
            yield _Guarded(stack, actors, settings)
        finally:
            actors.stop()
            local_config.clean(stack.folder)


@pytest.mark.torch
def test_I1_I16_a_guard_ends_torchrun_when_its_controller_is_lost_and_lets_a_standby_wait(guarded: _Guarded) -> None:
    """The controller is killed, so nothing is renewed: no rank computes past the margin, none is left, exit code 79.

    The launch that waits in the standby has nothing to lose and is left alone. The scheduler's requeue, under the same
    name, is a new attempt: it is not killed for the old grant, and trains.
    """
    east, west = guarded.launch("east"), guarded.launch("west")
    guarded.actors.wait("east trains", lambda: len(guarded.steps(east)) > 12, START_S)
    validity = _spool.validity_path(guarded.folder("east"))
    guarded.actors.wait("its validity is renewed", validity.exists, START_S)
    guarded.actors.wait("west asks", lambda: _spool.request_path(guarded.folder("west")).exists(), START_S)
    ranks, waiting = guarded.actors.pids(east), guarded.actors.pids(west)
    assert len(ranks) >= 5, "guard, keeper, torchrun and two ranks"
    guarded.actors.kill("controller-east")
    guarded.actors.wait("east's trainer ends", lambda: guarded.actors.ended(east) is not None, START_S)
    assert guarded.actors.ended(east) == FENCED_EXIT_CODE
    assert [pid for pid in ranks if state_letter(pid) not in {"", "Z", "X"}] == []
    assert guarded.log(east).count("farside.fenced launch=job-east epoch=1 attempt=1") == 1
    assert " left=0 " in guarded.log(east)
    until_s = float((_spool.read_json(validity) or {})["valid_until_s"])
    last_s = guarded.steps(east)[-1]["time_ms"] / 1000 - CLOCK.wall_ms() / 1000 + CLOCK.boottime_s()
    assert last_s <= until_s + FAST.margin_s, "nothing computes when another region could begin"
    assert guarded.actors.ended(west) is None
    assert [pid for pid in waiting if state_letter(pid) in {"", "Z", "X"}] == []
    assert "farside.fenced" not in guarded.log(west)
    guarded.actors.service("controller", "east")
    again = guarded.launch("east", "-again")
    wait_until(lambda: len(guarded.steps(again)) > 12, START_S, "the requeued job trains")
    grant = _spool.read_json(_spool.grant_path(guarded.folder("east", "job-east.2"))) or {}
    assert (grant["epoch"], grant["attempt"]) == (1, 2)
    assert guarded.actors.ended(again) is None
