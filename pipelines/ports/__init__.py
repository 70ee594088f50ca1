"""The ports through which flows reach the world: one contract for the real systems and for the fakes in memory.

A method raises the errors that it names (of pipelines.errors, and DecodeError of schemas.codec), and nothing else of
the network's or of a client library's. A method without `Raises:` does not reach over the network.
"""

from pipelines.ports.events import Damage, EventLog, EventSource, Fetched, Message, Partition
from pipelines.ports.node import Beat, GrantReply, Grants, PoolHealth, Spool, SpoolRecord, StandbyPool
from pipelines.ports.stores import (
    PIECE_BYTES,
    CopyJob,
    CopyResult,
    GroupStore,
    LeaseStore,
    ObjectStore,
    PieceStore,
    Transfers,
)
from pipelines.ports.world import Clock, Entropy, Journal, Opened, Poster, SchemaRegistry, Signer, Verifier

__all__ = [
    "PIECE_BYTES",
    "Beat",
    "Clock",
    "CopyJob",
    "CopyResult",
    "Damage",
    "Entropy",
    "EventLog",
    "EventSource",
    "Fetched",
    "GrantReply",
    "Grants",
    "GroupStore",
    "Journal",
    "LeaseStore",
    "Message",
    "ObjectStore",
    "Opened",
    "Partition",
    "PieceStore",
    "PoolHealth",
    "Poster",
    "SchemaRegistry",
    "Signer",
    "Spool",
    "SpoolRecord",
    "StandbyPool",
    "Transfers",
    "Verifier",
]
