"""Rebuilds an empty region: runs the replicator's own flows for one peer, up to the end that the plan saw.

They are the same flows, with the same transactional ids, so they write what the region's own replicator would have
written, and it goes on from there. Therefore only one of the two may run at a time. The position is in the region's
ledger, so a rebuild that was stopped can be started again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines import paths
from pipelines.core.replay_rules import Tempo
from pipelines.errors import MisconfiguredError
from pipelines.flows.inspection.replay import Stretch
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.ports import EventSource, Partition
from schemas.codec import Codec
from schemas.http_bodies import LaneStatus
from services.adapters.kafka.log import KafkaSource
from services.replicator import flow_of
from services.runtime.wiring import Wiring
from services.wrappers.bounded import BoundedSource


class RegionRebuild:
    """Copies the lanes of one peer into one region.

    Args:
        parts: the region's wiring.
        peer: whose log is followed.
        stretches: the parts of the log that the plan saw.
        source_of: opens a reader of the peer's log, or of a recording of it.
        tempo: how fast to read.
    """

    def __init__(
        self,
        parts: Wiring,
        peer: str,
        stretches: Sequence[Stretch],
        source_of: Callable[[], EventSource],
        tempo: Tempo,
    ) -> None:
        self._parts, self._peer = parts, peer
        self._closing: list[Callable[[], None]] = []
        self._sources: dict[str, BoundedSource] = {}
        self._flows: dict[str, LaneReplicator] = {}
        self._ends: dict[str, dict[Partition, int]] = {}
        for stretch in stretches:
            self._ends.setdefault(stretch.lane, {})[stretch.partition] = stretch.end
        for lane, ends in self._ends.items():
            source = self._sources[lane] = BoundedSource(source_of(), ends, tempo, parts.clock)
            self._flows[lane] = flow_of(parts, peer, lane, source, self._closing)

    def check_fresh(self) -> None:
        """Check that the region has not followed this peer before.

        Raises:
            MisconfiguredError: it has.
        """
        own = KafkaSource(self._parts.kafka)
        try:
            ledger = read_ledger(own, Codec(), self._parts.clock)
        finally:
            own.close()
        topics = {paths.topic(lane) for lane in self._flows}
        clusters = {partition.cluster for ends in self._ends.values() for partition in ends}
        if any(position.topic in topics and position.cluster in clusters for position in ledger.positions.values()):
            raise MisconfiguredError(
                f"{self._parts.region} has followed {self._peer} already: start its replicator, which goes on from "
                "there; what it missed is replayed with --to handlers"
            )

    def turn(self) -> float:
        """Turn each lane once; seconds until the next turn."""
        return min(flow.turn() for flow in self._flows.values())

    @property
    def done(self) -> bool:
        """Whether everything before the ends is settled."""
        return all(self._settled(lane) for lane in self._flows)

    @property
    def given(self) -> int:
        """How many records were read."""
        return sum(source.given for source in self._sources.values())

    def counts(self) -> dict[str, int]:
        """How many records had which outcome."""
        outcomes: dict[str, int] = {}
        for lane in self._status():
            for name, count in lane.counts.items():
                outcomes[name] = outcomes.get(name, 0) + count
        return outcomes

    def waits(self) -> str:
        """The reason for which a lane waits; "" if none waits."""
        for lane in self._status():
            if lane.trouble or lane.waits:
                return lane.trouble or next(iter(lane.waits.values()))
        return ""

    def close(self) -> None:
        """Close the readers and writers."""
        for close in self._closing:
            close()

    def _status(self) -> list[LaneStatus]:
        return [flow.status() for flow in self._flows.values()]

    def _settled(self, lane: str) -> bool:
        flow, source = self._flows[lane], self._sources[lane]
        return source.at_ends() and not flow.status().queued
