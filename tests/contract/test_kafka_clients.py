"""An outage leaves nothing behind in a process that goes on trying: no thread, no socket, no busy loop."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kafka
import pytest

from infra.local.stack import Stack
from pipelines import paths
from pipelines.errors import RetryableError
from pipelines.ports import Message, Partition
from services.adapters.kafka.clients import made, network, thrown_away
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.librdkafka_log import LibrdkafkaLog
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from tests.brokers import admin_of
from tests.waiting import wait_until

if_unanswered = pytest.mark.parametrize("listens", [False, True], ids=["refused", "unanswered"])


@pytest.fixture
def nobody(listens: bool) -> Iterator[str]:
    """An address where nothing answers: refused, or taken and never answered, as by a link that is cut one way."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen(64)
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _held() -> tuple[int, int]:
    gc.collect()  # a refused connection's socket hangs in the traceback of its error
    return len(list(Path("/proc/self/fd").iterdir())), _tasks()


def _tasks() -> int:
    """Threads, also those that are not Python's."""
    return len(list(Path("/proc/self/task").iterdir()))


@if_unanswered
def test_tries_that_fail_leave_no_thread_and_no_file(nobody: str, caplog: pytest.LogCaptureFixture) -> None:
    """A service tries each second for as long as an outage lasts; kafka-python's constructors leave both behind."""
    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep the tracebacks, and those the sockets
    before = _held()
    cluster = KafkaCluster(nobody)
    source, logs = KafkaSource(cluster), (KafkaLog(cluster), LibrdkafkaLog(cluster))
    with pytest.raises(RetryableError):
        source.partitions(["farside.heartbeats"])
    with pytest.raises(RetryableError):
        source.bounds(Partition("cluster", "topic", "farside.heartbeats", 0))
    for log in logs:
        with pytest.raises(RetryableError):
            log.publish([Message("farside.heartbeats", b"gpt", b"beat")])
        log.close()
    source.close()
    wait_until(
        lambda: all(now <= was for now, was in zip(_held(), before, strict=True)),
        10.0,
        "files and threads to be given back",
    )
    assert _tasks() <= before[1]


def test_a_broker_whose_proxy_hangs_up_is_tried_again_after_a_pause() -> None:
    """A proxy that accepts for a dead broker and closes at once is not connected to in a loop without a pause."""
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen(64)
        client = network(bootstrap_servers=f"127.0.0.1:{proxy.getsockname()[1]}")
        node = client.cluster.bootstrap_brokers()[0].node_id
        try:
            client.maybe_connect(node)
            connection = client._manager._conns[node]
            proxy.settimeout(10.0)
            client.poll(timeout_ms=100)
            proxy.accept()[0].close()
            client.poll(timeout_ms=10_000, future=connection.init_future)
            assert connection.init_future.failed()
            wait_until(lambda: client.poll(timeout_ms=10) or client.connection_delay(node) > 0, 10.0, "a pause")
        finally:
            client.close()


@pytest.mark.servers
def test_a_source_that_is_asked_again_keeps_its_client_until_that_fails(stack: Stack) -> None:
    """Who follows a log asks every few seconds; a broker that was away meanwhile is asked by another client."""
    cluster = admin_of(stack, "east")
    ensure_topics(cluster, replication=1)
    before = threading.active_count()
    source = KafkaSource(cluster, answer_ms=2_000)
    try:
        partitions = source.partitions([paths.HEARTBEATS])
        threads, client = threading.active_count(), source._admin
        assert source.partitions([paths.HEARTBEATS]) == partitions
        assert (threading.active_count(), source._admin) == (threads, client)
        stack.freeze("kafka-east")
        try:
            with pytest.raises(RetryableError):
                source.partitions([paths.HEARTBEATS])
        finally:
            stack.thaw("kafka-east")
        assert source.partitions([paths.HEARTBEATS]) == partitions
        assert threading.active_count() <= threads
    finally:
        source.close()
    wait_until(lambda: threading.active_count() <= before, 10.0, "the client's thread to end")


@pytest.mark.servers
def test_a_producer_whose_broker_fell_silent_is_thrown_away_whole(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    """Its undelivered records are given up, and its thread ends: it would send them later, behind our back."""
    caplog.set_level(logging.CRITICAL, "kafka")
    cluster = admin_of(stack, "east")
    ensure_topics(cluster, replication=1)
    before = threading.active_count()
    producer = made(kafka.KafkaProducer, **cluster.options(), enable_idempotence=True, acks="all")
    producer.send(paths.HEARTBEATS, b"beat").get(timeout=20)
    assert threading.active_count() > before
    stack.freeze("kafka-east")
    try:
        waiting = producer.send(paths.HEARTBEATS, b"beat")
        thrown_away(producer)
        wait_until(lambda: threading.active_count() <= before, 10.0, "the producer's thread to end")
        assert waiting.failed(), "and nothing of it is sent when the broker wakes up"
    finally:
        stack.thaw("kafka-east")


@pytest.mark.servers
def test_a_log_of_librdkafka_whose_broker_fell_silent_is_thrown_away_whole_and_at_once(stack: Stack) -> None:
    """Its threads end although an error is kept, and what it had not sent is not sent when the broker wakes up."""
    cluster = admin_of(stack, "east")
    ensure_topics(cluster, replication=1)
    source, before = KafkaSource(cluster), _tasks()
    (partition,) = source.partitions([paths.HEARTBEATS])
    log, atomic = LibrdkafkaLog(cluster), LibrdkafkaLog(cluster, "farside-silent")
    log.publish([Message(paths.HEARTBEATS, b"gpt", b"beat")])
    atomic.transaction([])
    end = source.bounds(partition)[1]
    threads = _tasks()
    stack.freeze("kafka-east")
    try:
        log._produced(Message(paths.HEARTBEATS, b"gpt", b"late"), None)
        atomic._begin_transaction()
        begun_s = time.monotonic()
        for one in (log, atomic):
            one.close()
        assert time.monotonic() - begun_s < 2.0
        wait_until(lambda: _tasks() < threads - 4, 10.0, "the producers' threads to end")
    finally:
        stack.thaw("kafka-east")
    log.publish([Message(paths.HEARTBEATS, b"gpt", b"after")])
    assert source.bounds(partition)[1] == end + 1
    log.close()
    source.close()
    wait_until(lambda: _tasks() <= before, 10.0, "all threads to end")
