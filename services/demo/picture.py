"""`loss.png`: both runs' loss, with the loss of the region marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

Losses = list[dict[str, Any]]


def draw(
    path: Path,
    *,
    primary: Losses,
    standby: Losses,
    control: Losses,
    killed_at: int,
    resumed_from: int,
    again: Losses | None = None,
) -> None:
    """Draw the uninterrupted run, and on it the parts that each region trained; `again`: east's after a failback."""
    figure, axes = plt.subplots(figsize=(10, 5), dpi=120)
    _line(axes, control, "control run, never interrupted", color="0.75", linewidth=6)
    _line(axes, primary, "region east, epoch 1", color="tab:blue")
    _line(axes, standby, "region west, epoch 2", color="tab:orange")
    if again is not None:
        _line(axes, again, "region east again, epoch 3", color="tab:green")
    axes.axvline(killed_at, color="tab:red", linestyle="--", label=f"region east lost at step {killed_at}")
    axes.axvline(resumed_from, color="0.4", linestyle=":", label=f"resumed from step {resumed_from}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss (nats per byte)")
    axes.set_title("A region is lost under training, and the run goes on bit for bit")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _line(axes: Any, losses: Losses, label: str, **style: Any) -> None:  # noqa: ANN401 - matplotlib's own
    axes.plot([row["step"] for row in losses], [row["loss"] for row in losses], label=label, **style)
