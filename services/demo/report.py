"""Reports on a finished story: `report.json`, `timeline.jsonl`, the picture and the table."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from infra.local.tools import KAFKA_VERSION
from services.demo import figures, picture
from services.demo.story import EAST, WEST, Story

_WHEN = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) INFO resumed step=(\d+)", re.MULTILINE)


def write(story: Story, folder: Path) -> dict[str, Any]:
    """Write all files of the report into a folder, and return the report."""
    report = make(story, story.timeline())
    keep(story, folder, report)
    picture.draw(
        folder / "loss.png",
        primary=story.losses(EAST),
        standby=story.losses(WEST),
        control=story.losses("control"),
        killed_at=report["killed_at_step"],
        resumed_from=report["resumed_from_step"],
    )
    return report


def keep(story: Story, folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json`, and `timeline.jsonl`: a JSON line for each event and decision, ordered by time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    entries = sorted([*story.timeline(), *story.all_events], key=lambda entry: int(entry["time_ms"]))
    lines = "".join(json.dumps(entry, default=str) + "\n" for entry in entries)
    (folder / "timeline.jsonl").write_text(lines, encoding="utf-8")


def make(story: Story, timeline: list[dict[str, Any]]) -> dict[str, Any]:
    """The report: every figure of the story, as plain JSON values."""
    facts = story.facts
    promoted = _promotion(timeline)
    parts = recovery_s(story, timeline)
    before = [entry for entry in timeline if entry["event"] == "lease.written" and entry["at"] == EAST][-1]
    sizes = [entry["size_bytes"] for entry in timeline if entry["event"] == "replicate.copied"]
    return {
        "seed": story.seed,
        "steps": story.steps,
        "killed_at_step": facts.killed_at_step,
        "recoverable_step_at_loss": facts.recoverable_at_loss,
        "resumed_from_step": promoted["fork_step"],
        "rpo_steps": facts.killed_at_step - promoted["fork_step"],
        "rto_s": round(sum(parts.values()), 3),
        "rto_parts_s": parts,
        "rto_predicted_s": facts.predicted_rto_s,
        "diagnosis": promoted["diagnosis"],
        "gates": promoted["gates"],
        "epoch_before": before["epoch"],
        "epoch_after": promoted["epoch"],
        "events": story.events.plain(),
        "link_bytes": facts.link_bytes,
        "checkpoint_bytes": max(sizes, default=0),
        **compared(story, WEST),
        "zombie_set_aside": facts.zombie_set_aside,
        "holders_overlap_s": round(figures.overlap_s(timeline), 3),
        "warm_ready_before_loss": facts.warm_before_loss,
        "versions": versions(),
    }


def _promotion(timeline: list[dict[str, Any]]) -> dict[str, Any]:
    promoted = figures.first_of(timeline, "failover.promoted", at=WEST)
    if promoted is None:
        raise RuntimeError("the timeline has no promotion: there is nothing to report")
    return promoted


def recovery_s(story: Story, timeline: list[dict[str, Any]]) -> dict[str, float]:
    """The recovery time by part, in seconds, from the last heartbeat to west's first new step."""
    promoted = _promotion(timeline)
    silences = [entry for entry in timeline if entry["event"] == "failover.silent" and entry["at"] == WEST]
    silent = [entry for entry in silences if entry["time_ms"] <= promoted["time_ms"]][-1]
    last_beat_ms = silent["time_ms"] - 1000 * silent["silence_s"]
    resumed_ms = _resumed_ms(story.folder / "logs" / "trainer-west.log")
    first_ms = story.losses(WEST)[0]["time_ms"]
    parts = {
        "detect": silent["time_ms"] - last_beat_ms,
        "fence": promoted["time_ms"] - silent["time_ms"],
        "restore": resumed_ms - promoted["time_ms"],
        "first_step": first_ms - resumed_ms,
    }
    return {name: round(ms / 1000, 3) for name, ms in parts.items()}


def compared(story: Story, last: str) -> dict[str, object]:
    """The final parameters of the trainer that ended the run, beside those of the run that was never interrupted."""
    final, control = ((story.final(name) or {}).get("digest") for name in (last, "control"))
    return {"final_digest": final, "control_digest": control, "bit_identical": final is not None and final == control}


def passed(report: dict[str, Any]) -> bool:
    """Whether the loss is bit-identical, no event is lost, late writes were set aside, and no two held the lease."""
    return bool(
        report["bit_identical"]
        and report["events"]["lost"] == 0
        and report["zombie_set_aside"]
        and report["holders_overlap_s"] == 0
    )


def table(report: dict[str, Any]) -> Table:
    """The report as a table for people."""
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report["rto_parts_s"].items())
    predicted = report["rto_predicted_s"]
    events = report["events"]
    lost_at, overlap = report["killed_at_step"], report["holders_overlap_s"]
    rows = {
        "RPO": f"{report['rpo_steps']} steps (lost at {lost_at}, resumed from {report['resumed_from_step']})",
        "RTO": f"{report['rto_s']:.2f} s ({parts})",
        "RTO predicted": "-" if predicted is None else f"{predicted:.2f} s",
        "diagnosis": report["diagnosis"],
        "gates": "\n".join(report["gates"]),
        "events": ", ".join(f"{count} {name}" for name, count in events.items()),
        "over the link": f"{report['link_bytes'] / 1e6:.0f} MB; one checkpoint {report['checkpoint_bytes'] / 1e6:.1f}",
        "epochs": f"{report['epoch_before']} -> {report['epoch_after']}, held twice for {overlap} s",
        "bit-identical": "yes" if report["bit_identical"] else "NO",
        "zombie set aside": "yes" if report["zombie_set_aside"] else "NO",
    }
    shown = Table("figure", "value", title="Region east was lost")
    for name, text in rows.items():
        shown.add_row(name, text)
    return shown


def versions() -> dict[str, str]:
    """The machine and the versions that the story ran on."""
    names = ("torch", "kafka-python", "boto3", "fastavro", "farside-server")
    return {
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        **{name: importlib.metadata.version(name) for name in names},
    }


def _resumed_ms(log: Path) -> float:
    """When west's first rank had its state: the trainer's own log line."""
    line = _WHEN.search(log.read_text(encoding="utf-8", errors="replace"))
    if line is None:
        raise RuntimeError(f"{log} does not say when the state was loaded")
    return datetime.strptime(line[1], "%Y-%m-%d %H:%M:%S").astimezone().timestamp() * 1000 + int(line[2])
