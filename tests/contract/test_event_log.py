"""Every EventLog and EventSource: in memory, and on the local stack's brokers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

from infra.local.stack import Stack
from pipelines import paths
from pipelines.core.message_size import MESSAGE_BYTES_MAX
from pipelines.errors import CorruptError, FencedError, RefusedError
from pipelines.ports import EventLog, EventSource, Fetched, Message, Partition
from services.adapters.kafka.librdkafka_log import LibrdkafkaLog
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.system_clock import SystemClock
from services.wrappers.overlay import OverlayLog, OverlaySource
from tests.brokers import admin_of

TOPIC = paths.METRICS
IDS = itertools.count(1)
WRITERS: dict[str, type[KafkaLog | LibrdkafkaLog]] = {"kafka": KafkaLog, "librdkafka": LibrdkafkaLog}
REAL = [pytest.param("memory"), *(pytest.param(name, marks=pytest.mark.servers) for name in WRITERS)]


@dataclass
class _Cluster:
    """How to write to and read from one cluster."""

    log: Callable[[str | None], EventLog]
    source: Callable[[], EventSource]


@pytest.fixture(params=[*REAL, "aside"])
def cluster(request: pytest.FixtureRequest) -> _Cluster:
    """A cluster with Farside's topics."""
    if request.param == "memory":
        kafka = MemoryKafka("east", SystemClock().wall_ms)
        for name in paths.TOPICS:
            kafka.topic(name)
        return _Cluster(lambda name: MemoryLog(kafka, name), lambda: MemorySource(kafka))
    if request.param == "aside":
        beside = MemoryKafka("east", SystemClock().wall_ms)
        for name in paths.TOPICS:
            beside.topic(f"drill.{name}")
        return _Cluster(
            lambda name: OverlayLog(MemoryLog(beside, name), "drill."),
            lambda: OverlaySource(MemorySource(beside), "drill."),
        )
    stack: Stack = request.getfixturevalue("stack")
    address = admin_of(stack, "east")
    ensure_topics(address, replication=1)
    return _Cluster(lambda name: WRITERS[request.param](address, name), lambda: KafkaSource(address))


def _read(source: EventSource, count: int) -> list[Fetched]:
    """Poll until so many records came, or the deadline."""
    records: list[Fetched] = []
    deadline = time.monotonic() + 20
    while len(records) < count and time.monotonic() < deadline:
        records.extend(source.poll(0.5))
    return records


def _at_end(source: EventSource) -> tuple[Partition, int]:
    (partition,) = source.partitions([TOPIC])
    _, end = source.bounds(partition)
    source.seek(partition, end)
    return partition, end


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> type[KafkaLog | LibrdkafkaLog]:
    """Each client library's log."""
    return WRITERS[request.param]


def _message(value: bytes) -> Message:
    return Message(TOPIC, b"k", value, (("h", b"1"),))


def test_what_is_published_is_read_back_from_its_offset(cluster: _Cluster) -> None:
    """A record comes back with key, value and headers; topics that do not exist are left out."""
    source = cluster.source()
    assert source.partitions(["no.such.topic"]) == ()
    partition, end = _at_end(source)
    cluster.log(None).publish([_message(b"v")])
    (record,) = _read(source, 1)
    assert (record.key, record.value, record.headers, record.offset) == (b"k", b"v", (("h", b"1"),), end)
    assert source.position(partition) == end + 1


def test_an_offset_that_is_not_there_is_refused(cluster: _Cluster) -> None:
    """No reset policy: neither the beginning nor the end is taken instead (6.8)."""
    source = cluster.source()
    partition, end = _at_end(source)
    with pytest.raises(CorruptError):
        source.seek(partition, end + 1000)


def test_reading_to_the_end_passes_the_markers_of_transactions(cluster: _Cluster) -> None:
    """`position` reaches `bounds`' end although a commit's marker is no record, and is written a little later."""
    source = cluster.source()
    partition, _ = _at_end(source)
    log = cluster.log(f"marked-{next(IDS)}")
    log.transaction([_message(b"one"), _message(b"two")])
    _, end = source.bounds(partition)
    assert [item.value for item in _read(source, 2)] == [b"one", b"two"]
    deadline = time.monotonic() + 20
    while source.position(partition) < end and time.monotonic() < deadline:
        assert source.poll(0.2) == ()
    assert source.position(partition) >= end


def test_a_newer_writer_fences_the_older_with_an_empty_transaction(cluster: _Cluster) -> None:
    """The replicator's restart: its first, empty transaction fences; nothing of the older's appears, then or later."""
    name = f"fence-{next(IDS)}"
    source = cluster.source()
    _at_end(source)
    older, newer = cluster.log(name), cluster.log(name)
    older.transaction([_message(b"older")])
    newer.transaction([])
    with pytest.raises(FencedError):
        older.transaction([_message(b"late")])
    with pytest.raises(FencedError):
        older.transaction([_message(b"later")])  # it does not become the newest by trying again
    newer.transaction([_message(b"newer")])
    assert [item.value for item in _read(source, 2)] == [b"older", b"newer"]


def test_a_time_is_found_as_the_first_offset_of_that_time_or_later(cluster: _Cluster) -> None:
    """Before all: the first of them; after all: the end; markers and what is not there yet are no records."""
    source, log = cluster.source(), cluster.log(f"farside-test-{next(IDS)}")
    partition, end = _at_end(source)
    log.transaction([_message(b"1")])
    (first,) = _read(source, 1)
    assert first.time_ms > 0
    deadline = time.monotonic() + 20
    later = first
    while later.time_ms <= first.time_ms and time.monotonic() < deadline:
        log.transaction([_message(b"2")])
        later = _read(source, 1)[-1]
    assert later.time_ms > first.time_ms
    assert source.offset_at(partition, first.time_ms) >= end
    assert source.offset_at(partition, later.time_ms) == later.offset
    assert source.offset_at(partition, later.time_ms + 3_600_000) == source.bounds(partition)[1]


def test_a_paused_partition_delivers_nothing_until_it_is_resumed(cluster: _Cluster) -> None:
    """Polling goes on meanwhile, so that the group and the connections live (design 7)."""
    source = cluster.source()
    partition, _ = _at_end(source)
    cluster.log(None).publish([_message(b"v")])
    source.pause([partition])
    assert source.poll(0.5) == ()
    source.resume([partition])
    assert [item.value for item in _read(source, 1)] == [b"v"]


@pytest.mark.servers
def test_the_end_counts_what_another_writer_has_not_committed_yet(
    stack: Stack, writer: type[KafkaLog | LibrdkafkaLog]
) -> None:
    """Else a reader of the ledger would take the part before somebody's open transaction for the whole."""
    address = admin_of(stack, "east")
    ensure_topics(address, replication=1)
    source = KafkaSource(address)
    partition, before = _at_end(source)
    busy, log = writer(address, f"busy-{next(IDS)}"), writer(address)
    busy._begin_transaction()
    busy._send([_message(b"open")])
    log.publish([_message(b"acknowledged")])
    assert source.bounds(partition)[1] == before + 2
    assert source.poll(0.5) == ()
    assert source.position(partition) == before
    busy._commit_transaction()
    assert [item.value for item in _read(source, 2)] == [b"open", b"acknowledged"]
    for opened in (busy, log, source):
        opened.close()


@pytest.mark.servers
def test_I14_a_broker_that_is_killed_and_restarted_loses_nothing_that_was_acknowledged(stack: Stack) -> None:
    """Reader and writers go on with the same objects, at the same place."""
    address = admin_of(stack, "west")
    ensure_topics(address, replication=1)
    logs = {name: writer(address, f"restart-{next(IDS)}") for name, writer in WRITERS.items()}
    source = KafkaSource(address)
    _at_end(source)
    for name, log in logs.items():
        log.transaction([_message(f"before {name}".encode())])
    stack.restart("kafka-west")
    deadline = time.monotonic() + 60
    for name, log in logs.items():
        _until_sent(log, _message(f"after {name}".encode()), deadline)
    values: list[bytes] = []
    while b"after librdkafka" not in values and time.monotonic() < deadline:
        values += [item.value for item in source.poll(0.5)]
    assert list(dict.fromkeys(values)) == [
        f"{when} {name}".encode() for when in ("before", "after") for name in WRITERS
    ]
    for opened in (*logs.values(), source):
        opened.close()


def _until_sent(log: EventLog, message: Message, deadline: float) -> None:
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            log.transaction([message])
        except FencedError:
            raise
        except Exception as error:  # noqa: BLE001 - the broker is on its way up
            last = error
        else:
            return
    raise AssertionError(f"it was not sent: {last!r}")


@pytest.mark.servers
def test_I2_a_key_has_the_same_partition_whichever_library_writes(stack: Stack) -> None:
    """A run's order is its partition's, and a machine may get or lose the faster library; headers come back alike."""
    address = admin_of(stack, "east")
    name = f"wide-{next(IDS)}"
    admin, source = KafkaAdminClient(**address.options()), KafkaSource(address)
    admin.create_topics([NewTopic(name, 5, 1)])
    headers = (("h", b"1"), ("", b""), ("h", b"\0"), ("\u00e4", b"2"))
    sent = [Message(name, key, str(at).encode(), headers) for at, key in enumerate((b"", b"gpt", b"\0", b"a" * 99))]
    logs = [writer(address) for writer in WRITERS.values()]
    for log in logs:
        log.publish(sent)
    for partition in source.partitions([name]):
        source.seek(partition, 0)
    found = [(item.key, item.value, item.headers, item.partition.number) for item in _read(source, 2 * len(sent))]
    assert len(found) == 2 * len(sent)
    assert len(set(found)) == len(sent)
    assert len({number for *_, number in found}) > 1
    for opened in (*logs, source, admin):
        opened.close()


def test_I18_a_record_above_the_stated_limit_is_refused_for_good_by_its_place(cluster: _Cluster) -> None:
    """Also in a transaction, of which nothing is visible; what follows goes on with the same log."""
    source, log, atomic = cluster.source(), cluster.log(None), cluster.log(f"large-{next(IDS)}")
    _at_end(source)
    large = _message(b"x" * (MESSAGE_BYTES_MAX + 1))
    with pytest.raises(RefusedError, match=TOPIC) as caught:
        log.publish([_message(b"beside"), large])
    assert list(caught.value.refused) == [1]
    with pytest.raises(RefusedError):
        atomic.transaction([_message(b"never"), large])
    atomic.transaction([_message(b"after")])
    log.publish([_message(b"last")])
    values: list[bytes] = []
    while values[-1:] != [b"last"]:
        found = _read(source, 1)
        assert found, values
        values += [item.value for item in found]
    assert set(values) - {b"beside"} == {b"after", b"last"}, "what was beside it may be there or not"


@pytest.mark.servers
def test_I18_a_broker_that_takes_less_than_is_stated_says_which_record_and_which_setting(
    stack: Stack, writer: type[KafkaLog | LibrdkafkaLog]
) -> None:
    """A topic that somebody else made: the one record is named, whatever batch it was in, and the limits of ours."""
    address = admin_of(stack, "east")
    ensure_topics(address, replication=1, prefix="limits.")
    name = f"small-{next(IDS)}"
    log, source = writer(address), KafkaSource(address)
    admin = KafkaAdminClient(**address.options())
    admin.create_topics([NewTopic(name, 1, 1, topic_configs={"max.message.bytes": "2000"})])
    small = [Message(name, b"k", b"v" * 100, (("h", b"1"),)) for _ in range(30)]
    with pytest.raises(RefusedError) as caught:
        log.publish([*small, Message(name, b"k", b"x" * 3_000), *small])
    assert list(caught.value.refused) == [30], "not those behind it, which the library fails with it"
    assert f"topic {name} refuses a record of 3" in str(caught.value)
    assert f"max.message.bytes={MESSAGE_BYTES_MAX}" in str(caught.value)
    log.publish(small)
    (partition,) = source.partitions([name])
    source.seek(partition, 0)
    assert len(_read(source, len(small))) >= len(small)
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, f"limits.{TOPIC}")])
    assert str(MESSAGE_BYTES_MAX) in str(described)
    for opened in (log, source, admin):
        opened.close()
