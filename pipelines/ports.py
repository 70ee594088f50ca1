"""What the flows need of the world: few methods each, the same contract for real systems and memory fakes.

Every method may raise RetryableError when its dependency does not answer in time, and nothing else of the network's.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.core.lease import Held
from pipelines.core.resume_mode import StartRequest
from pipelines.core.retention import Listed
from pipelines.paths import CheckpointId
from schemas.records import Lease, LeaseGroup, Manifest


class Clock(Protocol):
    """Time. `boottime_s` never jumps and counts suspended time (CLOCK_BOOTTIME); wall time is for people."""

    def boottime_s(self) -> float:
        """Seconds on this machine's own clock; only differences mean anything."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch; for records and people, never for decisions."""

    def sleep(self, seconds: float) -> None:
        """Wait. May return late, never early."""


class Entropy(Protocol):
    """Where new identities come from."""

    def new_id(self) -> str:
        """32 hexadecimal digits, never the same twice."""


@dataclass(frozen=True, slots=True)
class Message:
    """One record of a log, to be sent."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """One source partition, named so that a re-created topic is another one."""

    cluster: str
    topic_id: str
    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """One record that was read, with its place."""

    partition: Partition
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    time_ms: int = 0


class EventLog(Protocol):
    """One region's Kafka, for writing (idempotent producer, acks=all)."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Append and return when all are acknowledged; after an error they may or may not be there."""

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none, visible to read_committed readers together; FencedError, for ever, if superseded.

        The first one of a log, also an empty one, fences every older writer of the same transactional id.
        UnknownOutcomeError when the commit was not answered: rebuild from the log before going on.
        """


class EventSource(Protocol):
    """A reader of one region's Kafka: assigned partitions, read_committed, no auto-commit, no reset policy."""

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of these topics as they are now; topics that do not exist are left out."""

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset): end is the offset that the next record will get."""

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset whose record was put there at `time_ms` or later; the end offset if there is none."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Assign the partition if need be and read on from an offset; CorruptError if it is out of range."""

    def position(self, partition: Partition) -> int:
        """The offset at which an assigned partition is read next: past what was delivered and what was skipped."""

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records of the assigned partitions that are not paused, in order per partition; maybe none."""

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`; polling goes on."""

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""


PIECE_BYTES = 64 * 1024


class PieceStore(Protocol):
    """A bucket whose objects can be read piece by piece."""

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """The object's bytes in order, PIECE_BYTES at most at a time; None if there is none. Close it to stop early."""


class ObjectStore(Protocol):
    """One region's bucket."""

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none (If-None-Match: *); False if there is one already."""

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there; for health probes only."""

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written, by the store's own clock."""

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none. For sweeps and drills only: no other role may."""


class LeaseStore(Protocol):
    """The witness: one record per run, changed by compare-and-set only, never deleted."""

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist (only creating a run may answer that with a write)."""

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace the version `expected_etag` (None: create); the new ETag, or None if the record had moved on.

        Raises UnknownOutcomeError when no answer came: the write may be there, or may still land (I4).
        """

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch; False if it is there already."""

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history; once is enough."""

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first."""


class GroupStore(Protocol):
    """The witness as lease groups use it: one object per group, changed by compare-and-set only, never deleted."""

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """The object now with its ETag; None if it does not exist."""

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """As `LeaseStore.write`: the new ETag, None if it had moved on; UnknownOutcomeError without an answer."""


@dataclass(frozen=True, slots=True)
class CopyJob:
    """Copy one object from a peer region's store into ours and verify it. `job_id` makes starting idempotent."""

    job_id: str
    peer: str
    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CopyResult:
    """How a copy ended: copied or already there (error ""), or why it did not."""

    job: CopyJob
    error: str = ""
    corrupt: bool = False  # True: the peer's object is missing or of another digest; retrying may help only if late
    moved_bytes: int = 0


class Transfers(Protocol):
    """Copies in the background; never blocks."""

    def start(self, job: CopyJob) -> None:
        """Begin, unless a job of this id is under way or finished and not yet collected."""

    def cancel(self, job_id: str) -> None:
        """Give up a job; unknown ids are fine."""

    def finished(self) -> tuple[CopyResult, ...]:
        """The jobs that ended since the last call."""

    def under_way(self) -> Mapping[str, int]:
        """The bytes that have crossed so far of each job that has begun and has not ended."""


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
    """How an agent reaches its region's controller."""

    def ask(self, run: str, launch: str, node: str, committed_step: int) -> GrantReply:
        """The standing of a launch. The first ask of a new launch in the primary makes it a new attempt."""


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
        """The incarnations that have a log."""

    def read(self, run: str, producer: str, offset: int, most: int = 500) -> tuple[SpoolRecord, ...]:
        """Complete records from a log offset on; a torn tail is set aside and reported once."""

    def end(self, run: str, producer: str) -> int:
        """The log offset at which the log ends now; 0 where there is none."""

    def position(self, run: str, producer: str) -> int:
        """The log offset up to which everything is published; 0 at first. Durable."""

    def advance(self, run: str, producer: str, offset: int) -> None:
        """Remember a position durably; what lies before it may be cleared away."""

    def retire(self, run: str, producer: str, offset: int) -> bool:
        """Remove a log that is published up to an offset, if its writer is gone and left nothing more; True if so."""

    def beats(self, run: str) -> tuple[Beat, ...]:
        """The newest beat of each producer whose process lives."""

    def launches(self, run: str) -> tuple[str, ...]:
        """Launches that asked for a start, have no grant yet, and live.

        A grant to one that died while it waited would be an attempt that supersedes the living.
        """

    def request(self, run: str, launch: str) -> StartRequest:
        """What a launch asked for; RetryableError while its request cannot be read."""

    def grant(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write grant.json."""

    def grants(self, run: str) -> tuple[dict[str, Any], ...]:
        """The grants that were written here, of all launches."""

    def validity(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write validity.json."""

    def standing(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write standing.json."""

    def chunk(self, checkpoint: CheckpointId, rank: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard; CorruptError if the file is gone or short."""

    def rank_state(self, checkpoint: CheckpointId, rank: int) -> bytes | None:
        """A rank's state; None while it is not there.

        Raises:
            CorruptError: its bytes are not those that the client digested when it wrote them.
        """

    def release(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is safe in the region's store: its files may go."""


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """What a standby pool says of itself."""

    ready: bool
    waiting_ranks: int
    staged_digest: str
    staged_step: int
    load_s: float
    proof: str


class StandbyPool(Protocol):
    """The standby nodes' memory."""

    def stage(self, manifest: Manifest, manifest_digest: str) -> float:
        """Make a checkpoint resident and prove that it loads; seconds it took. The one before stays until then."""

    def health(self) -> PoolHealth:
        """Look at the nodes."""

    def folder(self, manifest_digest: str) -> Path | None:
        """Where a staged checkpoint lies; None if it is not resident."""


class Signer(Protocol):
    """This region's signing key and everybody's public keys."""

    def sign(self, payload: bytes) -> bytes:
        """An encoded `Signed` record around the payload."""

    def verify(self, envelope: bytes) -> bytes:
        """The payload; CorruptError if it was not signed by a key that we trust."""


class Poster(Protocol):
    """Somebody outside who is told."""

    def post(self, key: str, body: bytes) -> None:
        """Send it under an idempotency key; RetryableError unless it was taken."""

    def judge(self, key: str, body: bytes) -> str:
        """As `post`, to somebody who may object: why not, or "" for no objection."""


class SchemaRegistry(Protocol):
    """Where a company keeps the schemas of all its topics, each under a number of the registry's own."""

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema (JSON text) under a subject; it is registered if it was not. Idempotent.

        Raises:
            RetryableError: the registry does not answer, or is overloaded.
            MisconfiguredError: it refuses the user or the schema, or is no registry.
        """


class Journal(Protocol):
    """Where flows say what they did: structured log, metrics and timeline read the same words."""

    def say(self, event: str, **fields: object) -> None:
        """One dotted event name with its fields."""
