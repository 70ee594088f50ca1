"""Redriving: a dead letter is handled once more, by the replicator whose lane it came from (docs/decisions/0005).

A dead letter has taken its event's number, so the lane will never look at it again. Here its original bytes meet the
same decision as any record, apart from the ledger. What comes of it, and the record that it was done, are one
transaction of the flow that owns the lane: of two that are asked, or one that is asked twice, only one can do it.

**Once, also by identity.** The flow reads its own region's lane beside the dead letters: an event that is visible there
already, from another copy of the same record, is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.ledger import Arrival, Ledger, Stream
from pipelines.core.numbers import Numbers
from pipelines.core.selection import Facts, facts_of, facts_of_letter, identity_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.alarming import changed
from pipelines.ports import Clock, EventLog, EventSource, Fetched, Journal, Message, Partition
from schemas.codec import Codec, DecodeError
from schemas.records import DeadLetter, Event, Redriven

PUBLISHED, DEAD_AGAIN = "published", "dead_again"
WAITS, DONE, REFUSED = "waits", "done", "refused"
READ_S = 2.0  # of one turn; a long log is read in several
POLL_S = 0.2
KEPT_MAX = 1_000  # answers that are remembered for whoever asked


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for: the letter's place in this region's dead letters. Asking again repeats the answer."""

    ask_id: str
    partition: int
    offset: int
    force: bool
    actor: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a record leads to now: a message for the lane, a letter since the cause still holds, or (why) it waits."""

    message: Message | None = None
    letter: Message | None = None
    why: str = ""
    event: Event | None = None
    also: Message | None = None  # what of it goes elsewhere
    stands: Callable[[], bool] = lambda: True  # looked at again directly before the transaction (6.2)


@dataclass(slots=True)
class _Asked:
    wish: Wish
    state: str = WAITS
    why: str = "it is taken up at the next turn"
    letter: DeadLetter | None = None

    def plain(self) -> dict[str, object]:
        return {"state": self.state, "why": self.why}


@dataclass(slots=True)
class _Book:
    """What this region's log says: which letters were redriven, and which numbers of the lane are visible."""

    marks: dict[tuple[int, int], Redriven] = field(default_factory=dict)
    visible: dict[Stream, Numbers] = field(default_factory=dict)
    at: dict[Partition, int] = field(default_factory=dict)


class Redrives:
    """The wishes for one lane of one peer. `ask` may be called by any thread, `turn` by the flow that owns the lane."""

    def __init__(
        self, *, peer: str, lane: str, letters: EventSource, log: EventLog, codec: Codec, clock: Clock, journal: Journal
    ) -> None:
        self._peer, self._lane = peer, lane
        self._letters, self._log, self._codec = letters, log, codec
        self._clock, self._journal = clock, journal
        self._asked: dict[str, _Asked] = {}
        self._lock = threading.Lock()
        self._book = _Book()

    def ask(self, wish: Wish) -> dict[str, object]:
        """Note a wish, or say what has become of it."""
        with self._lock:
            if wish.ask_id not in self._asked:
                settled = [name for name, one in self._asked.items() if one.state != WAITS]
                for name in settled[: max(0, len(self._asked) - KEPT_MAX + 1)]:
                    del self._asked[name]
                self._asked[wish.ask_id] = _Asked(wish)
            return self._asked[wish.ask_id].plain()

    def forget(self) -> None:
        """The log may be other than we think: read it again. Wishes stay; a mark says which of them are done."""
        self._book = _Book()

    def turn(self, ledger: Ledger, judge: Callable[[Fetched], Verdict]) -> Ledger:
        """Take up what was asked for; the ledger after it, which is the same one if nothing was done."""
        with self._lock:
            waiting = [one for one in self._asked.values() if one.state == WAITS]
        if waiting and not self._read_on():
            for one in waiting:
                one.why = "this region's log is being read, to see what is visible already"
            return ledger
        for one in waiting:
            try:
                ledger = self._settle(one, ledger, judge)
            except CorruptError as error:
                self._end(one, REFUSED, str(error))
        return ledger

    def _settle(self, one: _Asked, ledger: Ledger, judge: Callable[[Fetched], Verdict]) -> Ledger:
        mark = self._book.marks.get((one.wish.partition, one.wish.offset))
        if mark is not None:
            again = mark.ask_id != one.wish.ask_id
            self._end(one, REFUSED if again else DONE, f"{mark.outcome} by {mark.actor}, asked at {mark.time_ms}")
            return ledger
        letter = one.letter = one.letter or self._letter(one.wish)
        if letter.topic != paths.topic(self._lane):
            raise CorruptError(_foreign(letter, self._lane))
        try:
            verdict = judge(_original(letter))
        except RetryableError as error:
            one.why = str(error)
            return ledger
        if verdict.message is None and verdict.letter is None:
            one.why = verdict.why
            return ledger
        if verdict.message is None and not one.wish.force:
            held = self._codec.decode_as(DeadLetter, verdict.letter.value) if verdict.letter else letter
            raise CorruptError(f"the cause still holds: {held.reason}: {held.detail}")
        if not verdict.stands():
            return ledger
        return self._do(one, letter, verdict, ledger)

    def _do(self, one: _Asked, letter: DeadLetter, verdict: Verdict, ledger: Ledger) -> Ledger:
        facts = facts_of_letter(letter) if verdict.event is None else facts_of(verdict.event, ())
        after = ledger.copy()
        outcome, sent = DEAD_AGAIN, verdict.letter
        if verdict.message is not None:
            self._check_once(facts, after)
            whose = f"{one.wish.partition}:{one.wish.offset}".encode()
            message = verdict.message
            outcome = PUBLISHED
            sent = Message(message.topic, message.key, message.value, (*message.headers, ("farside_redriven", whose)))
        mark = self._mark(one.wish, facts, outcome, letter)
        changes = changed(after, ledger, self._codec)
        told = Message(paths.DEAD_LETTERS, letter.key, self._codec.encode(mark))
        also = verdict.also if outcome == PUBLISHED else None
        self._log.transaction([*(each for each in (sent, also) if each is not None), told, *changes])
        self._book.marks[mark.partition, mark.offset] = mark
        identity = identity_of(facts)
        if outcome == PUBLISHED and identity is not None:
            self._see(*identity)
        self._end(one, DONE, outcome)
        fields = {"outcome": outcome, "event_id": mark.event_id, "letter": mark.offset, "actor": mark.actor}
        self._journal.say("replicate.redriven", run=mark.run, lane=self._lane, peer=self._peer, **fields)
        return after

    def _check_once(self, facts: Facts, after: Ledger) -> None:
        """CorruptError unless the event is visible nowhere here, and none before it can still come."""
        identity = identity_of(facts)
        if identity is None:
            raise CorruptError("nobody can tell which number it has: it might be visible already")
        stream, numbers = identity
        there = self._book.visible.get(stream, Numbers()) & numbers
        if there:
            raise CorruptError(f"number {there} of {stream[2]} is visible here already")
        arrival = after.arrival_of(stream, numbers.first)
        if arrival is Arrival.GAP:
            raise CorruptError(f"number {numbers.first} of {stream[2]} is ahead of its lane: ask again later")
        after.take(stream, numbers.first, numbers.last)

    def _mark(self, wish: Wish, facts: Facts, outcome: str, letter: DeadLetter) -> Redriven:
        found = {one.key: one.value.decode(errors="replace") for one in letter.headers}
        return Redriven(
            partition=wish.partition,
            offset=wish.offset,
            run=facts.run or "",
            lane=self._lane,
            event_id=found.get("ce_id", f"{letter.topic}/{letter.partition}/{letter.offset}"),
            outcome=outcome,
            actor=wish.actor,
            ask_id=wish.ask_id,
            time_ms=self._clock.wall_ms(),
        )

    def _end(self, one: _Asked, state: str, why: str) -> None:
        one.why, one.letter, one.state = why, None, state

    # --- this region's own log ---

    def _read_on(self) -> bool:
        """Read what has come since; False if it takes longer than a turn may."""
        deadline_s = self._clock.boottime_s() + READ_S
        for partition in self._letters.partitions([paths.DEAD_LETTERS, paths.topic(self._lane)]):
            first, end = self._letters.bounds(partition)
            at = self._book.at.setdefault(partition, first)
            if at >= end:
                continue
            self._letters.seek(partition, max(at, first))
            self._letters.resume([partition])
            while (position := self._letters.position(partition)) < end:
                if self._clock.boottime_s() > deadline_s:
                    self._book.at[partition] = position
                    self._letters.pause([partition])
                    return False
                for item in self._letters.poll(POLL_S):
                    self._learn(item)
            self._book.at[partition] = self._letters.position(partition)
            self._letters.pause([partition])
        return True

    def _learn(self, item: Fetched) -> None:
        try:
            record = self._codec.decode(item.value)
        except DecodeError:
            record = None
        if isinstance(record, Redriven):
            self._book.marks[record.partition, record.offset] = record
        found = identity_of(facts_of(record, item.headers))
        if found is not None and item.partition.topic == paths.topic(self._lane):
            self._see(*found)

    def _see(self, stream: Stream, numbers: Numbers) -> None:
        self._book.visible[stream] = self._book.visible.get(stream, Numbers()) | numbers

    def _letter(self, wish: Wish) -> DeadLetter:
        """CorruptError if there is no letter at this place."""
        place = f"dead-letters/{wish.partition}/{wish.offset}"
        for partition in self._book.at:
            if (partition.topic, partition.number) != (paths.DEAD_LETTERS, wish.partition):
                continue
            self._letters.seek(partition, wish.offset)
            self._letters.resume([partition])
            found = [one for one in self._letters.poll(READ_S, 1) if one.partition == partition]
            self._letters.pause([partition])
            if found and found[0].offset == wish.offset:
                try:
                    return self._codec.decode_as(DeadLetter, found[0].value)
                except DecodeError as error:
                    raise CorruptError(f"{place}: {error.reason}") from error
        raise CorruptError(f"{place}: there is no letter at this place")


def parse_wish(plain: Mapping[str, object]) -> Wish:
    """A wish as it comes over HTTP, its fields checked already."""
    return Wish(
        ask_id=str(plain["ask_id"]),
        partition=int(str(plain["partition"])),
        offset=int(str(plain["offset"])),
        force=bool(plain["force"]),
        actor=str(plain["actor"]),
    )


def _original(letter: DeadLetter) -> Fetched:
    """The record as it was when it was set aside."""
    place = Partition(letter.cluster, "", letter.topic, letter.partition)
    headers = tuple((one.key, one.value) for one in letter.headers)
    return Fetched(place, letter.offset, letter.key, letter.value, headers)


def _foreign(letter: DeadLetter, lane: str) -> str:
    if letter.reason == "spool_record":
        return f"it is a record of {letter.cluster} that never became an event: only its agent could make one of it"
    return f"it came from {letter.topic}, this is the lane {lane}"
