"""Whether a followed lane moves: what stands, since when and why; whether its backlog grows; whether copies end. Pure.

A record that waits stands for nothing as long as something moves: bytes of its run's copies, or the record at the head
of the queue. Times are on the caller's clock, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from pipelines import paths
from pipelines.core.newest_wins import lag_s_max

STANDS_S = 15.0  # without any movement: a slow link brings a piece of 64 KiB in less
CALM_S = 2.0  # a trouble is over when turns went well for so long
GROWS_S = 60.0  # over which a backlog's growth is looked at
SAMPLE_S = 3.0
GROWS_LEAST = 100  # records; fewer come and go with a batch
REMEMBERED = 10  # committed checkpoints of a run, for cadence and size


@dataclass(frozen=True, slots=True)
class Mark:
    """The place of a queue: while `moved` stays the same, nothing moves. `records` is None where it is not known."""

    moved: Hashable
    records: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One thing that stands: a run, or "*" for the lane as a whole."""

    run: str
    records: int | None
    reason: str
    since_s: float  # for how long


class LaneProgress:
    """Whether one lane moves, as its flow tells it after each turn."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[Mark, float]] = {}  # by run: its mark, and since when it has not moved
        self._trouble: tuple[str, float] | None = None  # the last one, and since when there is any
        self._well_since_s: float | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def turned(self, now_s: float, marks: Mapping[str, Mark], backlog: int | None) -> None:
        """Note a turn that went well.

        Args:
            now_s: when.
            marks: of everything that waits, by run; "*" for records of the source that are not read yet.
            backlog: records of the source that are not settled; None: the source was not asked.
        """
        self._well_since_s = now_s if self._well_since_s is None else self._well_since_s
        if now_s - self._well_since_s >= CALM_S:
            self._trouble = None
        before, self._marks = self._marks, {}
        for run, mark in marks.items():
            earlier = before.get(run)
            still = earlier is not None and earlier[0].moved == mark.moved
            self._marks[run] = (mark, earlier[1] if earlier is not None and still else now_s)
        if backlog is not None and (not self._samples or now_s - self._samples[-1][0] >= SAMPLE_S):
            self._samples.append((now_s, backlog))
            while self._samples[0][0] < now_s - GROWS_S:
                self._samples.popleft()

    def failed(self, now_s: float, trouble: str) -> None:
        """Note a turn that failed: what the source holds by now is not known."""
        self._trouble = (trouble, now_s if self._trouble is None else self._trouble[1])
        self._well_since_s = None

    def standing(self, now_s: float) -> tuple[Standing, ...]:
        """Everything that stands, the longest first."""
        if self._trouble is not None:
            reason, at_s = self._trouble
            return (Standing(paths.EVERY_RUN, None, reason, now_s - at_s),)
        stands = [
            Standing(run, mark.records, mark.reason, now_s - at_s)
            for run, (mark, at_s) in list(self._marks.items())
            if now_s - at_s >= STANDS_S
        ]
        return tuple(sorted(stands, key=lambda one: (-one.since_s, one.run)))

    @property
    def backlog_grows(self) -> bool:
        """Whether the backlog was greater all through the newer half of the last minute than ever in the older one."""
        samples = list(self._samples)
        if len(samples) < 4 or samples[-1][0] - samples[0][0] < GROWS_S / 2:  # noqa: PLR2004 - two in each half
            return False
        half = len(samples) // 2
        older = max(records for _, records in samples[:half])
        return min(records for _, records in samples[half:]) >= older + GROWS_LEAST


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed checkpoint that was heard of: its place, its size, and when it was committed, by its region."""

    epoch: int
    lineage_seq: int
    size_bytes: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Completion:
    """For how long newer checkpoints have waited without one becoming visible, and the bound of that, if known."""

    waiting_s: float
    bound_s: float | None


@dataclass(slots=True)
class Completions:
    """The checkpoints of one run on their way; also those that gave way to a newer one, until that is visible."""

    _waiting: dict[tuple[int, int], float] = field(default_factory=dict)  # place: when it was heard of
    _heard: deque[Committed] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def heard(self, checkpoint: Committed, now_s: float) -> None:
        """Note a committed checkpoint that is not visible here yet; to be told again changes nothing."""
        place = (checkpoint.epoch, checkpoint.lineage_seq)
        if place not in self._waiting:
            if all(epoch < checkpoint.epoch for epoch, _ in self._waiting):
                self._waiting.clear()  # of an epoch that was left: what is still to come of it is told again
            self._waiting[place] = now_s
            self._heard.append(checkpoint)
            while len(self._waiting) > REMEMBERED:  # the oldest one counts, not how many there are
                del self._waiting[list(self._waiting)[1]]

    def settled(self, epoch: int, lineage_seq: int, *, visible: bool) -> None:
        """Note that a checkpoint is visible here, and with it all older ones; or that it will never count."""
        place = (epoch, lineage_seq)
        self._waiting = {
            one: at_s for one, at_s in self._waiting.items() if one != place and not (visible and one < place)
        }

    def completion(self, now_s: float, rate_bytes_s: float | None) -> Completion | None:
        """How long there has been no completion, beside T + 2 S / R; None if nothing waits."""
        if not self._waiting:
            return None
        times_ms = sorted(one.time_ms for one in self._heard)
        cadence_ms = max((later - one for one, later in pairwise(times_ms)), default=0)
        bound_s = None
        if rate_bytes_s:
            bound_s = lag_s_max(max(one.size_bytes for one in self._heard), rate_bytes_s, cadence_ms / 1000)
        return Completion(now_s - min(self._waiting.values()), bound_s)
