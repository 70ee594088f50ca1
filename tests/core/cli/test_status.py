"""`farside status` from the services' answers, also when a region gives none."""

from __future__ import annotations

import dataclasses

import pytest
from rich.console import Console

from pipelines.core.lag import Lag
from schemas.http_bodies import DrillStatus, FindingStatus, HeardStatus, PromiseStatus, SkippedStatus
from services.cli.status import tables
from services.operations.run_status import Answers, Overview, RunOverview, run_of
from tests.bodies import lane_status, run_status

WEST = run_status(
    regions={
        "east": HeardStatus(heard_age_s=None, step=None, waiting_ranks=None, phases=()),
        "west": HeardStatus(heard_age_s=0.1, step=47, waiting_ranks=0, phases=("train",)),
    },
    drill=DrillStatus(warning="never drilled"),
)
LANES = {"east/checkpoints": lane_status(counts={"branch": 4, "dead_letter": 1})}
ANSWERS = {"east": Answers(), "west": Answers(controller={"gpt": WEST}, replicator=LANES)}


def _run(**answers: Answers) -> RunOverview:
    return run_of("gpt", {**ANSWERS, **answers}, {"east": 100.0}, 112.0)


def _shown(run: RunOverview, width: int = 100) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(tables(Overview(runs={"gpt": run})))
    return shown.get()


def test_a_dead_region_is_shown_with_since_when_it_is_not_seen() -> None:
    """The rest is told by the region that lives."""
    run = _run()
    assert (run.primary, run.epoch, run.step, run.valid_s) == ("west", 2, 47, 3.2)
    assert (run.regions["east"].visible, run.regions["east"].not_seen_for_s) == (False, 12.0)
    assert run.regions["west"].lag is None, "a primary follows nobody"
    assert (run.regions["west"].dead_letters, run.regions["west"].branch_events) == (1, 4)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal(width: int) -> None:
    """No figure is cut off at 80 columns."""
    text = _shown(_run(), width)
    assert "…" not in text
    assert "unseen 12 s" in text
    assert "1/4" in text


def test_a_promise_that_could_not_be_kept_now_is_said_and_so_is_a_mode_that_is_not_active() -> None:
    """Before anything happens, in the words of who would have to keep it."""
    broken = PromiseStatus(kept=False, broken=("12 steps would be lost, 10 are promised",))
    east = dataclasses.replace(WEST, is_holder=False, promise=broken)
    paused = dataclasses.replace(WEST, mode="paused")
    text = _shown(_run(east=Answers(controller={"gpt": east}), west=Answers(controller={"gpt": paused})))
    assert "east could not keep the promise now: 12 steps would be lost, 10 are promised" in text
    assert "PAUSED" in text


def test_what_a_region_waits_for_is_shown_with_the_reason() -> None:
    """Also what only its drills or its sight of the others wait for, and what a replicator says."""
    drill = DrillStatus(warning="never drilled", trouble="the store is away")
    view = dataclasses.replace(WEST, troubles={"reachability": "Kafka is away"}, drill=drill)
    lane = dataclasses.replace(LANES["east/checkpoints"], trouble="the link is cut", reachability_trouble="")
    run = _run(west=Answers(controller={"gpt": view}, replicator={"east/checkpoints": lane}))
    assert run.regions["west"].troubles == {
        "reachability": "Kafka is away",
        "drills": "the store is away",
        "replicate east/checkpoints": "the link is cut",
    }
    assert "west: replicate east/checkpoints waits: the link is cut" in _shown(run)


def test_why_a_part_waits_is_said_once_by_its_finding_if_there_is_one() -> None:
    """A lane that stands for its trouble, and a part that is refused; another reason is another line."""
    stands = FindingStatus(
        kind="lane_stands", part="east/checkpoints/*", since_s=31.0, text="it has stood for 31 s: no answer from east"
    )
    refused = FindingStatus(
        kind="part_refused", part="the controller's listen east", since_s=9.0, text="listen east, for 9 s: no answer"
    )
    view = dataclasses.replace(
        WEST, troubles={"listen east": "no answer", "probe": "denied"}, findings=(stands, refused)
    )
    lanes = {
        "east/checkpoints": lane_status(trouble="no answer from east"),
        "east/metrics": lane_status(lane="metrics", trouble="no answer from east"),
    }
    text = _shown(_run(west=Answers(controller={"gpt": view}, replicator=lanes)), 120)
    assert text.count("no answer from east") == 2, "the finding, and the other lane, which no finding names"
    assert "replicate east/metrics waits: no answer from east" in text
    assert "listen east waits" not in text
    assert "probe waits: denied" in text
    lanes["east/checkpoints"] = lane_status(trouble="the ledger is gone")
    again = _shown(_run(west=Answers(controller={"gpt": view}, replicator=lanes)), 120)
    assert "replicate east/checkpoints waits: the ledger is gone" in again


def test_damage_that_cannot_be_repaired_yet_is_shown_with_its_reason() -> None:
    """The run's own, or what holds up the repair of every run."""
    lane = lane_status(repair_troubles={"gpt": "runs/gpt/x cannot be repaired: east: no answer", "other": "no"})
    run = _run(west=Answers(controller={"gpt": WEST}, replicator={"east/checkpoints": lane}))
    assert "west: repair waits: runs/gpt/x cannot be repaired: east: no answer" in _shown(run, 120)
    lane = lane_status(repair_troubles={"*": "the store does not answer", "other": "no"})
    run = _run(west=Answers(controller={"gpt": WEST}, replicator={"east/checkpoints": lane}))
    assert "west: repair waits: the store does not answer" in _shown(run, 120)


def test_the_newest_epoch_speaks_for_the_run() -> None:
    """A zombie that still believes in its own epoch does not change what is shown."""
    zombie = dataclasses.replace(WEST, epoch=1, primary="east", is_holder=True, valid_s=0.0)
    run = _run(east=Answers(controller={"gpt": zombie}))
    assert (run.primary, run.epoch) == ("west", 2)


LAGS = [
    (Lag(20, is_exact=True, age_s=0.4, source="heartbeats"), "20 steps", ""),
    (
        Lag(220, is_exact=False, age_s=25.0, source="lease record"),
        ">= 220",
        "lag >= 220 steps, 25 s ago (lease record)",
    ),
    (Lag(None, why="nothing was heard"), "unknown", "lag unknown: nothing was heard"),
]


@pytest.mark.parametrize(("lag", "cell", "below"), LAGS, ids=[cell for _, cell, _ in LAGS])
def test_I19_the_lag_is_its_controllers_and_says_how_well_it_is_known(lag: Lag, cell: str, below: str) -> None:
    """Exact, a lower bound with its age, or unknown; and what else is wrong stands below, with what was given up."""
    found = FindingStatus(kind="lane_stands", part="east/checkpoints", since_s=31.0, text="it has stood for 31 s")
    skipped = SkippedStatus(region="east", epoch=1, step=30, state="superseded", reason="step 40 is newer", time_ms=0)
    standby = dataclasses.replace(WEST, is_holder=False, primary="east", region="west", lag=lag.status())
    standby = dataclasses.replace(standby, findings=(found,), skipped=(skipped,))
    run = _run(west=Answers(controller={"gpt": standby}, replicator=LANES))
    text = _shown(run, 120)
    assert cell in text
    assert below in text
    assert "west: lane_stands: it has stood for 31 s" in text
    assert "west: step 30 was superseded: step 40 is newer (00:00:00 UTC)" in text
    assert "…" not in _shown(run, 80)
