"""Checkpoint events rebuilt from manifests, where a peer's log lost them and its store did not (decision 0006).

An event's number is in the intent beside its manifest, so what is rebuilt is the very event that its agent published or
would have: the same identity, and the same bytes. It goes the way of every event: copied, verified, compared with
the lineage, published in the transaction that takes its number. So it cannot become visible twice, and the original,
should it turn up, is a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.alarm_texts import OF_LOG, Kind
from pipelines.core.authorship import MANIFEST, disagreement, foreign, made_by
from pipelines.core.ledger import Arrival, Ledger, stream
from pipelines.core.lineage import LineageView, Standing, may_become_known, standing
from pipelines.errors import CorruptError, ForeignEpochError
from pipelines.flows.log.envelope import wrap
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.ports import Fetched, Partition
from schemas.codec import DecodeError, digest
from schemas.records import Abandoned, Alarm, Checkpoint, Intent, Manifest

LANE = "checkpoints"
LOOK_AGAIN_S = 300.0  # if nothing is lost that was not looked for
LOOKS_MAX = 20  # manifests that are read in a turn
AT_ONCE_MAX = 100  # events that are under way together


@dataclass(frozen=True, slots=True)
class RebuiltEvent:
    """An event, and the record as it would have been read from the peer's log."""

    event: Checkpoint
    fetched: Fetched


@dataclass(slots=True)
class _Search:
    """One search through the manifests of some runs."""

    ends: dict[Partition, int]  # of the peer's log, seen before the manifests were listed
    left: list[paths.CheckpointId] = field(default_factory=list)
    sent: dict[paths.CheckpointId, Checkpoint] = field(default_factory=dict)  # of those, what is under way
    is_of_log: bool = False  # for what a log lost, not for holes alone

    def settled(self, own: paths.CheckpointId) -> None:
        """Note that a checkpoint needs nothing more."""
        self.left.remove(own)
        self.sent.pop(own, None)


class EventRebuild:
    """Looks for the events that a peer's log lost, as long as an open alarm says that there may be any.

    Only checkpoints have manifests: in another lane it finds nothing.

    Args:
        lane: the lane, and whose.
        ports: the lane's.
        runs: those that are searched besides all that the ledger knows.
    """

    def __init__(self, lane: PeerLane, ports: LanePorts, runs: Collection[str]) -> None:
        self._peer, self._runs = lane.peer, tuple(runs)
        self._is_for_it = lane.name == LANE
        self._store, self._signer, self._codec = ports.peer_store, ports.signer, ports.codec
        self._clock, self._journal = ports.clock, ports.journal
        self._search: _Search | None = None
        self._looked_s = float("-inf")
        self._looked_for: tuple[Alarm, ...] = ()
        self._unknown: set[str] = set()  # manifests without an intent, said once

    def forget(self) -> None:
        """Give up the search: the replicator begins again from the ledger."""
        self._search, self._looked_s = None, float("-inf")

    def turn(
        self,
        ledger: Ledger,
        *,
        ends: Callable[[], dict[Partition, int]],
        lineage: Callable[[str], LineageView | None],
        is_read: Callable[[str, dict[Partition, int]], bool],
    ) -> Iterator[RebuiltEvent]:
        """The events to queue now, each once; `finished` says when there are no more.

        Args:
            ledger: which events are done.
            ends: asks for the ends of the peer's log now.
            lineage: reads a run's lineage.
            is_read: whether every record of a run up to these ends is settled, so that an event which is not done by
                then is lost.
        """
        search = self._search or self._begin(ledger, ends)
        if search is None:
            return
        looks_left = LOOKS_MAX
        for own in tuple(search.left):
            if own in search.sent:
                if ledger.arrival(search.sent[own]) is Arrival.DUPLICATE:
                    search.settled(own)
                continue
            view = lineage(own.run) if is_read(own.run, search.ends) else None
            if view is None or may_become_known(view, own.epoch):
                continue
            if looks_left == 0 or len(search.sent) == AT_ONCE_MAX:
                return
            looks_left -= 1
            rebuilt = self._look_at(own) if self._counts(view, own) else None
            if rebuilt is None or not self._is_lost(rebuilt.event, ledger):
                search.settled(own)
            else:
                search.sent[own] = rebuilt.event
                yield rebuilt

    def finished(self, ledger: Ledger) -> bool:
        """Whether a search has just ended that accounts for everything a log lost; the next one begins later."""
        search = self._search
        if search is None or search.left:
            return False
        self._search = None
        self._looked_s, self._looked_for = self._clock.boottime_s(), self._reasons(ledger)
        return search.is_of_log and any(one.kind in OF_LOG for one in self._reasons(ledger))

    def _reasons(self, ledger: Ledger) -> tuple[Alarm, ...]:
        kinds = {*OF_LOG, Kind.HOLE.value}
        return tuple(one for one in ledger.alarms.open_of(self._peer, LANE) if one.kind in kinds)

    def _is_lost(self, event: Checkpoint, ledger: Ledger) -> bool:
        """Whether the event is the peer's and was not done here; an abandoned one is told by epoch or number."""
        if ledger.arrival(event) is Arrival.DUPLICATE:
            return False
        is_peers = ledger.epochs.get((event.run, self._peer, LANE)) == event.epoch
        return event.state == "committed" or is_peers or event.seq in ledger.alarms.missing(stream(event))

    def _begin(self, ledger: Ledger, ends: Callable[[], dict[Partition, int]]) -> _Search | None:
        reasons = self._reasons(ledger)
        is_early = self._clock.boottime_s() - self._looked_s < LOOK_AGAIN_S
        if not self._is_for_it or not reasons or (is_early and reasons == self._looked_for):
            return None
        is_of_log = any(one.kind in OF_LOG for one in reasons)
        known = {run for run, _, _, lane in ledger.watermarks if lane == LANE}
        runs = {*self._runs, *known} if is_of_log else {one.run for one in reasons}
        search = _Search(ends(), is_of_log=is_of_log)
        for run in sorted(runs):
            search.left += paths.committed(self._store.list(paths.checkpoints_prefix(run)))
        self._search = search
        return search

    def _counts(self, view: LineageView, own: paths.CheckpointId) -> bool:
        """Whether a checkpoint is the peer's to tell of: what it holds of other regions' epochs was copied there."""
        is_current = standing(view, own.epoch, own.step) is Standing.CURRENT
        return is_current and not foreign(view, own.epoch, {MANIFEST: self._peer})

    def _look_at(self, own: paths.CheckpointId) -> RebuiltEvent | None:
        """The event of a checkpoint; None if it is not the peer's own, or cannot be rebuilt."""
        envelope = self._store.get(own.manifest)
        if envelope is None:
            return None
        try:
            return self._rebuilt(own, envelope)
        except (CorruptError, DecodeError) as error:
            if own.manifest not in self._unknown:
                self._unknown.add(own.manifest)
                self._journal.say(
                    "replicate.not_rebuilt", run=own.run, peer=self._peer, manifest=own.manifest, why=str(error)
                )
            return None

    def _rebuilt(self, own: paths.CheckpointId, envelope: bytes) -> RebuiltEvent | None:
        opened = self._signer.opened(envelope)
        payload, record = opened.payload, self._codec.decode(opened.payload)
        why = disagreement({**made_by(record, opened.region), "its store": self._peer})
        if why:
            raise ForeignEpochError(why)
        written = self._store.get(own.intent)
        if isinstance(record, Manifest):
            manifests.check(record, own)
            size_bytes, state, reason = manifests.size_bytes(record), "committed", ""
        elif isinstance(record, Abandoned):
            if written is None:
                return None  # nothing of it was accepted, or it was copied there
            size_bytes, state, reason = 0, "abandoned", record.reason
        else:
            raise CorruptError(f"{own.manifest} holds a {type(record).__name__}")
        if written is None:
            raise CorruptError(f"{own.intent} is missing, which has the number of its event")
        intent = self._codec.decode_as(Intent, written)
        if manifests.checkpoint_of(intent) != own:
            raise CorruptError(f"{own.intent} is of {manifests.checkpoint_of(intent).prefix}")
        if isinstance(record, Manifest) and record.shards != tuple(sorted(intent.shards, key=lambda one: one.rank)):
            raise CorruptError(f"{own.intent} has other shards than the manifest")
        event = Checkpoint(
            event_id=f"{own.run}/{own.epoch}/{intent.producer}/checkpoints/{intent.seq}",
            run=own.run,
            region=self._peer,
            epoch=own.epoch,
            attempt=own.attempt,
            producer=intent.producer,
            seq=intent.seq,
            step=own.step,
            time_ms=intent.time_ms,
            state=state,
            manifest_key=own.manifest,
            manifest_digest=digest(payload),
            lineage_seq=record.lineage_seq,
            size_bytes=size_bytes,
            reason=reason,
        )
        message = wrap(event, "checkpoint", self._codec)
        place = Partition("", "", paths.CHECKPOINTS, 0)
        headers = (*message.headers, ("farside_rebuilt", own.manifest.encode()))
        return RebuiltEvent(event, Fetched(place, 0, message.key, message.value, headers))
