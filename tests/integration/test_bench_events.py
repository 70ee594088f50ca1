"""`make bench-events` in its small form: it runs to its end, leaves nothing, and its parts are sane."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.events import QUICK, rows_of

pytestmark = [pytest.mark.servers, pytest.mark.alone]
STORIES = {
    "retention overtook unread records",
    "topic made anew while it was stopped",
    "topic made anew while it ran",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of one small run."""
    out = tmp_path_factory.mktemp("bench") / "events.json"
    argv = [sys.executable, "-m", "tests.benchmarks.events", "--quick", "--json", "--out", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=500, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == found
    return found


def test_everything_is_measured_of_both_and_nobody_loses_what_it_copies(report: dict[str, Any]) -> None:
    """Figures that could not be told from none would be none."""
    results = report["results"]
    assert not [name for name, one in results.items() if "unmeasured" in one]
    assert abs(results["loaded"]["value_bytes"] - 300) <= 4
    for who in ("farside", "mirror"):
        copy, latency = results[f"{who}.copy"], results[f"{who}.latency"]
        assert copy["records"] == QUICK.copied
        assert 0 < copy["start_cpu_s"] <= copy["cpu_s"]
        assert 20 < copy["peak_mb"] < 2_000
        assert latency["events"] == QUICK.rate * QUICK.seconds
        assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert results["farside.memory"]["records"] == QUICK.passed
    assert results["farside.scan"]["records"] == QUICK.passed + QUICK.rate * (QUICK.seconds + QUICK.warm_up_s) + 1
    assert all(one["cpu_us_per_event"] > 0 for one in results["farside.publish"].values())
    assert {row.what for row in rows_of(results) if row.goal} == {one["what"] for one in report["goals"]}


def test_I14_farside_tells_of_records_that_retention_or_a_new_topic_took(report: dict[str, Any]) -> None:
    """And skips nothing that is there to be read. What the other one says is written down, whatever it is."""
    ours, theirs = (report["results"][f"{who}.losses"] for who in ("farside", "mirror"))
    assert set(ours) == set(theirs) == STORIES
    assert all(story["noticed"] and story["said"] for story in ours.values()), ours
    assert all(story["missing_though_there"] == 0 and story["twice"] == 0 for story in ours.values()), ours


def test_no_password_is_written_down(report: dict[str, Any]) -> None:
    """The mirror's login stands in a file that goes with the brokers."""
    assert "password" not in json.dumps(report)
