"""Which node an agent serves, the ports through which it does so, and the figures by which it publishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.core.metric_batches import BatchPolicy
from pipelines.ports import Clock, Entropy, EventLog, GrantReply, Grants, Journal, ObjectStore, Signer, Spool
from schemas.codec import Codec

CATCH_UP_BYTES_S = 16 * 1024 * 1024.0


@dataclass(frozen=True, slots=True)
class AgentNode:
    """One training node of a region."""

    region: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPorts:
    """The ports of one node's agent.

    Args:
        spool: the node's, which the training processes write.
        store: the region's.
        log: the region's.
        grants: asks the region's controller for permission to act.
        signer: signs manifests, and verifies those that are there already.
        codec: encodes and decodes records.
        clock: this process's.
        entropy: gives the name of this incarnation of the agent.
        journal: where the agent reports what it does.
    """

    spool: Spool
    store: ObjectStore
    log: EventLog
    grants: Grants
    signer: Signer
    codec: Codec
    clock: Clock
    entropy: Entropy
    journal: Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPolicy:
    """How often, in which batches and how fast an agent publishes.

    Args:
        heartbeat_s: time between two heartbeats of a run.
        batches: when metrics that gather are published.
        catch_up_bytes_s: the most that is read from the spool, so that a backlog leaves room for everything else.
    """

    heartbeat_s: float = 1.0
    batches: BatchPolicy = field(default_factory=BatchPolicy)
    catch_up_bytes_s: float = CATCH_UP_BYTES_S


def _nowhere(_manifest_digest: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFolders:
    """Where the checkpoint lies from which a launch starts.

    Args:
        locate: the folder on this node that holds the checkpoint of a manifest digest already; None if none does.
        fetch: makes such a folder from the store; without it, a checkpoint that is not on the node cannot be started.
    """

    locate: Callable[[str], str | None] = _nowhere
    fetch: Callable[[GrantReply], str] | None = None
