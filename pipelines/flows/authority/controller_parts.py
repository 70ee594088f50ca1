"""The parts that a controller is made of: its run and region, its ports, and the flows that observe for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.core.failover_decision import FailoverPolicy
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.peer_epochs import PeerEpochs
from pipelines.flows.authority.reachability import Reachability
from pipelines.flows.authority.region_watch import RegionWatch
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.standby.verifier import CheckpointVerifier
from pipelines.ports import Clock, Entropy, Journal, LeaseStore, ObjectStore, Verifier
from schemas.codec import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRole:
    """One run, and the part that the controller's region has in it.

    Attributes:
        run: which run.
        region: the controller's own region.
        first_region: the region that creates the run's lease record.
        candidate: whether the controller's region may take the run over.
        policy: the lease's times and the run's objectives.
    """

    run: str
    region: str
    first_region: str
    candidate: bool
    policy: FailoverPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerPorts:
    """The world outside, as one controller reaches it.

    Attributes:
        leases: the lease records at the witness.
        store: the bucket of the controller's own region.
        signer: verifies the manifests in that bucket.
        codec: of manifests and lease records.
        clock: the machine's own.
        entropy: names this incarnation and each of its writes.
        journal: hears of every decision and write.
    """

    leases: LeaseStore
    store: ObjectStore
    signer: Verifier
    codec: Codec
    clock: Clock
    entropy: Entropy
    journal: Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Observers:
    """The flows that observe the regions for a controller, each on a thread of its own.

    Attributes:
        peer_states: what each region, the controller's own included, says of the run.
        self_evidence: signs that the controller's own region works, and the outbox for changes of authority.
        verifier: reads the region's checkpoints of the run back.
        reachability: which parts of the other regions answer; None if nobody probes them.
        peer_epochs: which epochs the other regions have written down; None if nobody asks them.
        region_watch: what the other services of the controller's region say; None if nobody asks them.
    """

    peer_states: Mapping[str, PeerState]
    self_evidence: SelfEvidence
    verifier: CheckpointVerifier
    reachability: Reachability | None = None
    peer_epochs: PeerEpochs | None = None
    region_watch: RegionWatch | None = None
