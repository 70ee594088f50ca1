"""Which lane of which peer a replicator follows, and the ports through which it does so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.core.lineage import LineageView
from pipelines.core.patience import UNKNOWN_WAIT_S
from pipelines.ports import Clock, EventLog, EventSource, Journal, ObjectStore, Transfers, Verifier
from schemas.codec import Codec


@dataclass(frozen=True, slots=True)
class PeerLane:
    """One lane of one peer region."""

    peer: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePorts:
    """The ports of one lane's replicator. Each source is a reader of its own, and is used by nobody else.

    Args:
        peer_source: follows the lane in the peer's log.
        own_source: reads this region's log: the ledger, and the lane where the ledger was lost.
        log: publishes in this region's log, under a transactional id that only this lane of this peer has.
        store: this region's.
        peer_store: the peer's, only read.
        transfers: copies objects from the peer's store into this region's.
        lineage: reads a run's lineage as this region knows it; None while it knows none.
        signer: verifies manifests.
        codec: encodes and decodes records.
        clock: this process's.
        journal: where the replicator reports what it does.
        visible_source: reads this region's lane and dead letters, to see what is visible already; None: nothing can be
            redriven or replayed.
        replay_source: reads the peer's lane for replays; None: nothing can be replayed.
        unknown_wait_s: for so long an event waits whose epoch or schema is not known here; then it is set aside.
    """

    peer_source: EventSource
    own_source: EventSource
    log: EventLog
    store: ObjectStore
    peer_store: ObjectStore
    transfers: Transfers
    lineage: Callable[[str], LineageView | None]
    signer: Verifier
    codec: Codec
    clock: Clock
    journal: Journal
    visible_source: EventSource | None = None
    replay_source: EventSource | None = None
    unknown_wait_s: float = UNKNOWN_WAIT_S
