"""Whether one lane moves, what stands and what is left, observed after each turn of its replicator."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from pipelines import paths
from pipelines.core.lane_progress import Committed, Completions, LaneProgress, Mark
from pipelines.flows.replication.checkpoint_copies import CheckpointCopies
from pipelines.flows.replication.intake import Intake
from pipelines.flows.replication.record_judge import WaitingRecord
from pipelines.ports import Clock, EventSource, Partition
from schemas.http_bodies import CompletionStatus, StandingStatus
from schemas.records import Checkpoint, Event

ENDS_IDLE_S = 5.0  # between two questions for the ends of the peer's log, which take a round trip each
ENDS_BUSY_S = 15.0

Queues = Mapping[str, deque[WaitingRecord]]


class LaneHealth:
    """Observes one lane. `status` parts may be read from another thread; the flow that owns the lane calls the rest.

    Args:
        source: the peer's log.
        followed: the next offset of each partition, as the replicator keeps it.
        queues: the records that wait, by run.
        intake: knows which runs' records were passed over.
        copies: the checkpoints that are being copied.
        clock: this process's.
    """

    def __init__(
        self,
        *,
        source: EventSource,
        followed: Mapping[Partition, int],
        queues: Queues,
        intake: Intake[deque[WaitingRecord]],
        copies: CheckpointCopies,
        clock: Clock,
    ) -> None:
        self._source, self._followed, self._queues = source, followed, queues
        self._intake, self._copies, self._clock = intake, copies, clock
        self._progress = LaneProgress()
        self._completions: dict[str, Completions] = {}
        self._ends: dict[Partition, int] = {}
        self._asked_s = float("-inf")
        self._backlog: int | None = None

    def turned(self, *, settled: bool) -> None:
        """Note a turn that went well.

        Args:
            settled: whether it settled records; a busy lane asks its source less often how much is left.

        Raises:
            RetryableError: the source does not answer.
        """
        now_s = self._clock.boottime_s()
        asked = now_s - self._asked_s >= (ENDS_BUSY_S if settled else ENDS_IDLE_S)
        if asked:
            self._asked_s = now_s
            self._ends = {partition: self._source.bounds(partition)[1] for partition in self._followed}
        marks, unread, passed_over, heads = {}, 0, 0, []
        for partition, following in self._followed.items():
            head = max(following, self._source.position(partition))
            heads.append((partition, head))
            unread += max(0, self._ends.get(partition, head) - head)
            passed_over += following - self._intake.floor(partition, following)
        if unread:
            marks[paths.EVERY_RUN] = Mark(tuple(heads), unread, "its records do not arrive")
        for run, queue in self._queues.items():
            if queue:
                head_record = queue[0].fetched
                place = (head_record.partition, head_record.offset, self._copies.crossed_bytes(run))
                marks[run] = Mark(place, len(queue), queue[0].why or "it waits for its turn")
        self._note_committed(now_s)
        self._backlog = unread + passed_over + sum(map(len, self._queues.values()))
        self._progress.turned(now_s, marks, self._backlog if self._ends or not self._followed else None)

    def failed(self, trouble: str) -> None:
        """Note a turn that failed."""
        self._backlog = None
        self._progress.failed(self._clock.boottime_s(), trouble)

    def settled(self, event: Event | None, kind: str) -> None:
        """Note what became of a record, as the journal names it."""
        if not isinstance(event, Checkpoint) or event.state != "committed" or kind == "superseded":
            return  # one that gave way counts as waiting until a newer one is visible
        completions = self._completions.get(event.run)
        if completions is not None:
            completions.settled(event.epoch, event.lineage_seq, visible=kind == "published")

    @property
    def backlog(self) -> int | None:
        """Records of the source that are not settled here, at most; None: the source does not say."""
        return self._backlog

    @property
    def backlog_grows(self) -> bool:
        """Whether it has grown all through the last minute."""
        return self._progress.backlog_grows

    def standing(self) -> tuple[StandingStatus, ...]:
        """Everything that stands below the end of the source, why and for how long."""
        return tuple(
            StandingStatus(run=one.run, records=one.records, reason=one.reason, since_s=round(one.since_s, 1))
            for one in self._progress.standing(self._clock.boottime_s())
        )

    def completions(self) -> dict[str, CompletionStatus]:
        """For each run with a checkpoint on its way: how long none has become visible, and the bound."""
        now_s, statuses = self._clock.boottime_s(), {}
        for run, completions in list(self._completions.items()):
            found = completions.completion(now_s, self._copies.rate_bytes_s)
            if found is not None:
                statuses[run] = CompletionStatus(waiting_s=round(found.waiting_s, 1), bound_s=found.bound_s)
        return statuses

    def _note_committed(self, now_s: float) -> None:
        for run, queue in self._queues.items():
            for item in queue:
                event = item.event
                if event is None:
                    break  # not looked at yet: those behind it are not either
                if isinstance(event, Checkpoint) and event.state == "committed":
                    committed = Committed(event.epoch, event.lineage_seq, event.size_bytes, event.time_ms)
                    self._completions.setdefault(run, Completions()).heard(committed, now_s)
