"""The alarms of one lane of one peer: raised and healed with the ledger, reported once, acknowledged by a person.

They lie in a topic of their own, `farside.alarms`, written in the transaction that moves the position past what is
missing: so none is lost, none is raised twice, and a replicator that is older than they are never meets one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from pipelines import paths
from pipelines.core.alarm_texts import LOST, OF_LOG, TEXTS, UNKNOWN_EPOCH, ZOMBIE, Kind
from pipelines.core.alarms import HEALED, OPEN, alarm, id_of, key_of, of_bounds, of_stream, plain, status_of
from pipelines.core.ledger import Ledger, Stream
from pipelines.core.ledger import key_of as ledger_key_of
from pipelines.core.sequence_numbers import Numbered
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.flows.replication.lane_ports import PeerLane
from pipelines.ports import Clock, Journal, Message, Partition
from schemas.codec import Codec
from schemas.http_bodies import AcknowledgeAnswer, LaneAlarmsStatus
from schemas.records import Alarm

LISTED_MAX = 50  # in a status
KEPT_MAX = 1_000  # answers that are remembered for whoever asked
WAITS, DONE, UNKNOWN = "waits", "done", "unknown"


def changed(after: Ledger, before: Ledger, codec: Codec) -> list[Message]:
    """The messages of a transaction besides its events: each changed ledger record and alarm, in its topic."""
    return [
        Message(
            paths.ALARMS if isinstance(record, Alarm) else paths.LEDGER,
            ledger_key_of(record),
            codec.encode(record),
        )
        for record in after.changes_since(before)
    ]


class LaneAlarms:
    """One lane's alarms. Any thread may call `acknowledge` and `status`; the flow that owns the lane calls the rest."""

    def __init__(self, lane: PeerLane, clock: Clock, journal: Journal) -> None:
        self._peer, self._lane = lane.peer, lane.name
        self._clock, self._journal = clock, journal
        self._open: tuple[Alarm, ...] = ()
        self._asked: dict[str, tuple[str, str]] = {}  # alarm id -> actor, what has become of it
        self._lock = threading.Lock()
        self.raised: Counter[str] = Counter()  # by kind, since this process began

    def bounds(self, after: Ledger, partition: Partition, known: int | None, bounds: tuple[int, int]) -> bool:
        """Raise an alarm if a log cannot be read on where it was left; False if it can.

        Args:
            after: the ledger that is going to hold.
            partition: of the peer's log.
            known: the next offset to read; None if the partition was never read.
            bounds: the first offset that is still there, and the one that the next record will get.
        """
        same = [
            position
            for position in after.positions.values()
            if (position.topic, position.partition, position.cluster)
            == (partition.topic, partition.number, partition.cluster)
        ]
        noticed = of_bounds(known, *bounds, others=bool(same))
        if noticed is None:
            return False
        kind, numbers, cause = noticed
        place = f"{partition.topic_id}/{partition.number}"
        after.alarms.add(self._alarm(kind, cause, place, numbers))
        return True

    def taken(self, after: Ledger, taken: Numbered, *, is_aside: bool) -> None:
        """Settle a record's numbers; raise an alarm for numbers that were jumped over, or an epoch its region had left.

        Args:
            after: the ledger that is going to hold.
            taken: the record's numbers.
            is_aside: whether the record, or a part of it, lies past a fork.
        """
        run, epoch, _, lane = taken.stream
        skipped = after.take(taken.stream, taken.first_seq, taken.seq)
        if skipped:
            gone = [one for one in after.alarms.open_of(self._peer, lane) if one.kind in OF_LOG]
            cause = f"{TEXTS[Kind(gone[-1].kind)]}: {gone[-1].cause}" if gone else LOST
            self._of_stream(after, Kind.HOLE, taken.stream, skipped, cause)
        if not after.saw_epoch(run, self._peer, lane, epoch) and is_aside:
            newest = after.epochs[run, self._peer, lane]
            cause = f"{self._peer} had written epoch {newest} before: {ZOMBIE}"
            self._of_stream(after, Kind.EPOCH, taken.stream, SequenceRanges([(taken.first_seq, taken.seq)]), cause)

    def set_aside(self, after: Ledger, taken: Numbered) -> None:
        """Settle the numbers of a record whose epoch did not become known in time, and raise the alarm of it.

        The epoch is not noted as seen: nobody may ever have won it.
        """
        skipped = after.take(taken.stream, taken.first_seq, taken.seq)
        self._of_stream(after, Kind.ASIDE, taken.stream, SequenceRanges([(taken.first_seq, taken.seq)]), UNKNOWN_EPOCH)
        if skipped:
            self._of_stream(after, Kind.HOLE, taken.stream, skipped, LOST)

    def absent(self, after: Ledger, stream: Stream, numbers: SequenceRanges) -> None:
        """Raise an alarm for numbers that are in no log of this region, although later ones are."""
        if numbers:
            self._of_stream(after, Kind.HOLE, stream, numbers, LOST)

    def ledger_lost(self, after: Ledger, place: str, cause: str) -> None:
        """Raise an alarm: this region's own ledger is not the one that it was."""
        after.alarms.add(self._alarm(Kind.LEDGER, cause, place, SequenceRanges()))

    def rebuilt(self, after: Ledger) -> None:
        """End the alarms about the log: every checkpoint that it lost is accounted for by its manifest."""
        for lost in after.alarms.open_of(self._peer, self._lane):
            if lost.kind in OF_LOG:
                after.alarms.end(key_of(lost), HEALED)

    def report(self, after: Ledger, before: Ledger | None) -> None:
        """Report each alarm that a transaction raised or ended, once it is through.

        Args:
            after: the ledger that holds now.
            before: the one before the transaction; None if `after` was read from the log.
        """
        known = Ledger() if before is None else before
        self._open = after.alarms.open_of(self._peer, self._lane)
        if before is None:
            return  # read from the log: it was reported when it was written
        for alarm_record in after.alarms.changes_since(known.alarms):
            if (alarm_record.peer, alarm_record.lane) != (self._peer, self._lane):
                continue
            if alarm_record.state == OPEN:
                earlier = known.alarms.kept.get(key_of(alarm_record))
                if earlier is None or earlier.state != OPEN:
                    self.raised[alarm_record.kind] += 1
                if earlier is not None and _size(alarm_record) < _size(earlier):
                    continue  # a part of it healed
            name = "replicate.alarm" if alarm_record.state == OPEN else f"replicate.alarm_{alarm_record.state}"
            self._journal.say(name, **plain(alarm_record))

    def open_by_kind(self) -> Counter[str]:
        """How many alarms of each kind are open."""
        return Counter(one.kind for one in self._open)

    def status(self) -> LaneAlarmsStatus:
        """How many alarms are open, and the newest of them."""
        return LaneAlarmsStatus(
            open=len(self._open), newest=tuple(status_of(alarm) for alarm in self._open[-LISTED_MAX:])
        )

    # --- acknowledged by a person ---

    def acknowledge(self, alarm_id: str, actor: str) -> AcknowledgeAnswer:
        """Note the request, or say what has become of it; may be called from another thread."""
        with self._lock:
            if alarm_id not in self._asked or self._is_open_again(alarm_id):
                self._asked.pop(alarm_id, None)
                settled = [name for name, (_, state) in self._asked.items() if state != WAITS]
                for name in settled[: max(0, len(self._asked) - KEPT_MAX + 1)]:
                    del self._asked[name]
                self._asked[alarm_id] = (actor, WAITS)
            return AcknowledgeAnswer(state=self._asked[alarm_id][1])

    def turn(self, ledger: Ledger, commit: Callable[[Ledger, Ledger], Ledger]) -> Ledger:
        """Acknowledge the alarms that were asked for; the ledger after it, unchanged if there were none."""
        with self._lock:
            waiting = {name: actor for name, (actor, state) in self._asked.items() if state == WAITS}
        if not waiting:
            return ledger
        after = ledger.copy()
        known = {name: after.alarms.acknowledge(name, actor) for name, actor in waiting.items()}
        if any(known.values()):
            after = commit(ledger, after)
        with self._lock:
            for name, is_known in known.items():
                self._asked[name] = (waiting[name], DONE if is_known else UNKNOWN)
        return after

    def _is_open_again(self, alarm_id: str) -> bool:
        return self._asked[alarm_id][1] != WAITS and any(id_of(one) == alarm_id for one in self._open)

    def _alarm(self, kind: Kind, cause: str, place: str, numbers: SequenceRanges) -> Alarm:
        return alarm(
            kind,
            peer=self._peer,
            lane=self._lane,
            cause=cause,
            time_ms=self._clock.wall_ms(),
            place=place,
            numbers=numbers,
        )

    def _of_stream(self, after: Ledger, kind: Kind, stream: Stream, numbers: SequenceRanges, cause: str) -> None:
        time_ms = self._clock.wall_ms()
        after.alarms.add(of_stream(kind, stream, numbers, peer=self._peer, cause=cause, time_ms=time_ms))


def _size(alarm_record: Alarm) -> int:
    return alarm_record.unlisted + sum(each.last - each.first + 1 for each in alarm_record.ranges)
