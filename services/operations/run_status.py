"""The status of every run, gathered from the answers of each region's controller, replicator and warmer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipelines.paths import EVERY_RUN
from schemas.http_bodies import (
    AlarmStatus,
    ControllerStatus,
    CopyStatus,
    FindingStatus,
    LagStatus,
    ReplicatorStatus,
    RunStatus,
    SkippedStatus,
    WarmerStatus,
)
from services.http.endpoints import UnexpectedAnswerError, controller_of, replicator_of, warmer_of
from services.settings import Settings

T = TypeVar("T")
LANE_PART = "replicate "  # the name of a lane as a part that waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of one region's services; None: a service does not answer.

    Attributes:
        unexpected: a line for each service that answers something else, which counts as no answer.
    """

    controller: ControllerStatus | None = None
    replicator: ReplicatorStatus | None = None
    warmer: WarmerStatus | None = None
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionOverview:
    """One region's part in a run."""

    visible: bool  # its controller answers and serves the run
    not_seen_for_s: float | None
    recoverable_step: int | None
    lag: LagStatus | None  # None: the primary, which follows nobody; or its controller does not say
    dead_letters: int
    branch_events: int
    action: str | None
    reason: str | None
    standby: WarmerStatus | None
    copies: tuple[CopyStatus, ...]
    drill_warning: str
    promise_broken: tuple[str, ...]
    troubles: dict[str, str]  # why a part waits, by part
    findings: tuple[FindingStatus, ...]  # everything that its controller finds wrong
    skipped: tuple[SkippedStatus, ...]  # the newest checkpoints that were given up, oldest first
    alarms: tuple[AlarmStatus, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOverview:
    """One run, as the newest epoch that any controller knows tells it."""

    primary: str | None
    epoch: int | None
    attempt: int | None
    step: int | None
    committed_step: int | None
    mode: str | None
    fencing: str | None
    valid_s: float | None
    regions: dict[str, RegionOverview]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Every run of the settings."""

    runs: dict[str, RunOverview]


def gather(settings: Settings, seen: dict[str, float]) -> Overview:
    """Ask every service of every region; `seen` remembers when each region's controller answered last."""
    answers = {region: answers_of(settings, region) for region in settings.regions}
    now_s = time.time()  # noqa: TID251 - for people: since when a region is not seen
    for region, answer in answers.items():
        if answer.controller is not None:
            seen[region] = now_s
    _keep(settings, seen)
    return Overview(runs={run: run_of(run, answers, seen, now_s) for run in settings.runs})


def answers_of(settings: Settings, region: str) -> Answers:
    """The answers of one region; a service that answers something else never hides the others."""
    unexpected: list[str] = []

    def readable(status: Callable[[], T | None]) -> T | None:
        try:
            return status()
        except UnexpectedAnswerError as error:
            unexpected.append(str(error))
            return None

    return Answers(
        controller=readable(controller_of(settings, region).status),
        replicator=readable(replicator_of(settings, region).status),
        warmer=readable(warmer_of(settings, region).status),
        unexpected=tuple(unexpected),
    )


def run_of(run: str, answers: Mapping[str, Answers], seen: Mapping[str, float], now_s: float) -> RunOverview:
    """One run, from the answers of each region; the newest epoch speaks.

    Args:
        run: its name.
        answers: by region.
        seen: when each region's controller answered last, in seconds since the Unix epoch.
        now_s: on the same clock.
    """
    views = {
        region: answer.controller[run]
        for region, answer in answers.items()
        if answer.controller is not None and run in answer.controller
    }
    best = max(views.values(), key=lambda view: (view.epoch, view.is_holder), default=None)
    regions = {}
    for region, answer in answers.items():
        since_s = None if region in views or region not in seen else round(now_s - seen[region], 1)
        leads = best is not None and best.primary == region
        regions[region] = _region_of(run, answer, views.get(region), since_s, leads=leads)
    steps = [] if best is None else [heard.step for heard in best.regions.values() if heard.step is not None]
    return RunOverview(
        primary=None if best is None else best.primary,
        epoch=None if best is None else best.epoch,
        attempt=None if best is None else best.attempt,
        step=max(steps, default=None),
        committed_step=None if best is None else best.committed_step,
        mode=None if best is None else best.mode,
        fencing=None if best is None else best.fencing,
        valid_s=round(best.valid_s, 2) if best is not None and best.is_holder else None,
        regions=regions,
    )


def _region_of(
    run: str, answer: Answers, view: RunStatus | None, not_seen_for_s: float | None, *, leads: bool
) -> RegionOverview:
    """One region; its controller says how far behind it is."""
    lanes = list((answer.replicator or {}).values())
    return RegionOverview(
        visible=view is not None,
        not_seen_for_s=not_seen_for_s,
        recoverable_step=None if view is None else view.recoverable_step,
        lag=None if view is None or leads else view.lag,
        dead_letters=sum(lane.counts.get("dead_letter", 0) for lane in lanes),
        branch_events=sum(lane.counts.get("branch", 0) for lane in lanes),
        action=None if view is None else view.action,
        reason=None if view is None else view.reason,
        standby=answer.warmer,
        copies=tuple(copy for lane in lanes for copy in lane.copies if copy.run == run),
        drill_warning="" if view is None or leads else view.drill.warning,
        promise_broken=() if view is None else view.promise.broken,
        troubles=_troubles(run, view, answer.replicator or {}),
        findings=() if view is None else view.findings,
        skipped=() if view is None else view.skipped,
        alarms=_alarms(run, answer.replicator or {}),
        unexpected=answer.unexpected,
    )


def _troubles(run: str, view: RunStatus | None, lanes: ReplicatorStatus) -> dict[str, str]:
    """The parts of a region's controller and replicator that wait, each with the reason."""
    troubles: dict[str, str] = {} if view is None else dict(view.troubles)
    troubles["drills"] = "" if view is None else view.drill.trouble
    for name, lane in lanes.items():
        troubles[f"{LANE_PART}{name}"] = lane.trouble
        troubles["replicator's reachability"] = lane.reachability_trouble
        troubles["repair"] = lane.repair_troubles.get(run) or lane.repair_troubles.get(EVERY_RUN, "")
    return {part: why for part, why in troubles.items() if why}


def _alarms(run: str, lanes: ReplicatorStatus) -> tuple[AlarmStatus, ...]:
    """The open alarms of a region that concern a run, newest first."""
    alarms = [alarm for lane in lanes.values() for alarm in lane.alarms.newest if alarm.run in {run, EVERY_RUN}]
    return tuple(sorted(alarms, key=lambda alarm: -alarm.time_ms))


def _seen_file(settings: Settings) -> Path:
    return settings.state_dir / "seen.json"


def seen_before(settings: Settings) -> dict[str, float]:
    """When each region answered last, as the command before this one knew it (seconds since the Unix epoch)."""
    try:
        seen: dict[str, float] = json.loads(_seen_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return seen


def _keep(settings: Settings, seen: dict[str, float]) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    _seen_file(settings).write_text(json.dumps(seen), encoding="utf-8")
