"""The newest committed step of a run in its primary: an agent says it, and the region's own log or store proves it.

What stands here goes into the lease record, where a gate compares it with what a standby has: a step that nobody ever
committed would keep every later failover from happening. `claim` may be called from another thread.
"""

from __future__ import annotations

from pipelines.flows.authority.fork_finder import ForkFinder
from pipelines.flows.authority.heartbeat_reader import PeerState


class CommittedClaims:
    """One run's.

    Args:
        own: what the region's own log names.
        forks: what the region's own store has.
    """

    def __init__(self, own: PeerState, forks: ForkFinder) -> None:
        self._own, self._forks = own, forks
        self.step = -1  # proven; -1: none
        self.claimed = -1

    def claim(self, step: int) -> None:
        """An agent says that a step was committed."""
        self.claimed = max(self.claimed, step)
        self.prove()

    def prove(self) -> None:
        """Take over as much of the newest claim as log and store name by now."""
        newest = self._forks.newest()
        named = max(self._own.committed_step, -1 if newest is None else newest.manifest.step)
        self.step = max(self.step, min(self.claimed, named))

    def begin(self, step: int) -> None:
        """A new epoch goes on from its fork."""
        self.step, self.claimed = step, -1
