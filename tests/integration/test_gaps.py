"""Gaps on real brokers: topics that are deleted and made anew at the source and at home, under a replicator."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from typer.testing import CliRunner

from infra.local.stack import Stack
from pipelines import paths
from pipelines.flows.log.envelope import headers_of
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Event
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.cli import app
from services.demo.actors import Actors
from services.runtime.clients import cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings
from tests.brokers import admin_of
from tests.callers import scraped
from tests.core.replication.test_event_rebuild import _intent
from tests.core.replication.test_lane_replicator import _metric
from tests.integration.test_events import two_regions
from tests.manifests import manifest_of, shard_of, state_of
from tests.waiting import wait_until

pytestmark = pytest.mark.servers
CODEC = Codec()
DEADLINE_S = 60.0


@dataclasses.dataclass
class _Plane:
    """East has events, west follows."""

    stack: Stack
    settings: Settings
    config: Path
    actors: Actors

    def lines(self, *args: str, code: int = 0) -> list[dict[str, Any]]:
        """A command's JSON lines."""
        result = CliRunner().invoke(app, [*args, "--json", "--config", str(self.config)])
        assert result.exit_code == code, (args, result.output, result.stderr, result.exception)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def visible(self, lane: str) -> list[dict[str, Any]]:
        """The records of a lane that west shows."""
        return self.lines("events", "list", "--at", "west", "--lane", lane, "--limit", "0")

    def seqs(self, lane: str) -> list[int]:
        """The numbers that west shows of a lane."""
        return [one["record"]["seq"] for one in self.visible(lane)]

    def alarms(self) -> list[dict[str, Any]]:
        """The open ones of west, by kind and lane."""
        result = CliRunner().invoke(app, ["alarms", "list", "--json", "--config", str(self.config)])
        alarms = [json.loads(line) for line in result.stdout.splitlines()]
        return sorted(alarms, key=lambda alarm: (alarm["kind"], alarm["lane"]))

    def publish(self, *events: Event) -> None:
        """As east's agent does."""
        log = KafkaLog(cluster_of(self.settings.region("east")))
        messages = [(paths.topic(one.lane), CODEC.encode(one), headers_of(one, "test")) for one in events]
        log.publish([Message(topic, b"gpt", value, headers) for topic, value, headers in messages])
        log.close()

    def commit(self, seq: int, step: int) -> Checkpoint:
        """A whole checkpoint in east's store; its event is not published yet."""
        own = CheckpointId("gpt", 1, 1, step)
        store, signer = store_of(self.settings.region("east")), signer_of(self.settings, "east")
        chunk, state = f"chunk {step}".encode(), f"rng {step}".encode()
        manifest = manifest_of(own, lineage_seq=seq, shards=(shard_of(0, chunk),), rank_states=(state_of(0, state),))
        payload = CODEC.encode(manifest)
        store.create(own.intent, CODEC.encode(_intent(own, seq, manifest)))
        store.create(own.chunk(0, 0), chunk)
        store.create(own.rank_state(0), state)
        store.create(own.manifest, signer.sign(payload))
        common = {name: getattr(_metric(seq, step), name) for name in ("run", "region", "epoch", "attempt", "producer")}
        return Checkpoint(
            **common,
            event_id=f"gpt/1/r0/checkpoints/{seq}",
            seq=seq,
            step=step,
            time_ms=0,
            state="committed",
            manifest_key=own.manifest,
            manifest_digest=digest(payload),
            lineage_seq=seq,
            size_bytes=len(chunk) + len(state),
            reason="",
        )

    def make_anew(self, region: str, *topics: str) -> None:
        """Delete topics and make them again, as their administrator."""
        cluster = admin_of(self.stack, region)
        source = KafkaSource(cluster)
        with contextlib.closing(KafkaAdminClient(**cluster.options())) as admin:
            before = {one.topic_id for one in source.partitions(topics)}
            admin.delete_topics(list(topics))
            wait_until(lambda: not source.partitions(topics), DEADLINE_S, "the topics are gone")
            ensure_topics(cluster, replication=1)
            wait_until(lambda: len(source.partitions(topics)) == len(topics), DEADLINE_S, "the topics are there")
            assert before.isdisjoint({one.topic_id for one in source.partitions(topics)})
        source.close()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Plane]:
    """Once for the tests of this file, in their order."""
    with two_regions(tmp_path_factory.mktemp("gaps")) as parts:
        found = _Plane(*parts)
        found.actors.service("replicator", "west")
        yield found


def test_I14_I15_a_topic_made_anew_and_a_hole_are_alarms_and_the_checkpoint_is_rebuilt(plane: _Plane) -> None:
    """With the replicator away east's topics lose what it had not read: the checkpoint comes, the metrics are told."""
    plane.publish(plane.commit(1, 10), *(_metric(seq, seq) for seq in (1, 2, 3)))
    wait_until(lambda: plane.seqs("metrics") == [1, 2, 3], DEADLINE_S, "west has the metrics")
    wait_until(lambda: plane.seqs("checkpoints") == [1], DEADLINE_S, "west has the checkpoint")
    assert plane.alarms() == []
    plane.actors.kill("replicator-west")
    lost = plane.commit(2, 20)
    plane.publish(lost, _metric(4, 4), _metric(5, 5))
    plane.make_anew("east", paths.CHECKPOINTS, paths.METRICS)
    plane.publish(_metric(6, 6))
    plane.actors.service("replicator", "west")
    wait_until(lambda: plane.seqs("checkpoints") == [1, 2], DEADLINE_S, "the lost checkpoint is rebuilt")
    wait_until(lambda: plane.seqs("metrics") == [1, 2, 3, 6], DEADLINE_S, "the next metric is there")
    rebuilt = plane.visible("checkpoints")[-1]
    assert ["farside_rebuilt", lost.manifest_key] in rebuilt["headers"]
    wait_until(lambda: [one["kind"] for one in plane.alarms()] == ["hole", "topic_anew"], DEADLINE_S, "two are open")
    hole, anew = plane.alarms()
    assert (hole["lane"], hole["producer"], hole["ranges"], anew["lane"]) == ("metrics", "r0", [[4, 5]], "metrics")
    plane.publish(lost, _metric(5, 5), _metric(4, 4))
    wait_until(lambda: plane.seqs("metrics") == [1, 2, 3, 6, 5, 4], DEADLINE_S, "what was missing came after all")
    (acknowledged,) = plane.lines("alarms", "acknowledge", anew["id"])
    assert acknowledged["state"] == "done"
    assert plane.alarms() == []
    assert plane.seqs("checkpoints") == [1, 2], "the original is a duplicate"


def test_I15_a_ledger_made_anew_under_the_replicator_doubles_nothing_and_is_an_alarm(plane: _Plane) -> None:
    """It goes on, finds out, and reads its lanes; whatever comes again then is found done."""
    plane.make_anew("west", paths.LEDGER)
    plane.publish(_metric(7, 7))
    wait_until(lambda: 7 in plane.seqs("metrics"), DEADLINE_S, "the next metric is there")
    wait_until(
        lambda: {(one["kind"], one["lane"]) for one in plane.alarms()} >= {("ledger_lost", "metrics")},
        DEADLINE_S,
        "the loss is told",
    )
    plane.publish(plane.commit(1, 10), plane.commit(2, 20), *(_metric(seq, seq) for seq in range(1, 9)))
    wait_until(lambda: 8 in plane.seqs("metrics"), DEADLINE_S, "it was read to its end")
    assert plane.seqs("metrics") == [1, 2, 3, 6, 5, 4, 7, 8]
    assert plane.seqs("checkpoints") == [1, 2]
    text = scraped(plane.settings, "replicator", "west")
    assert 'farside_alarms_open{kind="ledger_lost",lane="metrics",peer="east"} 1.0' in text
