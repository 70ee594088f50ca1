"""Says what one record of a peer's lane leads to: published, set aside, a dead letter, superseded, or still to wait.

A record is decoded, and only an event that its own region first published is looked at. Its number says whether it is
due. The lineage says whether it counts or lies past a fork (6.1). A checkpoint waits until its bytes are copied and
verified here (I13), or gives way to a newer one that can be complete sooner (6.9). Of a batch of metrics each row is
judged for itself.

The judge commits nothing: the message, the number that it takes and the lineage on which it rests are handed back, and
whoever owns the lane publishes them in one transaction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.authorship import EVENT, FOREIGN_EPOCH, foreign, known_foreign
from pipelines.core.dead_letters import KEY_KEPT_BYTES, cut, fitting
from pipelines.core.ledger import Arrival, Ledger, stream
from pipelines.core.lineage import LineageView, Standing, may_become_known, standing
from pipelines.core.message_size import MESSAGE_BYTES_MAX, size_bytes
from pipelines.core.metric_batches import METRICS, first_number, parted
from pipelines.core.patience import Patience
from pipelines.core.remembering import forget_oldest
from pipelines.core.sequence_numbers import Numbered, number_of, place_of
from pipelines.core.set_aside import why_set_aside
from pipelines.errors import CorruptError, ForeignEpochError, MisconfiguredError, RetryableError
from pipelines.flows.log.envelope import METRIC_BATCH, headers_of
from pipelines.flows.log.writer_schemas import learn
from pipelines.flows.replication.checkpoint_copies import CheckpointCopies
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.seen_lineages import SeenLineages
from pipelines.flows.retention.pins import is_pinned
from pipelines.ports import Fetched, Message
from schemas.codec import DecodeError, UnknownSchemaError
from schemas.records import Checkpoint, DataVersion, DeadLetter, Event, Header, MetricBatch

REFUSED_KEPT = 1_000
LINEAGE_AGE_S = 1.0  # of metrics only: see `seen_lineages.py`
_NAMES_BYTES = frozenset({"committed", "abandoned", "branch"})  # and not "superseded", which says that none come
_EVENT_TYPES: dict[str, type[Event] | tuple[type[Event], ...]] = {
    "checkpoints": Checkpoint,
    "metrics": METRICS,
    "data-versions": DataVersion,
}


@dataclass(slots=True)
class WaitingRecord:
    """One record of the peer that is not settled."""

    fetched: Fetched
    event: Event | None = None
    why: str = ""  # it waits
    extra_headers: tuple[tuple[str, bytes], ...] = ()  # which say that it comes out of order


@dataclass(frozen=True, slots=True)
class Outcome:
    """The decision about one record: a message for the lane or the dead letters, and the number that it takes."""

    message: Message | None = None
    takes: Numbered | None = None
    kind: str = ""  # published, superseded, branch or dead_letter, as the journal names it; empty: nothing to say
    fields: dict[str, object] = field(default_factory=dict)
    view: LineageView | None = None  # the lineage on which this rests; read again before it is published
    set_aside: Message | None = None  # the dead letter of those rows of a batch that lie past a fork
    is_unknown: bool = False  # its epoch did not become known here in time


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about a record out of its turn: a message for the lane, a dead letter, or that it has to wait."""

    message: Message | None = None
    letter: Message | None = None
    why: str = ""  # it waits
    event: Event | None = None
    set_aside: Message | None = None  # the dead letter of those rows of a batch that lie past a fork
    stands: Callable[[], bool] = lambda: True  # reads the lineage again, directly before the transaction (6.2)


class RecordJudge:
    """Judges the records of one lane of one peer. Not for two threads: the flow that owns the lane asks it.

    Args:
        lane: the lane, and whose.
        ports: the lane's; the judge reads both stores and the lineage, and keeps schemas in this region's store.
        copies: the checkpoints that are being copied here.
    """

    def __init__(self, lane: PeerLane, ports: LanePorts, copies: CheckpointCopies) -> None:
        self._peer, self._lane = lane.peer, lane.name
        self._store, self._peer_store = ports.store, ports.peer_store
        self._codec, self._clock, self._copies = ports.codec, ports.clock, copies
        self._patience = Patience(ports.unknown_wait_s)
        self._refused: dict[tuple[str, int, int], str] = {}  # records that our log refuses, and why; the newest last
        self._seen = SeenLineages(ports.lineage, ports.clock, LINEAGE_AGE_S if lane.name == "metrics" else 0.0)

    def begin_turn(self) -> None:
        """Ask for a run's lineage anew, unless what was read a moment ago will do."""
        self._seen.begin_turn()

    def view_of(self, run: str) -> LineageView | None:
        """The lineage of this turn: at most one question to the store, however many events wait."""
        return self._seen.view(run)

    def still_stands(self, ready: Iterable[tuple[str, Outcome]]) -> bool:
        """6.2: whether the durable epochs are what the outcomes rest on, directly before the transaction.

        Args:
            ready: the outcomes that are to be published, each with its run.
        """
        resting = [(run, one) for run, one in ready if one.view is not None]
        views = {run: one.view for run, one in resting}
        sets_aside = {run for run, one in resting if one.kind != "published" or one.set_aside is not None}
        return all(self._seen.still(run, view, exactly=run in sets_aside) for run, view in views.items())

    def outcome(self, item: WaitingRecord, queue: deque[WaitingRecord], ledger: Ledger) -> Outcome | None:
        """Decide about a record; None: it has to wait, and `item.why` says for what.

        Args:
            item: the record; its event, and why it waits, are noted in it.
            queue: all records of its run that wait; a newer checkpoint among them may overtake it.
            ledger: what is done, with the outcomes before this one.

        Raises:
            RetryableError: a store does not answer.
        """
        try:
            event = item.event = item.event or self._decode(item.fetched)
        except RetryableError as error:
            item.why = str(error)
            return None
        except (DecodeError, CorruptError) as error:
            return self._undecodable(item, error, ledger)
        self._patience.settle(("schema", item.fetched.key))
        nothing_more = self._by_identity(item, event, ledger)
        if nothing_more is not None:
            return nothing_more
        if event.seq <= ledger.watermarks.get(stream(event), 0):
            item.extra_headers = (("farside_filled", b"1"),)
        if isinstance(event, MetricBatch):
            return self._batch(item, event, queue, ledger)
        return self._by_lineage(item, event, queue)

    def _by_identity(self, item: WaitingRecord, event: Event, ledger: Ledger) -> Outcome | None:
        """Settle what is not the peer's, what it may not say, and what is done; None: it is still to be judged."""
        if event.region != self._peer:
            return Outcome()
        why = self._not_its_own(event.run, event.epoch)
        if why:  # its numbers are another region's, and stay free for what that region says under them
            return self._dead_letter(item, FOREIGN_EPOCH, why, None)
        return Outcome() if ledger.arrival(event) is Arrival.DUPLICATE else None

    def _undecodable(self, item: WaitingRecord, error: DecodeError | CorruptError, ledger: Ledger) -> Outcome | None:
        """Set a record aside; one whose schema is not known waits first, since regions upgrade at different times."""
        detail = str(error)
        if isinstance(error, UnknownSchemaError):
            item.why = detail
            if not self._patience.is_over(("schema", item.fetched.key), self._clock.boottime_s()):
                return None
            detail = f"{detail}; nobody had it for {self._patience.wait_s:.0f} s"
        arrival, takes = place_of(item.fetched.headers, ledger)
        if self._names_foreign_numbers(item):
            takes = None
        elif arrival is Arrival.DUPLICATE:
            return Outcome()  # its dead letter was written when it came first
        reason, detail = why_set_aside(item.fetched.headers, item.fetched.value) or ("undecodable", detail)
        return self._dead_letter(item, reason, detail, takes)

    def _not_its_own(self, run: str, epoch: int) -> str:
        """Why nothing that the peer says of an epoch counts; "" if it holds it, or nobody here can tell yet (I17)."""
        return known_foreign(self.view_of(run), epoch, self._peer)

    def _names_foreign_numbers(self, item: WaitingRecord) -> bool:
        """Whether the headers of an undecodable record name numbers of an epoch that is another region's."""
        numbered = number_of(item.fetched.headers)
        if numbered is None:
            return False
        run, epoch, _, _ = numbered.stream
        try:
            return run.encode() != item.fetched.key or self._not_its_own(paths.check_run(run), epoch) != ""
        except MisconfiguredError:
            return True

    def out_of_turn(self, fetched: Fetched, known: int | None = None) -> Verdict:
        """Decide about a record as if its number were due and nothing newer were there.

        Args:
            fetched: the record.
            known: the last of its own numbers that is visible; those after it are due. None: all are.

        Raises:
            CorruptError: it was first published in another region.
            RetryableError: a store does not answer, or the writer's schema is not known yet.
        """
        item = WaitingRecord(fetched)
        due = Ledger()
        with contextlib.suppress(DecodeError, CorruptError):  # `outcome` says it in a dead letter
            item.event = self._decode(fetched)
            due.watermarks[stream(item.event)] = first_number(item.event) - 1 if known is None else known
        self._seen.clear()
        outcome = self.outcome(item, deque(), due)
        if outcome is None:
            return Verdict(why=item.why)
        if isinstance(item.event, Checkpoint):
            self._copies.drop(item.event)
        if outcome.message is None:
            raise CorruptError(f"it was not first published in {self._peer}")
        if outcome.message.topic == paths.DEAD_LETTERS:
            return Verdict(letter=outcome.message, event=item.event)
        ready = [(fetched.key.decode(errors="replace"), outcome)]
        return Verdict(
            outcome.message, event=item.event, set_aside=outcome.set_aside, stands=lambda: self.still_stands(ready)
        )

    def _batch(
        self, item: WaitingRecord, event: MetricBatch, queue: deque[WaitingRecord], ledger: Ledger
    ) -> Outcome | None:
        """Judge each row: rows whose number is done are left out, rows past the fork are set aside."""
        view, of = self.view_of(event.run), stream(event)
        takes = Numbered(of, event.first_seq, event.seq)

        def before_the_fork(step: int) -> bool:
            return view is None or standing(view, event.epoch, step) is not Standing.BRANCH

        try:
            visible, branch = parted(event, lambda seq: ledger.is_new(of, seq), before_the_fork)
        except CorruptError as error:
            return self._dead_letter(item, "undecodable", str(error), takes)
        outcome = self._by_lineage(item, visible or event, queue)
        if outcome is None or visible is None or visible == event or outcome.kind != "published":
            return outcome
        detail = f"{branch} of its rows are past the fork"
        set_aside = self._dead_letter(item, "branch", detail, None).message if branch else None
        envelope = dict(item.fetched.headers) | dict(headers_of(visible, METRIC_BATCH))
        part = dataclasses.replace(item, fetched=dataclasses.replace(item.fetched, headers=tuple(envelope.items())))
        message = self._republished(part, self._codec.encode(visible))
        takes = Numbered(of, visible.first_seq, visible.seq + branch)
        return dataclasses.replace(outcome, message=message, set_aside=set_aside, takes=takes)

    def _by_lineage(self, item: WaitingRecord, event: Event, queue: deque[WaitingRecord]) -> Outcome | None:
        view = self.view_of(event.run)
        place = Standing.UNKNOWN if view is None else standing(view, event.epoch, event.step)
        takes = Numbered(stream(event), first_number(event), event.seq)
        # A branch of the newest epoch that we know: its own region has heard of a fork before we have.
        ahead = view is not None and event.epoch == view.epoch and _is_branch(event)
        if view is None or may_become_known(view, event.epoch) or ahead:
            self._seen.forget(event.run)
            item.why = f"epoch {event.epoch + ahead} is not known here yet"
            return None if view is None else self._unknown_epoch(item, event, event.epoch + ahead, view.epoch, takes)
        if place is Standing.BRANCH:
            detail = f"epoch {event.epoch} step {event.step} is past the fork that closed it"
            return dataclasses.replace(self._dead_letter(item, "branch", detail, takes, kind="branch"), view=view)
        try:
            if isinstance(event, Checkpoint) and event.state in _NAMES_BYTES:
                why, more = self._reason_to_give_up(event, queue, view)
                if why:
                    return self._superseded(item, event, why, view, **more)
            item.why = self._copying(event)
            if item.why:
                return None
        except CorruptError as error:
            reason = FOREIGN_EPOCH if isinstance(error, ForeignEpochError) else "corrupt"
            return self._dead_letter(item, reason, str(error), takes)
        return self._published(item, event, takes, view)

    def _published(self, item: WaitingRecord, event: Event, takes: Numbered, view: LineageView) -> Outcome:
        """Publish an event as it is, unless it is too large for the topic with the headers that it gets here."""
        late = (("farside_late", b"1"),) if event.epoch < view.epoch else ()
        message = self._republished(item, item.fetched.value, late)
        size = size_bytes(message.key, message.value, message.headers)
        if size > MESSAGE_BYTES_MAX:
            detail = f"with the headers that it gets here it has {size} bytes, a topic takes {MESSAGE_BYTES_MAX}"
            return self._dead_letter(item, "too_large", detail, takes)
        refused = self._refused.get(_lies_at(item))
        if refused is not None:
            return self._dead_letter(item, "refused", refused, takes)
        fields: dict[str, object] = {"epoch": event.epoch, "step": event.step, "seq": event.seq, "late": bool(late)}
        return Outcome(message, takes, "published", fields, view)

    def _copying(self, event: Event) -> str:
        """The part of what an event names that is still being copied; "" once all of it is verified here (I13)."""
        if isinstance(event, Checkpoint) and event.state in _NAMES_BYTES and not self._copies.done(event):
            trouble = self._copies.trouble(event)
            failed = "" if trouble is None else f"; an object fails, and is tried again: {trouble.reason}"
            return f"step {event.step} is being copied{failed}"
        if isinstance(event, DataVersion) and not self._copies.lists.done(event):
            return f"the list of data version {event.name!r} is being copied"
        return ""

    def refused(self, item: WaitingRecord, why: str) -> None:
        """This region's own log refuses an event for good: when it is read again, it is set aside.

        Args:
            item: the event's record in the peer's log.
            why: as the log says it.
        """
        self._refused[_lies_at(item)] = why
        forget_oldest(self._refused, REFUSED_KEPT)

    def _unknown_epoch(
        self, item: WaitingRecord, event: Event, epoch: int, known: int, takes: Numbered
    ) -> Outcome | None:
        """Set an event aside whose epoch did not become known in time: nobody may ever win it, and its run waits.

        The next epoch has a wait of its own, and all those beyond share one: so nobody can hold a run up by naming ever
        new ones. A run of which no lineage is known here at all waits for ever: it holds up nobody but itself.
        """
        if not self._patience.is_over((event.run, known, min(epoch, known + 2)), self._clock.boottime_s()):
            return None
        detail = f"{item.why}, after {self._patience.wait_s:.0f} s"
        return dataclasses.replace(self._dead_letter(item, "unknown_epoch", detail, takes), is_unknown=True)

    def _reason_to_give_up(
        self, event: Checkpoint, queue: deque[WaitingRecord], view: LineageView
    ) -> tuple[str, dict[str, object]]:
        """Why the copy of a checkpoint is given up, with figures for the journal; "" if it goes on."""
        if self._copies.swept(event):
            return "it was given up and swept here", {}
        newer = self._newer(event, queue, view)
        if newer is None or is_pinned(self._store, manifests.check_event(event)):
            return "", {}
        return f"step {newer.step} can be complete sooner", {"newer_step": newer.step}

    def _newer(self, event: Checkpoint, queue: deque[WaitingRecord], view: LineageView) -> Checkpoint | None:
        """The checkpoint further back in the queue that can be complete sooner (newest wins)."""
        others = [
            other
            for other in map(self._checkpoint_of, queue)
            if other is not None
            and (other.run, other.region, other.state) == (event.run, self._peer, "committed")
            and standing(view, other.epoch, other.step) is Standing.CURRENT
            and not foreign(view, other.epoch, {EVENT: other.region})
        ]
        newer = self._copies.giving_way_to(event, others)
        return newer if newer is not None and self._copies.trusted(newer) else None

    def _checkpoint_of(self, item: WaitingRecord) -> Checkpoint | None:
        """The checkpoint event of a record further back, if it is one; a record that is wrong is judged in its turn."""
        if item.event is None:
            try:
                item.event = self._decode(item.fetched)
            except (DecodeError, CorruptError, RetryableError):
                return None
        return item.event if isinstance(item.event, Checkpoint) else None

    def _superseded(
        self, item: WaitingRecord, event: Checkpoint, why: str, view: LineageView, **more: object
    ) -> Outcome:
        """Publish, under its own identity, that it is not coming: its number is taken, and nothing names it (6.9)."""
        superseded = dataclasses.replace(event, state="superseded", reason=why)
        message = self._republished(item, self._codec.encode(superseded))
        fields: dict[str, object] = {"epoch": event.epoch, "step": event.step, "why": why, **more}
        return Outcome(message, Numbered(stream(event), event.seq, event.seq), "superseded", fields, view)

    def _decode(self, fetched: Fetched) -> Event:
        """The event; the writer's schema is fetched from the peer's store if it is not in ours.

        Raises:
            CorruptError: it is no event of this lane and of the run that is its key.
            DecodeError: its bytes are damaged.
            UnknownSchemaError: neither store holds the writer's schema.
            RetryableError: a store does not answer.
        """
        if fetched.damage is not None:
            raise CorruptError(fetched.damage.reason)
        try:
            record = self._codec.decode(fetched.value)
        except UnknownSchemaError as error:
            self._learn(error, fetched.value)
            record = self._codec.decode(fetched.value)
        if not isinstance(record, _EVENT_TYPES[self._lane]):
            raise CorruptError(f"a {type(record).__name__} does not belong in the lane {self._lane}")
        if record.run.encode() != fetched.key:
            raise CorruptError(f"the key {fetched.key!r} is not the run {record.run!r}")
        try:
            paths.check_run(record.run)
        except MisconfiguredError as error:
            raise CorruptError(str(error)) from error
        return record

    def _learn(self, unknown: UnknownSchemaError, value: bytes) -> None:
        """Learn the writer's schema; it is kept here only if it may be used, since it could never be replaced."""
        key = paths.schema(unknown.fingerprint)
        kept = self._store.get(key)
        text = kept or self._peer_store.get(key)
        if text is None:
            raise unknown
        learn(self._codec, text, value)
        if kept is None:
            self._store.create(key, text)

    def _republished(self, item: WaitingRecord, value: bytes, more: tuple[tuple[str, bytes], ...] = ()) -> Message:
        fetched, place = item.fetched, item.fetched.partition
        origin = (("farside_from", f"{self._peer}:{place.number}:{fetched.offset}".encode()),)
        from_log = origin if place.cluster else ()  # else it was rebuilt
        return Message(
            paths.topic(self._lane), fetched.key, value, (*fetched.headers, *from_log, *item.extra_headers, *more)
        )

    def _dead_letter(
        self, item: WaitingRecord, reason: str, detail: str, takes: Numbered | None, kind: str = "dead_letter"
    ) -> Outcome:
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
        if fetched.damage is not None and fetched.damage.size_bytes > len(fetched.value):
            letter = cut(letter, fetched.damage.size_bytes, fetched.damage.sha256)
        message = Message(paths.DEAD_LETTERS, fetched.key[:KEY_KEPT_BYTES], self._codec.encode(fitting(letter)))
        return Outcome(message, takes, kind, {"reason": reason, "detail": detail, "offset": fetched.offset})


def _lies_at(item: WaitingRecord) -> tuple[str, int, int]:
    partition = item.fetched.partition
    return (partition.topic_id, partition.number, item.fetched.offset)


def _is_branch(event: Event) -> bool:
    return isinstance(event, Checkpoint) and event.state == "branch"
