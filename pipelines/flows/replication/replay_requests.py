"""Replaying into live handlers: the replicator that owns a lane looks at chosen records of its peer's log once more.

Who asks names places, never bytes: the flow reads them itself, so a replay brings in nothing that the peer's log does
not hold, and every rule of the lane holds for it. What was passed over is made visible, marked with the replay's id;
what is visible and has lost its bytes is copied again; for everything else it is said why nothing is to be done.
Asking twice is harmless: what was done is visible, and then it is done (I15, docs/decisions/0008).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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
from schemas.records import Checkpoint

BATCH_MAX = 500  # places in one wish
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
    why: str = "it is taken up at the next turn"
    counts: Counter[str] = field(default_factory=Counter)
    found: list[Fetched] = field(default_factory=list)
    at: int = 0  # the offset from which to read on
    read: bool = False
    settled: int = 0  # of `found`
    repairing: bool = False  # the one that comes next: its bytes are on their way
    failures: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        return {"state": self.state, "why": self.why, "counts": dict(self.counts)}


class ReplayRequests:
    """The wishes for one lane of one peer. `ask` may be called by any thread, `turn` by the flow that owns the lane.

    Args:
        lane: the lane, and whose.
        ports: the lane's.
        replay_source: reads the peer's log, apart from the reader that follows it.
        visible: this region's lane and dead letters.
        whole: whether all that a visible checkpoint names is here.
        lineage: a run's, as this region knows it.
    """

    def __init__(
        self,
        lane: PeerLane,
        ports: LanePorts,
        *,
        replay_source: EventSource,
        visible: VisibleIndex,
        whole: Callable[[Checkpoint], bool],
        lineage: Callable[[str], LineageView | None],
    ) -> None:
        self._peer, self._lane = lane.peer, lane.name
        self._source, self._visible, self._whole = replay_source, visible, whole
        self._lineage, self._codec = lineage, ports.codec
        self._clock, self._journal = ports.clock, ports.journal
        self._requests = Requests[Places, _Asked](KEPT_MAX)

    def ask(self, places: Places) -> dict[str, object]:
        """Note a wish, or say what has become of it."""
        return self._requests.ask(places, lambda: _Asked(places))

    def turn(self, ledger: Ledger, judge: Judge, commit: Commit) -> None:
        """Take up what was asked for, as far as a turn goes; what is made up for is committed by the flow.

        Raises:
            RetryableError: our own log did not answer; what was asked for stays.
        """
        waiting = self._requests.waiting()
        if not waiting:
            return
        if not self._visible.read_on():
            for one in waiting:
                one.why = "this region's log is being read, to see what is visible already"
            return
        for one in waiting:
            try:
                ledger = self._settle(one, ledger, judge, commit)
            except RetryableError as error:
                one.why = str(error)
                raise
            except CorruptError as error:
                one.state, one.why, one.found = REFUSED, str(error), []

    def _settle(self, one: _Asked, ledger: Ledger, judge: Judge, commit: Commit) -> Ledger:
        if not one.read and not self._read(one):
            return ledger
        found = one.found
        deadline_s = self._clock.boottime_s() + READ_S
        while one.settled < len(found):
            if self._clock.boottime_s() > deadline_s:
                one.why = f"{one.settled} of {len(found)} are settled"
                return ledger
            outcome, ledger = self._one(found[one.settled], one, ledger, judge, commit)
            if outcome is None:
                return ledger
            one.counts[outcome] += 1
            one.settled += 1
            one.repairing = False
        one.state, one.why, one.found = DONE, "; ".join(one.failures[:3]), []
        self._journal.say(
            "replicate.replayed", lane=self._lane, peer=self._peer, replay=one.places.replay_id, **dict(one.counts)
        )
        return ledger

    def _one(
        self, item: Fetched, asked: _Asked, ledger: Ledger, judge: Judge, commit: Commit
    ) -> tuple[str | None, Ledger]:
        """What has become of a record, and the ledger then; None: it has to wait, and the wish says for what."""
        event = None
        with contextlib.suppress(DecodeError):  # its headers may tell which it is
            event = self._codec.decode(item.value)
        facts = facts_of(event, item.headers)
        identity = identity_of(facts)
        known = Known() if identity is None else self._visible.known(identity[0])
        found = fate(facts, self._peer, ledger, known, self._lineage(facts.run or ""))
        if found is Fate.DONE and isinstance(event, Checkpoint) and (asked.repairing or not self._whole(event)):
            found, asked.repairing = Fate.DAMAGED, True
        if found not in {Fate.MISSED, Fate.DAMAGED} or identity is None:
            return str(found.value), ledger
        there = known.visible & identity[1] if found is Fate.MISSED else SequenceRanges()
        try:
            verdict = judge(item, there.last if there else None)
        except CorruptError as error:
            asked.failures.append(f"{origin(item)}: {error}")
            return FAILED, ledger
        asked.why = verdict.why
        if (verdict.message is None and verdict.letter is None) or not verdict.stands():
            return None, ledger
        if found is Fate.DAMAGED:
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
        """Publish what was passed over, or set it aside: its number lies below the watermark, which stays."""
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

    def _read(self, one: _Asked) -> bool:
        """Read the places in the peer's log; False if it takes longer than a turn may. What is gone is counted."""
        partition = self._partition(one.places)
        first, end = self._source.bounds(partition)
        last = one.places.offsets[-1]
        at = min(max(one.at, one.places.offsets[0], first), end)
        deadline_s = self._clock.boottime_s() + READ_S
        self._source.seek(partition, at)
        self._source.resume([partition])
        while (at := self._source.position(partition)) <= last and at < end:
            if self._clock.boottime_s() > deadline_s:
                one.at, one.why = at, f"the log of {self._peer} is being read"
                break
            batch = (item for item in self._source.poll(POLL_S) if item.partition == partition)
            one.found += [item for item in batch if item.offset in one.places.offsets]
        self._source.pause([partition])
        one.read = at > last or at >= end
        one.counts[Fate.GONE.value] = len(one.places.offsets) - len(one.found) if one.read else 0
        return one.read

    def _partition(self, places: Places) -> Partition:
        """CorruptError if the topic was made anew since the places were read."""
        for one in self._source.partitions([paths.topic(self._lane)]):
            if (one.cluster, one.topic_id, one.number) == (places.cluster, places.topic_id, places.partition):
                return one
        raise CorruptError(f"{paths.topic(self._lane)} of {self._peer} is another topic now: plan the replay again")


def origin(item: Fetched) -> str:
    """Where a record lies, as the headers of its copies say it."""
    one = item.partition
    return f"{one.cluster}/{one.topic}/{one.number}/{item.offset}"


def parse_places(plain: Mapping[str, object]) -> Places:
    """A wish as it comes over HTTP, its fields checked already; CorruptError if its offsets are none."""
    offsets = plain["offsets"]
    if not isinstance(offsets, list) or not all(isinstance(one, int) and one >= 0 for one in offsets):
        raise CorruptError("offsets: a list of whole numbers is wanted")
    if not 0 < len(offsets) <= BATCH_MAX:
        raise CorruptError(f"offsets: 1 to {BATCH_MAX} are wanted, these are {len(offsets)}")
    return Places(
        replay_id=str(plain["replay_id"]),
        cluster=str(plain["cluster"]),
        topic_id=str(plain["topic_id"]),
        partition=int(str(plain["partition"])),
        offsets=tuple(sorted(set(offsets))),
    )
