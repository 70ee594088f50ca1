"""Replaying into live handlers: the replicator that owns a lane handles chosen records of its peer's log once more.

A request names places, never bytes: the flow reads them itself, so a replay brings in nothing that the peer's log does
not hold, and every rule of the lane holds for it. An event that was passed over is made visible, marked with the
replay's id; a checkpoint that is visible and has lost its bytes is copied again; for every other record the answer says
why nothing is to be done. Asking twice is harmless: an event that is visible already is left alone (I15,
docs/decisions/0008).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.ledger import Ledger, Stream
from pipelines.core.lineage import LineageView
from pipelines.core.record_filter import facts_of, identity_of
from pipelines.core.replay_rules import Fate, Known, fate, marked
from pipelines.core.sequence_numbers import Numbered
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.record_judge import Verdict
from pipelines.flows.replication.requests import DONE, REFUSED, WAITS, Requests
from pipelines.flows.replication.visible_index import VisibleIndex
from pipelines.ports import EventSource, Fetched, Message, Partition
from schemas.codec import DecodeError
from schemas.http_bodies import ReplayAnswer, ReplayBody
from schemas.records import Checkpoint, DataVersion

BATCH_MAX = 500  # places in one request
READ_S = 2.0  # of one turn
POLL_S = 0.2
KEPT_MAX = 64  # answers that are remembered for whoever asked
MADE_UP, REPAIRED, FAILED = "made_up", "repaired", "failed"
Judge = Callable[[Fetched, int | None], Verdict]
Commit = Callable[[Ledger, Numbered, Iterable[Message]], Ledger]


@dataclass(frozen=True, slots=True)
class Places:
    """Chosen records of one partition of the peer's lane, in order. Asking again repeats the answer."""

    replay_id: str
    cluster: str
    topic_id: str
    partition: int
    offsets: tuple[int, ...]


@dataclass(slots=True)
class _Asked:
    places: Places
    state: str = WAITS
    why: str = "it is carried out at the next turn"
    counts: Counter[str] = field(default_factory=Counter)
    records: list[Fetched] = field(default_factory=list)
    at: int = 0  # the offset from which to read on
    read: bool = False
    settled: int = 0  # of `records`
    repairing: bool = False  # the one that comes next: its bytes are on their way
    failures: list[str] = field(default_factory=list)

    def answer(self) -> ReplayAnswer:
        return ReplayAnswer(state=self.state, why=self.why, counts=dict(self.counts))


class ReplayRequests:
    """The requests for one lane of one peer. Any thread may call `ask`; the flow that owns the lane calls `turn`.

    Args:
        lane: the lane, and whose.
        ports: the lane's.
        replay_source: reads the peer's log, apart from the reader that follows it.
        visible: this region's lane and dead letters.
        whole: whether all that a visible event names is here.
        lineage: a run's, as this region knows it.
    """

    def __init__(
        self,
        lane: PeerLane,
        ports: LanePorts,
        *,
        replay_source: EventSource,
        visible: VisibleIndex,
        whole: Callable[[Checkpoint | DataVersion], bool],
        lineage: Callable[[str], LineageView | None],
    ) -> None:
        self._peer, self._lane = lane.peer, lane.name
        self._source, self._visible, self._whole = replay_source, visible, whole
        self._lineage, self._codec = lineage, ports.codec
        self._clock, self._journal = ports.clock, ports.journal
        self._requests = Requests[Places, _Asked](KEPT_MAX)

    def ask(self, places: Places) -> ReplayAnswer:
        """Note the request, or say what has become of it."""
        return self._requests.ask(places, lambda: _Asked(places)).answer()

    def turn(self, ledger: Ledger, judge: Judge, commit: Commit) -> None:
        """Carry out the waiting requests, as far as a turn goes; the flow commits what they publish.

        Raises:
            RetryableError: our own log did not answer; what was asked for stays.
        """
        waiting = self._requests.waiting()
        if not waiting:
            return
        if not self._visible.read_on():
            for asked in waiting:
                asked.why = "this region's log is being read, to see what is visible already"
            return
        for asked in waiting:
            try:
                ledger = self._settle(asked, ledger, judge, commit)
            except RetryableError as error:
                asked.why = str(error)
                raise
            except CorruptError as error:
                asked.state, asked.why, asked.records = REFUSED, str(error), []

    def _settle(self, asked: _Asked, ledger: Ledger, judge: Judge, commit: Commit) -> Ledger:
        if not asked.read and not self._read(asked):
            return ledger
        records = asked.records
        deadline_s = self._clock.boottime_s() + READ_S
        while asked.settled < len(records):
            if self._clock.boottime_s() > deadline_s:
                asked.why = f"{asked.settled} of {len(records)} are settled"
                return ledger
            outcome, ledger = self._replay_record(records[asked.settled], asked, ledger, judge, commit)
            if outcome is None:
                return ledger
            asked.counts[outcome] += 1
            asked.settled += 1
            asked.repairing = False
        asked.state, asked.why, asked.records = DONE, "; ".join(asked.failures[:3]), []
        self._journal.say(
            "replicate.replayed", lane=self._lane, peer=self._peer, replay=asked.places.replay_id, **dict(asked.counts)
        )
        return ledger

    def _replay_record(
        self, item: Fetched, asked: _Asked, ledger: Ledger, judge: Judge, commit: Commit
    ) -> tuple[str | None, Ledger]:
        """Handle one record: its outcome and the ledger then; None: it waits, and the request says for what."""
        event = None
        with contextlib.suppress(DecodeError):  # its headers may tell which it is
            event = self._codec.decode(item.value)
        facts = facts_of(event, item.headers)
        identity = identity_of(facts)
        known = Known() if identity is None else self._visible.known(identity[0])
        outcome = fate(facts, self._peer, ledger, known, self._lineage(facts.run or ""))
        if (
            outcome is Fate.DONE
            and isinstance(event, Checkpoint | DataVersion)
            and (asked.repairing or not self._whole(event))
        ):
            outcome, asked.repairing = Fate.DAMAGED, True
        if outcome not in {Fate.MISSED, Fate.DAMAGED} or identity is None:
            return str(outcome.value), ledger
        there = known.visible & identity[1] if outcome is Fate.MISSED else SequenceRanges()
        try:
            verdict = judge(item, there.last if there else None)
        except CorruptError as error:
            asked.failures.append(f"{origin(item)}: {error}")
            return FAILED, ledger
        asked.why = verdict.why
        if (verdict.message is None and verdict.letter is None) or not verdict.stands():
            return None, ledger
        if outcome is Fate.DAMAGED:
            return self._repaired(item, verdict, asked), ledger
        return self._make_up(item, verdict, identity, asked.places.replay_id, lambda *what: commit(ledger, *what))

    def _repaired(self, item: Fetched, verdict: Verdict, asked: _Asked) -> str:
        if verdict.message is not None:
            return REPAIRED
        asked.failures.append(f"{origin(item)}: its bytes cannot be had from {self._peer}")
        return FAILED

    def _make_up(
        self,
        item: Fetched,
        verdict: Verdict,
        identity: tuple[Stream, SequenceRanges],
        replay_id: str,
        commit: Callable[[Numbered, Iterable[Message]], Ledger],
    ) -> tuple[str, Ledger]:
        """Publish an event that was passed over, or set it aside: its number lies below the watermark, which stays."""
        message = verdict.message
        if message is not None:
            headers = marked(message.headers, replay_id, origin(item))
            message = dataclasses.replace(message, headers=headers)
        taken = Numbered(identity[0], identity[1].first, identity[1].last)
        after = commit(taken, [one for one in (message, verdict.letter, verdict.set_aside) if one is not None])
        if message is None:
            return str(Fate.DEAD.value), after
        self._visible.see(*identity)
        return MADE_UP, after

    def _read(self, asked: _Asked) -> bool:
        """Read the places in the peer's log; False if it takes longer than a turn may. Lost records are counted."""
        partition = self._partition(asked.places)
        first, end = self._source.bounds(partition)
        last = asked.places.offsets[-1]
        at = min(max(asked.at, asked.places.offsets[0], first), end)
        deadline_s = self._clock.boottime_s() + READ_S
        self._source.seek(partition, at)
        self._source.resume([partition])
        while (at := self._source.position(partition)) <= last and at < end:
            if self._clock.boottime_s() > deadline_s:
                asked.at, asked.why = at, f"the log of {self._peer} is being read"
                break
            batch = (item for item in self._source.poll(POLL_S) if item.partition == partition)
            asked.records += [item for item in batch if item.offset in asked.places.offsets]
        self._source.pause([partition])
        asked.read = at > last or at >= end
        asked.counts[Fate.GONE.value] = len(asked.places.offsets) - len(asked.records) if asked.read else 0
        return asked.read

    def _partition(self, places: Places) -> Partition:
        """CorruptError if the topic was made anew since the places were read."""
        for partition in self._source.partitions([paths.topic(self._lane)]):
            if (partition.cluster, partition.topic_id, partition.number) == (
                places.cluster,
                places.topic_id,
                places.partition,
            ):
                return partition
        raise CorruptError(f"{paths.topic(self._lane)} of {self._peer} is another topic now: plan the replay again")


def origin(item: Fetched) -> str:
    """The place of a record, as the headers of its copies name it."""
    partition = item.partition
    return f"{partition.cluster}/{partition.topic}/{partition.number}/{item.offset}"


def parse_places(body: ReplayBody) -> Places:
    """The places that a request names.

    Raises:
        CorruptError: its offsets are none, too many or negative.
    """
    if any(offset < 0 for offset in body.offsets):
        raise CorruptError("offsets: a list of whole numbers is wanted")
    if not 0 < len(body.offsets) <= BATCH_MAX:
        raise CorruptError(f"offsets: 1 to {BATCH_MAX} are wanted, these are {len(body.offsets)}")
    return Places(
        replay_id=body.replay_id,
        cluster=body.cluster,
        topic_id=body.topic_id,
        partition=body.partition,
        offsets=tuple(sorted(set(body.offsets))),
    )
