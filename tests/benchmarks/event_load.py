"""Events for `bench-events`: made, sent at a rate, and watched for in the other region."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from pipelines import paths
from pipelines.flows.log.envelope import METRIC, wrap
from pipelines.ports import Fetched, Message, Partition
from schemas.codec import Codec
from schemas.records import DataShard, DataVersion, Event, Metric
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaLog, KafkaSource
from services.demo.actors import Failed

RUN, EAST, WEST = "gpt", "east", "west"
VALUE_BYTES = 300
RANKS = 8
CHUNK = 5_000
TICK_S = 0.005
LOOK_S = 0.02
Name = tuple[str, int]  # an event's producer and number
CODEC = Codec()


def common(producer: str, seq: int, lane: str, run: str = RUN) -> dict[str, Any]:
    """The identity of an event of the first region."""
    return {
        "event_id": f"{run}/1/{producer}/{lane}/{seq}",
        "run": run,
        "region": EAST,
        "epoch": 1,
        "attempt": 1,
        "producer": producer,
        "seq": seq,
        "step": seq,
        "time_ms": time.time_ns() // 1_000_000,
    }


def _values() -> dict[str, float]:
    """Numbers with names that make a metric's value as long as it is meant to be."""
    values = {f"train/metric_{at}": 1.0 / (at + 3) for at in range(7)}
    short = len(CODEC.encode(Metric(**common(_rank("x", 0), 10_000, "metrics"), values=values)))
    return values | {"x" * (VALUE_BYTES - short - 9): 0.5}


def _rank(name: str, at: int) -> str:
    return f"{name}{at:05d}-0123456789abcdef"


def metrics(topic: str, name: str, begin: int, end: int, run: str = RUN) -> Iterator[Message]:
    """The metrics of these numbers of a few ranks that take turns, each with the numbers of its own."""
    values = _values()
    for at in range(begin, end):
        producer = _rank(name, at % RANKS)
        event = Metric(**common(producer, at // RANKS + 1, "metrics", run), values=values)
        yield dataclasses.replace(wrap(event, METRIC, CODEC), topic=topic)


def versions(topic: str, producer: str, begin: int, end: int) -> list[Message]:
    """The data versions of these numbers, begin and end included."""
    shard = DataShard(path="corpus/part-0", size=1, sha256="0" * 64)
    made = []
    for seq in range(begin, end + 1):
        identity = common(producer, seq, "data-versions")
        event: Event = DataVersion(
            **identity, name="corpus", digest="0" * 64, shards=(shard,), sampler="order", data_seed=1
        )
        made.append(dataclasses.replace(wrap(event, "data_version", CODEC), topic=topic))
    return made


def name_of(headers: Mapping[str, bytes]) -> Name:
    """Which event a record is."""
    return headers["farside_producer"].decode(), int(headers["farside_seq"])


class Broker:
    """One region's Kafka, as its administrator: topics are made, emptied and deleted, and records sent."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self.cluster = cluster

    def make(self, topic: str) -> None:
        """A topic of one partition."""
        with contextlib.closing(KafkaAdminClient(**self.cluster.options())) as admin:
            admin.create_topics([NewTopic(topic, 1, 1)])

    def delete(self, topic: str) -> None:
        """Delete a topic; returns when the broker lists it no more."""
        with contextlib.closing(KafkaAdminClient(**self.cluster.options())) as admin:
            admin.delete_topics([topic])
            until(f"{topic} to be gone", lambda: topic not in admin.list_topics(), 30.0)

    def forget(self, topic: str, before: int) -> None:
        """Let retention take what lies before an offset."""
        with contextlib.closing(KafkaAdminClient(**self.cluster.options())) as admin:
            admin.delete_records({TopicPartition(topic, 0): before})

    def send(self, messages: Iterator[Message] | list[Message]) -> None:
        """Publish, in chunks."""
        with contextlib.closing(KafkaLog(self.cluster)) as log:
            chunk: list[Message] = []
            for message in messages:
                chunk.append(message)
                if len(chunk) == CHUNK:
                    log.publish(chunk)
                    chunk.clear()
            log.publish(chunk)

    def end(self, topic: str) -> int:
        """The offset that the next record gets; 0 while there is no such topic."""
        with contextlib.closing(KafkaSource(self.cluster)) as source:
            found = source.partitions([topic])
            return source.bounds(found[0])[1] if found else 0


class Tail:
    """Reads what becomes visible in a topic, from its end now on; the topic may come into being later."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self._source, self._topic = KafkaSource(cluster), topic
        self._followed: Partition | None = None
        self.seen: dict[Name, float] = {}  # when each event was first visible, by the monotonic clock
        self.twice = 0
        found = self._source.partitions([topic])
        if found:
            self._follow(found[0], self._source.bounds(found[0])[1])

    def poll(self, timeout_s: float = LOOK_S) -> None:
        """Take in what has come."""
        if self._followed is None:
            found = self._source.partitions([self._topic])
            if not found:
                time.sleep(LOOK_S)
                return
            self._follow(found[0], 0)
        for one in self._source.poll(timeout_s, CHUNK):
            self._note(one)

    def until(self, name: Name, deadline_s: float) -> float | None:
        """When an event was visible; None if it is not within so long."""
        end_s = time.monotonic() + deadline_s
        while name not in self.seen and time.monotonic() < end_s:
            self.poll()
        return self.seen.get(name)

    def close(self) -> None:
        """Stop reading."""
        self._source.close()

    def _follow(self, partition: Partition, offset: int) -> None:
        self._source.seek(partition, offset)
        self._followed = partition

    def _note(self, one: Fetched) -> None:
        name = name_of(dict(one.headers))
        self.twice += name in self.seen
        self.seen.setdefault(name, time.monotonic())


class Sender(threading.Thread):
    """Sends so many events a second, and notes when each was handed to the producer."""

    def __init__(self, cluster: KafkaCluster, messages: list[Message], rate: int) -> None:
        super().__init__(daemon=True)
        self._log, self._messages, self._rate = KafkaLog(cluster), messages, rate
        self.sent: dict[Name, float] = {}
        self.took_s = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        """All of them."""
        try:
            with contextlib.closing(self._log):
                self._log.publish(self._messages[:1])  # connects
                self._pace(self._messages[1:])
        except Exception as error:  # noqa: BLE001 - told by the thread that waits for what was to be sent
            self.error = error

    def _pace(self, messages: list[Message]) -> None:
        names = [name_of(dict(one.headers)) for one in messages]
        begun_s, at = time.monotonic(), 0
        while at < len(messages):
            due = min(len(messages), int((time.monotonic() - begun_s) * self._rate))
            if due > at:
                now_s = time.monotonic()
                self.sent.update(dict.fromkeys(names[at:due], now_s))
                self._log.publish(messages[at:due])
                at = due
            time.sleep(max(0.0, TICK_S - time.monotonic() % TICK_S))
        self.took_s = time.monotonic() - begun_s


def until(what: str, condition: Any, deadline_s: float) -> None:  # noqa: ANN401 - anything that is true in the end
    """Wait for something; Failed if it does not come."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise Failed(f"{what}: not within {deadline_s:.0f} s")
        time.sleep(LOOK_S)


def latencies(tail: Tail, sender: Sender, skip: int, deadline_s: float) -> list[float]:
    """Seconds from the hand-over at the source to the visibility at the target, sorted; the first ones left out."""
    sender.start()
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s and (sender.is_alive() or not sender.sent.keys() <= tail.seen.keys()):
        tail.poll()
    sender.join()
    if sender.error is not None:
        raise Failed(f"not all was sent: {sender.error!r}")
    lost = len(sender.sent.keys() - tail.seen.keys())
    if lost:
        raise Failed(f"{lost} of {len(sender.sent)} events were not visible within {deadline_s:.0f} s")
    measured = list(sender.sent)[skip:]
    return sorted(tail.seen[name] - sender.sent[name] for name in measured)


METRICS_TOPIC, VERSIONS_TOPIC = paths.METRICS, paths.DATA_VERSIONS
