"""Every metric that a service serves, and the collectors which read its value at the scrape.

Nothing here is set by somebody else's request: a collector asks the flows whenever Prometheus asks it. The table in
`docs/metrics.md` lists the same metrics, and a test compares the two.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pipelines.core.alarm_texts import Kind
from pipelines.flows.replication.lane_alarms import LaneAlarms
from schemas.http_bodies import RunStatus

EVERY_SERVICE = "agent, controller, replicator, warmer"
Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as the documentation's table describes it.

    Attributes:
        name: as it is scraped.
        kind: counter or gauge.
        labels: in the order in which collectors give their values.
        unit: of the value.
        meaning: a sentence; also the HELP line.
        served_by: the services that serve it.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    meaning: str
    served_by: str

    def family(self) -> Family:
        """An empty family, to be filled with samples."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(self.name.removesuffix("_total"), self.meaning, labels=self.labels)


EVENTS = Metric(
    "farside_events_total",
    "counter",
    ("event",),
    "events",
    "Events that the service wrote to its journal since it started, by event name.",
    EVERY_SERVICE,
)
EPOCH = Metric(
    "farside_epoch",
    "gauge",
    ("run",),
    "epoch",
    "Epoch of the run's lease record as this region read it last; 0 before the first reading.",
    "controller",
)
LEASE_VALID = Metric(
    "farside_lease_valid_seconds",
    "gauge",
    ("run",),
    "seconds",
    "Remaining validity of this region's lease on the run; 0 where this region does not hold it.",
    "controller",
)
PROMISE_KEPT = Metric(
    "farside_promise_kept",
    "gauge",
    ("run",),
    "0 or 1",
    "1 while a failover to this region would keep the run's rpo_steps and rto_s; always 1 in the holder.",
    "controller",
)
WITNESS_REQUESTS = Metric(
    "farside_witness_requests_total",
    "counter",
    ("kind",),
    "requests",
    "Requests to the witness since the service started: read, write, claim, note, history, read_group, write_group.",
    "controller",
)
LAG = Metric(
    "farside_lag_steps",
    "gauge",
    ("peer", "run"),
    "steps",
    "Newest step that the peer committed and this region heard of, minus the newest that is visible here.",
    "replicator",
)
ALARMS = Metric(
    "farside_alarms_total",
    "counter",
    ("lane", "peer", "kind"),
    "alarms",
    "Gaps and resets of followed logs that were raised as alarms since the service started.",
    "replicator",
)
ALARMS_OPEN = Metric(
    "farside_alarms_open",
    "gauge",
    ("lane", "peer", "kind"),
    "alarms",
    "Alarms that are neither healed nor acknowledged.",
    "replicator",
)
METRICS = (EVENTS, EPOCH, LEASE_VALID, PROMISE_KEPT, WITNESS_REQUESTS, LAG, ALARMS, ALARMS_OPEN)


class CounterCollector(Collector):
    """Counts as somebody adds, by the values of the metric's labels; any thread may add."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    def add(self, *values: str) -> None:
        """One more with these labels."""
        with self._lock:
            self._counts[values] += 1

    def describe(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        return [self._metric.family()]

    def collect(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        family = self._metric.family()
        with self._lock:
            counts = dict(self._counts)
        for values, count in counts.items():
            family.add_metric(values, count)
        return [family]


class ControllerCollector(Collector):
    """Epoch, lease and promise of every run of a region, by `statuses` at the moment of the scrape."""

    def __init__(self, statuses: Callable[[], Mapping[str, RunStatus]]) -> None:
        self._statuses = statuses

    def describe(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        return [metric.family() for metric in (EPOCH, LEASE_VALID, PROMISE_KEPT)]

    def collect(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        epoch, valid, kept = (metric.family() for metric in (EPOCH, LEASE_VALID, PROMISE_KEPT))
        for run, status in self._statuses().items():
            epoch.add_metric((run,), status.epoch)
            valid.add_metric((run,), status.valid_s)
            kept.add_metric((run,), float(status.promise.kept))
        return [epoch, valid, kept]


class Lane(Protocol):
    """The part of a LaneReplicator that is measured."""

    def lag_steps(self) -> dict[str, int]:
        """By run."""

    @property
    def lane_alarms(self) -> LaneAlarms:
        """The lane's alarms."""


class ReplicatorCollector(Collector):
    """Lag of each peer and run, the greatest of its lanes; and alarms by lane. `lanes` is by `<peer>/<lane>`."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes

    def describe(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        return [metric.family() for metric in (LAG, ALARMS, ALARMS_OPEN)]

    def collect(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector; every kind of alarm is there from the start, to alert on."""
        lag, raised, is_open = (metric.family() for metric in (LAG, ALARMS, ALARMS_OPEN))
        steps_max: dict[tuple[str, str], int] = {}
        for name, flow in self._lanes.items():
            peer, _, lane = name.partition("/")
            for run, steps in flow.lag_steps().items():
                steps_max[peer, run] = max(steps, steps_max.get((peer, run), 0))
            open_now = flow.lane_alarms.open_by_kind()
            for kind in Kind:
                raised.add_metric((lane, peer, kind.value), flow.lane_alarms.raised[kind.value])
                is_open.add_metric((lane, peer, kind.value), open_now[kind.value])
        for labels, steps in steps_max.items():
            lag.add_metric(labels, steps)
        return [lag, raised, is_open]
