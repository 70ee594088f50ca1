"""The records that cross a boundary, as frozen dataclasses.

The Avro schemas under `schemas/events` and `schemas/manifest` are the source of truth; `tests/core/log/test_schemas.py`
proves that these classes match them field by field. Steps are optimizer steps, times are milliseconds since the Unix
epoch and for people only, digests are lower-case hexadecimal SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

GENESIS = ""
"""The parent digest of a run's first checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Anything that the codec can write and read; `schema_name` names its .avsc file without the ending."""

    schema_name: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """The fields of every event: its identity (run, epoch, producer, lane, seq), place and time."""

    lane: ClassVar[str] = ""
    event_id: str
    run: str
    region: str  # where it was first published
    epoch: int
    attempt: int
    producer: str  # incarnation, see docs/formats.md
    seq: int  # from 1, without holes, per (run, epoch, producer, lane)
    step: int
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSeq(Record):
    """The last number that a producer assigned in a lane; shows a lost tail."""

    producer: str
    lane: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Event):
    """A node is alive, and where its training stands."""

    schema_name: ClassVar[str] = "events/heartbeat"
    lane: ClassVar[str] = "heartbeats"
    node: str
    phase: str  # train, waiting, save, done ...
    budget_s: float  # how long this phase may stay silent before it counts as stuck
    last_seqs: tuple[LastSeq, ...]
    committed_epoch: int = 0  # of the run's newest committed checkpoint that this node knows; 0: it knows none
    committed_step: int = -1
    committed_seq: int = -1  # its lineage number; -1: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Event):
    """The outcome of one checkpoint: committed, abandoned, superseded or branch."""

    schema_name: ClassVar[str] = "events/checkpoint"
    lane: ClassVar[str] = "checkpoints"
    state: str
    manifest_key: str
    manifest_digest: str
    lineage_seq: int
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Event):
    """Named values of one step."""

    schema_name: ClassVar[str] = "events/metric"
    lane: ClassVar[str] = "metrics"
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricColumn(Record):
    """The values of one name in a batch."""

    name: str
    rows: tuple[int, ...]  # those that have a value; (): all of them
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBatch(Event):
    """Metrics of many steps of one producer, by columns. It takes all numbers from `first_seq` to `seq`, one a row."""

    schema_name: ClassVar[str] = "events/metric_batch"
    lane: ClassVar[str] = "metrics"
    first_seq: int
    steps: tuple[int, ...]
    times_ms: tuple[int, ...]
    columns: tuple[MetricColumn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsThinned(Event):
    """Metrics that did not enter the spool, since its bound was near or its disk full. They have no numbers."""

    schema_name: ClassVar[str] = "events/metrics_thinned"
    lane: ClassVar[str] = "metrics"
    first_step: int
    last_step: int
    dropped: int  # 0: the rule begins to hold at first_step
    keep_every: int  # kept are steps that are a multiple of this; 0: none
    used_bytes: int
    bytes_max: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataShard(Record):
    """One file of the training data."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataVersion(Event):
    """The data that the run reads, in order, and how it is sampled.

    A long list of shards lies in an object, and `shards` is empty then.
    """

    schema_name: ClassVar[str] = "events/data_version"
    lane: ClassVar[str] = "data-versions"
    name: str
    digest: str
    shards: tuple[DataShard, ...]
    sampler: str
    data_seed: int
    list_key: str = ""  # of the object that holds the list, a ShardList; "": the list is in `shards`
    list_sha256: str = ""  # of its bytes
    list_bytes: int = 0
    list_count: int = 0  # so many shards


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardList(Record):
    """The shards of a data version, in order, in an object of their own."""

    schema_name: ClassVar[str] = "manifest/shard_list"
    shards: tuple[DataShard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochChange(Event):
    """A change of authority: who, why and which gates were seen."""

    schema_name: ClassVar[str] = "events/epoch_change"
    lane: ClassVar[str] = "control"
    parent_epoch: int
    fork_step: int
    fork_manifest_digest: str
    holder: str
    holder_before: str
    reason: str
    actor: str
    gates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness(Event):
    """The checkpoint that a standby pool holds, how well it is proven, and how long recovery would take."""

    schema_name: ClassVar[str] = "events/readiness"
    lane: ClassVar[str] = "control"
    manifest_digest: str
    grade: str
    proof: str
    staged_s: float
    predicted_rto_s: float
    waiting_ranks: int = -1  # ranks that wait for their grant; -1: an older warmer, which does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting(Record):
    """How far one service of a region reaches another region. Ages in seconds; -1: never.

    It belongs to no run and has no place in a sequence: a lost one is replaced by the next.
    """

    schema_name: ClassVar[str] = "events/sighting"
    region: str  # who looks
    observer: str  # which of its services
    of_region: str
    kafka_age_s: float  # since its Kafka answered
    store_age_s: float  # since its store answered
    nodes_age_s: float  # since a node of it was heard
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Record):
    """One Kafka header."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Record):
    """An event that could not be handled: its bytes, its origin and the reason."""

    schema_name: ClassVar[str] = "events/dead_letter"
    cluster: str
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: tuple[Header, ...]
    reason: str
    detail: str
    time_ms: int
    stack: str = ""  # where the error came from, if one was raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven(Record):
    """The mark that a dead letter was handled again; it is in the same topic, so that this cannot happen twice."""

    schema_name: ClassVar[str] = "events/redriven"
    partition: int  # the letter's place
    offset: int
    run: str
    lane: str
    event_id: str
    outcome: str  # published, or dead_again: there is a newer letter
    actor: str
    ask_id: str
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Position(Record):
    """How far a region has followed one source partition; the next offset to read."""

    schema_name: ClassVar[str] = "events/position"
    cluster: str
    topic_id: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark(Record):
    """The highest sequence number whose effect is durable here, per (run, epoch, producer, lane)."""

    schema_name: ClassVar[str] = "events/watermark"
    run: str
    epoch: int
    producer: str
    lane: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRange(Record):
    """Numbers of a stream, or offsets of a partition, both ends included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm(Record):
    """Something of a followed log is missing or went backwards, as a region remembers it (`core.alarms`)."""

    schema_name: ClassVar[str] = "events/alarm"
    kind: str
    state: str  # open, acknowledged, healed, forgotten
    peer: str  # whose log it is
    lane: str
    run: str  # "*": whichever had something there
    epoch: int  # 0: not known
    producer: str  # "": not known
    place: str  # topic id and partition, of what is told in offsets; "" of what is told in numbers
    ranges: tuple[AlarmRange, ...]
    unlisted: int  # so many more, in more ranges than are kept
    cause: str
    time_ms: int
    actor: str  # who acknowledged it


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Record):
    """A digested piece of a shard: the unit of transfer."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard(Record):
    """One rank's part of a checkpoint; its chunks lie in order under the checkpoint's prefix."""

    rank: int
    size: int
    sha256: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState(Record):
    """One rank's RNG and loader state."""

    rank: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Record):
    """One stored value of a checkpoint: a tensor's piece, or a plain value as JSON."""

    fqn: str
    kind: str
    rank: int
    offset: int
    length: int
    sha256: str
    dtype: str
    shape: tuple[int, ...]
    chunk_offsets: tuple[int, ...]
    chunk_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Record):
    """The coordinator's statement that every rank's shard is in its spool, with their contents."""

    schema_name: ClassVar[str] = "manifest/intent"
    run: str
    epoch: int
    attempt: int
    step: int
    producer: str
    seq: int
    time_ms: int
    mode: str
    world_size: int
    fingerprint: dict[str, str]
    previous_step: int  # the attempt's intent before this one; -1 when it is the first
    start_manifest_digest: str  # what the attempt was started from; GENESIS for a fresh run
    start_lineage_seq: int
    health: dict[str, float]
    data_version: str
    shards: tuple[Shard, ...]
    items: tuple[Item, ...]
    planner: str  # DCP's flatten mapping, as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Record):
    """One rank's shard and state are uploaded."""

    schema_name: ClassVar[str] = "manifest/receipt"
    run: str
    epoch: int
    attempt: int
    step: int
    shard: Shard
    rank_state: RankState


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Record):
    """The list that makes a checkpoint complete. Its digest is the SHA-256 of its encoded bytes."""

    schema_name: ClassVar[str] = "manifest/manifest"
    run: str
    region: str
    epoch: int
    attempt: int
    step: int
    lineage_seq: int
    parent_digest: str
    prefix: str
    time_ms: int
    mode: str
    world_size: int
    fingerprint: dict[str, str]
    health: dict[str, float]
    data_version: str
    shards: tuple[Shard, ...]
    rank_states: tuple[RankState, ...]
    items: tuple[Item, ...]
    planner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned(Record):
    """This checkpoint will never be complete; it takes the manifest's key, so that there is one outcome."""

    schema_name: ClassVar[str] = "manifest/abandoned"
    run: str
    epoch: int
    attempt: int
    step: int
    parent_digest: str
    lineage_seq: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Record):
    """An encoded record with its Ed25519 signature (RFC 8032) and the name of the key that made it."""

    schema_name: ClassVar[str] = "manifest/signed"
    payload: bytes
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEntry(Record):
    """One link of the lineage: the epoch, where it forked from its parent, who won it, and why."""

    epoch: int
    parent_epoch: int
    fork_step: int  # -1 for the first epoch
    fork_manifest_digest: str
    fork_lineage_seq: int
    region: str
    reason: str
    actor: str
    time_ms: int
    note: str = ""  # why, in a person's own words


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Record):
    """The lease record of a run: who may write, until when it is renewed, and the chain of epochs."""

    schema_name: ClassVar[str] = "manifest/lease"
    run: str
    epoch: int
    holder: str
    incarnation: str  # the controller process that wrote it
    mode: str  # active, handover, released, paused
    renew_seq: int
    write_id: str
    predecessor: str  # write_id of the record that this one replaced; GENESIS for the first
    lease_s: float
    attempt: int
    launch: str  # the launch that holds the attempt
    committed_step: int
    reason: str
    actor: str
    profile: str
    time_ms: int
    lineage: tuple[EpochEntry, ...] = field(default=())
    target: str = ""  # handover, released: the region that is to have it
    note: str = ""  # why, in a person's own words
    acknowledged: int = 0  # the newest epoch after which a person allowed another automatic move
    scheduled_ms: int = 0  # when a planned move to the target begins, by the holder's wall clock; 0: none is planned


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseMember(Record):
    """One run's lease record in a group, encoded: whoever cannot read it can still keep it."""

    run: str
    write_id: str  # the lease's; it names this version of it
    lease: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGroup(Record):
    """The lease records of the runs of a group, in one object that changes by compare-and-set."""

    schema_name: ClassVar[str] = "manifest/lease_group"
    group: str
    write_id: str
    members: tuple[LeaseMember, ...] = field(default=())  # by run
