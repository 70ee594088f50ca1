"""A region's heartbeats: which node was heard when, and whether training moves. Pure; times are the listener's own.

A node's agent beats while its trainer is stuck, so being heard is not progress. Progress is a step or phase that
changed, for as long as the phase's declared budget lasts; a phase in which nothing has to move is a declared hold.
The controller's own beat shows that Kafka and the link work; it is no sign of a living node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.core.failure_detector import PHI_MOST, Rhythm
from pipelines.core.lag import Place
from pipelines.core.lease import NEVER_S
from schemas.records import Heartbeat

CONTROLLER_NODE = "controller"
DRAINED = "drained"  # saved for a planned move, and holding
HOLD_PHASES = frozenset({DRAINED, "idle", "waiting", "hold", "finished", "done"})


@dataclass(frozen=True, slots=True)
class NodeHeartbeats:
    """One node, as heard last."""

    step: int
    phase: str
    budget_s: float
    moved_at_s: float  # when its step or phase was last heard to change
    rhythm: Rhythm  # and with it when it was heard
    epoch: int = 0  # under which its trainer runs, as it says
    committed: Place | None = None  # the newest checkpoint that it knows to be committed
    committed_at_s: float = NEVER_S  # when that was true
    attempt: int = 0  # of its trainer, as it says

    @property
    def heard_at_s(self) -> float:
        """When it beat last."""
        return self.rhythm.at_s

    @property
    def works_at_s(self) -> float:
        """The last moment at which this node is known to have done what it should."""
        if self.phase in HOLD_PHASES:
            return self.heard_at_s
        return min(self.heard_at_s, self.moved_at_s + self.budget_s)


@dataclass(frozen=True, slots=True)
class RegionHeartbeats:
    """One region's heartbeats for one run."""

    nodes: Mapping[str, NodeHeartbeats] = field(default_factory=dict)
    nodes_at_s: float = NEVER_S
    controller_at_s: float = NEVER_S

    @property
    def works_at_s(self) -> float:
        """The last moment at which some node is known to have worked."""
        return max((node.works_at_s for node in self.nodes.values()), default=NEVER_S)

    def phi(self, now_s: float, floor_s: float) -> float:
        """How surprising the silence of the liveliest node is: one silent node is never a silent region."""
        return min((node.rhythm.phi(now_s, floor_s) for node in self.nodes.values()), default=PHI_MOST)


def heard(pulse: RegionHeartbeats, beat: Heartbeat, now_s: float, late_s: float = 0.0) -> RegionHeartbeats:
    """The region's heartbeats after one more.

    Args:
        pulse: those before.
        beat: the new one.
        now_s: on the listener's clock.
        late_s: how long it was on its way, by the wall clocks: after an outage old beats arrive together. Being heard
            counts from its arrival all the same; what it says was true when it was sent.
    """
    if beat.node == CONTROLLER_NODE:
        return RegionHeartbeats(pulse.nodes, pulse.nodes_at_s, now_s)
    before = pulse.nodes.get(beat.node)
    moved = before is None or (before.step, before.phase) != (beat.step, beat.phase)
    moved_at_s = now_s if moved or before is None else before.moved_at_s
    rhythm = (Rhythm() if before is None else before.rhythm).heard(now_s)
    committed = (
        Place(beat.committed_epoch, beat.committed_step, beat.committed_seq) if beat.committed_epoch > 0 else None
    )
    node = NodeHeartbeats(
        step=beat.step,
        phase=beat.phase,
        budget_s=beat.budget_s,
        moved_at_s=moved_at_s,
        rhythm=rhythm,
        epoch=beat.epoch,
        committed=committed,
        committed_at_s=now_s - max(0.0, late_s),
        attempt=beat.attempt,
    )
    return RegionHeartbeats({**pulse.nodes, beat.node: node}, now_s, pulse.controller_at_s)


def working_nodes(pulse: RegionHeartbeats, epoch: int, attempt: int, since_s: float) -> frozenset[str]:
    """The nodes on which the trainer of one attempt has worked since a moment."""
    return frozenset(
        name
        for name, node in pulse.nodes.items()
        if (node.epoch, node.attempt) == (epoch, attempt)
        and node.phase not in HOLD_PHASES
        and node.works_at_s >= since_s
    )


def heard_unreadable(pulse: RegionHeartbeats, now_s: float) -> RegionHeartbeats:
    """A heartbeat in a format that we cannot read yet is a sign of life (regions upgrade at different times)."""
    return dataclasses.replace(pulse, nodes_at_s=now_s)
