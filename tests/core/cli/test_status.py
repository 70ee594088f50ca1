"""What `farside status` makes of the services' answers, also when a region gives none."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from services.cli.status import tables
from services.operations.run_status import run_of

WEST: dict[str, Any] = {
    "epoch": 2,
    "attempt": 1,
    "primary": "west",
    "is_holder": True,
    "valid_s": 3.2,
    "committed_step": 40,
    "recoverable_step": 40,
    "action": "wait",
    "reason": "holding",
    "regions": {"east": {"step": None}, "west": {"step": 47}},
    "troubles": {},
    "mode": "active",
    "drill": {"age_days": None, "measured_rto_s": None, "warning": "never drilled"},
    "promise": {"kept": True, "broken": []},
}
FLOWS: dict[str, Any] = {
    "east/checkpoints": {"lag_steps": {"gpt": 10}, "counts": {"branch": 4, "dead_letter": 1}, "copies": []}
}


QUIET: Any = ({"east": None, "west": None}, {"east": None, "west": None}, {}, 112.0)


def _found(east: dict[str, Any] | None) -> dict[str, Any]:
    answers = {"east": east, "west": {"gpt": WEST}}
    lags = {"east": None, "west": FLOWS}
    return run_of("gpt", answers, lags, {"east": None, "west": None}, {"east": 100.0}, 112.0)


def test_a_dead_region_is_shown_with_since_when_it_is_not_seen() -> None:
    """The rest is told by the region that lives."""
    found = _found(None)
    assert (found["primary"], found["epoch"], found["step"], found["valid_s"]) == ("west", 2, 47, 3.2)
    assert (found["regions"]["east"]["visible"], found["regions"]["east"]["not_seen_for_s"]) == (False, 12.0)
    assert found["regions"]["west"]["lag_steps"] is None, "a primary follows nobody"
    assert (found["regions"]["west"]["dead_letters"], found["regions"]["west"]["branch_events"]) == (1, 4)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal(width: int) -> None:
    """No figure is cut off at 80 columns."""
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(tables({"runs": {"gpt": _found(None)}}))
    text = shown.get()
    assert "…" not in text
    assert "unseen 12 s" in text
    assert "1/4" in text


def test_a_promise_that_could_not_be_kept_now_is_said_and_so_is_a_mode_that_is_not_active() -> None:
    """Before anything happens, in the words of who would have to keep it."""
    broken = {"kept": False, "broken": ["12 steps would be lost, 10 are promised"]}
    east = {**WEST, "is_holder": False, "promise": broken}
    console = Console(width=100, record=True, file=None, force_terminal=False)
    found = run_of("gpt", {"east": {"gpt": east}, "west": {"gpt": {**WEST, "mode": "paused"}}}, *QUIET)
    with console.capture() as shown:
        console.print(tables({"runs": {"gpt": found}}))
    assert "east could not keep the promise now: 12 steps would be lost, 10 are promised" in shown.get()
    assert "PAUSED" in shown.get()


def test_what_a_region_waits_for_is_shown_with_the_reason() -> None:
    """Also what only its drills or its sight of the others wait for, and what a replicator says."""
    view = {
        **WEST,
        "troubles": {"reachability": "Kafka is away"},
        "drill": {**WEST["drill"], "trouble": "the store is away"},
    }
    flow = {**FLOWS["east/checkpoints"], "trouble": "the link is cut", "reachability_trouble": ""}
    lags = {"east": None, "west": {"east/checkpoints": flow}}
    found = run_of("gpt", {"east": None, "west": {"gpt": view}}, lags, {"east": None, "west": None}, {}, 112.0)
    assert found["regions"]["west"]["troubles"] == {
        "reachability": "Kafka is away",
        "drills": "the store is away",
        "replicate east/checkpoints": "the link is cut",
    }
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(tables({"runs": {"gpt": found}}))
    assert "west: replicate east/checkpoints waits: the link is cut" in shown.get()


def test_the_newest_epoch_speaks_for_the_run() -> None:
    """A zombie that still believes in its own epoch does not change what is shown."""
    zombie = {**WEST, "epoch": 1, "primary": "east", "is_holder": True, "valid_s": 0.0}
    found = _found({"gpt": zombie})
    assert (found["primary"], found["epoch"]) == ("west", 2)
