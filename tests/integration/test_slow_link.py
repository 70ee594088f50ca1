"""A link at a third of the need, with real processes: checkpoints go on to become visible, and lag stays bounded."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.core.newest_wins import lag_s_max
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.log.log_reader import scan
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Checkpoint
from services.adapters.kafka.log import KafkaLog, KafkaSource
from services.adapters.system_clock import SystemClock
from services.runtime.clients import cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings
from tests.integration.test_events import two_regions
from tests.manifests import put_checkpoint
from tests.waiting import repeated, wait_until

pytestmark = pytest.mark.servers
CODEC = Codec()
CHUNK_BYTES, CHUNKS, CADENCE_S = 500_000, 2, 3.0
KILOBYTES_S = 65  # of each connection: both chunks of a checkpoint cross side by side
SLACK_S = 10.0  # starts of two copies, and a busy machine
COMPLETED_LEAST, DEADLINE_S = 3, 90.0


class _Primary:
    """East's agent as far as the replicator sees it: a checkpoint every few seconds, until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        region = settings.region("east")
        self._store, self._signer = store_of(region), signer_of(settings, "east")
        self._log = KafkaLog(cluster_of(region))
        self._clock = SystemClock()
        self.committed_at_s: list[float] = []

    def commit(self) -> None:
        """One checkpoint of two chunks, whole in the store before its event."""
        seq = len(self.committed_at_s) + 1
        own = CheckpointId("gpt", 1, 1, seq * 10)
        chunks = [seq.to_bytes(4, "big") + bytes([number]) * (CHUNK_BYTES - 4) for number in range(CHUNKS)]
        now_ms = self._clock.wall_ms()
        event = put_checkpoint(self._store, self._signer, own, seq=seq, chunks=chunks, time_ms=now_ms)
        self._log.publish([Message(paths.CHECKPOINTS, b"gpt", CODEC.encode(event), headers_of(event, "test"))])
        self.committed_at_s.append(self._clock.boottime_s())

    def close(self) -> None:
        """Let go of Kafka."""
        self._log.close()


def test_I21_checkpoints_become_visible_over_a_link_at_a_third_of_the_need(tmp_path: Path) -> None:
    """Seen before: in 11 minutes none of 363 became visible, and 166 MB crossed for nothing."""
    clock = SystemClock()
    with two_regions(tmp_path) as (stack, settings, _, actors):
        stack.narrow("west", "east", "s3", kilobytes_s=KILOBYTES_S)
        actors.service("replicator", "west")
        primary, worst_s = _Primary(settings), 0.0
        own = KafkaSource(cluster_of(settings.region("west")))

        def visible_steps() -> list[int]:
            nonlocal worst_s
            records = [CODEC.decode_as(Checkpoint, item.value) for item in scan(own, [paths.CHECKPOINTS], clock)]
            steps = [record.step for record in records if record.state == "committed"]
            waiting = primary.committed_at_s[max(steps, default=0) // 10 :]
            worst_s = max([worst_s, *(clock.boottime_s() - at_s for at_s in waiting[:1])])
            return steps

        with contextlib.closing(primary), repeated(primary.commit, CADENCE_S):
            wait_until(lambda: len(visible_steps()) >= COMPLETED_LEAST, DEADLINE_S, "checkpoints are visible in west")
        own.close()
        rate_bytes_s = CHUNKS * KILOBYTES_S * 1000
        assert worst_s <= lag_s_max(CHUNKS * CHUNK_BYTES, rate_bytes_s, CADENCE_S) + SLACK_S
        lines = (stack.folder / "logs" / "replicator-west.log").read_text(encoding="utf-8").splitlines()
        copied = [json.loads(line) for line in lines if "replicate.copied" in line]
        assert len(copied) >= COMPLETED_LEAST
