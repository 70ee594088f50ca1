"""Whether a lease record may be the newest: evidence that is consulted before a region begins to act on one (I2, I11).

A record that was deleted, or restored from a backup, looks like a true one to a process that has not seen a newer one.
What survives it: the create-only copies that each winner of an epoch leaves at the witness, and those in the regions'
own stores. So a creation, a takeover and a new incarnation look there first. A higher epoch may only mean that the
record was read before it was won: it counts as evidence once the record was read *after* it was seen, and is lower
still.

A holder that renews does not ask: it has seen every version, and what another region writes must not stop it.
"""

from __future__ import annotations

import dataclasses

from pipelines.core.lease import Belief
from pipelines.flows.authority.peer_epochs import NEVER_SEEN, EpochSeen, PeerEpochs
from pipelines.ports import LeaseStore


class RecordEvidence:
    """One run's evidence, in its controller's thread.

    Args:
        run: which run.
        leases: the witness, which has the winners' copies.
        peer_epochs: what the other regions have written down; None if nobody asks them.
    """

    def __init__(self, run: str, leases: LeaseStore, peer_epochs: PeerEpochs | None) -> None:
        self._run, self._leases, self._peers = run, leases, peer_epochs
        self._highest = NEVER_SEEN

    def allows(self, belief: Belief) -> bool:
        """Whether nothing speaks against acting on the record as it was read last; if not, it has to be read again.

        Raises:
            RetryableError: the witness does not answer.
        """
        if self._peers is not None and not self._peers.is_complete:
            return False
        claimed = EpochSeen(self._leases.claimed(self._run), "the witness's audit copies")
        known = [claimed] if self._peers is None else [claimed, self._peers.highest(self._run)]
        self._highest = max([self._highest, *known], key=lambda one: one.epoch)
        return self._highest.epoch <= _epoch_of(belief)

    def weighed(self, belief: Belief) -> Belief:
        """The belief after a read that began when this evidence was there already."""
        return dataclasses.replace(belief, epoch_max=max(belief.epoch_max, self._highest.epoch))

    def why(self, belief: Belief) -> str:
        """Why the record is not believed, and what a person can do; "" if it is, or nobody else knows better."""
        if _epoch_of(belief) >= self._highest.epoch:
            return ""
        record = "gone" if belief.missing else f"of epoch {_epoch_of(belief)}"
        return (
            f"it is {record}, and {self._highest.where} has epoch {self._highest.epoch}: it was deleted or put back. "
            "Nobody acts until a person has put the newest one there (docs/failover.md, A record that was put back)"
        )


def _epoch_of(belief: Belief) -> int:
    return 0 if belief.held is None or belief.missing else belief.held.lease.epoch
