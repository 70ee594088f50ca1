"""Publishes an agent's messages, so that none which cannot be sent holds up those beside it and behind it.

What is larger than a topic takes, or what Kafka refuses for good, is not tried again as it is (I18). A batch of metrics
is divided; any other event becomes a dead letter here, at its source, and a short record fills its place in the lane,
so that its number is missing nowhere. If not even the letter can hold its bytes, they go to the region's store, and the
letter says where. Within one call what was acknowledged beside a refused record is sent again, under the same identity.

A size that a topic refused is remembered for a while: what is as large is divided or set aside without asking. So each
refusal brings the next turn further, however many records are too large for a topic that somebody else made.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines import paths
from pipelines.core.message_size import EVENT_BYTES_MAX, MESSAGE_BYTES_MAX, size_bytes
from pipelines.core.metric_batches import batch_of, metrics_of
from pipelines.core.set_aside import MARK, REFUSED, TOO_LARGE, by_reference, clipped, place_of
from pipelines.errors import RefusedError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts
from pipelines.flows.log.envelope import METRIC, METRIC_BATCH, wrap
from pipelines.ports import Message
from schemas.codec import digest
from schemas.records import DeadLetter, Header, Metric, MetricBatch

LETTER_VALUE_BYTES_MAX = EVENT_BYTES_MAX - 20_000  # beside its headers and reason
_LANES = frozenset(map(paths.topic, paths.REPLICATED_LANES))
ATTEMPTS_MAX = 16  # in one turn: a batch of 500 rows is divided nine times at most
REMEMBERED_S = 60.0  # then a topic is asked again: somebody may have raised its limit


class Sending:
    """One agent's way to its region's log. Once Kafka has not answered, nothing more is tried in a turn.

    Args:
        node: whose agent it is.
        ports: the agent's; the store takes the bytes that fit into no letter.
    """

    def __init__(self, node: AgentNode, ports: AgentPorts) -> None:
        self._node = node.name
        self._log, self._store, self._codec = ports.log, ports.store, ports.codec
        self._clock, self._journal = ports.clock, ports.journal
        self._away = ""
        self._refused_bytes: dict[str, int] = {}  # topic -> the smallest size that it has refused
        self._forget_s = 0.0

    def begin_turn(self) -> None:
        """Try Kafka again."""
        self._away = ""
        if self._refused_bytes and self._clock.boottime_s() >= self._forget_s:
            self._refused_bytes.clear()

    def send(self, messages: Sequence[Message]) -> None:
        """Publish messages in their order; those that cannot be published become dead letters.

        Raises:
            RefusedError: one is refused for good that has no place in a replicated lane, a heartbeat for instance.
            RetryableError: Kafka did not answer, or has not before in this turn: each attempt may take seconds.
        """
        if self._away:
            raise RetryableError(self._away)
        parts = [part for message in messages for part in self._fitting(message)]
        for attempt in range(ATTEMPTS_MAX):
            try:
                self._log.publish(parts)
            except RefusedError as error:
                if attempt + 1 == ATTEMPTS_MAX:
                    raise
                parts = self._without_refused(parts, error)
            except RetryableError as error:
                self._away = str(error)
                raise
            else:
                return

    def aside(
        self, message: Message, reason: str, detail: str, *, place: int = 0, topic: str = ""
    ) -> tuple[Message, ...]:
        """The dead letter of what cannot be published, and the record that fills its place, if it has one.

        Args:
            message: what it would have been, with the headers that name it; its topic need not exist.
            reason: one word.
            detail: what happened, and what a person can change.
            place: where the spool has it.
            topic: how the letter names its origin; else the message's.

        Raises:
            RetryableError: its bytes are too many for a letter, and the store does not answer.
        """
        detail = clipped(detail)
        named = dict(message.headers)
        self._journal.say(
            "publish.dead_letter",
            run=message.key.decode(errors="replace"),
            producer=named.get("farside_producer", b"").decode(errors="replace"),
            seq=named.get("farside_seq", b"").decode(errors="replace"),
            why=detail,
        )
        letter = DeadLetter(
            cluster=f"spool:{self._node}",
            topic=topic or message.topic,
            partition=0,
            offset=place,
            key=message.key,
            value=message.value,
            headers=tuple(Header(key=key, value=value) for key, value in message.headers),
            reason=reason,
            detail=detail,
            time_ms=self._clock.wall_ms(),
        )
        if len(letter.value) > LETTER_VALUE_BYTES_MAX:
            letter = self._referring(letter)
        filled = place_of(message.headers, reason, detail)
        sent = (Message(paths.DEAD_LETTERS, message.key, self._codec.encode(letter)),)
        return sent if filled is None else (*sent, Message(filled[0], message.key, *filled[1:]))

    def _fitting(self, message: Message) -> tuple[Message, ...]:
        """The message, or what takes its place because it is larger than an event may be."""
        size = size_bytes(message.key, message.value, message.headers)
        refused = self._refused_bytes.get(message.topic, EVENT_BYTES_MAX + 1)
        if size < refused or message.topic not in _LANES or MARK in dict(message.headers):
            return (message,)
        halves = self._halves(message)
        if halves:
            return tuple(part for half in halves for part in self._fitting(half))
        if size <= EVENT_BYTES_MAX:
            detail = (
                f"an event of {size} bytes: topic {message.topic} has just refused {refused} bytes: set its "
                f"max.message.bytes to {MESSAGE_BYTES_MAX}, as Farside creates it"
            )
            return self.aside(message, REFUSED, detail)
        detail = (
            f"an event of {size} bytes for topic {message.topic}: Farside publishes at most {EVENT_BYTES_MAX} as one "
            "event (its topics have max.message.bytes above that): shorten its names and texts"
        )
        return self.aside(message, TOO_LARGE, detail)

    def _without_refused(self, parts: Sequence[Message], error: RefusedError) -> list[Message]:
        """The same messages, with something smaller or its dead letter in the place of each that was refused."""
        kept: list[Message] = []
        for at in error.too_large:
            message = parts[at]
            size = size_bytes(message.key, message.value, message.headers)
            self._refused_bytes[message.topic] = min(size, self._refused_bytes.get(message.topic, size))
            self._forget_s = self._clock.boottime_s() + REMEMBERED_S
        for at, message in enumerate(parts):
            why = error.refused.get(at)
            if why is None:
                kept.append(message)
            elif message.topic == paths.DEAD_LETTERS:
                letter = self._codec.decode_as(DeadLetter, message.value)
                if not letter.value:
                    raise error  # it cannot be made smaller
                smaller = self._codec.encode(self._referring(letter))
                kept.append(Message(message.topic, message.key, smaller))
            elif message.topic not in _LANES or MARK in dict(message.headers):
                raise error
            else:
                kept += self._halves(message) or self.aside(message, REFUSED, why)
        return kept

    def _halves(self, message: Message) -> tuple[Message, ...]:
        """A batch of metrics as two messages; () if it is anything else."""
        if message.topic != paths.METRICS or MARK in dict(message.headers):
            return ()
        event = self._codec.decode(message.value)
        if not isinstance(event, MetricBatch):
            return ()
        rows = metrics_of(event)
        middle = len(rows) // 2
        return tuple(self._metrics(half) for half in (rows[:middle], rows[middle:]) if half)

    def _metrics(self, rows: Sequence[Metric]) -> Message:
        event, kind = (rows[0], METRIC) if len(rows) == 1 else (batch_of(rows), METRIC_BATCH)
        return wrap(event, kind, self._codec)

    def _referring(self, letter: DeadLetter) -> DeadLetter:
        key = paths.set_aside(letter.key.decode(errors="replace"), digest(letter.value))
        self._store.create(key, letter.value)
        return by_reference(letter, key)
