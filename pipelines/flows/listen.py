"""Listens to one region's heartbeats and readiness for one run, on a thread of its own; decides nothing (I10)."""

from __future__ import annotations

from pipelines import paths
from pipelines.core import pulse as beats
from pipelines.core.pulse import Pulse
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import Clock, EventSource, Fetched, Partition
from schemas.codec import Codec, DecodeError
from schemas.records import Heartbeat, Readiness, Sighting

TURN_S = 0.1
REFRESH_S = 15.0
LOOK_S = 1.0


class Listen:
    """One region, one run. `pulse`, `readiness` and `since_s` are replaced whole, so another thread may read them."""

    def __init__(self, *, region: str, run: str, source: EventSource, codec: Codec, clock: Clock) -> None:
        self._region, self._run = region, run
        self._source, self._codec, self._clock = source, codec, clock
        self.pulse = Pulse()
        self.readiness: Readiness | None = None
        self.sightings: dict[tuple[str, str], tuple[Sighting, float]] = {}  # (observer, of region): what, when heard
        self.since_s = clock.boottime_s()
        self.trouble = ""
        self._followed: dict[tuple[str, int], Partition] = {}
        self._looked_s = float("-inf")

    @property
    def nodes_at_s(self) -> float:
        """When a node was heard last; the listener's own start if none ever was."""
        return max(self.pulse.nodes_at_s, self.since_s)

    def step(self) -> float:
        """Take in what came; seconds until the next turn."""
        try:
            self._follow()
            for item in self._source.poll(TURN_S):
                self._hear(item)
        except (RetryableError, CorruptError) as error:
            self.trouble = str(error)
            self._followed.clear()
            return LOOK_S
        self.trouble = ""
        return 0.0 if self._followed else TURN_S

    def _follow(self) -> None:
        """Begin at the end: an old heartbeat is no sign of life (6.11)."""
        now_s = self._clock.boottime_s()
        if now_s - self._looked_s < (REFRESH_S if self._followed else LOOK_S):
            return
        self._looked_s = now_s
        for partition in self._source.partitions([paths.HEARTBEATS, paths.CONTROL]):
            place = (partition.topic, partition.number)
            if self._followed.get(place) != partition:
                self._source.seek(partition, self._source.bounds(partition)[1])
                self._followed[place] = partition

    def _hear(self, item: Fetched) -> None:
        now_s = self._clock.boottime_s()
        try:
            record = self._codec.decode(item.value)
        except DecodeError:
            if item.partition.topic == paths.HEARTBEATS and item.key == self._run.encode():
                self.pulse = beats.heard_unreadable(self.pulse, now_s)
            return
        if isinstance(record, Heartbeat) and (record.run, record.region) == (self._run, self._region):
            self.pulse = beats.heard(self.pulse, record, now_s)
        elif isinstance(record, Readiness) and (record.run, record.region) == (self._run, self._region):
            self.readiness = record
        elif isinstance(record, Sighting) and record.region == self._region:
            self.sightings = {**self.sightings, (record.observer, record.of_region): (record, now_s)}
