"""How far a region is behind the primary, in steps, and how well that is known (I19). Pure.

The lag is the primary's newest committed step minus this region's recoverable step. Whoever computes it hears of the
first from somewhere: the heartbeats of the primary's nodes, over the link, or the lease record at the witness. What was
heard was true some time ago, so a figure has an age, and three forms:

- *exact*: the primary's nodes said it within `FRESH_S`;
- a *lower bound*: it is older, or only the lease record says it, while the nodes are not heard. The primary may have
  committed more since, never less;
- *unknown*: nothing that counts was heard, or what was heard does not say how far behind this region is.

**Shown lag is never less than the true lag at the time of its age.** A committed step is never taken back on the
lineage, so the newest of all that was heard is at least what was true when it was heard. Only what lies on the lineage
counts. A run may rewind, so a checkpoint that is newer by epoch or lineage number without a higher step is no lag of 0:
the lag is unknown then. So it is if an epoch is named that this region has not learned of: its fork may lie before what
this region holds. And a lower bound of 0 says nothing, so it is unknown too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.core.lineage import LineageView, Standing, standing
from schemas.http_bodies import LagStatus

FRESH_S = 3.0  # nodes beat every second: whoever is heard misses two beats at most
HEARTBEATS, LEASE_RECORD = "heartbeats", "lease record"


@dataclass(frozen=True, slots=True)
class Place:
    """A committed checkpoint's place on the lineage; `seq` is its lineage number, -1 where that is not known."""

    epoch: int
    step: int
    seq: int = -1


@dataclass(frozen=True, slots=True)
class HeardPlace:
    """The newest committed checkpoint that one source named, and for how many seconds that may be out of date."""

    place: Place
    age_s: float
    source: str

    @property
    def is_fresh(self) -> bool:
        """Whether the primary itself said so just now."""
        return self.source == HEARTBEATS and self.age_s <= FRESH_S


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind a region is.

    Attributes:
        steps: exact or at least so many; None: unknown.
        is_exact: whether it is no lower bound.
        age_s: since it was true; None: nothing was heard.
        source: who named the primary's step.
        why: why it is unknown.
    """

    steps: int | None
    is_exact: bool = False
    age_s: float | None = None
    source: str = ""
    why: str = ""

    @property
    def text(self) -> str:
        """For people, the same words everywhere."""
        if self.steps is None:
            return f"unknown: {self.why}"
        if self.is_exact:
            return f"{self.steps} steps"
        return f">= {self.steps} steps, {_seconds(self.age_s)} ago"

    def status(self) -> LagStatus:
        """The lag as `/status` answers it."""
        return LagStatus(
            steps=self.steps,
            is_exact=self.is_exact,
            age_s=self.age_s,
            source=self.source,
            text=self.text,
        )


def lag_of(heard: Iterable[HeardPlace], recoverable: Place | None, view: LineageView) -> Lag:
    """The lag of a region whose newest recoverable checkpoint is `recoverable`; without one it would begin at step 0.

    Args:
        heard: the newest committed checkpoint that each source named; a step of -1: none was committed.
        recoverable: found under the same lineage.
        view: the lineage as this region knows it.
    """
    places = [HeardPlace(_owned(view, one.place), one.age_s, one.source) for one in heard]
    newer = [one for one in places if one.place.epoch > view.epoch]
    if newer:
        first = newer[0]
        why = f"{first.source} name epoch {first.place.epoch}, this region knows the lineage up to epoch {view.epoch}"
        return Lag(None, age_s=first.age_s, source=first.source, why=why)
    current = [one for one in places if one.place.step < 0 or _counts(view, one.place)]
    if not current:
        return Lag(None, why="the primary's committed step was not heard")
    went_back = next((one for one in current if recoverable and _went_back(one.place, recoverable)), None)
    if went_back is not None and recoverable is not None:
        why = f"the run went back: step {went_back.place.step} came after step {recoverable.step}, the newest here"
        return Lag(None, age_s=went_back.age_s, source=went_back.source, why=why)
    newest = max(current, key=lambda one: (one.place.epoch, one.place.step, one.is_fresh, -one.age_s))
    return _between(newest, 0 if recoverable is None else max(0, recoverable.step))


def _between(newest: HeardPlace, step_here: int) -> Lag:
    steps = newest.place.step - step_here
    if steps > 0 or newest.is_fresh:
        return Lag(max(0, steps), newest.is_fresh, newest.age_s, newest.source)
    why = f"nothing newer was heard than what is here, and that {_seconds(newest.age_s)} ago"
    return Lag(None, age_s=newest.age_s, source=newest.source, why=why)


def _owned(view: LineageView, place: Place) -> Place:
    """The place under the epoch that wrote it: up to the fork of an epoch, all is its parent's."""
    forks = {epoch: (parent, fork_step) for epoch, parent, fork_step in view.forks}
    epoch = place.epoch
    while epoch in forks and 0 <= place.step <= forks[epoch][1] and forks[epoch][0] < epoch:
        epoch = forks[epoch][0]
    return Place(epoch, place.step, place.seq)


def _counts(view: LineageView, place: Place) -> bool:
    return standing(view, place.epoch, place.step) is Standing.CURRENT


def _went_back(place: Place, here: Place) -> bool:
    """Whether it is newer than what is here, by epoch or by lineage number, without a higher step."""
    if place.step < 0 or place.step > here.step:
        return False
    return place.epoch > here.epoch or (place.epoch == here.epoch and 0 <= here.seq < place.seq)


def _seconds(age_s: float | None) -> str:
    return "some time" if age_s is None or age_s == float("inf") else f"{age_s:.0f} s"
