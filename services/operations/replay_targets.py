"""The targets of `farside replay`: the live handlers of a region, or a topic that no service reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.replay_rules import marked, origin_of, replay_of
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.log.log_reader import Decoding, scan
from pipelines.flows.replication.replay_requests import origin
from pipelines.ports import Clock, EventLog, EventSource, Fetched, Message, Partition, SchemaRegistry
from schemas import confluent
from schemas.codec import writer_of
from schemas.http_bodies import ReplayAnswer, ReplayBody

Ask = Callable[[ReplayBody], ReplayAnswer | None]


@dataclass(slots=True)
class HandlersTarget:
    """Implements ReplayTarget: sends places, not bytes, to a region's replicator, which reads and judges them."""

    peer: str
    region: str
    replay_id: str
    ask: Ask
    _waits: str = ""

    def deliver(self, records: Sequence[Fetched]) -> Counter[str] | None:
        """Ask the replicator to handle these records, or for the outcome; None while it is still at work."""
        by_partition: dict[Partition, list[int]] = {}
        for item in records:
            by_partition.setdefault(item.partition, []).append(item.offset)
        answers = [self._of(partition, offsets) for partition, offsets in by_partition.items()]
        self._waits = next((answer.why for answer in answers if answer.state == "waits"), "")
        if any(answer.state == "waits" for answer in answers):
            return None
        counts: Counter[str] = Counter()
        self._waits = "; ".join(answer.why for answer in answers if answer.why)
        for answer in answers:
            counts.update(answer.counts)
        return counts

    def _of(self, partition: Partition, offsets: list[int]) -> ReplayAnswer:
        answer = self.ask(
            ReplayBody(
                peer=self.peer,
                lane=partition.topic.removeprefix(paths.topic("")),
                replay_id=self.replay_id,
                cluster=partition.cluster,
                topic_id=partition.topic_id,
                partition=partition.number,
                offsets=tuple(offsets),
            )
        )
        if answer is None:
            raise RetryableError(f"the replicator of {self.region} does not answer, or rejects the request")
        if answer.state == "refused":
            raise MisconfiguredError(f"the replicator of {self.region} refuses: {answer.why}")
        return answer

    def mark(self) -> int:
        """0: what was handled is in the region's own log, so no position is kept here."""
        return 0

    def waits(self) -> str:
        """The reason for which the handlers wait, or ""."""
        return self._waits


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A value that a wire format cannot carry, and why."""

    reason: str


Wire = Callable[[bytes], bytes | LeftOut]


def as_it_is(value: bytes) -> bytes:
    """Avro's single-object encoding: the same bytes, also of a value that cannot be decoded."""
    return value


@dataclass(slots=True)
class ConfluentWire:
    """Puts values into Confluent's wire format. Registers each writer's schema, under its own name, when it is needed.

    A value that cannot be decoded is left out: a reader with a registry stops at the first value that is no record.
    """

    decoding: Decoding
    registry: SchemaRegistry
    _ids: dict[str, int] = field(default_factory=dict)  # by fingerprint

    def __call__(self, value: bytes) -> bytes | LeftOut:
        """The value with the registry's id of its schema. Raises what `SchemaRegistry.register` raises."""
        record, problem = self.decoding.read(value)
        if record is None:
            return LeftOut(problem)
        return confluent.framed(value, self._id_of(writer_of(value)))

    def _id_of(self, fingerprint: str) -> int:
        if fingerprint not in self._ids:
            text = self.decoding.codec.text_of(fingerprint)
            self._ids[fingerprint] = self.registry.register(confluent.subject_of(text), text)
        return self._ids[fingerprint]


def _quiet(_line: str) -> None:
    """Prints nothing; for a wire format that leaves nothing out."""


@dataclass(slots=True)
class TopicTarget:
    """Implements ReplayTarget: publishes the records in another topic, each marked with the place that it came from.

    `look` reads the topic first, so that a replay that was killed puts no record there twice. `say` is called with a
    line for each record that the wire format leaves out.
    """

    topic: str
    log: EventLog
    replay_id: str
    there: dict[str, SequenceRanges] = field(default_factory=dict)  # by the original's partition
    wire: Wire = as_it_is
    say: Callable[[str], None] = _quiet

    def look(self, source: EventSource, clock: Clock) -> None:
        """Find out which records this replay has put into the topic already."""
        for item in scan(source, [self.topic], clock):
            if replay_of(item.headers) == self.replay_id:
                place, _, offset = (origin_of(item.headers) or "").rpartition("/")
                if offset.isdecimal():
                    self.there.setdefault(place, SequenceRanges()).add(int(offset) + 1)

    def deliver(self, records: Sequence[Fetched]) -> Counter[str] | None:
        """Publish these records, except those that are in the topic already."""
        wanted = [
            (item, self.wire(item.value) if item.damage is None else LeftOut(item.damage.reason))
            for item in records
            if not self._has(item)
        ]
        self.log.publish(
            [
                Message(self.topic, item.key, value, marked(item.headers, self.replay_id, origin(item)))
                for item, value in wanted
                if isinstance(value, bytes)
            ]
        )
        left_out = [(item, value.reason) for item, value in wanted if isinstance(value, LeftOut)]
        for item, reason in left_out:
            self.say(f"{item.partition.topic}/{item.partition.number}/{item.offset} is left out: {reason}")
        counts = Counter({"published": len(wanted) - len(left_out), "there": len(records) - len(wanted)})
        if left_out:
            counts["left_out"] = len(left_out)
        return counts

    def mark(self) -> int:
        """0: the marks on the published records say how far it came, so no position is kept here."""
        return 0

    def waits(self) -> str:
        """Always "": `deliver` itself waits for Kafka's answer."""
        return ""

    def _has(self, item: Fetched) -> bool:
        place, _, offset = origin(item).rpartition("/")
        return int(offset) + 1 in self.there.get(place, SequenceRanges())


def check_topic(name: str) -> str:
    """Check that a replay may write to a topic of this name, and return the name.

    Raises:
        MisconfiguredError: it may not.
    """
    if not name.startswith(paths.REPLAY_TOPICS) or name == paths.REPLAY_TOPICS:
        raise MisconfiguredError(
            f"topic {name!r}: a replay writes only to topics whose names begin with {paths.REPLAY_TOPICS!r}, "
            "which no service reads; to replay into a region's live topics use --to handlers"
        )
    return name
