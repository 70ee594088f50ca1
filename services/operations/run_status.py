"""The status of every run, gathered from what each region's services answer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pipelines.paths import EVERY_RUN
from services.http.client import ask
from services.settings import Settings


def gather(settings: Settings, seen: dict[str, float]) -> dict[str, Any]:
    """Everything that the services say of every run; `seen` remembers when each region answered last."""
    answers = {name: ask(region.ports.controller, "/status") for name, region in settings.regions.items()}
    lags = {name: ask(region.ports.replicator, "/status") for name, region in settings.regions.items()}
    warm = {name: ask(region.ports.warmer, "/status") for name, region in settings.regions.items()}
    now_s = time.time()  # noqa: TID251 - for people: since when a region is not seen
    for name, answer in answers.items():
        if answer is not None:
            seen[name] = now_s
    _keep(settings, seen)
    runs = {run: run_of(run, answers, lags, warm, seen, now_s) for run in settings.runs}
    return {"runs": runs}


def run_of(
    run: str,
    answers: dict[str, dict[str, Any] | None],
    lags: dict[str, dict[str, Any] | None],
    warm: dict[str, dict[str, Any] | None],
    seen: dict[str, float],
    now_s: float,
) -> dict[str, Any]:
    """One run, from what each region's services answered; the newest epoch speaks."""
    views = {name: answer[run] for name, answer in answers.items() if answer is not None and run in answer}
    best = max(views.values(), key=lambda one: (one["epoch"], one["is_holder"]), default=None)
    regions = {}
    for name in answers:
        view = views.get(name)
        flows = list((lags[name] or {}).values())
        leads = best is not None and best["primary"] == name  # it follows nobody; the other's branch is not its lag
        regions[name] = {
            "visible": view is not None,
            "not_seen_for_s": None if view is not None or name not in seen else round(now_s - seen[name], 1),
            "recoverable_step": None if view is None else view["recoverable_step"],
            "lag_steps": None if leads else max((flow["lag_steps"].get(run, 0) for flow in flows), default=None),
            "dead_letters": sum(flow["counts"].get("dead_letter", 0) for flow in flows),
            "branch_events": sum(flow["counts"].get("branch", 0) for flow in flows),
            "action": None if view is None else view["action"],
            "reason": None if view is None else view["reason"],
            "standby": warm[name],
            "copies": [copy for flow in flows for copy in flow["copies"] if copy["run"] == run],
            "drill_warning": "" if view is None or leads else view["drill"]["warning"],
            "promise_broken": [] if view is None else view["promise"]["broken"],
            "troubles": _troubles(view, lags[name] or {}),
            "alarms": _alarms(run, flows),
        }
    holder = best if best is not None and best["is_holder"] else None
    steps = [] if best is None else [one["step"] for one in best["regions"].values() if one["step"] is not None]
    return {
        "primary": None if best is None else best["primary"],
        "epoch": None if best is None else best["epoch"],
        "attempt": None if best is None else best["attempt"],
        "step": max(steps, default=None),
        "committed_step": None if best is None else best["committed_step"],
        "mode": None if best is None else best["mode"],
        "fencing": None if best is None else best.get("fencing"),
        "valid_s": None if holder is None else round(holder["valid_s"], 2),
        "regions": regions,
    }


def _troubles(view: dict[str, Any] | None, flows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What a region's controller and replicator wait for, and why, by part; an older service may not say."""
    found: dict[str, str] = {} if view is None else dict(view["troubles"])
    found["drills"] = "" if view is None else view["drill"].get("trouble", "")
    for name, flow in flows.items():
        found[f"replicate {name}"] = flow.get("trouble", "")
        found["replicator's reachability"] = flow.get("reachability_trouble", "")
    return {part: why for part, why in found.items() if why}


def _alarms(run: str, flows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The open alarms of a region that concern a run, newest first; an older replicator says nothing of them."""
    found = [one for flow in flows for one in flow.get("alarms", {}).get("newest", ())]
    return sorted((one for one in found if one["run"] in {run, EVERY_RUN}), key=lambda one: -one["time_ms"])


def _seen_file(settings: Settings) -> Path:
    return settings.state_dir / "seen.json"


def seen_before(settings: Settings) -> dict[str, float]:
    """When each region answered last, as the command before this one knew it (seconds since the Unix epoch)."""
    try:
        found: dict[str, float] = json.loads(_seen_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _keep(settings: Settings, seen: dict[str, float]) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    _seen_file(settings).write_text(json.dumps(seen), encoding="utf-8")
