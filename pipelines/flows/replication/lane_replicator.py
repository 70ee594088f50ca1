"""The replicator: follows one lane of a peer's Kafka, and re-publishes an event once everything it names is verified.

**Effects once (I15), nothing lost (I14).** What an event leads to, its watermark and the position from which to read on
are one transaction of *our* Kafka. A restart begins with an empty transaction, which fences the replicator before it,
and then reads the ledger: whatever was published is marked, whatever is not marked is read again. A commit that was not
answered leads to the same restart.

**Runs do not wait for each other (6.9).** Events queue by run (`intake.py`). The position is that of the oldest event
that waits, and what was published beyond it is known by its watermark.

**Nothing from outside ends the process (I18).** A run whose record cannot be judged rests, and the other runs go on; a
lane that is refused or fails rests, longer each time, and the other lanes and peers go on. Both say why.

**Nothing goes missing unnoticed (6.8).** Gaps and resets become alarms (`lane_alarms.py`), a ledger that was lost is
read from the lanes (`ledger_recovery.py`), and checkpoint events that a log lost are rebuilt from their manifests
(`event_rebuild.py`).
"""

from __future__ import annotations

import itertools
import traceback
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from pipelines import paths
from pipelines.core.ledger import Ledger
from pipelines.core.patience import Rest
from pipelines.core.sequence_numbers import Numbered
from pipelines.errors import CorruptError, FarsideError, FencedError, MisconfiguredError, RefusedError, RetryableError
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.replication.checkpoint_copies import CheckpointCopies
from pipelines.flows.replication.event_rebuild import EventRebuild
from pipelines.flows.replication.intake import Intake
from pipelines.flows.replication.lane_alarms import LaneAlarms, changed
from pipelines.flows.replication.lane_health import LaneHealth
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.ledger_recovery import LedgerRecovery
from pipelines.flows.replication.record_judge import Outcome, RecordJudge, WaitingRecord
from pipelines.flows.replication.redrive_requests import RedriveRequest, RedriveRequests
from pipelines.flows.replication.replay_requests import Places, ReplayRequests
from pipelines.flows.replication.settle_log import SettledRecord, log_settled
from pipelines.flows.replication.visible_index import VisibleIndex
from pipelines.ports import Fetched, Message, Partition
from schemas.http_bodies import LaneStatus, RedriveAnswer, ReplayAnswer
from schemas.records import Checkpoint, Position

TURN_S = 0.1
IDLE_S = 0.2  # for so long a lane in which nothing waits listens for the next record before it looks at all else
REFRESH_S = 15.0
LOOK_S = 1.0  # while the peer has no such topic yet
BATCH_MAX = 500


class LaneReplicator:
    """One lane from one peer region. One thread turns it; it never commits anything but its own region's log.

    Args:
        lane: the lane to follow, and whose.
        ports: the replicator's own; no other flow uses its sources and its log.
        runs: of these, besides all that were heard of, checkpoints are looked for where the peer's log lost records.

    Raises:
        MisconfiguredError: there is no such lane, or it is not replicated.
    """

    def __init__(self, lane: PeerLane, ports: LanePorts, runs: Collection[str] = ()) -> None:
        if lane.name not in paths.REPLICATED_LANES:
            there_are = ", ".join(paths.REPLICATED_LANES)
            raise MisconfiguredError(f"lane {lane.name!r} is not replicated; there are {there_are}")
        self._peer, self._lane = lane.peer, lane.name
        self._source, self._own, self._log = ports.peer_source, ports.own_source, ports.log
        self._lineage = ports.lineage
        self._codec, self._clock, self._journal = ports.codec, ports.clock, ports.journal
        self._copies = CheckpointCopies(
            peer=lane.peer,
            store=ports.store,
            peer_store=ports.peer_store,
            transfers=ports.transfers,
            signer=ports.signer,
            codec=ports.codec,
            clock=ports.clock,
            journal=ports.journal,
        )
        self._judge = RecordJudge(lane, ports, self._copies)
        self._ledger: Ledger | None = None
        self._followed: dict[Partition, int] = {}  # the next offset to queue
        self._queues: dict[str, deque[WaitingRecord]] = {}
        self._refreshed_s = float("-inf")
        self._counts: dict[str, int] = {}
        self._rest: Rest | None = None
        self._run_rests: dict[str, Rest] = {}
        self._intake = Intake(self._source, self._followed, self._queues, self._queue)
        self._health = LaneHealth(
            source=self._source,
            followed=self._followed,
            queues=self._queues,
            intake=self._intake,
            copies=self._copies,
            clock=ports.clock,
        )
        self._alarms = LaneAlarms(lane, ports.clock, ports.journal)
        self._ledger_recovery = LedgerRecovery(lane, ports, self._alarms)
        self._rebuild = EventRebuild(lane, ports, runs)
        self._visible: VisibleIndex | None = None
        self._redrives: RedriveRequests | None = None
        self._replays: ReplayRequests | None = None
        if ports.visible_source is not None:
            self._visible = VisibleIndex(lane.name, ports.visible_source, ports.codec, ports.clock)
            self._redrives = RedriveRequests(lane, ports, self._visible)
        if self._visible is not None and ports.replay_source is not None:
            self._replays = ReplayRequests(
                lane,
                ports,
                replay_source=ports.replay_source,
                visible=self._visible,
                whole=self._copies.whole,
                lineage=self._judge.view_of,
            )

    def replay(self, places: Places) -> ReplayAnswer:
        """Handle some records of the peer's lane once more, or say what has become of them; any thread may ask.

        Raises:
            MisconfiguredError: this replicator has no source to read logs again.
        """
        if self._replays is None:
            raise MisconfiguredError("this replicator does not read logs again: nothing can be replayed")
        return self._replays.ask(places)

    def redrive(self, request: RedriveRequest) -> RedriveAnswer:
        """Handle a dead letter once more, or say what has become of it; any thread may ask.

        Raises:
            MisconfiguredError: this replicator has no source to read its own log.
        """
        if self._redrives is None:
            raise MisconfiguredError("this replicator does not read its own log: nothing can be redriven")
        return self._redrives.ask(request)

    def turn(self) -> float:
        """Read, copy, publish; seconds until the next turn.

        Raises:
            FencedError: another replicator follows this lane now.
        """
        begun_s = self._clock.boottime_s()
        left_s = 0.0 if self._rest is None else self._rest.until_s - begun_s
        if left_s > 0:
            return left_s
        try:
            settled = self._handle()
        except FencedError:
            raise
        except (RetryableError, CorruptError) as error:
            # Corrupt: the place to read from is gone; the next turn reads the ledger, and raises the alarm.
            self._stand(str(error))
            return TURN_S
        except MisconfiguredError as error:  # a peer that refuses this region, say: that is no fault of the others
            return self._stand(str(error), rests=True)
        except Exception as error:  # noqa: BLE001 - a fault in one lane must not end the others' following (I18)
            self._journal.say("replicate.failed", lane=self._lane, peer=self._peer, trace=traceback.format_exc())
            return self._stand(f"{type(error).__name__}: {error}", rests=True)
        self._rest = None
        if settled:
            return 0.0
        # A turn that found nothing has waited for the next record long enough, and goes on waiting at once.
        return max(0.0, TURN_S - (self._clock.boottime_s() - begun_s))

    @property
    def stands(self) -> Rest | None:
        """Why the lane does not move, and since when; None if it does."""
        return self._rest

    def _handle(self) -> bool:
        """One turn's work; whether any record was settled."""
        ledger = self._follow(self._ledger or self._restart())
        ledger = self._mend(ledger)
        self._copies.collect()
        settled = self._settle(ledger)
        if self._redrives is not None:
            before = self._ledger or ledger
            self._ledger = self._redrives.turn(before, self._judge.out_of_turn)
            self._alarms.report(self._ledger, before)
        if self._replays is not None:
            self._replays.turn(self._ledger or ledger, self._judge.out_of_turn, self._made_up)
        self._health.turned(settled=settled)
        return settled

    def _stand(self, why: str, *, rests: bool = False) -> float:
        """Note that the lane does not move, and begin again from the ledger; how long it rests, in seconds."""
        if self._rest is None or self._rest.reason != why:
            self._journal.say("replicate.waits", lane=self._lane, peer=self._peer, why=why)
        self._health.failed(why)
        now_s = self._clock.boottime_s()
        self._rest = Rest.after(self._rest, why, now_s=now_s, wall_ms=self._clock.wall_ms())
        if not rests:
            self._rest = replace(self._rest, until_s=now_s)
        self._forget()
        return self._rest.until_s - now_s

    def status(self) -> LaneStatus:
        """The waiting records and why they wait, the copies, what stands, and what of the source is not settled."""
        queues = {run: queue for run, queue in list(self._queues.items()) if queue}
        return LaneStatus(
            peer=self._peer,
            lane=self._lane,
            queued={run: len(queue) for run, queue in queues.items()},
            waits={run: queue[0].why for run, queue in queues.items() if queue[0].why},
            counts=dict(self._counts),
            copies=self._copies.progress(),
            link_bytes=self._copies.moved_bytes,
            trouble="" if self._rest is None else self._rest.reason,
            alarms=self._alarms.status(),
            backlog=self._health.backlog,
            backlog_grows=self._health.backlog_grows,
            standing=self._health.standing(),
            completions=self._health.completions(),
        )

    @property
    def lane_alarms(self) -> LaneAlarms:
        """The lane's alarms, for whoever counts or acknowledges them."""
        return self._alarms

    # --- the ledger and the peer's log ---

    def _restart(self) -> Ledger:
        """Fence the replicator before this one, then learn from this region's log which events are done."""
        self._log.transaction(())
        read = read_ledger(self._own, self._codec, self._clock, self._note_unreadable)
        self._alarms.report(read, None)
        return self._commit(read, self._ledger_recovery.begin(read))

    def _note_unreadable(self, item: Fetched, why: str) -> None:
        place = f"{item.partition.topic}/{item.partition.number}/{item.offset}"
        self._journal.say("replicate.ledger_unreadable", lane=self._lane, peer=self._peer, place=place, why=why)

    def _commit(self, before: Ledger, after: Ledger, messages: Iterable[Message] = ()) -> Ledger:
        """Publish messages and the changes of the ledger in one transaction; no transaction if there are none."""
        whole = [*messages, *changed(after, before, self._codec)]
        if whole:
            self._log.transaction(whole)
        self._ledger = after
        self._alarms.report(after, before)
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
                self._ledger_recovery.check()
            for partition in self._source.partitions([paths.topic(self._lane)]):
                if partition not in self._followed:
                    ledger = self._begin_at(partition, ledger)
            self._refreshed_s = now_s
        self._intake.take(TURN_S if self._queues else IDLE_S)
        return ledger

    def _queue(self, run: str, fetched: Fetched) -> None:
        self._queues.setdefault(run, deque()).append(WaitingRecord(fetched))

    def _begin_at(self, partition: Partition, ledger: Ledger) -> Ledger:
        """Read on where the ledger says; records that are gone, or another topic of that name, raise an alarm (6.8)."""
        known = ledger.positions.get((partition.cluster, partition.topic_id, partition.number))
        bounds = self._source.bounds(partition)
        after = ledger.copy()
        at = bounds[0] if known is None else known.offset
        if self._alarms.bounds(after, partition, None if known is None else known.offset, bounds):
            at = bounds[0]
            after.learn(_position(partition, at))
        self._source.seek(partition, at)
        self._source.resume([partition])
        stale = [stale_partition for stale_partition in self._followed if _name(stale_partition) == _name(partition)]
        for stale_partition in stale:
            del self._followed[stale_partition]
            self._intake.drop(stale_partition)
        self._followed[partition] = at
        return self._commit(ledger, after)

    def _mend(self, ledger: Ledger) -> Ledger:
        """End the alarms that a person acknowledged; queue events that the peer's log lost, rebuilt from its store."""
        ledger = self._alarms.turn(ledger, self._commit)
        for rebuilt in self._rebuild.turn(ledger, ends=self._ends, lineage=self._lineage, is_read=self._is_read):
            self._queue(rebuilt.event.run, rebuilt.fetched)
        if not self._rebuild.finished(ledger):
            return ledger
        after = ledger.copy()
        self._alarms.rebuilt(after)
        return self._commit(ledger, after)

    def _made_up(self, ledger: Ledger, taken: Numbered, messages: Iterable[Message]) -> Ledger:
        """Publish an event for a replay, and end the alarm about its missing number."""
        after = ledger.copy()
        self._alarms.taken(after, taken, is_aside=False)
        return self._commit(ledger, after, messages)

    def _ends(self) -> dict[Partition, int]:
        return {partition: self._source.bounds(partition)[1] for partition in self._followed}

    def _is_read(self, run: str, ends: dict[Partition, int]) -> bool:
        """Whether nothing of a run waits, and every partition that is still followed was read to its end in `ends`."""
        if self._queues.get(run) or self._intake.is_spilled(run):
            return False
        return all(self._source.position(one) >= end for one, end in ends.items() if one in self._followed)

    # --- one record after the other ---

    def _settle(self, ledger: Ledger) -> bool:
        """Publish the outcomes that are ready, in one transaction; True if any record was settled."""
        self._judge.begin_turn()
        after = ledger.copy()
        ready: list[tuple[str, Outcome]] = []
        items: list[WaitingRecord] = []  # of which these are the outcomes
        share = max(1, BATCH_MAX // max(1, sum(1 for queue in self._queues.values() if queue)))
        for run, queue in self._queues.items():
            for item in itertools.islice(queue, share):  # no run takes the others' place in a transaction
                outcome = self._outcome(run, item, queue, after)
                if outcome is None:
                    break
                self._take(after, outcome)
                ready.append((run, outcome))
                items.append(item)
        if not ready or not self._judge.still_stands(ready):
            return False
        taken = Counter(run for run, _ in ready)
        self._note_positions(after, taken)
        self._send(ledger, after, list(zip(items, (outcome for _, outcome in ready), strict=True)))
        for run, outcome in ready:
            self._done(self._queues[run].popleft(), outcome)
        for run in {run for run, _ in ready if not self._queues[run]}:
            del self._queues[run]  # the keys are a peer's, and there may be ever new ones
        settled = [SettledRecord(run, outcome.kind, outcome.fields) for run, outcome in ready if outcome.kind]
        for record in settled:
            self._count(record.what)
        log_settled(self._journal, lane=self._lane, peer=self._peer, settled=settled)
        return True

    def _send(self, ledger: Ledger, after: Ledger, outcomes: list[tuple[WaitingRecord, Outcome]]) -> None:
        """Publish outcomes; what our log refuses for good is a dead letter when the lane is read again."""
        sent = [
            (item, message)
            for item, outcome in outcomes
            for message in (outcome.message, outcome.set_aside)
            if message is not None
        ]
        try:
            self._commit(ledger, after, [message for _, message in sent])
        except RefusedError as error:
            for place, why in error.refused.items():
                if place < len(sent):  # else it is the ledger's own
                    self._judge.refused(sent[place][0], why)
            raise

    def _outcome(self, run: str, item: WaitingRecord, queue: deque[WaitingRecord], after: Ledger) -> Outcome | None:
        """The outcome of a record; a run whose record cannot be judged rests, and the others go on."""
        now_s = self._clock.boottime_s()
        before = self._run_rests.get(run)
        if before is not None and now_s < before.until_s:
            return None
        try:
            outcome = self._judge.outcome(item, queue, after)
        except FencedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one run's record does, the other runs go on (I18)
            is_ours = isinstance(error, FarsideError)
            item.why = str(error) if is_ours else f"{type(error).__name__}: {error}"
            if before is None or before.reason != item.why:
                more = {} if is_ours else {"trace": traceback.format_exc()}
                self._journal.say(
                    "replicate.run_waits", run=run, lane=self._lane, peer=self._peer, why=item.why, **more
                )
            self._run_rests[run] = Rest.after(before, item.why, now_s=now_s, wall_ms=self._clock.wall_ms())
            return None
        self._run_rests.pop(run, None)
        return outcome

    def _take(self, after: Ledger, outcome: Outcome) -> None:
        """Settle the numbers that a record takes."""
        if outcome.takes is None:
            return
        if outcome.is_unknown:
            self._alarms.set_aside(after, outcome.takes)
        else:
            is_aside = outcome.kind == "branch" or outcome.set_aside is not None
            self._alarms.taken(after, outcome.takes, is_aside=is_aside)

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

    def _done(self, item: WaitingRecord, outcome: Outcome) -> None:
        event = item.event
        self._health.settled(event, outcome.kind)
        if isinstance(event, Checkpoint):
            self._copies.drop(event)

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1


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
