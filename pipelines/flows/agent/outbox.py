"""The agent's outbox: brings everything but checkpoints from the spool to the lanes.

Order is kept per producer and lane. Metrics gather in batches; data versions never wait. What is read and not yet
published stays in memory, bounded, and the log's position does not pass it. Catching up after an outage is paced by
bytes, so that heartbeats and the other users of Kafka get their share, and shows how far it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import paths
from pipelines.core.dead_letter_headers import headers_of_identity
from pipelines.core.metric_batches import batch_of, runs_of_rows
from pipelines.core.pace import Pace, Progress
from pipelines.flows.agent.agent_ports import AgentNode, PublishPolicy
from pipelines.flows.log.envelope import METRIC, METRIC_BATCH, METRICS_THINNED, identity_of, wrap
from pipelines.ports import Clock, Journal, Message, Spool, SpoolRecord
from schemas.codec import Codec
from schemas.http_bodies import BacklogStatus
from schemas.records import DataShard, DataVersion, DeadLetter, Metric, MetricsThinned

READ_MAX = 500
WAITING_MAX = 1_000  # per producer
LOOK_S = 1.0
RETIRE_S = 5.0
REPORT_S = 10.0
BEHIND_BYTES = 1024 * 1024
_FIGURES = ("first_step", "last_step", "dropped", "keep_every", "used_bytes", "bytes_max", "free_bytes")


@dataclass(slots=True)
class _Waiting:
    """One record that was read: an event of the metrics' lane, or a message for another topic."""

    begin: int
    size: int
    metric: Metric | MetricsThinned | None = None
    message: Message | None = None


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
        spool: the node's.
        send: publishes messages in the region's log, or raises RetryableError.
        codec: encodes events.
        clock: this process's.
        journal: where it reports dead letters and backlogs.
    """

    def __init__(
        self,
        node: AgentNode,
        policy: PublishPolicy,
        *,
        spool: Spool,
        send: Callable[[Sequence[Message]], None],
        codec: Codec,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._region, self._node = node.region, node.name
        self._spool, self._send, self._codec = spool, send, codec
        self._clock, self._journal = clock, journal
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
        others = list(tail.others)
        messages = [one.message for one in others if one.message is not None] + self._lane(gathered)
        if not messages:
            return
        self._send(messages)
        for _ in others:
            tail.others.popleft()
        if gathered:
            tail.metrics.clear()
            tail.metrics_size, tail.published_s = 0, now_s
        self._progress.published(len(others) + len(gathered), sum(one.size for one in [*others, *gathered]))

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
            waits += max(0, self._spool.end(run, producer) - tail.settled)
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
        size = record.end - begin
        try:
            if record.kind in {"metric", "thinned"}:
                event = self._metric(record) if record.kind == "metric" else self._thinned(record)
                self._codec.encode(event)  # what does not fit its schema must not hold up those beside it in a batch
                tail.metrics.append(_Waiting(begin, size, metric=event))
                tail.metrics_size += size
                return
            message = self._data_version(record) if record.kind == "data_version" else None
            detail = f"unknown kind {record.kind!r}"
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message, detail = None, f"{type(error).__name__}: {error}"
        tail.others.append(_Waiting(begin, size, message=message or self._dead(record, detail)))

    def _metric(self, record: SpoolRecord) -> Metric:
        body: dict[str, Any] = record.body
        values = {str(k): float(v) for k, v in body["values"].items()}
        return Metric(**identity_of(record, self._region), values=values)

    def _thinned(self, record: SpoolRecord) -> MetricsThinned:
        body: dict[str, Any] = record.body
        figures: dict[str, Any] = {name: int(body[name]) for name in _FIGURES}
        self._journal.say("publish.metrics_thinned", run=record.run, producer=record.producer, **figures)
        return MetricsThinned(**identity_of(record, self._region), **figures)

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
        return wrap(event, "data_version", self._codec)

    def _lane(self, gathered: Sequence[_Waiting]) -> list[Message]:
        """The messages of the metrics' lane in its order: batches, lone metrics, and the records of thinning."""
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
            elif waiting.metric is not None:
                flush()
                messages.append(wrap(waiting.metric, METRICS_THINNED, self._codec))
        flush()
        return messages

    def _dead(self, record: SpoolRecord, detail: str) -> Message:
        self._journal.say("publish.dead_letter", run=record.run, producer=record.producer, seq=record.seq, why=detail)
        letter = DeadLetter(
            cluster=f"spool:{self._node}",
            topic=record.lane,
            partition=0,
            offset=record.end,
            key=record.run.encode(),
            value=json.dumps(record.body).encode(),
            headers=headers_of_identity(identity_of(record, self._region), record.lane),
            reason="spool_record",
            detail=detail,
            time_ms=self._clock.wall_ms(),
        )
        return Message(paths.DEAD_LETTERS, record.run.encode(), self._codec.encode(letter))
