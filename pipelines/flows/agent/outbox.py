"""The agent's outbox: brings everything but checkpoints from the spool to the lanes.

Order is kept per producer and lane. Metrics gather in batches; data versions never wait. What is read and not yet
published stays in memory, bounded, and the log's position does not pass it. Catching up after an outage is paced by
bytes, so that heartbeats and the other users of Kafka get their share, and shows how far it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import paths
from pipelines.core.data_versions import INLINE_BYTES_MAX, check_list, with_list_at
from pipelines.core.metric_batches import batch_of, runs_of_rows
from pipelines.core.pace import Pace, Progress
from pipelines.core.set_aside import SPOOL_RECORD, headers_of_identity
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy
from pipelines.flows.agent.sending import Sending
from pipelines.flows.log.envelope import METRIC, METRIC_BATCH, METRICS_THINNED, identity_of, wrap
from pipelines.ports import Message, SpoolRecord
from schemas.http_bodies import BacklogStatus
from schemas.records import DataShard, DataVersion, Metric, MetricsThinned, ShardList

READ_MAX = 500
WAITING_MAX = 1_000  # per producer
LOOK_S = 1.0
RETIRE_S = 5.0
REPORT_S = 10.0
BEHIND_BYTES = 1024 * 1024
METRICS_LANE = "metrics"
NO_EVENT = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What a record raises that makes no event: fields that are missing or of another type, numbers beyond 64 bits."""
_FIGURES = ("first_step", "last_step", "dropped", "keep_every", "used_bytes", "bytes_max", "free_bytes")


@dataclass(slots=True)
class _Waiting:
    """One record that was read: an event of the metrics' lane, or what its messages are made of."""

    begin: int
    size: int
    record: SpoolRecord
    metric: Metric | MetricsThinned | None = None
    wrong: str = ""  # why it makes no event
    made: tuple[Message, ...] = ()


@dataclass(slots=True)
class Tail:
    """How far a producer's log was read, and which of its records are not settled yet."""

    cursor: int
    noted: int  # the position that is durable
    pending: deque[tuple[int, SpoolRecord]] = field(default_factory=deque)  # checkpoints: (where it begins, record)
    metrics: deque[_Waiting] = field(default_factory=deque)
    others: deque[_Waiting] = field(default_factory=deque)
    metrics_size: int = 0
    published_s: float = float("-inf")
    looked_s: float = float("-inf")

    @classmethod
    def at(cls, position: int) -> Tail:
        """A tail that goes on at a durable position."""
        return cls(position, position)

    @property
    def settled(self) -> int:
        """The position up to which everything is settled."""
        begins = [queue[0].begin for queue in (self.metrics, self.others) if queue]
        return min([*begins, *(begin for begin, _ in list(self.pending)[:1])], default=self.cursor)


class Outbox:
    """One node's outbox.

    Args:
        node: the node.
        policy: in which batches and how fast it publishes.
        ports: the agent's; the store holds what events name.
        sending: publishes messages in the region's log.
    """

    def __init__(self, node: AgentNode, policy: PublishPolicy, ports: AgentPorts, sending: Sending) -> None:
        self._region = node.region
        self._spool, self._store, self._codec = ports.spool, ports.store, ports.codec
        self._clock, self._journal, self._sending = ports.clock, ports.journal, sending
        self._batches = policy.batches
        self._pace = Pace(policy.catch_up_bytes_s)
        self._progress = Progress()
        self._looked_s = float("-inf")
        self._reported_s: float | None = None  # while it is behind: when that was last reported
        self._behind = False  # this turn left something unread that might be read at once

    def read_on(self, run: str, producer: str, tail: Tail) -> None:
        """Read what the producer has appended, as far as the pace and the room in memory allow."""
        if len(tail.metrics) + len(tail.others) >= WAITING_MAX or not self._pace.allowance(self._clock.boottime_s()):
            return
        begin = tail.cursor
        records = self._spool.read(run, producer, tail.cursor, READ_MAX)
        for record in records:
            if record.lane == "checkpoints":
                tail.pending.append((begin, record))
            else:
                self._take(tail, begin, record)
            begin = record.end
        self._pace.spend(begin - tail.cursor)
        tail.cursor = begin
        self._behind = self._behind or len(records) == READ_MAX

    def publish(self, tail: Tail) -> None:
        """Publish what never gathers, and the metrics once enough have gathered or the oldest has waited long."""
        now_s = self._clock.boottime_s()
        due = self._batches.due(len(tail.metrics), tail.metrics_size, tail.published_s, now_s)
        gathered = list(tail.metrics) if due else []
        messages, count, waits = self._ready(tail.others)
        others = list(tail.others)[:count]
        messages += self._lane(gathered)
        if messages:
            self._sending.send(messages)
        for _ in others:
            tail.others.popleft()
        if gathered:
            tail.metrics.clear()
            tail.metrics_size, tail.published_s = 0, now_s
        self._progress.published(len(others) + len(gathered), sum(one.size for one in [*others, *gathered]))
        if waits is not None:
            raise waits

    def done_with(self, run: str, producer: str, tail: Tail) -> bool:
        """Whether the producer is gone and all of it is published; its log is then removed."""
        now_s = self._clock.boottime_s()
        if tail.settled != tail.cursor or now_s - tail.looked_s < RETIRE_S:
            return False
        tail.looked_s = now_s
        return self._spool.retire(run, producer, tail.cursor)

    def look(self, tails: Mapping[tuple[str, str], Tail]) -> bool:
        """Measure the backlog once a second, and report it while it is large. True: there is more to read at once."""
        behind, self._behind = self._behind, False
        self._measure(tails)
        return behind

    def _measure(self, tails: Mapping[tuple[str, str], Tail]) -> None:
        now_s = self._clock.boottime_s()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        waits = 0
        for (run, producer), tail in tails.items():
            try:
                end = self._spool.end(run, producer)
            except RetryableError:  # its run's own part of the turn tells of it; the other logs are measured
                end = tail.cursor
            waits += max(0, end - tail.settled)
        self._progress.note(now_s, waits)
        if waits >= BEHIND_BYTES and (self._reported_s is None or now_s - self._reported_s >= REPORT_S):
            self._reported_s = now_s
            self._journal.say("publish.behind", **dataclasses.asdict(self.backlog()))
        elif waits < BEHIND_BYTES and self._reported_s is not None:
            self._reported_s = None
            self._journal.say("publish.caught_up", **dataclasses.asdict(self.backlog()))

    def backlog(self) -> BacklogStatus:
        """The records that wait in the spool, how fast they go and how long that will take."""
        return self._progress.backlog().status()

    # --- one record ---

    def _take(self, tail: Tail, begin: int, record: SpoolRecord) -> None:
        """Put a record where it is published from; what makes no event keeps its place among those of its lane."""
        waiting = _Waiting(begin, record.end - begin, record)
        if record.lane != METRICS_LANE:
            tail.others.append(waiting)
            return
        try:
            waiting.metric = self._metric(record)
            self._codec.encode(waiting.metric)  # what does not fit its schema must not hold up those beside it
        except NO_EVENT as error:
            waiting.metric, waiting.wrong = None, f"{type(error).__name__}: {error}"
        tail.metrics.append(waiting)
        tail.metrics_size += waiting.size

    def _metric(self, record: SpoolRecord) -> Metric | MetricsThinned:
        body: dict[str, Any] = record.body
        if record.kind == "thinned":
            figures: dict[str, Any] = {name: int(body[name]) for name in _FIGURES}
            self._journal.say("publish.metrics_thinned", run=record.run, producer=record.producer, **figures)
            return MetricsThinned(**identity_of(record, self._region), **figures)
        if record.kind != "metric":
            raise ValueError(f"unknown kind {record.kind!r}")
        values = {str(k): float(v) for k, v in body["values"].items()}
        return Metric(**identity_of(record, self._region), values=values)

    def _ready(self, waiting: Sequence[_Waiting]) -> tuple[list[Message], int, RetryableError | None]:
        """The messages of the first of these that can be published, how many those are, and why not the next one."""
        messages: list[Message] = []
        for at, one in enumerate(waiting):
            try:
                messages += self._made(one)
            except RetryableError as error:
                return messages, at, error
        return messages, len(waiting), None

    def _made(self, waiting: _Waiting) -> tuple[Message, ...]:
        """The messages of a record that is no metric: made once, and what they name is put into the store before.

        Raises:
            RetryableError: the store does not answer.
        """
        if not waiting.made:
            record, wrong = waiting.record, waiting.wrong
            try:
                if not wrong and record.kind == "data_version":
                    waiting.made = (self._data_version(record),)
                wrong = wrong or f"unknown kind {record.kind!r}"
            except RetryableError:
                raise
            except (*NO_EVENT, CorruptError) as error:
                wrong = f"{type(error).__name__}: {error}"
            waiting.made = waiting.made or self._dead(record, wrong)
        return waiting.made

    def _data_version(self, record: SpoolRecord) -> Message:
        body: dict[str, Any] = record.body
        shards = tuple(
            DataShard(path=str(s["path"]), size=int(s["size"]), sha256=str(s["sha256"])) for s in body["shards"]
        )
        event = DataVersion(
            **identity_of(record, self._region),
            name=str(body["name"]),
            digest=str(body["digest"]),
            shards=shards,
            sampler=str(body["sampler"]),
            data_seed=int(body["seed"]),
        )
        listed = self._codec.encode(ShardList(shards=shards))
        if len(listed) > INLINE_BYTES_MAX:
            event = with_list_at(event, listed)
        message = wrap(event, "data_version", self._codec)
        if event.list_key and not self._store.create(event.list_key, listed):
            check_list(event, self._store.get(event.list_key))
        return message

    def _lane(self, gathered: Sequence[_Waiting]) -> list[Message]:
        """The messages of the metrics' lane in its order: batches, lone metrics, thinning, and what was set aside."""
        messages: list[Message] = []
        metrics: list[Metric] = []
        sizes: list[int] = []

        def flush() -> None:
            for rows in runs_of_rows(metrics, sizes, self._batches):
                event, kind = (rows[0], METRIC) if len(rows) == 1 else (batch_of(rows), METRIC_BATCH)
                messages.append(wrap(event, kind, self._codec))
            metrics.clear()
            sizes.clear()

        for waiting in gathered:
            if isinstance(waiting.metric, Metric):
                metrics.append(waiting.metric)
                sizes.append(waiting.size)
                continue
            flush()
            if waiting.metric is not None:
                messages.append(wrap(waiting.metric, METRICS_THINNED, self._codec))
            else:
                messages += self._made(waiting)
        flush()
        return messages

    def _dead(self, record: SpoolRecord, wrong: str) -> tuple[Message, ...]:
        headers = headers_of_identity(identity_of(record, self._region), record.lane)
        would_be = Message(paths.topic(record.lane), record.run.encode(), json.dumps(record.body).encode(), headers)
        return self._sending.aside(would_be, SPOOL_RECORD, wrong, place=record.end, topic=record.lane)
