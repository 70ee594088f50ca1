"""The replicator: follows one lane of a peer's Kafka; re-publishes an event once what it names is verified here.

**Effects once (I15), nothing lost (I14).** What an event leads to, its watermark and the position from which to read on
are one transaction of *our* Kafka. A restart begins with an empty transaction, which fences the replicator before it,
and then reads the ledger: whatever was published is marked, whatever is not marked is read again. A commit that was not
answered leads to the same restart.

**Runs do not wait for each other (6.9).** Events queue by run. The position is that of the oldest event that waits, and
what was published beyond it is known by its watermark.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.ledger import Arrival, Ledger, Stream, key_of, stream
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.core.metric_batches import METRICS, first_number, parted
from pipelines.core.numbering import place_of
from pipelines.core.transfer import giving_way_to
from pipelines.errors import CorruptError, MisconfiguredError, RetryableError
from pipelines.flows.copying import Copying
from pipelines.flows.envelope import METRIC_BATCH, headers_of
from pipelines.flows.pins import is_pinned
from pipelines.flows.redrive import Redrives, Verdict, Wish
from pipelines.flows.replay import read_ledger
from pipelines.flows.replays import Places, Replays
from pipelines.flows.visible import Visible
from pipelines.flows.writer_schemas import learn
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
from schemas.records import Checkpoint, DataVersion, DeadLetter, Event, Header, MetricBatch, Position

TURN_S = 0.1
REFRESH_S = 15.0
LOOK_S = 1.0  # while the peer has no such topic yet
QUEUED_MAX = 2_000
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


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one record leads to: at most one message, and the number that it takes."""

    message: Message | None = None
    takes: tuple[Stream, int] | None = None
    says: str = ""
    fields: dict[str, object] = field(default_factory=dict)
    view: LineageView | None = None  # the lineage on which this rests; looked at again before it is published
    also: Message | None = None  # what of it goes elsewhere


class Replicate:
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
    ) -> None:
        """`letters` reads this region's own log for what is redriven or replayed, `again` the peer's for a replay."""
        if lane not in paths.REPLICATED_LANES:
            raise MisconfiguredError(f"lane {lane!r} is not replicated; there are {', '.join(paths.REPLICATED_LANES)}")
        self._region, self._peer, self._lane = region, peer, lane
        self._source, self._own, self._log = source, own, log
        self._store, self._peer_store = store, peer_store
        self._lineage, self._codec = lineage, codec
        self._clock, self._journal = clock, journal
        self._copying = Copying(
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
        self._paused = False
        self._counts: dict[str, int] = {}
        self._seen: dict[str, int] = {}  # newest committed step heard of, per run
        self._there: dict[str, int] = {}  # newest committed step made visible here, per run
        self._trouble = ""
        self._views: dict[str, LineageView | None] = {}  # of this turn
        self._visible = None if letters is None else Visible(lane, letters, codec, clock)
        self._redrives: Redrives | None = None
        self._replays: Replays | None = None
        if self._visible is not None:
            self._out_of_turn(self._visible, again)

    def _out_of_turn(self, visible: Visible, again: EventSource | None) -> None:
        """What else is handled than the lane as it comes."""
        peer, lane, log, codec, clock, journal = (
            self._peer,
            self._lane,
            self._log,
            self._codec,
            self._clock,
            self._journal,
        )
        self._redrives = Redrives(
            peer=peer, lane=lane, visible=visible, log=log, codec=codec, clock=clock, journal=journal
        )
        if again is not None:
            self._replays = Replays(
                peer=peer,
                lane=lane,
                again=again,
                visible=visible,
                whole=self._copying.whole,
                lineage=self._lineage,
                log=log,
                codec=codec,
                clock=clock,
                journal=journal,
            )

    def replay(self, places: Places) -> dict[str, object]:
        """Look at some records of the lane once more, or say what has become of them; as `redrive`."""
        if self._replays is None:
            raise MisconfiguredError("this replicator does not read logs again: nothing can be replayed")
        return self._replays.ask(places)

    def redrive(self, wish: Wish) -> dict[str, object]:
        """Handle a dead letter once more, or say what has become of it; may be called from another thread."""
        if self._redrives is None:
            raise MisconfiguredError("this replicator does not read its own log: nothing can be redriven")
        return self._redrives.ask(wish)

    def step(self) -> float:
        """Read, copy, publish; seconds until the next turn. FencedError: another replicator does this lane now."""
        try:
            ledger = self._ledger or self._restart()
            self._follow(ledger)
            self._copying.collect()
            settled = self._settle(ledger)
            if self._redrives is not None:
                self._ledger = self._redrives.turn(self._ledger or ledger, self._judge)
            if self._replays is not None:
                self._replays.turn(self._ledger or ledger, self._judge)
        except (RetryableError, CorruptError) as error:
            # Corrupt: the place to read from is gone; what the ledger says about it is told at the next turn.
            self._say_trouble(str(error))
            self._forget()
            return TURN_S
        self._trouble = ""
        return 0.0 if settled else TURN_S

    def status(self) -> dict[str, object]:
        """What waits, why, and how far behind we are in steps."""
        heads = {run: queue[0] for run, queue in self._queues.items() if queue}
        return {
            "peer": self._peer,
            "lane": self._lane,
            "queued": {run: len(queue) for run, queue in self._queues.items() if queue},
            "waits": {run: head.why for run, head in heads.items() if head.why},
            "counts": dict(self._counts),
            "copies": self._copying.progress(),
            "link_bytes": self._copying.moved_bytes,
            "lag_steps": {run: max(0, step - self._there.get(run, 0)) for run, step in self._seen.items()},
            "trouble": self._trouble,
        }

    # --- where we stand ---

    def _restart(self) -> Ledger:
        """Fence whoever did this before us, then learn from the log what is done."""
        self._log.transaction(())
        self._ledger = read_ledger(self._own, self._codec, self._clock)
        return self._ledger

    def _forget(self) -> None:
        self._ledger = None
        self._followed.clear()
        self._queues.clear()
        self._copying.forget()
        if self._visible is not None:
            self._visible.forget()
        self._refreshed_s = float("-inf")
        self._paused = False

    def _follow(self, ledger: Ledger) -> None:
        now_s = self._clock.boottime_s()
        if now_s - self._refreshed_s >= (REFRESH_S if self._followed else LOOK_S):
            for partition in self._source.partitions([paths.topic(self._lane)]):
                if partition not in self._followed:
                    self._begin_at(partition, ledger)
            self._refreshed_s = now_s
        self._hold_back()
        for item in self._source.poll(TURN_S):
            expected = self._followed.get(item.partition)
            if expected is None or item.offset < expected:
                continue
            self._followed[item.partition] = item.offset + 1
            self._queues.setdefault(item.key.decode(errors="replace"), deque()).append(_Waiting(item))

    def _begin_at(self, partition: Partition, ledger: Ledger) -> None:
        """Read on where the ledger says; what is gone, or another topic of that name, is said (6.8)."""
        known = ledger.positions.get((partition.cluster, partition.topic_id, partition.number))
        first, end = self._source.bounds(partition)
        others = [one for one in ledger.positions.values() if (one.topic, one.partition) == _name(partition)]
        at = first if known is None else known.offset
        if known is None and any(one.cluster == partition.cluster for one in others):
            self._gap(partition, "the topic was deleted and made anew", 0, first)
        if not first <= at <= end:
            self._gap(
                partition, "unread records are gone" if at < first else "the log is shorter than before", at, first
            )
            at = first
        self._source.seek(partition, at)
        self._source.resume([partition])
        stale = [one for one in self._followed if _name(one) == _name(partition)]
        for one in stale:
            del self._followed[one]
        self._followed[partition] = at

    def _gap(self, partition: Partition, why: str, begin: int, end: int) -> None:
        self._count("gap")
        self._journal.say(
            "replicate.gap", lane=self._lane, peer=self._peer, topic=partition.topic, why=why, begin=begin, end=end
        )

    def _hold_back(self) -> None:
        """Bounded memory: with too much queued the partitions are paused, and polled on."""
        queued = sum(len(queue) for queue in self._queues.values())
        if not self._paused and queued >= QUEUED_MAX:
            self._source.pause(self._followed)
            self._paused = True
        elif self._paused and queued < QUEUED_MAX // 2:
            self._source.resume(self._followed)
            self._paused = False

    # --- one record after the other ---

    def _settle(self, ledger: Ledger) -> bool:
        """Publish what is ready, in one transaction; True if anything was settled."""
        self._views.clear()
        after = ledger.copy()
        ready: list[tuple[str, _Outcome]] = []
        for run, queue in self._queues.items():
            for item in queue:
                outcome = self._outcome(item, queue, after) if len(ready) < BATCH_MAX else None
                if outcome is None:
                    break
                if outcome.takes is not None:
                    name, seq = outcome.takes
                    after.watermarks[name] = max(seq, after.watermarks.get(name, 0))
                ready.append((run, outcome))
        if not ready or not self._still_stands(ready):
            return False
        taken = Counter(run for run, _ in ready)
        self._note_positions(after, taken)
        messages = [one for _, outcome in ready for one in (outcome.message, outcome.also) if one is not None]
        changes = [Message(paths.LEDGER, key_of(one), self._codec.encode(one)) for one in after.changes_since(ledger)]
        self._log.transaction([*messages, *changes])
        self._ledger = after
        for run, outcome in ready:
            self._done(self._queues[run].popleft(), outcome)
        self._tell(ready)
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
            after.learn(
                Position(
                    cluster=partition.cluster,
                    topic_id=partition.topic_id,
                    topic=partition.topic,
                    partition=partition.number,
                    offset=oldest.get(partition, following),
                )
            )

    def _tell(self, settled: Iterable[tuple[str, _Outcome]]) -> None:
        """A line for each record, but of metrics that became visible together one with the last of them and how many.

        They come by the thousand, and a line costs more than all the rest that is done for a record.
        """
        lines: dict[int | tuple[object, ...], tuple[str, _Outcome, int]] = {}
        for run, outcome in settled:
            if outcome.says:
                self._count(outcome.says)
                together = self._lane == "metrics" and outcome.says == "published"
                alike = (run, outcome.fields.get("epoch"), outcome.fields.get("late"))
                key: int | tuple[object, ...] = alike if together else id(outcome)
                lines[key] = (run, outcome, lines[key][2] + 1 if key in lines else 1)
        for name, (run, outcome, records) in lines.items():
            more = {} if name == id(outcome) else {"records": records}
            self._journal.say(
                f"replicate.{outcome.says}", run=run, lane=self._lane, peer=self._peer, **outcome.fields, **more
            )

    def _done(self, item: _Waiting, outcome: _Outcome) -> None:
        event = item.event
        if isinstance(event, Checkpoint):
            self._copying.drop(event)
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
        if arrival is Arrival.GAP:
            self._journal.say("replicate.hole", run=event.run, lane=self._lane, producer=event.producer, seq=event.seq)
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
            self._copying.drop(item.event)
        if outcome.message is None:
            raise CorruptError(f"it was not first published in {self._peer}")
        if outcome.message.topic == paths.DEAD_LETTERS:
            return Verdict(letter=outcome.message, event=item.event)
        ready = [(fetched.key.decode(errors="replace"), outcome)]
        return Verdict(outcome.message, event=item.event, also=outcome.also, stands=lambda: self._still_stands(ready))

    def _batch(self, item: _Waiting, event: MetricBatch, queue: deque[_Waiting], ledger: Ledger) -> _Outcome | None:
        """Row by row what happens to any event: what is known is left out, what is past the fork is set aside."""
        view, takes = self._view_of(event.run), (stream(event), event.seq)

        def before_the_fork(step: int) -> bool:
            return view is None or standing(view, event.epoch, step) is not Standing.BRANCH

        try:
            visible, branch = parted(event, ledger.watermarks.get(stream(event), 0), before_the_fork)
        except CorruptError as error:
            return self._dead(item, "undecodable", str(error), takes)
        outcome = self._by_lineage(item, visible or event, queue)
        if outcome is None or visible is None or visible == event or outcome.says != "published":
            return outcome
        also = self._dead(item, "branch", f"{branch} of its rows are past the fork", None).message if branch else None
        envelope = dict(item.fetched.headers) | dict(headers_of(visible, METRIC_BATCH))
        fetched = dataclasses.replace(item.fetched, headers=tuple(envelope.items()))
        return dataclasses.replace(
            outcome, message=self._again(fetched, self._codec.encode(visible)), also=also, takes=takes
        )

    def _by_lineage(self, item: _Waiting, event: Event, queue: deque[_Waiting]) -> _Outcome | None:
        view = self._view_of(event.run)
        place = Standing.UNKNOWN if view is None else standing(view, event.epoch, event.step)
        takes = (stream(event), event.seq)
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
                if not self._copying.done(event):
                    item.why = f"step {event.step} is being copied"
                    return None
        except CorruptError as error:
            return self._dead(item, "corrupt", str(error), takes)
        late = (("farside_late", b"1"),) if event.epoch < view.epoch else ()
        message = self._again(item.fetched, item.fetched.value, late)
        fields: dict[str, object] = {"epoch": event.epoch, "step": event.step, "seq": event.seq, "late": bool(late)}
        return _Outcome(message, takes, "published", fields, view)

    def _view_of(self, run: str) -> LineageView | None:
        """The lineage as it was at this turn's first look: one question to the store, however many events wait."""
        if run not in self._views:
            self._views[run] = self._lineage(run)
        return self._views[run]

    def _given_up(self, event: Checkpoint, queue: deque[_Waiting], view: LineageView) -> tuple[str, dict[str, object]]:
        """Why a copy does not go on, with figures; "" if it does."""
        if self._copying.swept(event):
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
        best = giving_way_to(self._copying.candidate(event), [self._copying.candidate(one) for one in others])
        if best is None:
            return None
        newer = next(one for one in others if (one.epoch, one.lineage_seq) == (best.epoch, best.lineage_seq))
        return newer if self._copying.trusted(newer) else None

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
        message = self._again(item.fetched, self._codec.encode(told))
        fields: dict[str, object] = {"epoch": event.epoch, "step": event.step, "why": why, **more}
        return _Outcome(message, (stream(event), event.seq), "superseded", fields, view)

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

    def _again(self, fetched: Fetched, value: bytes, more: tuple[tuple[str, bytes], ...] = ()) -> Message:
        origin = (("farside_from", f"{self._peer}:{fetched.partition.number}:{fetched.offset}".encode()),)
        return Message(paths.topic(self._lane), fetched.key, value, (*fetched.headers, *origin, *more))

    def _dead(
        self, item: _Waiting, reason: str, detail: str, takes: tuple[Stream, int] | None, says: str = "dead_letter"
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


def _name(place: Partition | Position) -> tuple[str, int]:
    return (place.topic, place.number if isinstance(place, Partition) else place.partition)
