"""Ports of a training or standby node: grants, the spool, and the standby pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.core.resume_mode import StartRequest
from pipelines.paths import CheckpointId
from schemas.records import Manifest


@dataclass(frozen=True, slots=True)
class GrantReply:
    """A controller's answer to an agent. `valid_s` counts from before the agent asked.

    state: granted (epoch, attempt and start are set), wait (a standby, or not decided yet), superseded (another region
    holds a higher epoch).
    """

    state: str
    epoch: int = 0
    attempt: int = 0
    valid_s: float = 0.0
    start_step: int = 0
    start_manifest_key: str = ""  # "" with state granted: begin at step 0
    start_manifest_digest: str = ""
    start_lineage_seq: int = 0
    forks: tuple[tuple[int, int, int], ...] = ()
    reason: str = ""
    draining: bool = False  # a planned move: save at the next checkpoint, and hold
    committed_step: int = -1  # the run's newest, as the controller knows it; -1: none
    recoverable_step: int = -1  # the newest that another region has proven: safe elsewhere; -1: none
    fencing: str = "soft"  # soft, or hard: a guard kills the trainer when the validity ends
    margin_s: float = 0.0  # the lease's: for so long after the validity's end nobody else can act


class Grants(Protocol):
    """An agent's way to its region's controller."""

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        """The standing of a launch. In the primary, a new one that `begins` becomes an attempt when it is asked about.

        Args:
            run: the launch's.
            launch: its name, unique on its node.
            node: where it runs.
            committed_step: the newest step that this node knows to be committed; -1: none.
            begins: it waits on this node for its start; else it is asked how an older launch stands.

        Raises:
            RetryableError: the controller does not answer in time, or not with a grant.
        """


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One accepted record of a node's spool; see docs/formats.md for the bodies."""

    producer: str
    lane: str
    seq: int
    kind: str
    run: str
    epoch: int
    attempt: int
    step: int
    time_ms: int
    body: dict[str, object]
    end: int  # the log's offset after this record


@dataclass(frozen=True, slots=True)
class Beat:
    """A rank's newest beat."""

    producer: str
    step: int
    phase: str
    budget_s: float
    time_ms: int
    epoch: int
    attempt: int
    last_seq: dict[str, int] = field(default_factory=dict)


class Spool(Protocol):
    """The agent's view of a node directory."""

    def runs(self) -> tuple[str, ...]:
        """The runs that have a folder here."""

    def producers(self, run: str) -> tuple[str, ...]:
        """The incarnations of a run that have a log.

        Args:
            run: its name.
        """

    def read(self, run: str, producer: str, offset: int, most: int = 500) -> tuple[SpoolRecord, ...]:
        """Complete records from a log offset on; a torn tail is set aside and reported once.

        Args:
            run: the producer's.
            producer: an incarnation.
            offset: in the log; where an earlier record ended.
            most: so many records at most.
        """

    def end(self, run: str, producer: str) -> int:
        """The log offset at which a log ends now; 0 where there is none.

        Args:
            run: the producer's.
            producer: an incarnation.
        """

    def position(self, run: str, producer: str) -> int:
        """The log offset up to which everything is published; 0 at first. Durable.

        Args:
            run: the producer's.
            producer: an incarnation.
        """

    def advance(self, run: str, producer: str, offset: int) -> None:
        """Remember a position durably; what lies before it may be cleared away.

        Args:
            run: the producer's.
            producer: an incarnation.
            offset: everything before it is published.

        Raises:
            RetryableError: the node's folder cannot be written; on a full disk, until there is room.
        """

    def retire(self, run: str, producer: str, offset: int) -> bool:
        """Remove a log that is published up to an offset, if its writer is gone and left nothing more; True if so.

        Args:
            run: the producer's.
            producer: an incarnation.
            offset: everything before it is published.
        """

    def beats(self, run: str) -> tuple[Beat, ...]:
        """The newest beat of each producer whose process lives.

        Args:
            run: the producers'.
        """

    def launches(self, run: str) -> tuple[str, ...]:
        """Launches that asked for a start, have no grant yet, and live.

        A grant to one that died while it waited would be an attempt that supersedes the living.

        Args:
            run: the launches'.
        """

    def request(self, run: str, launch: str) -> StartRequest:
        """The start that a launch asked for.

        Args:
            run: the launch's.
            launch: its name.

        Raises:
            RetryableError: its request cannot be read yet.
        """

    def grant(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write a launch's grant.json.

        Args:
            run: the launch's.
            launch: its name.
            body: the grant.

        Raises:
            RetryableError: the node's folder cannot be written; on a full disk, until there is room.
        """

    def grants(self, run: str) -> tuple[dict[str, Any], ...]:
        """The grants that were written here, of all launches of a run.

        Args:
            run: its name.
        """

    def validity(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write a launch's validity.json.

        Args:
            run: the launch's.
            launch: its name.
            body: until when it may compute.

        Raises:
            RetryableError: the node's folder cannot be written; on a full disk, until there is room.
        """

    def standing(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write a launch's standing.json.

        Args:
            run: the launch's.
            launch: its name.
            body: what the trainer is to know.

        Raises:
            RetryableError: the node's folder cannot be written; on a full disk, until there is room.
        """

    def chunk(self, checkpoint: CheckpointId, rank: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard.

        Args:
            checkpoint: whose.
            rank: whose shard.
            offset: in the shard's file.
            size: exactly so many bytes.

        Raises:
            CorruptError: the file is gone or short.
        """

    def rank_state(self, checkpoint: CheckpointId, rank: int) -> bytes | None:
        """A rank's state; None while it is not there.

        Args:
            checkpoint: whose.
            rank: whose state.

        Raises:
            CorruptError: its bytes are not those that the client digested when it wrote them.
        """

    def release(self, checkpoint: CheckpointId) -> None:
        """Remove a checkpoint's files, since it is safe in the region's store.

        Args:
            checkpoint: fine if its files are gone already.
        """


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """The state of a standby pool's nodes."""

    ready: bool
    waiting_ranks: int
    staged_digest: str
    staged_step: int
    load_s: float
    proof: str


class StandbyPool(Protocol):
    """The standby nodes' memory."""

    def stage(self, manifest: Manifest, manifest_digest: str) -> float:
        """Make a checkpoint resident and prove that it loads; seconds it took. The one before stays until then.

        Args:
            manifest: the checkpoint's.
            manifest_digest: of its signed payload.

        Raises:
            CorruptError: an object of it is missing or not what was saved, or it does not load.
            RetryableError: the store does not answer in time, or is overloaded.
            MisconfiguredError: it refuses the user, or the user may not do this.
        """

    def health(self) -> PoolHealth:
        """The state of the pool's nodes as they are now. Raises nothing."""

    def folder(self, manifest_digest: str) -> Path | None:
        """Where a staged checkpoint lies; None if it is not resident.

        Args:
            manifest_digest: of its signed payload.
        """
