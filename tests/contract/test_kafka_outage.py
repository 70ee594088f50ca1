"""Publishing through real outages of a real broker: frozen, killed, and with one of two paths cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farside import _spool
from infra.local.stack import Stack
from pipelines import paths
from pipelines.core.metric_batches import BatchPolicy, metrics_of
from pipelines.errors import RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy
from pipelines.flows.agent.publisher import Publisher
from pipelines.ports import GrantReply, Message
from schemas.codec import Codec
from schemas.records import Metric, MetricBatch
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.fast_log import log_of
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.spool import NodeSpool
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.wrappers.watched import ClosableLog, WatchedLog
from tests.brokers import admin_of
from tests.waiting import wait_until

pytestmark = pytest.mark.servers
UNANSWERED_S = 2.0


class _Journal:
    """Implements Journal and Grants: remembers what was said, grants nothing."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, event: str, **_: Any) -> None:  # noqa: ANN401 - as the port
        self.said.append(event)

    def ask(self, *_: object, **__: object) -> GrantReply:
        return GrantReply("wait")


class _Reader:
    """Reads a topic on from where it ended when this was made."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self.source = KafkaSource(cluster)
        (partition,) = self.source.partitions([topic])
        self.source.seek(partition, self.source.bounds(partition)[1])
        self.found: list[bytes] = []

    def until(self, enough: Callable[[list[bytes]], bool], deadline_s: float = 60.0) -> list[bytes]:
        end = time.monotonic() + deadline_s
        while not enough(self.found) and time.monotonic() < end:
            self.found += [item.value for item in self.source.poll(0.2)]
        return self.found


def _watched(
    journal: _Journal, *paths_to_it: KafkaCluster, maker: Callable[[KafkaCluster], ClosableLog] = log_of
) -> WatchedLog:
    return WatchedLog([partial(maker, one) for one in paths_to_it], UNANSWERED_S, journal)


def _publish_until_taken(log: WatchedLog, value: bytes, deadline_s: float = 60.0) -> int:
    """As a flow does it: the same message again until it is acknowledged; how often that failed."""
    failed, end = 0, time.monotonic() + deadline_s
    while time.monotonic() < end:
        try:
            log.publish([Message(paths.METRICS, b"k", value)])
        except RetryableError:
            failed += 1
        else:
            return failed
    raise AssertionError(f"{value!r} was not taken within {deadline_s} s")


@pytest.mark.parametrize("maker", [log_of, KafkaLog])
def test_I16_a_frozen_broker_is_given_up_in_time_and_after_the_thaw_nothing_is_missing(
    stack: Stack, maker: Callable[[KafkaCluster], ClosableLog]
) -> None:
    """SIGSTOP: connections live and nobody answers. Each call returns; in the end every value is there, in order."""
    cluster = admin_of(stack, "west")
    ensure_topics(cluster, replication=1)
    reader, journal = _Reader(cluster, paths.METRICS), _Journal()
    log = _watched(journal, cluster, maker=maker)
    _publish_until_taken(log, b"before")
    stack.freeze("kafka-west")
    try:
        for _ in range(2):
            begun_s = time.monotonic()
            with pytest.raises(RetryableError):
                log.publish([Message(paths.METRICS, b"k", b"frozen")])
            assert time.monotonic() - begun_s < UNANSWERED_S + 3
    finally:
        stack.thaw("kafka-west")
    assert journal.said.count("kafka.rebuilt") >= 1
    _publish_until_taken(log, b"frozen")
    _publish_until_taken(log, b"after")
    found = reader.until(lambda values: b"after" in values)
    assert list(dict.fromkeys(found)) == [b"before", b"frozen", b"after"]
    wait_until(lambda: log.status().hanging == 0, 30, "what hung has come back")
    log.close()


def test_with_one_of_two_paths_to_a_broker_cut_the_other_is_taken(stack: Stack) -> None:
    """Both ways round: by the link's proxy and its listener, and by the direct one."""
    direct = admin_of(stack, "east")
    ensure_topics(direct, replication=1)
    linked = replace(direct, bootstrap=f"127.0.0.1:{stack.layout.ports['west.east.kafka']}")
    reader, journal = _Reader(direct, paths.METRICS), _Journal()
    log = _watched(journal, linked, direct)
    assert _publish_until_taken(log, b"by the link") == 0
    names = stack.links.select("west", "east", "kafka")
    stack.links.switch(names, enabled=False)
    try:
        assert _publish_until_taken(log, b"directly") == 1
        assert _publish_until_taken(log, b"directly again") == 0
        assert log.status().path == 1
    finally:
        stack.links.switch(names, enabled=True)
    other = _watched(journal, replace(direct, bootstrap="127.0.0.1:1"), linked)
    assert _publish_until_taken(other, b"by the link again") >= 1
    found = reader.until(lambda values: b"by the link again" in values)
    assert list(dict.fromkeys(found)) == [b"by the link", b"directly", b"directly again", b"by the link again"]
    for one in (log, other):
        one.close()


def test_I14_a_trainer_that_writes_on_while_its_broker_is_dead_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    """A real spool, agent's flow and broker, which is killed and started again: every metric once counted, in order."""
    cluster = admin_of(stack, "west")
    ensure_topics(cluster, replication=1)
    reader, journal = _Reader(cluster, paths.METRICS), _Journal()
    log = _watched(journal, cluster)
    private, public = generate_keypair(tmp_path, "west")
    store, clock = MemoryObjectStore(), SystemClock()
    agent = Publisher(
        AgentNode("west", "n0"),
        AgentPorts(
            spool=NodeSpool(tmp_path / "node", journal),
            store=store,
            log=log,
            grants=journal,
            signer=Ed25519Signer(key_id="west", private_key_path=private, trusted={"west": public}),
            codec=Codec(),
            clock=clock,
            entropy=SystemEntropy(),
            journal=journal,
        ),
        PublishPolicy(batches=BatchPolicy(age_s=0.2)),
    )
    writer = _spool.SpoolWriter(
        _spool.producer_folder(tmp_path / "node", "gpt", "r0"), "gpt", group_sync_s=0.01, segment_bytes=4_000
    )

    def train(count: int) -> None:
        for _ in range(count):
            step = writer.last_seq.get("metrics", 0) + 1
            writer.append("metrics", "metric", epoch=1, attempt=1, step=step, body={"values": {"loss": 0.5}})
        agent.turn()

    train(50)
    stack.kill("kafka-west")
    for _ in range(4):
        train(100)
    stack.restart("kafka-west")
    train(50)

    def all_there(values: list[bytes]) -> bool:
        agent.turn()
        return 500 in _numbers(values)

    numbers = _numbers(reader.until(all_there))
    assert list(dict.fromkeys(numbers)) == list(range(1, 501))
    assert agent.status().troubles.get("gpt/drain") is None
    writer.close()
    log.close()


def _numbers(values: list[bytes]) -> list[int]:
    events = [Codec().decode(one) for one in values]
    return [row.seq for one in events if isinstance(one, Metric | MetricBatch) for row in metrics_of(one)]
