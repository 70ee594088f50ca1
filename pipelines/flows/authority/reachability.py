"""Probes the other regions' Kafka and store every few seconds, and publishes which of them answered this service.

It runs on a thread of its own: a probe that gets no answer takes its time. Its results are evidence for a diagnosis,
and never authority (I10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pipelines import paths
from pipelines.core.diagnosis import Vantage
from pipelines.core.lease import NEVER_S
from pipelines.errors import FarsideError, RetryableError
from pipelines.ports import Clock, EventLog, Message
from schemas.codec import Codec
from schemas.records import Sighting

KAFKA, STORE = "kafka", "store"
Probe = Callable[[], object]


class Reachability:
    """One service's view of the other regions. Ages are replaced whole, so another thread may read them.

    Args:
        region: whose service this is.
        observer: the service's name.
        probes: for each other region, how its Kafka and its store are asked; each returns, or raises.
        log: this region's own Kafka, in which the sightings are published.
        codec: of sightings.
        clock: the machine's own.
        every_s: the pause between two rounds.
        nodes_at_s: when a node of a region was heard last; a service that does not listen leaves it out.
    """

    def __init__(
        self,
        *,
        region: str,
        observer: str,
        probes: Mapping[str, Mapping[str, Probe]],
        log: EventLog,
        codec: Codec,
        clock: Clock,
        every_s: float,
        nodes_at_s: Callable[[str], float] = lambda _region: NEVER_S,
    ) -> None:
        self._region, self._observer, self._probes = region, observer, probes
        self._log, self._codec, self._clock, self._nodes_at_s = log, codec, clock, nodes_at_s
        self._every_s = every_s
        self._answered_at_s: dict[tuple[str, str], float] = {}
        self.trouble = ""

    @property
    def every_s(self) -> float:
        """The pause between two rounds."""
        return self._every_s

    def turn(self) -> float:
        """Probe every part of every region and publish the results; seconds until the next round."""
        for peer, parts in self._probes.items():
            for part, probe in parts.items():
                if self._answers(probe):
                    self._answered_at_s = {**self._answered_at_s, (peer, part): self._clock.boottime_s()}
        try:
            self._log.publish([self._message(peer) for peer in self._probes])
        except RetryableError as error:
            self.trouble = str(error)
        else:
            self.trouble = ""
        return self._every_s

    def vantage(self, peer: str, now_s: float) -> Vantage:
        """How long ago each part of a region answered this service."""
        ages = {part: now_s - self._answered_at_s.get((peer, part), NEVER_S) for part in (KAFKA, STORE)}
        return Vantage(
            name=f"{self._region}'s {self._observer}",
            kafka_age_s=ages[KAFKA],
            store_age_s=ages[STORE],
            nodes_age_s=now_s - self._nodes_at_s(peer),
        )

    def _answers(self, probe: Probe) -> bool:
        """Whether a probe was answered. A refusal is no answer either: what we may not read we cannot judge."""
        try:
            probe()
        except FarsideError:
            return False
        return True

    def _message(self, peer: str) -> Message:
        seen = self.vantage(peer, self._clock.boottime_s())
        sighting = Sighting(
            region=self._region,
            observer=self._observer,
            of_region=peer,
            kafka_age_s=_finite(seen.kafka_age_s),
            store_age_s=_finite(seen.store_age_s),
            nodes_age_s=_finite(seen.nodes_age_s),
            time_ms=self._clock.wall_ms(),
        )
        return Message(paths.CONTROL, self._region.encode(), self._codec.encode(sighting))


def vantage_of(sighting: Sighting, heard_ago_s: float) -> Vantage:
    """Another service's sighting as a vantage, with the time since it was heard added to its ages."""
    ages = (sighting.kafka_age_s, sighting.store_age_s, sighting.nodes_age_s)
    kafka_s, store_s, nodes_s = (age_s + heard_ago_s if age_s >= 0 else math.inf for age_s in ages)
    return Vantage(f"{sighting.region}'s {sighting.observer}", kafka_s, store_s, nodes_s)


def _finite(age_s: float) -> float:
    return age_s if math.isfinite(age_s) else -1.0
