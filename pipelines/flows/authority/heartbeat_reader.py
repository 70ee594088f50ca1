"""Reads a region's heartbeats and readiness: one reader a region, for every run; decides nothing (I10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from pipelines import paths
from pipelines.core import heartbeats as beats
from pipelines.core.heartbeats import RegionHeartbeats
from pipelines.core.replay_rules import replay_of
from pipelines.errors import CorruptError, MisconfiguredError, RetryableError
from pipelines.ports import Clock, EventSource, Fetched, Partition
from schemas.codec import Codec, DecodeError
from schemas.records import Checkpoint, Heartbeat, Readiness, Sighting

TURN_S = 0.1
REFRESH_S = 15.0
LOOK_S = 1.0
OUTCOMES_MAX = 50  # of checkpoints that are remembered of a run
OUTCOMES_AGAIN = 200  # records before the end of the lane that are read at the start, to know of older ones
SKIPPED = frozenset({"abandoned", "superseded"})


class PeerState:
    """One region's newest words on one run. Everything here is replaced whole, so another thread may read it.

    `wake` is called when a record came that the run's controller should look at before its next turn is due.
    """

    def __init__(self, *, region: str, run: str, clock: Clock, wake: Callable[[], None] = lambda: None) -> None:
        self.region, self.run = region, run
        self._wake = wake
        self.pulse = RegionHeartbeats()
        self.readiness: Readiness | None = None
        self.sightings: dict[tuple[str, str], tuple[Sighting, float]] = {}  # (observer, of region): what, when heard
        self.since_s = clock.boottime_s()
        self.trouble = ""
        self.named = 0  # how many outcomes of checkpoints the region's log has named
        self.outcomes: tuple[Checkpoint, ...] = ()  # the newest of them, oldest first

    @property
    def nodes_at_s(self) -> float:
        """When a node was heard last; when we began to listen if none ever was."""
        return max(self.pulse.nodes_at_s, self.since_s)

    @property
    def skipped(self) -> tuple[Checkpoint, ...]:
        """The newest checkpoints that were given up, oldest first."""
        return tuple(one for one in self.outcomes if one.state in SKIPPED)

    @property
    def committed_step(self) -> int:
        """The newest step that the region's log names as committed; -1: none."""
        steps = [one.step for one in self.outcomes if one.state == "committed"]
        steps += [node.committed.step for node in self.pulse.nodes.values() if node.committed is not None]
        return max(steps, default=-1)

    @property
    def abandoned_in_a_row(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that their own region gave up since the last one that was committed, oldest first."""
        newest: list[Checkpoint] = []
        for one in reversed(self.outcomes):
            if one.state == "committed":
                break
            if one.state == "abandoned":
                newest.append(one)
        return tuple(reversed(newest))

    @property
    def cadence_steps(self) -> int | None:
        """The usual distance in steps between two checkpoints of the run, whatever became of them; None: not known."""
        places = sorted({(one.epoch, one.step) for one in self.outcomes if one.state != "branch"})
        apart = sorted(later[1] - one[1] for one, later in pairwise(places) if one[0] == later[0])
        return apart[len(apart) // 2] if apart else None

    def heard(self, beat: Heartbeat, now_s: float, late_s: float = 0.0) -> None:
        """Take in a heartbeat of this region for this run, or of its controller; `late_s` as of `heartbeats.heard`."""
        before = self.pulse.nodes.get(beat.node)
        self.pulse = beats.heard(self.pulse, beat, now_s, late_s)
        if beat.node != beats.CONTROLLER_NODE and (before is None or before.phase != beat.phase):
            self._wake()

    def heard_unreadable(self, now_s: float) -> None:
        """Take in a heartbeat in a format that we cannot read yet."""
        self.pulse = beats.heard_unreadable(self.pulse, now_s)

    def heard_outcome(self, record: Readiness | Checkpoint) -> None:
        """The region's pool changed, or a checkpoint of the run has an outcome there: wake the controller."""
        if isinstance(record, Readiness):
            self.readiness = record
        else:
            self.named += 1
            self.outcomes = (*self.outcomes[-(OUTCOMES_MAX - 1) :], record)
        self._wake()


class HeartbeatReader:
    """Reads one region's log once for all runs.

    Args:
        region: whose log; records of other regions in it are not signs of its life.
        source: reads that log.
        codec: of records.
        clock: the machine's own.
        peer_states: what the region says, one for each run; kept up to date here.
        checkpoints: also read the outcomes of checkpoints; for the own region, where they are looked up.
    """

    def __init__(
        self,
        *,
        region: str,
        source: EventSource,
        codec: Codec,
        clock: Clock,
        peer_states: Iterable[PeerState],
        checkpoints: bool = False,
    ) -> None:
        self._region = region
        self._source, self._codec, self._clock = source, codec, clock
        self._peer_states = {peer_state.run: peer_state for peer_state in peer_states}
        self._topics = [paths.HEARTBEATS, paths.CONTROL, *([paths.CHECKPOINTS] if checkpoints else [])]
        self._followed: dict[tuple[str, int], Partition] = {}
        self._told: set[tuple[str, int]] = set()  # partitions whose newest outcomes were read
        self._looked_s = float("-inf")
        self._trouble = ""
        self._sightings: dict[tuple[str, str], tuple[Sighting, float]] = {}

    def turn(self) -> float:
        """Take in the records that came; seconds until the next turn.

        A log that refuses us becomes a trouble of its runs and is asked again: what another region forbids must not end
        the process that holds our own leases (I16).
        """
        try:
            self._follow()
            for item in self._source.poll(TURN_S):
                self._hear(item)
        except (RetryableError, CorruptError) as error:
            self._set_trouble(str(error))
            self._followed.clear()
            return LOOK_S
        except MisconfiguredError as error:
            self._set_trouble(str(error))
            self._followed.clear()
            return REFRESH_S
        self._set_trouble("")
        return 0.0 if self._followed else TURN_S

    def _set_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            for peer_state in self._peer_states.values():
                peer_state.trouble = trouble

    def _follow(self) -> None:
        """Begin at the end: an old heartbeat is no sign of life (6.11). Of checkpoints the newest outcomes are told."""
        now_s = self._clock.boottime_s()
        if now_s - self._looked_s < (REFRESH_S if self._followed else LOOK_S):
            return
        self._looked_s = now_s
        for partition in self._source.partitions(self._topics):
            place = (partition.topic, partition.number)
            if self._followed.get(place) != partition:
                first, end = self._source.bounds(partition)
                old = partition.topic == paths.CHECKPOINTS and place not in self._told
                self._told.add(place)
                self._source.seek(partition, max(first, end - OUTCOMES_AGAIN) if old else end)
                self._followed[place] = partition

    def _hear(self, item: Fetched) -> None:
        if replay_of(item.headers) is not None:
            return  # an old record, whoever put it there (6.11)
        now_s = self._clock.boottime_s()
        try:
            record = self._codec.decode(item.value)
        except DecodeError:
            peer_state = self._peer_states.get(item.key.decode(errors="replace"))
            if peer_state is not None and item.partition.topic == paths.HEARTBEATS:
                peer_state.heard_unreadable(now_s)
            return
        if isinstance(record, Heartbeat) and record.region == self._region:
            for peer_state in self._of(record.run):
                peer_state.heard(record, now_s, (self._clock.wall_ms() - record.time_ms) / 1000)
        elif isinstance(record, Checkpoint) or (isinstance(record, Readiness) and record.region == self._region):
            for peer_state in self._of(record.run):
                peer_state.heard_outcome(record)
        elif isinstance(record, Sighting) and record.region == self._region:
            self._sightings = {**self._sightings, (record.observer, record.of_region): (record, now_s)}
            for peer_state in self._peer_states.values():
                peer_state.sightings = self._sightings

    def _of(self, run: str) -> Iterable[PeerState]:
        """The states that a record about a run concerns; a controller beats once for all runs."""
        if run == paths.EVERY_RUN:
            return self._peer_states.values()
        return [self._peer_states[run]] if run in self._peer_states else []
