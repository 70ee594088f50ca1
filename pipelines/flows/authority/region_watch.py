"""Asks the other services of a controller's own region how they are: what their lanes, copies and uploads do.

They know it, and the controller says it: `status`, `explain`, alarms and metrics have one source. It runs on a thread
of its own; a service that does not answer is itself a finding, since it may stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pipelines.core.lane_progress import LaneProgress
from pipelines.core.troubles import Failing
from pipelines.errors import FarsideError
from pipelines.ports import Clock
from schemas.http_bodies import AgentStatus, ReplicatorStatus, WarmerStatus

T = TypeVar("T")
EVERY_S = 2.0
REPLICATOR, AGENT, WARMER = "replicator", "agent", "warmer"
OF_AGENT, OF_WARMER = "the agent's ", "the warmer"
NO_ANSWER = "it does not answer: whether its work moves is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSeen:
    """The last answers of a region's services; replaced whole. Moments are on the controller's clock."""

    lanes: ReplicatorStatus = field(default_factory=dict)
    unseen: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # service: why, since when
    failing: Mapping[tuple[str, str], tuple[str, float]] = field(default_factory=dict)  # (run, part): error, since when
    uploads: Mapping[str, int] = field(default_factory=dict)  # run: checkpoints in the spool
    committed: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # run: step, since when or since it waits
    spool_grows: bool = False

    def unseen_at(self, now_s: float) -> dict[str, Failing]:
        """The services that do not answer."""
        return {service: Failing(why, now_s - at_s) for service, (why, at_s) in self.unseen.items()}

    def failing_of(self, run: str, now_s: float) -> dict[str, Failing]:
        """The parts of the agent and the warmer that fail for a run."""
        return {part: Failing(error, now_s - at_s) for (of, part), (error, at_s) in self.failing.items() if of == run}

    def uploads_s(self, run: str, now_s: float) -> float:
        """For how long checkpoints have waited in the spool without one of the run being committed."""
        return now_s - self.committed[run][1] if self.uploads.get(run) and run in self.committed else 0.0


class RegionWatch:
    """The services of one region, as they tell of themselves; `seen` may be read from another thread.

    Args:
        clock: the controller's.
        replicator: asks the region's replicator; returns None if it does not answer. None: the region has none.
        agent: the same of the agent of its node.
        warmer: the same of its warmer; a region without one has no pool, which its readiness says.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        replicator: Callable[[], ReplicatorStatus | None] | None = None,
        agent: Callable[[], AgentStatus | None] | None = None,
        warmer: Callable[[], WarmerStatus | None] | None = None,
    ) -> None:
        self._clock, self._replicator, self._agent, self._warmer = clock, replicator, agent, warmer
        self.seen = RegionSeen()
        self._spool = LaneProgress()

    def turn(self) -> float:
        """Ask each service once; seconds until the next turn."""
        unseen: dict[str, tuple[str, float]] = {}
        lanes = self._ask(REPLICATOR, self._replicator, unseen)
        agent = self._ask(AGENT, self._agent, unseen)
        warmer = self._ask(WARMER, self._warmer, {})
        before, now_s = self.seen, self._clock.boottime_s()
        failing = dict(before.failing)
        uploads, committed, grows = before.uploads, before.committed, before.spool_grows
        if agent is not None:
            self._spool.turned(now_s, {}, agent.backlog.records)
            grows = self._spool.backlog_grows
            uploads = agent.waiting_checkpoints
            committed = self._committed(agent, now_s)
            failing = {place: one for place, one in failing.items() if not place[1].startswith(OF_AGENT)}
            failing |= self._timed({_place(name): error for name, error in agent.troubles.items()}, now_s)
        if warmer is not None:
            failing.pop((warmer.run, OF_WARMER), None)
            failing |= self._timed({(warmer.run, OF_WARMER): warmer.trouble} if warmer.trouble else {}, now_s)
        self.seen = RegionSeen(
            lanes=before.lanes if lanes is None else lanes,
            unseen=unseen,
            failing=failing,
            uploads=uploads,
            committed=committed,
            spool_grows=grows,
        )
        return EVERY_S

    def _committed(self, agent: AgentStatus, now_s: float) -> dict[str, tuple[int, float]]:
        """Each run's committed step, and since when it has been that one while checkpoints wait."""
        committed = {}
        for run, waiting in agent.waiting_checkpoints.items():
            step, known = agent.committed_step.get(run, -1), self.seen.committed.get(run)
            stays = waiting > 0 and known is not None and known[0] == step
            committed[run] = (step, known[1] if stays and known is not None else now_s)
        return committed

    def _timed(self, errors: Mapping[tuple[str, str], str], now_s: float) -> dict[tuple[str, str], tuple[str, float]]:
        """Errors, each with the moment at which its part began to fail."""
        return {place: (error, self.seen.failing.get(place, ("", now_s))[1]) for place, error in errors.items()}

    def _ask(self, service: str, ask: Callable[[], T | None] | None, unseen: dict[str, tuple[str, float]]) -> T | None:
        if ask is None:
            return None
        why = NO_ANSWER
        try:
            answer = ask()
        except FarsideError as error:  # another program on its port: the same as no answer, with a better reason
            answer, why = None, str(error)
        if answer is None:
            since_s = self.seen.unseen.get(service, ("", self._clock.boottime_s()))[1]
            unseen[service] = (why, since_s)
        return answer


def _place(name: str) -> tuple[str, str]:
    """The run and the part of a publisher's trouble."""
    run, _, part = name.rpartition("/")
    return run, f"{OF_AGENT}{part}"
