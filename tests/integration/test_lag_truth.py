"""The link is cut while the primary commits, with real processes: the lag is a bound with its age, never 0 (I19)."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import paths
from pipelines.flows.log.envelope import headers_of
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply, Message
from schemas.codec import Codec
from schemas.http_bodies import GrantBody, RunStatus
from schemas.records import Heartbeat
from services.adapters.kafka.log import KafkaLog
from services.adapters.system_clock import SystemClock
from services.cli import app
from services.http.endpoints import ask, controller_of
from services.runtime.clients import cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings
from tests.bodies import run_status
from tests.integration.test_events import two_regions
from tests.manifests import put_checkpoint
from tests.waiting import repeated, wait_until

pytestmark = pytest.mark.servers
CODEC = Codec()
DEADLINE_S = 60.0
BEAT_S = 0.3
STEP = 10
HEARD_S = 4.0  # after a cut, what was heard just before it is still fresh for so long


class Primary:
    """East's agent as the controllers see it: it asks for its grant, beats, and commits when it is told to."""

    def __init__(self, settings: Settings) -> None:
        region = settings.region("east")
        self._store, self._signer = store_of(region), signer_of(settings, "east")
        self._log, self._clock = KafkaLog(cluster_of(region)), SystemClock()
        at = controller_of(settings, "east").at
        self._controller = replace(at, token_file=settings.region("east").api.agent_token_file, is_command=False)
        self.commits = False
        self.newest = self._turns = 0

    def turn(self) -> None:
        """A heartbeat, the grant, and every other time a checkpoint while it commits."""
        committed = self.newest * STEP if self.newest else -1
        grant = GrantBody(run="gpt", launch="l", committed_step=committed, node="east-n0", begins=True)
        ask(self._controller, "/v1/grant", GrantReply, grant)
        self._turns += 1
        number = self._turns
        if self.commits and number % 2:
            self.newest += 1
            own = CheckpointId("gpt", 1, 1, self.newest * STEP)
            now_ms = self._clock.wall_ms()
            chunks = [self.newest.to_bytes(4, "big") * 100]
            event = put_checkpoint(self._store, self._signer, own, seq=self.newest, chunks=chunks, time_ms=now_ms)
            self._log.publish([Message(paths.CHECKPOINTS, b"gpt", CODEC.encode(event), headers_of(event, "test"))])
        beat = Heartbeat(
            event_id=f"gpt/1/n0/heartbeats/{number}",
            run="gpt",
            region="east",
            epoch=1,
            attempt=1,
            producer="n0",
            seq=number,
            step=number,
            time_ms=self._clock.wall_ms(),
            node="n0",
            phase="train",
            budget_s=60.0,
            last_seqs=(),
            committed_epoch=1 if self.newest else 0,
            committed_step=self.newest * STEP if self.newest else -1,
            committed_seq=self.newest or -1,
        )
        self._log.publish([Message(paths.HEARTBEATS, b"gpt", CODEC.encode(beat), headers_of(beat, "heartbeat"))])

    def close(self) -> None:
        """Let go of Kafka."""
        self._log.close()


@dataclass(frozen=True, slots=True)
class _West:
    """West as an operator sees it."""

    settings: Settings
    config: Path

    def status(self) -> RunStatus:
        """Its controller's; one that does not answer is asked again by whoever waits."""
        status = controller_of(self.settings, "west").status_of("gpt")
        return run_status(primary=None) if status is None else status

    def is_level(self, step: int) -> bool:
        """It has the newest checkpoint, has just heard that there is no newer one, and nothing is wrong."""
        status = self.status()
        if status.lag is None or status.diagnosis is None:
            return False
        figures = (status.lag.steps, status.lag.is_exact, status.recoverable_step)
        return figures == (0, True, step) and status.diagnosis.trouble == "none" and status.alarms == ()

    def farside(self, *words: str) -> str:
        """The output of a command."""
        return CliRunner().invoke(app, [*words, "--config", str(self.config)], env={"COLUMNS": "200"}).stdout

    def says_that_it_is_behind(self) -> None:
        """In every place, and nowhere that nothing is wrong."""
        expected = {"lag_exceeded", "lane_stands"}
        wait_until(lambda: expected <= {one.kind for one in self.status().findings}, DEADLINE_S, "it is found")
        diagnosis = self.status().diagnosis
        assert diagnosis is not None
        assert diagnosis.trouble != "none"
        shown = self.farside("status")
        assert re.search(r">= [1-9]\d\d ", shown), shown
        assert "lag >= " in shown
        assert "lag: >= " in self.farside("explain", "--run", "gpt")
        alarms = [json.loads(line) for line in self.farside("alarms", "list", "--json").splitlines()]
        assert expected <= {one["kind"] for one in alarms if one["at"] == "west"}
        assert "some events are not accounted for" in self.farside("events", "audit", "--run", "gpt")


def test_I19_with_the_link_cut_the_lag_is_a_lower_bound_with_its_age_and_never_0(tmp_path: Path) -> None:
    """Seen before: the link cut for 25 s, "0 steps lag, nothing is wrong", and 220 was true."""
    clock = SystemClock()
    with two_regions(tmp_path, begun=False) as (stack, settings, config, actors):
        for service, region in (("controller", "east"), ("controller", "west"), ("replicator", "west")):
            actors.service(service, region)
        primary, west = Primary(settings), _West(settings, config)
        with contextlib.closing(primary), repeated(primary.turn, BEAT_S):
            wait_until(lambda: west.status().primary == "east", DEADLINE_S, "east holds the run")
            primary.commits = True
            wait_until(lambda: primary.newest >= 3, DEADLINE_S, "three checkpoints are committed")
            primary.commits = False
            wait_until(lambda: west.is_level(primary.newest * STEP), DEADLINE_S, "west is level and says so")
            stack.cut("west", "east")
            cut_at_s, level = clock.boottime_s(), primary.newest
            primary.commits = True

            def is_far_behind() -> bool:
                lag = west.status().lag
                if clock.boottime_s() - cut_at_s > HEARD_S and lag is not None:
                    assert lag.steps != 0, "0 steps, and nothing was heard"
                    assert not lag.is_exact
                return lag is not None and (lag.steps or 0) > 10 * STEP

            wait_until(is_far_behind, DEADLINE_S, "by the lease record west knows that it is more than 10 behind")
            lag = west.status().lag
            assert lag is not None
            assert lag.steps is not None
            assert lag.steps <= (primary.newest - level) * STEP
            assert lag.text.startswith(f">= {lag.steps} steps, ")
            west.says_that_it_is_behind()
            primary.commits = False
            stack.heal("west", "east")
            wait_until(lambda: west.is_level(primary.newest * STEP), DEADLINE_S, "west is level, and no alarm is open")
