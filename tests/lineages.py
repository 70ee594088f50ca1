"""A lineage as the tests need it."""

from __future__ import annotations

from pipelines.core.lineage import LineageView


def lineage_of(*forks: tuple[int, int, int], **holders: int) -> LineageView:
    """The lineage of these (epoch, parent, fork step); all epochs are east's, but for those of `region=epoch`."""
    of = {epoch: region for region, epoch in holders.items()}
    known = tuple((epoch, of.get(epoch, "east")) for epoch, _, _ in forks)
    return LineageView(forks[-1][0], forks, known)
