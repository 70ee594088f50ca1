"""Everything that is wrong with a run in one region, apart from who is heard and reached (`core.diagnosis`). Pure.

"Nothing is wrong" may be said only if every lane, upload, copy and grant moves (I19). So each of these has a rule
here, and each finding becomes a line of `status` and `explain`, an alarm for as long as it lasts, and a metric. What
cannot be seen is a finding too: a replicator that does not answer may stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.alarm_texts import Kind
from pipelines.core.lag import Lag
from schemas.http_bodies import FindingStatus, ReplicatorStatus

WAITS_S = 5.0  # a part that fails for so long is refused again and again; a shorter failure is one answer that is late
UPLOADS_S = 60.0  # a checkpoint in the spool for so long, and none committed meanwhile
UNSEEN_S = 10.0
UNKNOWN_S = 10.0
STARTS_S = 60.0  # in which a granted trainer begins its first step
COMPLETES_SLACK_S = 15.0  # turns and round trips, beyond the bound
ABANDONED_LEAST = 2
CADENCES = 10  # the lag's limit in checkpoints where the run has no objective
LISTED_MAX = 3
CONTROLLERS_PART = "the controller's "
"""Before the name of a part of the controller, as a finding names it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: which rule found it.
        part: what it is about; with the kind it is the finding's identity.
        text: for people, with figures.
        since_s: for how long, if that is known.
    """

    kind: Kind
    part: str
    text: str
    since_s: float | None = None

    def status(self) -> FindingStatus:
        """The finding as `/status` answers it."""
        since_s = None if self.since_s is None else round(self.since_s, 1)
        return FindingStatus(kind=self.kind.value, part=self.part, since_s=since_s, text=self.text)


@dataclass(frozen=True, slots=True)
class Damage:
    """A checkpoint whose bytes in this region's store are not what its manifest names."""

    step: int
    key: str
    reason: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Failing:
    """A part that does not get what it asks for: the last error, and for how long it has been so."""

    error: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The use that is made of the authority that this region holds.

    Attributes:
        epoch: which.
        attempt: the newest launch; 0: none was granted.
        held_s: since the epoch, or its newest attempt, was first seen.
        waiting: nodes whose trainers wait for a grant.
        training: nodes whose trainers run under this epoch.
        stuck: by node of these, for how long its step has not moved beyond its own budget.
        step: the newest step under this epoch.
    """

    epoch: int
    attempt: int
    held_s: float
    waiting: int = 0
    training: int = 0
    stuck: Mapping[str, float] = field(default_factory=dict)
    step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionView:
    """One run in one region, as far as its controller sees it. Times in seconds.

    Attributes:
        run: which.
        lag: None in the primary, which follows nobody.
        lag_unknown_s: for how long it has not been known.
        rpo_steps: the run's objective; None: it has none.
        cadence_steps: between two checkpoints; None: not known.
        lanes: what the replicator answered; empty: none is followed.
        unseen: a service that should answer and does not: why, and for how long.
        failing: parts of the controller and agent that fail, by name.
        uploads: checkpoints in the node's spool; `uploads_s`: for how long, without one being committed.
        spool_grows: the node's backlog of records grows.
        grant: None unless this region holds the run and its trainer should run.
        abandoned: why each of the newest checkpoints in a row was given up by its own region.
        damages: of this region's store.
    """

    run: str
    lag: Lag | None = None
    lag_unknown_s: float = 0.0
    rpo_steps: int | None = None
    cadence_steps: int | None = None
    lanes: ReplicatorStatus = field(default_factory=dict)
    unseen: Mapping[str, Failing] = field(default_factory=dict)
    failing: Mapping[str, Failing] = field(default_factory=dict)
    uploads: int = 0
    uploads_s: float = 0.0
    spool_grows: bool = False
    grant: Grant | None = None
    abandoned: tuple[str, ...] = ()
    damages: tuple[Damage, ...] = ()


def findings(view: RegionView) -> tuple[Finding, ...]:
    """Everything that is wrong; what costs a region's protection first."""
    return tuple(finding for rule in RULES for finding in rule(view))


def lag_limit(view: RegionView) -> tuple[int, str] | None:
    """The steps beyond which the lag is an alarm, and what they are; None while neither is known."""
    if view.rpo_steps is not None:
        return view.rpo_steps, f"the run's objective is {view.rpo_steps}"
    if view.cadence_steps is not None:
        limit = CADENCES * view.cadence_steps
        return limit, f"{CADENCES} checkpoints are {limit}"
    return None


def _damaged(view: RegionView) -> Iterator[Finding]:
    if view.damages:
        first = ", ".join(f"step {one.step} ({one.reason})" for one in view.damages[:LISTED_MAX])
        more = f" and {len(view.damages) - LISTED_MAX} more" if len(view.damages) > LISTED_MAX else ""
        yield Finding(Kind.DAMAGE, "replica", f"{first}{more}", max(one.since_s for one in view.damages))


def _without_progress(view: RegionView) -> Iterator[Finding]:
    grant = view.grant
    if grant is None:
        return
    if grant.training == 0 and grant.held_s >= STARTS_S and (grant.attempt > 0 or grant.epoch > 1 or grant.waiting):
        launch = f"attempt {grant.attempt} was granted" if grant.attempt else "no launch was granted"
        text = f"{launch} under epoch {grant.epoch}, and no node has trained for {grant.held_s:.0f} s"
        yield Finding(Kind.NO_PROGRESS, "grant", text, grant.held_s)
    if grant.training and len(grant.stuck) == grant.training:
        least_s = min(grant.stuck.values())
        text = (
            f"step {grant.step} has not moved for {least_s:.0f} s beyond the budget of {', '.join(sorted(grant.stuck))}"
        )
        yield Finding(Kind.NO_PROGRESS, "grant", text, least_s)


def _behind(view: RegionView) -> Iterator[Finding]:
    lag, limit = view.lag, lag_limit(view)
    if lag is None:
        return
    if lag.steps is None:
        if view.lag_unknown_s >= UNKNOWN_S:
            yield Finding(Kind.LAG_UNKNOWN, "lag", lag.why, view.lag_unknown_s)
    elif limit is not None and lag.steps > limit[0]:
        yield Finding(Kind.LAG, "lag", f"{lag.text}; {limit[1]}")


def _incomplete(view: RegionView) -> Iterator[Finding]:
    for name, lane in view.lanes.items():
        completion = lane.completions.get(view.run)
        if completion is None or completion.bound_s is None or view.lag is None:
            continue
        if completion.waiting_s > completion.bound_s + COMPLETES_SLACK_S:
            text = f"{name}: none for {completion.waiting_s:.0f} s, the link's rate allows {completion.bound_s:.0f} s"
            yield Finding(Kind.INCOMPLETE, name, text, completion.waiting_s)


def _standing_lanes(view: RegionView) -> Iterator[Finding]:
    for name, lane in view.lanes.items():
        for one in lane.standing:
            if one.run in {view.run, paths.EVERY_RUN}:
                left = "an unknown number of records" if one.records is None else f"{one.records} records"
                text = f"{name} has stood for {one.since_s:.0f} s before {left}: {one.reason}"
                yield Finding(Kind.LANE, f"{name}/{one.run}", text, one.since_s)


def _growing(view: RegionView) -> Iterator[Finding]:
    for name, lane in view.lanes.items():
        if lane.backlog_grows:
            left = "" if lane.backlog is None else f", {lane.backlog} records by now"
            yield Finding(Kind.BACKLOG, name, f"{name}: more arrives than is settled{left}")
    if view.spool_grows:
        yield Finding(Kind.BACKLOG, "spool", "the node's spool: more is written than is published")


def _waiting_uploads(view: RegionView) -> Iterator[Finding]:
    if view.uploads and view.uploads_s >= UPLOADS_S:
        text = f"{view.uploads} checkpoints in the spool, none was committed for {view.uploads_s:.0f} s"
        yield Finding(Kind.UPLOADS, "uploads", text, view.uploads_s)


def _abandoned(view: RegionView) -> Iterator[Finding]:
    if len(view.abandoned) >= ABANDONED_LEAST:
        yield Finding(Kind.ABANDONED, "checkpoints", f"{len(view.abandoned)} in a row, the last: {view.abandoned[-1]}")


def _refused(view: RegionView) -> Iterator[Finding]:
    for part, failing in sorted(view.failing.items()):
        if failing.since_s >= WAITS_S:
            yield Finding(Kind.REFUSED, part, f"{part}, for {failing.since_s:.0f} s: {failing.error}", failing.since_s)


def _unseen(view: RegionView) -> Iterator[Finding]:
    for service, failing in sorted(view.unseen.items()):
        if failing.since_s >= UNSEEN_S:
            text = f"the {service}, for {failing.since_s:.0f} s: {failing.error}"
            yield Finding(Kind.UNSEEN, service, text, failing.since_s)


RULES: tuple[Callable[[RegionView], Iterator[Finding]], ...] = (
    _damaged,
    _without_progress,
    _behind,
    _incomplete,
    _standing_lanes,
    _growing,
    _waiting_uploads,
    _abandoned,
    _refused,
    _unseen,
)
