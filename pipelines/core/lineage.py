"""Which events and manifests count: the rule of lineage (design 6.1, I5).

An epoch is closed by the fork of the epoch that was won over it. What a region wrote under epoch `e` counts if `e`
is the newest epoch, or if its step is at or before the fork that closed `e` on the path from the newest epoch back to
the first. The rule needs no order of arrival: it is a function of the chain and of (epoch, step) alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from schemas.records import EpochEntry


@dataclass(frozen=True, slots=True)
class LineageView:
    """The chain of epochs as this region knows it.

    Attributes:
        epoch: the newest.
        forks: (epoch, parent, fork step) for each, oldest first.
        holders: (epoch, region that won it) for each of which that is known; nothing of any other epoch counts.
    """

    epoch: int
    forks: tuple[tuple[int, int, int], ...]
    holders: tuple[tuple[int, str], ...] = ()


class Standing(enum.Enum):
    """Whether an event or manifest counts, by its place in the lineage."""

    CURRENT = "current"
    BRANCH = "branch"  # past the fork that closed its epoch, or of an epoch that is not on the path
    UNKNOWN = "unknown"  # of an epoch that we have not heard of yet: wait for the lease record


def view_of(chain: tuple[EpochEntry, ...]) -> LineageView:
    """The chain of a lease record, reduced to what the rule needs."""
    forks = tuple((entry.epoch, entry.parent_epoch, entry.fork_step) for entry in chain)
    holders = tuple((entry.epoch, entry.region) for entry in chain)
    return LineageView(epoch=max((entry.epoch for entry in chain), default=0), forks=forks, holders=holders)


def holder_of(view: LineageView, epoch: int) -> str | None:
    """The region that holds, or held, an epoch; None if that is not known here. `core/authorship.py` asks it."""
    return dict(view.holders).get(epoch)


def may_become_known(view: LineageView, epoch: int) -> bool:
    """Whether the holder of an epoch is not known here and may be later: nobody ever holds one that was left out."""
    is_won = any(one == epoch for one, _, _ in view.forks)
    return epoch > view.epoch or (is_won and holder_of(view, epoch) is None)


def closing_steps(view: LineageView) -> dict[int, int | None]:
    """For every epoch on the path to the newest: the last step that counts, None for no limit (the newest)."""
    parents = {epoch: (parent, fork_step) for epoch, parent, fork_step in view.forks}
    limits: dict[int, int | None] = {}
    epoch, limit = view.epoch, None
    while epoch in parents and epoch not in limits:
        limits[epoch] = limit
        parent, fork_step = parents[epoch]
        limit = fork_step if limit is None else min(limit, fork_step)
        epoch = parent
    return limits


def standing(view: LineageView, epoch: int, step: int) -> Standing:
    """Whether what was written under `epoch` at `step` lies on the lineage."""
    if epoch > view.epoch:
        return Standing.UNKNOWN
    limits = closing_steps(view)
    if epoch not in limits:
        return Standing.BRANCH
    limit = limits[epoch]
    return Standing.CURRENT if limit is None or step <= limit else Standing.BRANCH
