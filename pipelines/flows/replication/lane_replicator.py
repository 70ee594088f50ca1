"""The replicator: follows one lane of a peer's Kafka; re-publishes an event once what it names is verified here.

**Effects once (I15), nothing lost (I14).** What an event leads to, its watermark and the position from which to read on
are one transaction of *our* Kafka. A restart begins with an empty transaction, which fences the replicator before it,
and then reads the ledger: whatever was published is marked, whatever is not marked is read again. A commit that was not
answered leads to the same restart.

**Runs do not wait for each other (6.9).** Events queue by run (`intake.py`). The position is that of the oldest event
that waits, and what was published beyond it is known by its watermark.

**What is missing is said (6.8).** Gaps and resets become alarms (`alarming.py`), a ledger that was lost is read from
the lanes (`recall.py`), and checkpoint events that a log lost are rebuilt from their manifests (`rebuild.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.ledger import Arrival, Ledger, stream
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.core.metric_batches import METRICS, first_number, parted
from pipelines.core.sequence_numbers import Numbered, place_of
from pipelines.errors import CorruptError, MisconfiguredError, RetryableError
from pipelines.flows.log.envelope import METRIC_BATCH, headers_of
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.log.writer_schemas import learn
from pipelines.flows.replication.checkpoint_copies import CheckpointCopies
from pipelines.flows.replication.event_rebuild import EventRebuild
from pipelines.flows.replication.intake import Intake
from pipelines.flows.replication.lane_alarms import LaneAlarms, changed
from pipelines.flows.replication.ledger_recovery import LedgerRecovery
from pipelines.flows.replication.redrive_requests import RedriveRequest, RedriveRequests, Verdict
from pipelines.flows.replication.replay_requests import Places, ReplayRequests
from pipelines.flows.replication.settle_log import SettledRecord, tell
from pipelines.flows.replication.visible_index import VisibleIndex
from pipelines.flows.retention.pins import is_pinned
from pipelines.ports import (
    Clock,
    EventLog,
    EventSource,
    Fetched,
    Journal,
    Message,
    ObjectStore,
    Partition,
    Signer,
    Transfers,
)
from schemas.codec import Codec, DecodeError, UnknownSchemaError
from schemas.http_bodies import LaneStatus, RedriveAnswer, ReplayAnswer
from schemas.records import Checkpoint, DataVersion, DeadLetter, Event, Header, MetricBatch, Position

TURN_S = 0.1
REFRESH_S = 15.0
LOOK_S = 1.0  # while the peer has no such topic yet
BATCH_MAX = 500
_NAMES_BYTES = frozenset({"committed", "abandoned", "branch"})  # and not "superseded", which says that none come
_KINDS: dict[str, type[Event] | tuple[type[Event], ...]] = {
    "checkpoints": Checkpoint,
    "metrics": METRICS,
    "data-versions": DataVersion,
}


@dataclass(slots=True)
class _Waiting:
    """One record of the peer that is not settled."""

    fetched: Fetched
    event: Event | None = None
    why: str = ""
    more: tuple[tuple[str, bytes], ...] = ()  # headers which say why it stands out of order


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one record leads to: at most one message, and the number that it takes."""

    message: Message | None = None
    takes: Numbered | None = None
    says: str = ""
    fields: dict[str, object] = field(default_factory=dict)
    view: LineageView | None = None  # the lineage on which this rests; looked at again before it is published
    also: Message | None = None  # what of it goes elsewhere


class LaneReplicator:
    """One lane from one peer region. One thread turns it; it never commits anything but its own region's log."""

    def __init__(
        self,
        *,
        region: str,
        peer: str,
        lane: str,
        source: EventSource,
        own: EventSource,
        log: EventLog,
        store: ObjectStore,
        peer_store: ObjectStore,
        transfers: Transfers,
        lineage: Callable[[str], LineageView | None],
        signer: Signer,
        codec: Codec,
        clock: Clock,
        journal: Journal,
        letters: EventSource | None = None,
        again: EventSource | None = None,
        runs: Collection[str] = (),
    ) -> None:
        """`letters` reads this region's own log for what is redriven or replayed, `again` the peer's for a replay.

        `runs` are those whose checkpoints are looked for where a log lost records, besides all that were heard of.
        """
        if lane not in paths.REPLICATED_LANES:
            raise MisconfiguredError(f"lane {lane!r} is not replicated; there are {', '.join(paths.REPLICATED_LANES)}")
        self._region, self._peer, self._lane = region, peer, lane
        self._source, self._own, self._log = source, own, log
        self._store, self._peer_store, self._lineage = store, peer_store, lineage
        self._codec, self._clock, self._journal = codec, clock, journal
        self._copies = CheckpointCopies(
            peer=peer,
            store=store,
            peer_store=peer_store,
            transfers=transfers,
            signer=signer,
            codec=codec,
            clock=clock,
            journal=journal,
        )
        self._ledger: Ledger | None = None
        self._followed: dict[Partition, int] = {}  # the next offset to queue
        self._queues: dict[str, deque[_Waiting]] = {}
        self._refreshed_s = float("-inf")
        self._counts: dict[str, int] = {}
        self._seen: dict[str, int] = {}  # newest committed step heard of, per run
        self._there: dict[str, int] = {}  # newest committed step made visible here, per run
        self._trouble = ""
        self._views: dict[str, LineageView | None] = {}  # of this turn
        self._intake = Intake(source, self._followed, self._queues, self._queue)
        of = {"peer": peer, "lane": lane}
        self._alarms = LaneAlarms(**of, clock=clock, journal=journal)
        self._recall = LedgerRecovery(**of, own=own, codec=codec, clock=clock, lane_alarms=self._alarms)
        self._rebuild = EventRebuild(
            **of, runs=runs, peer_store=peer_store, signer=signer, codec=codec, clock=clock, journal=journal
        )
        self._visible = None if letters is None else VisibleIndex(lane, letters, codec, clock)
        self._redrives, self._replays = self._out_of_turn(again)

    def _out_of_turn(self, again: EventSource | None) -> tuple[RedriveRequests | None, ReplayRequests | None]:
        """What else is handled than the lane as it comes."""
        if self._visible is None:
            return None, None
        redrives = RedriveRequests(
            peer=self._peer,
            lane=self._lane,
            visible=self._visible,
            log=self._log,
            codec=self._codec,
            clock=self._clock,
            journal=self._journal,
        )
        if again is None:
            return redrives, None
        replays = ReplayRequests(
            peer=self._peer,
            lane=self._lane,
            again=again,
            visible=self._visible,
            whole=self._copies.whole,
            lineage=self._view_of,
            codec=self._codec,
            clock=self._clock,
            journal=self._journal,
        )
        return redrives, replays

    def replay(self, places: Places) -> ReplayAnswer:
        """Look at some records of the lane once more, or say what has become of them; as `redrive`."""
        if self._replays is None:
            raise MisconfiguredError("this replicator does not read logs again: nothing can be replayed")
        return self._replays.ask(places)

    def redrive(self, request: RedriveRequest) -> RedriveAnswer:
        """Handle a dead letter once more, or say what has become of it; may be called from another thread."""
        if self._redrives is None:
            raise MisconfiguredError("this replicator does not read its own log: nothing can be redriven")
        return self._redrives.ask(request)

    def turn(self) -> float:
        """Read, copy, publish; seconds until the next turn. FencedError: another replicator does this lane now."""
        try:
            ledger = self._follow(self._ledger or self._restart())
            ledger = self._mend(ledger)
            self._copies.collect()
            settled = self._settle(ledger)
            if self._redrives is not None:
                before = self._ledger or ledger
                self._ledger = self._redrives.turn(before, self._judge)
                self._alarms.tell(self._ledger, before)
            if self._replays is not None:
                self._replays.turn(self._ledger or ledger, self._judge, self._made_up)
        except (RetryableError, CorruptError) as error:
            # Corrupt: the place to read from is gone; what the ledger says about it is told at the next turn.
            self._say_trouble(str(error))
            self._forget()
            return TURN_S
        self._trouble = ""
        return 0.0 if settled else TURN_S

    def status(self) -> LaneStatus:
        """What waits, why, and how far behind this region is in steps."""
        queues = {run: queue for run, queue in list(self._queues.items()) if queue}
        return LaneStatus(
            peer=self._peer,
            lane=self._lane,
            queued={run: len(queue) for run, queue in queues.items()},
            waits={run: queue[0].why for run, queue in queues.items() if queue[0].why},
            counts=dict(self._counts),
            copies=self._copies.progress(),
            link_bytes=self._copies.moved_bytes,
            lag_steps=self.lag_steps(),
            trouble=self._trouble,
            alarms=self._alarms.status(),
        )

    def lag_steps(self) -> dict[str, int]:
        """For each run: the newest committed step that was heard of, minus the newest that is visible here."""
        return {run: max(0, step - self._there.get(run, 0)) for run, step in list(self._seen.items())}

    @property
    def lane_alarms(self) -> LaneAlarms:
        """The lane's alarms, for whoever counts or acknowledges them."""
        return self._alarms

    # --- where we stand ---

    def _restart(self) -> Ledger:
        """Fence whoever did this before us, then learn from the log what is done."""
        self._log.transaction(())
        read = read_ledger(self._own, self._codec, self._clock)
        self._alarms.tell(read, None)
        return self._commit(read, self._recall.begin(read))

    def _commit(self, before: Ledger, after: Ledger, messages: Iterable[Message] = ()) -> Ledger:
        """Make some messages visible together with what they lead to; nothing at all if there is neither."""
        whole = [*messages, *changed(after, before, self._codec)]
        if whole:
            self._log.transaction(whole)
        self._ledger = after
        self._alarms.tell(after, before)
        return after

    def _forget(self) -> None:
        self._ledger = None
        self._followed.clear()
        self._queues.clear()
        self._intake.clear()
        self._copies.forget()
        if self._visible is not None:
            self._visible.forget()
        self._rebuild.forget()
        self._refreshed_s = float("-inf")

    def _follow(self, ledger: Ledger) -> Ledger:
        now_s = self._clock.boottime_s()
        if now_s - self._refreshed_s >= (REFRESH_S if self._followed else LOOK_S):
            if self._followed:
                self._recall.check()
            for partition in self._source.partitions([paths.topic(self._lane)]):
                if partition not in self._followed:
                    ledger = self._begin_at(partition, ledger)
            self._refreshed_s = now_s
        self._intake.take(TURN_S)
        return ledger

    def _queue(self, run: str, fetched: Fetched) -> None:
        self._queues.setdefault(run, deque()).append(_Waiting(fetched))

    def _begin_at(self, partition: Partition, ledger: Ledger) -> Ledger:
        """Read on where the ledger says; what is gone, or another topic of that name, is an alarm (6.8)."""
        known = ledger.positions.get((partition.cluster, partition.topic_id, partition.number))
        bounds = self._source.bounds(partition)
        after = ledger.copy()
        at = bounds[0] if known is None else known.offset
        if self._alarms.bounds(after, partition, None if known is None else known.offset, bounds):
            at = bounds[0]
            after.learn(_position(partition, at))
        self._source.seek(partition, at)
        self._source.resume([partition])
        stale = [one for one in self._followed if _name(one) == _name(partition)]
        for one in stale:
            del self._followed[one]
            self._intake.drop(one)
        self._followed[partition] = at
        return self._commit(ledger, after)

    def _mend(self, ledger: Ledger) -> Ledger:
        """What a person knows of is no longer open, and what the peer's log lost is rebuilt from its store."""
        ledger = self._alarms.turn(ledger, self._commit)
        for one in self._rebuild.turn(ledger, ends=self._ends, lineage=self._lineage, is_read=self._is_read):
            self._queue(one.event.run, one.fetched)
        if not self._rebuild.finished(ledger):
            return ledger
        after = ledger.copy()
        self._alarms.rebuilt(after)
        return self._commit(ledger, after)

    def _made_up(self, ledger: Ledger, taken: Numbered, messages: Iterable[Message]) -> Ledger:
        """Publish what a replay made up for, with the alarm that ends by it."""
        after = ledger.copy()
        self._alarms.taken(after, taken, is_aside=False)
        return self._commit(ledger, after, messages)

    def _ends(self) -> dict[Partition, int]:
        return {partition: self._source.bounds(partition)[1] for partition in self._followed}

    def _is_read(self, run: str, ends: dict[Partition, int]) -> bool:
        """Whether nothing of a run waits, and the peer's log was read to these ends, of what there still is of it."""
        if self._queues.get(run) or self._intake.is_spilled(run):
            return False
        return all(self._source.position(one) >= end for one, end in ends.items() if one in self._followed)

    # --- one record after the other ---

    def _settle(self, ledger: Ledger) -> bool:
        """Publish what is ready, in one transaction; True if anything was settled."""
        self._views.clear()
        after = ledger.copy()
        ready: list[tuple[str, _Outcome]] = []
        share = max(1, BATCH_MAX // max(1, sum(1 for queue in self._queues.values() if queue)))
        for run, queue in self._queues.items():
            for item in itertools.islice(queue, share):  # no run takes the others' place in a transaction
                outcome = self._outcome(item, queue, after)
                if outcome is None:
                    break
                if outcome.takes is not None:
                    aside = outcome.says == "branch" or outcome.also is not None
                    self._alarms.taken(after, outcome.takes, is_aside=aside)
                ready.append((run, outcome))
        if not ready or not self._still_stands(ready):
            return False
        taken = Counter(run for run, _ in ready)
        self._note_positions(after, taken)
        messages = [one for _, outcome in ready for one in (outcome.message, outcome.also) if one is not None]
        self._commit(ledger, after, messages)
        for run, outcome in ready:
            self._done(self._queues[run].popleft(), outcome)
        said = [SettledRecord(run, outcome.says, outcome.fields) for run, outcome in ready if outcome.says]
        for one in said:
            self._count(one.what)
        tell(self._journal, lane=self._lane, peer=self._peer, settled=said)
        return True

    def _still_stands(self, ready: Iterable[tuple[str, _Outcome]]) -> bool:
        """6.2: look at the durable epoch once more, directly before the transaction."""
        views = {run: outcome.view for run, outcome in ready if outcome.view is not None}
        return all(self._lineage(run) == view for run, view in views.items())

    def _note_positions(self, after: Ledger, taken: Mapping[str, int]) -> None:
        oldest: dict[Partition, int] = {}
        for run, queue in self._queues.items():
            last = None
            for item in itertools.islice(queue, taken.get(run, 0), None):
                partition = item.fetched.partition
                if partition is not last:  # a queue keeps the order of a partition: the first is its oldest
                    last = partition
                    oldest[partition] = min(item.fetched.offset, oldest.get(partition, item.fetched.offset))
        for partition, following in self._followed.items():
            at = self._intake.floor(partition, oldest.get(partition, following))
            after.learn(_position(partition, at))

    def _done(self, item: _Waiting, outcome: _Outcome) -> None:
        event = item.event
        if isinstance(event, Checkpoint):
            self._copies.drop(event)
            if outcome.says == "published" and event.state == "committed":
                self._there[event.run] = max(event.step, self._there.get(event.run, 0))

    def _outcome(self, item: _Waiting, queue: deque[_Waiting], ledger: Ledger) -> _Outcome | None:
        """What becomes of a record now; None: it has to wait, and `item.why` says for what."""
        try:
            event = item.event = item.event or self._decode(item.fetched)
        except (UnknownSchemaError, RetryableError) as error:
            item.why = str(error)  # regions upgrade at different times: it waits, it is no dead letter
            return None
        except (DecodeError, CorruptError) as error:
            arrival, takes = place_of(item.fetched.headers, ledger)
            if arrival is Arrival.DUPLICATE:
                return _Outcome()  # its dead letter was written when it came first
            return self._dead(item, "undecodable", str(error), takes)
        arrival = ledger.arrival(event)
        if event.region != self._peer or arrival is Arrival.DUPLICATE:
            return _Outcome()
        if event.seq <= ledger.watermarks.get(stream(event), 0):
            item.more = (("farside_filled", b"1"),)
        if isinstance(event, MetricBatch):
            return self._batch(item, event, queue, ledger)
        return self._by_lineage(item, event, queue)

    def _judge(self, fetched: Fetched, known: int | None = None) -> Verdict:
        """What a record out of its turn leads to now: as if its number were due, and nothing newer were there.

        `known`: the last of its own numbers that is visible; those after it are due.
        """
        item = _Waiting(fetched)
        due = Ledger()
        with contextlib.suppress(DecodeError, CorruptError):  # told by what follows
            item.event = self._decode(fetched)
            due.watermarks[stream(item.event)] = first_number(item.event) - 1 if known is None else known
        self._views.clear()
        outcome = self._outcome(item, deque(), due)
        if outcome is None:
            return Verdict(why=item.why)
        if isinstance(item.event, Checkpoint):
            self._copies.drop(item.event)
        if outcome.message is None:
            raise CorruptError(f"it was not first published in {self._peer}")
        if outcome.message.topic == paths.DEAD_LETTERS:
            return Verdict(letter=outcome.message, event=item.event)
        ready = [(fetched.key.decode(errors="replace"), outcome)]
        return Verdict(outcome.message, event=item.event, also=outcome.also, stands=lambda: self._still_stands(ready))

    def _batch(self, item: _Waiting, event: MetricBatch, queue: deque[_Waiting], ledger: Ledger) -> _Outcome | None:
        """Row by row what happens to any event: what is known is left out, what is past the fork is set aside."""
        view, of = self._view_of(event.run), stream(event)
        takes = Numbered(of, event.first_seq, event.seq)

        def before_the_fork(step: int) -> bool:
            return view is None or standing(view, event.epoch, step) is not Standing.BRANCH

        try:
            visible, branch = parted(event, lambda seq: ledger.is_new(of, seq), before_the_fork)
        except CorruptError as error:
            return self._dead(item, "undecodable", str(error), takes)
        outcome = self._by_lineage(item, visible or event, queue)
        if outcome is None or visible is None or visible == event or outcome.says != "published":
            return outcome
        also = self._dead(item, "branch", f"{branch} of its rows are past the fork", None).message if branch else None
        envelope = dict(item.fetched.headers) | dict(headers_of(visible, METRIC_BATCH))
        part = dataclasses.replace(item, fetched=dataclasses.replace(item.fetched, headers=tuple(envelope.items())))
        message = self._again(part, self._codec.encode(visible))
        takes = Numbered(of, visible.first_seq, visible.seq + branch)
        return dataclasses.replace(outcome, message=message, also=also, takes=takes)

    def _by_lineage(self, item: _Waiting, event: Event, queue: deque[_Waiting]) -> _Outcome | None:
        view = self._view_of(event.run)
        place = Standing.UNKNOWN if view is None else standing(view, event.epoch, event.step)
        takes = Numbered(stream(event), first_number(event), event.seq)
        # A branch of the newest epoch that we know: its own region has heard of a fork before we have.
        ahead = view is not None and event.epoch == view.epoch and _is_branch(event)
        if view is None or place is Standing.UNKNOWN or ahead:
            item.why = f"epoch {event.epoch + ahead} is not known here yet"
            return None
        if place is Standing.BRANCH:
            detail = f"epoch {event.epoch} step {event.step} is past the fork that closed it"
            return dataclasses.replace(self._dead(item, "branch", detail, takes, says="branch"), view=view)
        if isinstance(event, Checkpoint) and event.state == "committed":
            self._seen[event.run] = max(event.step, self._seen.get(event.run, 0))
        try:
            if isinstance(event, Checkpoint) and event.state in _NAMES_BYTES:
                why, more = self._given_up(event, queue, view)
                if why:
                    return self._superseded(item, event, why, view, **more)
                if not self._copies.done(event):
                    item.why = f"step {event.step} is being copied"
                    return None
        except CorruptError as error:
            return self._dead(item, "corrupt", str(error), takes)
        late = (("farside_late", b"1"),) if event.epoch < view.epoch else ()
        message = self._again(item, item.fetched.value, late)
        fields: dict[str, object] = {"epoch": event.epoch, "step": event.step, "seq": event.seq, "late": bool(late)}
        return _Outcome(message, takes, "published", fields, view)

    def _view_of(self, run: str) -> LineageView | None:
        """The lineage as it was at this turn's first look: one question to the store, however many events wait."""
        if run not in self._views:
            self._views[run] = self._lineage(run)
        return self._views[run]

    def _given_up(self, event: Checkpoint, queue: deque[_Waiting], view: LineageView) -> tuple[str, dict[str, object]]:
        """Why a copy does not go on, with figures; "" if it does."""
        if self._copies.swept(event):
            return "it was given up and swept here", {}
        newer = self._newer(event, queue, view)
        if newer is None or is_pinned(self._store, manifests.check_event(event)):
            return "", {}
        return f"step {newer.step} can be complete sooner", {"newer_step": newer.step}

    def _newer(self, event: Checkpoint, queue: deque[_Waiting], view: LineageView) -> Checkpoint | None:
        """The checkpoint further back in the queue that can be complete sooner (newest wins)."""
        others = [
            other
            for other in map(self._glance, queue)
            if other is not None
            and (other.run, other.region, other.state) == (event.run, self._peer, "committed")
            and standing(view, other.epoch, other.step) is Standing.CURRENT
        ]
        newer = self._copies.giving_way_to(event, others)
        return newer if newer is not None and self._copies.trusted(newer) else None

    def _glance(self, item: _Waiting) -> Checkpoint | None:
        """The checkpoint event of a record further back, if it is one; what is wrong is told when its turn comes."""
        if item.event is None:
            try:
                item.event = self._decode(item.fetched)
            except (DecodeError, CorruptError, RetryableError):
                return None
        return item.event if isinstance(item.event, Checkpoint) else None

    def _superseded(self, item: _Waiting, event: Checkpoint, why: str, view: LineageView, **more: object) -> _Outcome:
        """Say under its own identity that it is not coming: its number is filled, and nothing points at it (6.9)."""
        told = dataclasses.replace(event, state="superseded", reason=why)
        message = self._again(item, self._codec.encode(told))
        fields: dict[str, object] = {"epoch": event.epoch, "step": event.step, "why": why, **more}
        return _Outcome(message, Numbered(stream(event), event.seq, event.seq), "superseded", fields, view)

    def _decode(self, fetched: Fetched) -> Event:
        """The event, with the writer's schema fetched if we lack it."""
        try:
            record = self._codec.decode(fetched.value)
        except UnknownSchemaError as error:
            key = paths.schema(error.fingerprint)
            text = self._store.get(key) or self._peer_store.get(key)
            if text is None:
                raise
            self._store.create(key, text)
            learn(self._codec, text, fetched.value)
            record = self._codec.decode(fetched.value)
        if not isinstance(record, _KINDS[self._lane]):
            raise CorruptError(f"a {type(record).__name__} does not belong in the lane {self._lane}")
        if record.run.encode() != fetched.key:
            raise CorruptError(f"the key {fetched.key!r} is not the run {record.run!r}")
        try:
            paths.check_run(record.run)
        except MisconfiguredError as error:
            raise CorruptError(str(error)) from error
        return record

    def _again(self, item: _Waiting, value: bytes, more: tuple[tuple[str, bytes], ...] = ()) -> Message:
        fetched, place = item.fetched, item.fetched.partition
        origin = (("farside_from", f"{self._peer}:{place.number}:{fetched.offset}".encode()),)
        from_log = origin if place.cluster else ()  # else it was rebuilt
        return Message(paths.topic(self._lane), fetched.key, value, (*fetched.headers, *from_log, *item.more, *more))

    def _dead(
        self, item: _Waiting, reason: str, detail: str, takes: Numbered | None, says: str = "dead_letter"
    ) -> _Outcome:
        fetched = item.fetched
        letter = DeadLetter(
            cluster=fetched.partition.cluster,
            topic=fetched.partition.topic,
            partition=fetched.partition.number,
            offset=fetched.offset,
            key=fetched.key,
            value=fetched.value,
            headers=tuple(Header(key=key, value=value) for key, value in fetched.headers),
            reason=reason,
            detail=detail,
            time_ms=self._clock.wall_ms(),
            stack=traceback.format_exc() if sys.exc_info()[0] is not None else "",
        )
        message = Message(paths.DEAD_LETTERS, fetched.key, self._codec.encode(letter))
        return _Outcome(message, takes, says, {"reason": reason, "detail": detail, "offset": fetched.offset})

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1

    def _say_trouble(self, text: str) -> None:
        if text != self._trouble:
            self._journal.say("replicate.waits", lane=self._lane, peer=self._peer, why=text)
        self._trouble = text


def _is_branch(event: Event) -> bool:
    return isinstance(event, Checkpoint) and event.state == "branch"


def _position(partition: Partition, offset: int) -> Position:
    return Position(
        cluster=partition.cluster,
        topic_id=partition.topic_id,
        topic=partition.topic,
        partition=partition.number,
        offset=offset,
    )


def _name(place: Partition | Position) -> tuple[str, int]:
    return (place.topic, place.number if isinstance(place, Partition) else place.partition)
