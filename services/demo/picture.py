"""`loss.png`: both runs' loss, with the loss of the region marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

Losses = list[dict[str, Any]]


def draw(path: Path, *, primary: Losses, standby: Losses, control: Losses, killed_at: int, resumed_from: int) -> None:
    """Draw the control run below, and the two regions' parts of the run on it."""
    figure, axes = plt.subplots(figsize=(10, 5), dpi=120)
    steps = {name: [one["step"] for one in found] for name, found in _named(primary, standby, control).items()}
    values = {name: [one["loss"] for one in found] for name, found in _named(primary, standby, control).items()}
    axes.plot(steps["control"], values["control"], color="0.75", linewidth=6, label="control run, never interrupted")
    axes.plot(steps["primary"], values["primary"], color="tab:blue", label="region east, epoch 1")
    axes.plot(steps["standby"], values["standby"], color="tab:orange", label="region west, epoch 2")
    axes.axvline(killed_at, color="tab:red", linestyle="--", label=f"region east lost at step {killed_at}")
    axes.axvline(resumed_from, color="0.4", linestyle=":", label=f"resumed from step {resumed_from}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss (nats per byte)")
    axes.set_title("A region is lost under training, and the run goes on bit for bit")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _named(primary: Losses, standby: Losses, control: Losses) -> dict[str, Losses]:
    return {"primary": primary, "standby": standby, "control": control}
