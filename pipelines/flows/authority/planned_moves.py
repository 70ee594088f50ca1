"""Operators' requests to the holder, and the planned move under way: kept beside the lease, decided by the core.

`requests` and `granted` may be used from another thread: they leave values. Everything else belongs to the lease's
thread.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.core.failover_decision import Decision, FailoverPolicy
from pipelines.core.handover import GRANT_S, HandoverView, drained, hand_over
from pipelines.core.heartbeats import DRAINED, NodeHeartbeats
from pipelines.core.lease import (
    ACTIVE,
    HANDOVER,
    MOVING,
    NEVER_S,
    PAUSED,
    RELEASED,
    Author,
    Belief,
    Held,
    acknowledged,
    in_mode,
)
from pipelines.core.lineage import Standing, standing, view_of
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.standby.recoverable import RecoverableCheckpoint, RecoverableFinder
from schemas.records import Lease

PAUSE, RESUME, SWITCHOVER, CANCEL, ACKNOWLEDGE = "pause", "resume", "switchover", "cancel", "acknowledge"
SCHEDULE, ADOPT = "schedule", "adopt"
KINDS = (PAUSE, RESUME, SWITCHOVER, CANCEL, ACKNOWLEDGE, SCHEDULE, ADOPT)
_BRANCH = re.compile(r"(\d{1,9}):(\d{1,12})")
OVER = frozenset({"finished", "done", "idle"})


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """One thing that an operator asked of the holder.

    Attributes:
        kind: one of KINDS.
        actor: who asked.
        note: why, for the history.
        target: a region; for ADOPT the branch, as EPOCH:STEP.
        at_ms: when a scheduled move begins.
        due: whether this is a scheduled move whose time has come.
    """

    kind: str
    actor: str
    note: str = ""
    target: str = ""
    at_ms: int = 0
    due: bool = False


def branch_of(text: str) -> tuple[int, int] | None:
    """(epoch, step) of a branch's newest checkpoint, from EPOCH:STEP; None if the text is not of that form."""
    match = _BRANCH.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]))


def refusal(request: MoveRequest, lease: Lease | None, region: str, peer_states: Mapping[str, PeerState]) -> str:
    """Why a request cannot be applied now, in words that say what to do; "" if it can."""
    if lease is None:
        return "the lease record has not been read yet: is the witness reachable?"
    if lease.holder != region:
        return f"{lease.holder} holds the run, not {region}: ask there"
    moving, others = lease.mode in MOVING, sorted(set(peer_states) - {region})
    rules = (
        (
            moving and request.kind in {PAUSE, SWITCHOVER, SCHEDULE, ADOPT},
            f"the run is on its way to {lease.target}: cancel that first",
        ),
        (request.kind == RESUME and lease.mode != PAUSED, f"nothing is paused: the mode is {lease.mode}"),
        (
            request.kind == CANCEL and not moving and not lease.scheduled_ms,
            f"no planned move is under way: the mode is {lease.mode}",
        ),
        (request.kind in {SWITCHOVER, SCHEDULE} and lease.mode == PAUSED, "the run is paused: resume it first"),
        (
            request.kind == ADOPT and branch_of(request.target) is None,
            f"{request.target!r} is no branch: say EPOCH:STEP",
        ),
        (
            request.kind in {SWITCHOVER, SCHEDULE} and request.target not in others,
            f"{request.target!r} is no other region; there are {', '.join(others)}",
        ),
        (
            request.kind == SWITCHOVER
            and request.target in others
            and proven_step(peer_states[request.target], lease) is None,
            f"{request.target} has not said that a pool with this run's checkpoint is ready: is its warmer running?",
        ),
        (
            request.kind == SWITCHOVER
            and request.target in others
            and not _somebody_waits(peer_states[request.target]),
            f"no ranks wait in {request.target}: start the trainer there first",
        ),
    )
    return next((text for broken, text in rules if broken), "")


class PlannedMoves:
    """The requests and the planned move of one run, in its holder."""

    def __init__(self, region: str, policy: FailoverPolicy) -> None:
        self._region, self._policy = region, policy
        self._since_s = NEVER_S
        self._granted_until_s = NEVER_S
        self._silent_at_s = NEVER_S  # since when nothing is granted any more: the last grants run out
        self.requests: deque[MoveRequest] = deque()

    def due(self, belief: Belief, wall_ms: int) -> None:
        """Request a scheduled move whose time has come, in the name of the operator who scheduled it."""
        lease = None if belief.held is None else belief.held.lease
        if lease is None or not belief.is_holder or not lease.scheduled_ms or wall_ms < lease.scheduled_ms:
            return
        if not any(request.due for request in self.requests):
            self.requests.append(MoveRequest(SWITCHOVER, lease.actor, lease.note, lease.target, due=True))

    def turn(
        self, belief: Belief, peer_states: Mapping[str, PeerState], committed_step: int, now_s: float
    ) -> Decision | None:
        """The decision that the planned move asks for now; None if no move is under way."""
        lease = None if belief.held is None else belief.held.lease
        if lease is None or not belief.is_holder or lease.mode not in MOVING:
            self._since_s = self._silent_at_s = NEVER_S
            return None
        if self._since_s == NEVER_S:
            self._since_s = now_s
        view = self._view(belief, lease, peer_states, committed_step)
        if drained(view) and self._silent_at_s == NEVER_S:
            self._silent_at_s = now_s
            view = self._view(belief, lease, peer_states, committed_step)
        return hand_over(view, now_s, self._policy)

    def _view(
        self, belief: Belief, lease: Lease, peer_states: Mapping[str, PeerState], committed_step: int
    ) -> HandoverView:
        target = peer_states.get(lease.target)
        committed_step = max(committed_step, lease.committed_step)
        return HandoverView(
            belief=belief,
            since_s=self._since_s,
            held_step=_held_step(peer_states[self._region].pulse.nodes, committed_step),
            committed_step=committed_step,
            target_step=None if target is None else proven_step(target, lease),
            target_waits=target is not None and _somebody_waits(target),
            target_at_s=NEVER_S if target is None else max(target.pulse.controller_at_s, target.since_s),
            # A grant that was being answered when we stopped granting may not be noted yet: it is waited for too.
            granted_until_s=max(self._granted_until_s, self._silent_at_s + GRANT_S),
        )

    def granted(self, lease: Lease, left_s: float, now_s: float) -> float:
        """For how many seconds an agent is granted now: at most GRANT_S in a planned move, 0 once grants run out."""
        if self._silent_at_s != NEVER_S or lease.mode == RELEASED:
            return 0.0
        valid_s = min(left_s, GRANT_S) if lease.mode == HANDOVER else left_s
        # The agent counts on its own clock, which may be slower than ours.
        rho = self._policy.profile.rho
        until_s = now_s + valid_s * (1 + rho) / (1 - rho)
        self._granted_until_s = max(self._granted_until_s, until_s)
        return valid_s


def record_after(request: MoveRequest, lease: Lease, author: Author, committed_step: int, *, refused: bool) -> Lease:
    """The lease record after a request was applied. Of a refused one only the schedule is taken off the record."""
    if refused:
        return in_mode(lease, author, committed_step, lease.mode)
    if request.kind == ACKNOWLEDGE:
        return acknowledged(lease, author)
    if request.kind == SCHEDULE:
        return in_mode(lease, author, committed_step, lease.mode, request.target, request.at_ms)
    if request.kind == SWITCHOVER:
        return in_mode(lease, author, committed_step, HANDOVER, request.target)
    if request.kind == CANCEL:
        return in_mode(lease, author, committed_step, ACTIVE)
    mode = PAUSED if request.kind == PAUSE else ACTIVE
    return in_mode(lease, author, committed_step, mode, lease.target, lease.scheduled_ms)


def adoption_of(
    request: MoveRequest, held: Held | None, recoverable: RecoverableFinder
) -> RecoverableCheckpoint | None:
    """The branch's checkpoint that an operator wants to adopt; None if it is not whole in our store."""
    branch = branch_of(request.target)
    if request.kind != ADOPT or held is None or branch is None:
        return None
    return recoverable.branch(held.lease.run, view_of(held.lease.lineage), *branch)


def proven_step(listener: PeerState, lease: Lease) -> int | None:
    """The newest step on the lineage that a region says it has proven; None if it says none."""
    readiness = listener.readiness
    if readiness is None or standing(view_of(lease.lineage), readiness.epoch, readiness.step) is not Standing.CURRENT:
        return None
    return readiness.step


def _somebody_waits(listener: PeerState) -> bool:
    """Whether ranks wait there. An older warmer does not say how many wait: then some are assumed to."""
    return listener.readiness is not None and listener.readiness.waiting_ranks != 0


def _held_step(nodes: Mapping[str, NodeHeartbeats], committed_step: int) -> int | None:
    """The step at which every node holds; the committed step if nothing trains at all; None while a node trains."""
    phases = {node.phase for node in nodes.values()}
    if not nodes or not phases <= OVER | {DRAINED}:
        return None
    held = [node.step for node in nodes.values() if node.phase == DRAINED]
    return max(held, default=committed_step)
