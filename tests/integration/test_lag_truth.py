"""The link is cut while the primary commits, with real processes: the lag is a bound with its age, never 0 (I19)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import paths
from pipelines.flows.log.envelope import headers_of
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply, Message
from schemas.codec import Codec
from schemas.http_bodies import GrantBody, LagStatus, RunStatus
from schemas.records import Heartbeat
from services.adapters.kafka.log import KafkaLog
from services.adapters.system_clock import SystemClock
from services.cli import app
from services.http.endpoints import ask, controller_of
from services.runtime.clients import cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings
from tests.integration.test_events import two_regions
from tests.manifests import put_checkpoint
from tests.waiting import wait_until

pytestmark = pytest.mark.servers
CODEC = Codec()
DEADLINE_S = 60.0
BEAT_S = 0.3
STEP = 10
HEARD_S = 4.0  # after a cut, what was heard just before it is still fresh for so long


class _Primary:
    """East's agent as the controllers see it: it asks for its grant, beats, and commits when it is told to."""

    def __init__(self, settings: Settings) -> None:
        region = settings.region("east")
        self._store, self._signer = store_of(region), signer_of(settings, "east")
        self._log, self._clock = KafkaLog(cluster_of(region)), SystemClock()
        self._controller = controller_of(settings, "east").at
        self.commits = False
        self.newest = 0

    def turn(self, number: int) -> None:
        """A heartbeat, the grant, and every other time a checkpoint while it commits."""
        grant = GrantBody(run="gpt", launch="l", committed_step=self.newest * STEP if self.newest else -1, node="n0")
        ask(self._controller, "/v1/grant", GrantReply, grant)
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


@contextmanager
def _training(primary: _Primary) -> Iterator[None]:
    """Turn the primary on a thread of its own as long as the block runs."""
    stopped = threading.Event()

    def train() -> None:
        number = 0
        while not stopped.wait(BEAT_S):
            number += 1
            primary.turn(number)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        primary.close()


def test_I19_with_the_link_cut_the_lag_is_a_lower_bound_with_its_age_and_never_0(tmp_path: Path) -> None:
    """Seen before: the link cut for 25 s, "0 steps lag, nothing is wrong", and 220 was true."""
    clock = SystemClock()
    with two_regions(tmp_path, begun=False) as (stack, settings, config, actors):
        for service, region in (("controller", "east"), ("controller", "west"), ("replicator", "west")):
            actors.service(service, region)
        primary = _Primary(settings)

        def west() -> RunStatus | None:
            return controller_of(settings, "west").status_of("gpt")

        def lag() -> LagStatus | None:
            status = west()
            return None if status is None else status.lag

        def is_well() -> bool:
            status = west()
            if status is None or status.lag is None or status.diagnosis is None:
                return False
            is_level = (status.lag.steps, status.lag.is_exact, status.recoverable_step) == (
                0,
                True,
                primary.newest * STEP,
            )
            return is_level and status.diagnosis.trouble == "none" and status.alarms == ()

        def farside(*words: str) -> str:
            return CliRunner().invoke(app, [*words, "--config", str(config)], env={"COLUMNS": "200"}).stdout

        with _training(primary):
            wait_until(lambda: west() is not None and west().primary == "east", DEADLINE_S, "east holds the run")  # type: ignore[union-attr]
            primary.commits = True
            wait_until(lambda: primary.newest >= 3, DEADLINE_S, "three checkpoints are committed")
            primary.commits = False
            wait_until(is_well, DEADLINE_S, "west is level and says so")
            stack.cut("west", "east")
            cut_at_s, level = clock.boottime_s(), primary.newest
            primary.commits = True

            def is_far_behind() -> bool:
                now = lag()
                if clock.boottime_s() - cut_at_s > HEARD_S and now is not None:
                    assert now.steps != 0, "0 steps, and nothing was heard"
                    assert not now.is_exact
                return now is not None and (now.steps or 0) > 10 * STEP

            wait_until(is_far_behind, DEADLINE_S, "west knows by the lease record that it is more than 10 behind")
            shown, status = lag(), west()
            assert shown is not None
            assert status is not None
            assert shown.steps is not None
            assert shown.steps <= (primary.newest - level) * STEP
            assert shown.text.startswith(f">= {shown.steps} steps, ")
            assert status.diagnosis is not None
            assert status.diagnosis.trouble != "none"
            wait_until(
                lambda: {"lag_exceeded", "lane_stands"} <= {one.kind for one in (west() or status).findings},
                DEADLINE_S,
                "the lag, and the lanes that stand, are found",
            )
            assert ">= 1" in farside("status")
            assert "lag >= " in farside("status")
            assert "lag: >= " in farside("explain", "--run", "gpt")
            alarms = [json.loads(line) for line in farside("alarms", "list", "--json").splitlines()]
            assert {"lag_exceeded", "lane_stands"} <= {one["kind"] for one in alarms if one["at"] == "west"}
            assert "some events are not accounted for" in farside("events", "audit", "--run", "gpt")
            primary.commits = False
            stack.heal("west", "east")
            wait_until(is_well, DEADLINE_S, "west is level again, and every alarm has ended")
