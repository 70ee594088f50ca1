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

from pipelines.core.alarm_texts import OF_RUN, Kind
from pipelines.flows.replication.lane_alarms import LaneAlarms
from schemas.http_bodies import LaneStatus, RunStatus

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
    "Requests to the witness since the start: read, write, claim, claimed, note, history, read_group, write_group.",
    "controller",
)
LAG = Metric(
    "farside_lag_steps",
    "gauge",
    ("run",),
    "steps",
    "Newest step that the primary committed minus this region's recoverable step; at least so many unless "
    "farside_lag_exact is 1, NaN while it is unknown. Not served by the primary.",
    "controller",
)
LAG_EXACT = Metric(
    "farside_lag_exact",
    "gauge",
    ("run",),
    "0 or 1",
    "1 while the primary's committed step was heard just now, so that farside_lag_steps is no lower bound.",
    "controller",
)
LAG_AGE = Metric(
    "farside_lag_age_seconds",
    "gauge",
    ("run",),
    "seconds",
    "Time since farside_lag_steps was true; NaN while nothing was heard.",
    "controller",
)
FINDINGS = Metric(
    "farside_findings",
    "gauge",
    ("run", "kind"),
    "findings",
    "Things that are wrong with the run in this region, as farside explain lists them; 0 where nothing of a kind is.",
    "controller",
)
BACKLOG = Metric(
    "farside_lane_backlog_records",
    "gauge",
    ("lane", "peer"),
    "records",
    "Records of the peer's lane that are not settled here, at most; NaN while the peer does not say.",
    "replicator",
)
STANDING = Metric(
    "farside_lane_standing_seconds",
    "gauge",
    ("lane", "peer"),
    "seconds",
    "For how long a run of the lane, or all of it, has stood below the end of its source; 0 while all moves.",
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
METRICS = (
    EVENTS,
    EPOCH,
    LEASE_VALID,
    PROMISE_KEPT,
    WITNESS_REQUESTS,
    LAG,
    LAG_EXACT,
    LAG_AGE,
    FINDINGS,
    BACKLOG,
    STANDING,
    ALARMS,
    ALARMS_OPEN,
)
UNKNOWN = float("nan")


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
    """The controller's status of every run of a region, by `statuses` at the moment of the scrape."""

    METRICS = (EPOCH, LEASE_VALID, PROMISE_KEPT, LAG, LAG_EXACT, LAG_AGE, FINDINGS)

    def __init__(self, statuses: Callable[[], Mapping[str, RunStatus]]) -> None:
        self._statuses = statuses

    def describe(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        return [metric.family() for metric in self.METRICS]

    def collect(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector; every kind of finding is there from the start, to alert on."""
        families = {metric: metric.family() for metric in self.METRICS}
        for run, status in self._statuses().items():
            families[EPOCH].add_metric((run,), status.epoch)
            families[LEASE_VALID].add_metric((run,), status.valid_s)
            families[PROMISE_KEPT].add_metric((run,), float(status.promise.kept))
            if status.lag is not None:
                families[LAG].add_metric((run,), UNKNOWN if status.lag.steps is None else status.lag.steps)
                families[LAG_EXACT].add_metric((run,), float(status.lag.is_exact))
                families[LAG_AGE].add_metric((run,), UNKNOWN if status.lag.age_s is None else status.lag.age_s)
            found = Counter(finding.kind for finding in status.findings)
            for kind in sorted(OF_RUN, key=lambda kind: kind.value):
                families[FINDINGS].add_metric((run, kind.value), found[kind.value])
        return list(families.values())


class Lane(Protocol):
    """The part of a LaneReplicator that is measured."""

    def status(self) -> LaneStatus:
        """The lane's backlog, and whether it stands."""

    @property
    def lane_alarms(self) -> LaneAlarms:
        """The lane's alarms."""


class ReplicatorCollector(Collector):
    """Backlog, standing and alarms of each lane. `lanes` is by `<peer>/<lane>`."""

    METRICS = (BACKLOG, STANDING, ALARMS, ALARMS_OPEN)

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes

    def describe(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector."""
        return [metric.family() for metric in self.METRICS]

    def collect(self) -> Iterable[Family]:
        """Implements prometheus_client's Collector; every kind of alarm is there from the start, to alert on."""
        backlog, stands, raised, is_open = (metric.family() for metric in self.METRICS)
        for name, flow in self._lanes.items():
            peer, _, lane = name.partition("/")
            status = flow.status()
            backlog.add_metric((lane, peer), UNKNOWN if status.backlog is None else status.backlog)
            stands.add_metric((lane, peer), max((one.since_s for one in status.standing), default=0.0))
            open_now = flow.lane_alarms.open_by_kind()
            for kind in (kind for kind in Kind if kind not in OF_RUN):
                raised.add_metric((lane, peer, kind.value), flow.lane_alarms.raised[kind.value])
                is_open.add_metric((lane, peer, kind.value), open_now[kind.value])
        return [backlog, stands, raised, is_open]
