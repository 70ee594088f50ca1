"""Rebuilding a region from nothing: the flows that would follow a peer are turned here, up to an end that was seen.

They are the same flows, with the same transactional ids: what they write is what the region's own replicator would have
written, and it goes on from there. So only one of the two may run, and a rebuild that is stopped goes on by itself: the
position is the ledger.
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
    """The lanes of one peer, being brought into one region."""

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
        for one in stretches:
            self._ends.setdefault(one.lane, {})[one.partition] = one.end
        for lane, ends in self._ends.items():
            source = self._sources[lane] = BoundedSource(source_of(), ends, tempo, parts.clock)
            self._flows[lane] = flow_of(parts, peer, lane, source, self._closing)

    def check_fresh(self) -> None:
        """MisconfiguredError if the region has followed this peer already."""
        own = KafkaSource(self._parts.kafka)
        try:
            ledger = read_ledger(own, Codec(), self._parts.clock)
        finally:
            own.close()
        topics = {paths.topic(lane) for lane in self._flows}
        clusters = {one.cluster for ends in self._ends.values() for one in ends}
        if any(one.topic in topics and one.cluster in clusters for one in ledger.positions.values()):
            raise MisconfiguredError(
                f"{self._parts.region} has followed {self._peer} already: its replicator goes on from there; "
                "--to handlers makes up for what it missed"
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
        """Records that were read."""
        return sum(one.given for one in self._sources.values())

    def counts(self) -> dict[str, int]:
        """What has become of them."""
        found: dict[str, int] = {}
        for lane in self._status():
            for name, count in lane.counts.items():
                found[name] = found.get(name, 0) + count
        return found

    def waits(self) -> str:
        """For what it waits; "" if for nothing."""
        for lane in self._status():
            if lane.trouble or lane.waits:
                return lane.trouble or next(iter(lane.waits.values()))
        return ""

    def close(self) -> None:
        """Let go of the region."""
        for one in self._closing:
            one()

    def _status(self) -> list[LaneStatus]:
        return [flow.status() for flow in self._flows.values()]

    def _settled(self, lane: str) -> bool:
        flow, source = self._flows[lane], self._sources[lane]
        return source.at_ends() and not flow.status().queued
