"""Metrics are evaluated at the scrape: nobody asks for /status in these tests, and what is scraped is the present."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pipelines.core.alarm_texts import OF_RUN
from pipelines.core.failover_decision import policy_of
from pipelines.core.lag import Lag
from pipelines.core.lease_profiles import FAST
from schemas.http_bodies import FindingStatus
from services.adapters.signer import Ed25519Signer
from services.adapters.system_clock import SystemClock
from services.http.server import HttpServer, Turns
from services.runtime.journal import ServiceJournal
from services.runtime.metrics import (
    EVENTS,
    METRICS,
    WITNESS_REQUESTS,
    ControllerCollector,
    CounterCollector,
    ReplicatorCollector,
)
from tests.bodies import run_status
from tests.callers import headers_as, listening
from tests.core.replication.test_lane_replicator import _World
from tests.manual_clock import ManualClock
from tests.manual_world import world_with_step_10

ROOT = Path(__file__).resolve().parents[3]
Samples = dict[tuple[str, tuple[str, ...]], float]


def _status_was_asked() -> object:
    raise AssertionError("/status was asked for")


@contextmanager
def _served(registry: CollectorRegistry) -> Iterator[Callable[[], Samples]]:
    """A service's server; yields its scrape: samples by name and label values."""
    kept = TemporaryDirectory()
    listen = listening(Path(kept.name))
    server = HttpServer(listen=listen, turns=Turns(SystemClock()), registry=registry, status=_status_was_asked)

    def scrape() -> Samples:
        asked = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics", headers=headers_as("viewer"))
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310 - loopback
            families = text_string_to_metric_families(answer.read().decode())
            return {
                (sample.name, tuple(sample.labels.values())): sample.value for one in families for sample in one.samples
            }

    server.start()
    try:
        yield scrape
    finally:
        server.close()
        kept.cleanup()


def test_a_scrape_alone_shows_epoch_lease_and_promise_of_the_moment(signer: Ed25519Signer) -> None:
    """East's lease runs down between two scrapes; when west has taken over, both regions' next scrape says so."""
    world = world_with_step_10(signer, policy_of(FAST, rto_s=10.0))
    controls = {"east": world.east.control, "west": world.west.control}
    registry = CollectorRegistry()
    registry.register(ControllerCollector(lambda: {name: one.status() for name, one in controls.items()}))
    with _served(registry) as scrape:

        def scraped(name: str) -> tuple[float, float]:
            samples = scrape()
            return samples[f"farside_{name}", ("east",)], samples[f"farside_{name}", ("west",)]

        assert scraped("epoch") == (1, 1)
        assert scraped("promise_kept") == (1, 0), "no pool in west has said that it is ready"
        valid_s, of_standby_s = scraped("lease_valid_seconds")
        assert valid_s > 1
        assert of_standby_s == 0
        world.clock.now_s += 0.5
        assert scraped("lease_valid_seconds")[0] == pytest.approx(valid_s - 0.5)
        world.east.witness.away, world.link = True, False
        world.until(lambda: controls["west"].status().is_holder, "west takes over")
        assert scraped("epoch") == (1, 2), "east cannot know yet"
        assert scraped("promise_kept") == (1, 1), "a holder promises nothing"
        lost_s, won_s = scraped("lease_valid_seconds")
        assert lost_s == 0
        assert won_s > 1


def test_I19_a_scrape_alone_shows_the_lag_and_how_well_it_is_known() -> None:
    """The controller's figure: exact, a bound, or no number at all; the primary has none."""
    lags = {
        "exact": Lag(20, is_exact=True, age_s=0.5, source="heartbeats"),
        "bound": Lag(220, is_exact=False, age_s=25.0, source="lease record"),
        "unknown": Lag(None, why="nothing was heard"),
    }
    statuses = {name: run_status(run=name, lag=lag.status()) for name, lag in lags.items()}
    found = FindingStatus(kind="lag_exceeded", part="lag", since_s=None, text="220 steps")
    statuses |= {"primary": run_status(run="primary"), "bound": replace(statuses["bound"], findings=(found,))}
    registry = CollectorRegistry()
    registry.register(ControllerCollector(lambda: statuses))
    with _served(registry) as scrape:
        samples = scrape()

        def scraped(name: str, run: str) -> float:
            return samples[f"farside_{name}", (run,)]

        assert (scraped("lag_steps", "exact"), scraped("lag_exact", "exact")) == (20, 1)
        assert (scraped("lag_steps", "bound"), scraped("lag_exact", "bound")) == (220, 0)
        assert scraped("lag_age_seconds", "bound") == 25
        assert math.isnan(scraped("lag_steps", "unknown"))
        assert ("farside_lag_steps", ("primary",)) not in samples
        findings = {labels for name, labels in samples if name == "farside_findings" and labels[-1] == "bound"}
        assert len(findings) == len(OF_RUN)
        assert samples["farside_findings", ("lag_exceeded", "bound")] == 1
        assert samples["farside_findings", ("lane_stands", "bound")] == 0


def test_I19_a_scrape_alone_shows_the_backlog_of_a_lane_and_that_it_stands(signer: Ed25519Signer) -> None:
    """A copy of which no byte moves; a lane whose source does not answer has no number."""
    world, clock = _World(signer, per_turn=0), ManualClock(100.0)
    flow = world.replicator(clock=clock)
    registry = CollectorRegistry()
    registry.register(ReplicatorCollector({"east/checkpoints": flow}))
    backlog, stands = (
        (f"farside_lane_{name}", ("checkpoints", "east")) for name in ("backlog_records", "standing_seconds")
    )
    with _served(registry) as scrape:
        assert math.isnan(scrape()[backlog]), "it has not been read yet"
        world.commit(10, 1)
        for _ in range(300):
            flow.turn()
            clock.now_s += 0.1
        assert scrape()[backlog] == 1
        assert scrape()[stands] >= 20


def test_a_scrape_alone_shows_what_the_journal_counted(tmp_path: Path) -> None:
    """Each event name is a label; the count is there as soon as the event is."""
    registry = CollectorRegistry()
    journal = ServiceJournal(service="agent", region="east", folder=tmp_path, clock=SystemClock(), registry=registry)
    with _served(registry) as scrape:
        assert scrape() == {}
        journal.say("publish.behind", records=3)
        assert scrape() == {("farside_events_total", ("publish.behind",)): 1}
        journal.say("publish.behind", records=2)
        journal.say("publish.caught_up")
        counts = scrape()
        assert counts["farside_events_total", ("publish.behind",)] == 2
        assert counts["farside_events_total", ("publish.caught_up",)] == 1


def test_the_documented_table_is_what_the_collectors_describe() -> None:
    """Name, type, labels, unit, meaning and service of every metric, in docs/metrics.md and nowhere else in words."""
    lines = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| `")]
    assert rows == [
        (f"`{one.name}`", one.kind, ", ".join(one.labels), one.unit, one.meaning, one.served_by) for one in METRICS
    ]
    counters = (CounterCollector(EVENTS), CounterCollector(WITNESS_REQUESTS))
    described = {
        (family.name, family.type, family.documentation, tuple(family._labelnames))
        for collector in (*counters, ControllerCollector(dict), ReplicatorCollector({}))
        for family in collector.describe()
    }
    assert described == {(one.name.removesuffix("_total"), one.kind, one.meaning, one.labels) for one in METRICS}
