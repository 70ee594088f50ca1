"""Redriving: a dead letter is handled once more, by the replicator whose lane it came from (docs/decisions/0005).

A dead letter has taken its event's number, so the lane will never look at it again. Here its original bytes meet the
same decision as any record, apart from the ledger. What comes of it, and the record that it was done, are one
transaction of the flow that owns the lane: of two that are asked, or one that is asked twice, only one can do it.

**Once, also by identity.** The flow reads its own region's lane beside the dead letters: an event that is visible there
already, from another copy of the same record, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipelines import paths
from pipelines.core.dead_letters import whole_of
from pipelines.core.ledger import Arrival, Ledger
from pipelines.core.record_filter import Facts, facts_of, facts_of_letter, identity_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.log.log_reader import at_place
from pipelines.flows.replication.lane_alarms import changed
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.record_judge import Verdict
from pipelines.flows.replication.requests import DONE, REFUSED, WAITS, Requests
from pipelines.flows.replication.visible_index import VisibleIndex
from pipelines.ports import Fetched, Message, Partition
from schemas.codec import digest
from schemas.http_bodies import RedriveAnswer, RedriveBody
from schemas.records import DeadLetter, Redriven

PUBLISHED, DEAD_AGAIN = "published", "dead_again"
KEPT_MAX = 1_000  # answers that are remembered for whoever asked


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """A request to redrive the letter at one place of this region's dead letters. Asking again repeats the answer."""

    ask_id: str
    partition: int
    offset: int
    force: bool
    actor: str


@dataclass(slots=True)
class _Asked:
    request: RedriveRequest
    state: str = WAITS
    why: str = "it is carried out at the next turn"
    letter: DeadLetter | None = None

    def answer(self) -> RedriveAnswer:
        return RedriveAnswer(state=self.state, why=self.why)


class RedriveRequests:
    """The requests for one lane of one peer. Any thread may call `ask`; the flow that owns the lane calls `turn`.

    Args:
        lane: the lane, and whose.
        ports: the lane's.
        visible: this region's lane and dead letters.
    """

    def __init__(self, lane: PeerLane, ports: LanePorts, visible: VisibleIndex) -> None:
        self._peer, self._lane = lane.peer, lane.name
        self._visible, self._log, self._codec = visible, ports.log, ports.codec
        self._peer_source = ports.replay_source
        self._clock, self._journal = ports.clock, ports.journal
        self._requests = Requests[str, _Asked](KEPT_MAX)

    def ask(self, request: RedriveRequest) -> RedriveAnswer:
        """Note a request, or say what has become of it."""
        return self._requests.ask(request.ask_id, lambda: _Asked(request)).answer()

    def turn(self, ledger: Ledger, judge: Callable[[Fetched], Verdict]) -> Ledger:
        """Carry out the waiting requests; the ledger after it, which is the same one if nothing was done.

        Args:
            ledger: what is done.
            judge: says what a record out of its turn leads to.
        """
        waiting = self._requests.waiting()
        if waiting and not self._visible.read_on():
            for asked in waiting:
                asked.why = "this region's log is being read, to see what is visible already"
            return ledger
        for asked in waiting:
            try:
                ledger = self._settle(asked, ledger, judge)
            except CorruptError as error:
                self._end(asked, REFUSED, str(error))
        return ledger

    def _settle(self, asked: _Asked, ledger: Ledger, judge: Callable[[Fetched], Verdict]) -> Ledger:
        mark = self._visible.marks.get((asked.request.partition, asked.request.offset))
        if mark is not None:
            again = mark.ask_id != asked.request.ask_id
            self._end(asked, REFUSED if again else DONE, f"{mark.outcome} by {mark.actor}, asked at {mark.time_ms}")
            return ledger
        letter = asked.letter = asked.letter or self._visible.letter(asked.request.partition, asked.request.offset)
        if letter.topic != paths.topic(self._lane):
            raise CorruptError(_foreign(letter, self._lane))
        try:
            verdict = judge(self._original(letter))
        except RetryableError as error:
            asked.why = str(error)
            return ledger
        if verdict.message is None and verdict.letter is None:
            asked.why = verdict.why
            return ledger
        if verdict.message is None and not asked.request.force:
            held = self._codec.decode_as(DeadLetter, verdict.letter.value) if verdict.letter else letter
            raise CorruptError(f"the cause still holds: {held.reason}: {held.detail}")
        if not verdict.stands():
            return ledger
        return self._do(asked, letter, verdict, ledger)

    def _original(self, letter: DeadLetter) -> Fetched:
        """The record as it was when it was set aside; of a letter that is cut, it is read at its own place.

        Raises:
            CorruptError: the letter is cut, and what lies at its place cannot be read or is another record.
            RetryableError: it is cut, and the peer's log does not answer or does not hold it.
        """
        place = Partition(letter.cluster, "", letter.topic, letter.partition)
        headers = tuple((one.key, one.value) for one in letter.headers)
        fetched = Fetched(place, letter.offset, letter.key, letter.value, headers)
        whole = whole_of(letter)
        if whole is None:
            return fetched
        if self._peer_source is None:
            raise CorruptError("it is cut, and this replicator has no source to read the whole record")
        at = at_place(self._peer_source, letter.topic, letter.partition, letter.offset, self._clock)
        if at.damage is not None:
            raise CorruptError(f"the cause still holds: {at.damage.reason}")
        if (len(at.value), digest(at.value)) != whole:
            raise CorruptError(
                f"it is cut, and {letter.topic}/{letter.partition}/{letter.offset} is another record now"
            )
        return replace(at, partition=place)

    def _do(self, asked: _Asked, letter: DeadLetter, verdict: Verdict, ledger: Ledger) -> Ledger:
        facts = facts_of_letter(letter) if verdict.event is None else facts_of(verdict.event, ())
        after = ledger.copy()
        outcome, sent = DEAD_AGAIN, verdict.letter
        if verdict.message is not None:
            self._check_once(facts, after)
            whose = f"{asked.request.partition}:{asked.request.offset}".encode()
            message = verdict.message
            outcome = PUBLISHED
            sent = Message(message.topic, message.key, message.value, (*message.headers, ("farside_redriven", whose)))
        mark = self._mark(asked.request, facts, outcome, letter)
        changes = changed(after, ledger, self._codec)
        mark_message = Message(paths.DEAD_LETTERS, letter.key, self._codec.encode(mark))
        set_aside = verdict.set_aside if outcome == PUBLISHED else None
        self._log.transaction([*(each for each in (sent, set_aside) if each is not None), mark_message, *changes])
        self._visible.marks[mark.partition, mark.offset] = mark
        identity = identity_of(facts)
        if outcome == PUBLISHED and identity is not None:
            self._visible.see(*identity)
        self._end(asked, DONE, outcome)
        fields = {"outcome": outcome, "event_id": mark.event_id, "letter": mark.offset, "actor": mark.actor}
        self._journal.say("replicate.redriven", run=mark.run, lane=self._lane, peer=self._peer, **fields)
        return after

    def _check_once(self, facts: Facts, after: Ledger) -> None:
        """CorruptError unless the event is visible nowhere here, and none before it can still come."""
        identity = identity_of(facts)
        if identity is None:
            raise CorruptError("nobody can tell which number it has: it might be visible already")
        stream, numbers = identity
        there = self._visible.known(stream).visible & numbers
        if there:
            raise CorruptError(f"number {there} of {stream[2]} is visible here already")
        arrival = after.arrival_of(stream, numbers.first)
        if arrival is Arrival.GAP:
            raise CorruptError(f"number {numbers.first} of {stream[2]} is ahead of its lane: ask again later")
        after.take(stream, numbers.first, numbers.last)

    def _mark(self, request: RedriveRequest, facts: Facts, outcome: str, letter: DeadLetter) -> Redriven:
        headers = {header.key: header.value.decode(errors="replace") for header in letter.headers}
        return Redriven(
            partition=request.partition,
            offset=request.offset,
            run=facts.run or "",
            lane=self._lane,
            event_id=headers.get("ce_id", f"{letter.topic}/{letter.partition}/{letter.offset}"),
            outcome=outcome,
            actor=request.actor,
            ask_id=request.ask_id,
            time_ms=self._clock.wall_ms(),
        )

    def _end(self, asked: _Asked, state: str, why: str) -> None:
        asked.why, asked.letter, asked.state = why, None, state


def parse_request(body: RedriveBody) -> RedriveRequest:
    """The request that a body carries, without the lane that it is addressed to."""
    return RedriveRequest(
        ask_id=body.ask_id, partition=body.partition, offset=body.offset, force=body.force, actor=body.actor
    )


def _foreign(letter: DeadLetter, lane: str) -> str:
    if letter.reason == "spool_record":
        return f"it is a record of {letter.cluster} that never became an event: only its agent could make one of it"
    return f"it came from {letter.topic}, this is the lane {lane}"
