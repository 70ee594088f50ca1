"""Fakes that ship with the product: the same contracts in memory, for the simulator and unit tests."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipelines.core.lease import Held
from pipelines.core.manifests import objects
from pipelines.core.retention import Listed
from pipelines.errors import CorruptError, FencedError, MisconfiguredError, RetryableError
from pipelines.ports import CopyJob, CopyResult, Fetched, GrantReply, Message, ObjectStore, Partition, PoolHealth
from schemas.codec import Codec, digest
from schemas.records import Lease, LeaseGroup, Manifest
from services.adapters.system_clock import SystemClock
from services.adapters.transfers import copied

_CODEC = Codec()


class MemoryObjectStore:
    """Implements ObjectStore in a dictionary. `wall_ms` is its clock."""

    def __init__(self, wall_ms: Callable[[], int] | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self._modified_ms: dict[str, int] = {}
        self._wall_ms = wall_ms or SystemClock().wall_ms
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        return self.objects.get(key)

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none."""
        with self._lock:
            if key in self.objects:
                return False
            self.put(key, body)
            return True

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        self.objects[key] = body
        self._modified_ms[key] = self._wall_ms()

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        return tuple(sorted(key for key in list(self.objects) if key.startswith(prefix)))

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""
        body = self.objects.get(key)
        return None if body is None else len(body)

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with each object's size and when it was last written."""
        found = ((key, self.objects.get(key)) for key in self.list(prefix))
        return tuple(Listed(key, len(body), self._modified_ms.get(key, 0)) for key, body in found if body is not None)

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none."""
        with self._lock:
            self.objects.pop(key, None)


@dataclasses.dataclass
class MemoryLeaseStore:
    """Implements LeaseStore and GroupStore; `history` holds every write that landed, in order."""

    records: dict[str, Held] = dataclasses.field(default_factory=dict)
    claims: dict[tuple[str, int], bytes] = dataclasses.field(default_factory=dict)
    history: list[Lease] = dataclasses.field(default_factory=list)
    notes: dict[tuple[str, int], Lease] = dataclasses.field(default_factory=dict)
    groups: dict[str, tuple[LeaseGroup, str]] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        """Implements GroupStore."""
        return self.groups.get(group)

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        """Implements GroupStore; `history` has what it changed."""
        with self.lock:
            found = self.groups.get(group.group)
            if (None if found is None else found[1]) != expected_etag:
                return None
            known = set() if found is None else {one.write_id for one in found[0].members}
            changed = [one for one in group.members if one.write_id not in known]
            self.history += [_CODEC.decode_as(Lease, one.lease) for one in changed]
            etag = f'"{group.write_id}"'
            self.groups[group.group] = (group, etag)
            return etag

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist."""
        return self.records.get(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version; the new ETag, or None if the record had moved on."""
        with self.lock:
            found = self.records.get(lease.run)
            if (None if found is None else found.etag) != expected_etag:
                return None
            etag = f'"{lease.write_id}"'
            self.records[lease.run] = Held(lease, etag)
            self.history.append(lease)
            return etag

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch; False if it is there already."""
        with self.lock:
            if (run, epoch) in self.claims:
                return False
            self.claims[run, epoch] = body
            return True

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history."""
        self.notes.setdefault((lease.run, lease.renew_seq), lease)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first."""
        return tuple(self.notes[key] for key in sorted(self.notes) if key[0] == run)


class MemoryKafka:
    """One cluster: topics of one partition, made at first use. A commit takes one offset, as Kafka's marker does.

    `wall_ms` is its clock; without one every record is of the time 0.
    """

    def __init__(self, cluster: str, wall_ms: Callable[[], int] = lambda: 0) -> None:
        self.cluster = cluster
        self.times: dict[str, dict[int, int]] = {}  # topic -> offset -> when it was put there, if not at 0
        self._wall_ms = wall_ms
        self.writers: dict[str, int] = {}  # transactional id -> newest writer
        self._topics: dict[str, list[Message | None]] = {}
        self._ids: dict[str, int] = {}
        self._firsts: dict[str, int] = {}

    def topic(self, name: str) -> list[Message | None]:
        """The records of a topic by offset; None is a marker."""
        self._ids.setdefault(name, 1)
        return self._topics.setdefault(name, [])

    def append(self, message: Message) -> None:
        """Put a record at the end of its topic."""
        records, now_ms = self.topic(message.topic), self._wall_ms()
        if now_ms:
            self.times.setdefault(message.topic, {})[len(records)] = now_ms
        records.append(message)

    def time_ms(self, name: str, offset: int) -> int:
        """When a record was put there."""
        return self.times.get(name, {}).get(offset, 0)

    def create_again(self, name: str) -> None:
        """Delete a topic and make it anew, under another id."""
        self._topics[name] = []
        self.times.pop(name, None)
        self._ids[name] = self._ids.get(name, 0) + 1
        self._firsts.pop(name, None)

    def first(self, name: str) -> int:
        """The first offset that is still there."""
        return self._firsts.get(name, 0)

    def trim(self, name: str, first: int) -> None:
        """What retention does: the records before an offset are gone."""
        self._firsts[name] = first
        self._topics[name][:first] = [None] * first

    def cut(self, name: str, end: int) -> None:
        """What an unclean election does: the records from an offset on are gone."""
        del self._topics[name][end:]

    def has(self, name: str) -> bool:
        """Whether the topic exists."""
        return name in self._topics

    def partition(self, name: str) -> Partition:
        """The one partition of a topic."""
        return Partition(self.cluster, f"{name}#{self._ids[name]}", name, 0)


class MemoryLog:
    """Implements EventLog."""

    def __init__(self, kafka: MemoryKafka, transactional_id: str | None = None) -> None:
        self._kafka = kafka
        self._id = transactional_id
        self._writer: int | None = None

    def publish(self, messages: Sequence[Message]) -> None:
        """Append."""
        for message in messages:
            self._kafka.append(message)

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none; FencedError if a newer log of this id has begun."""
        if self._id is None:
            raise ValueError("this log has no transactional id")
        if self._writer is None:
            self._writer = self._kafka.writers[self._id] = self._kafka.writers.get(self._id, 0) + 1
        if self._kafka.writers[self._id] != self._writer:
            raise FencedError(f"transactional id {self._id}: a newer writer has begun")
        self.publish(messages)
        for name in {message.topic for message in messages}:
            self._kafka.topic(name).append(None)


class MemorySource:
    """Implements EventSource."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of these topics as they are now."""
        return tuple(self._kafka.partition(name) for name in topics if self._kafka.has(name))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset)."""
        return self._kafka.first(partition.topic), len(self._kafka.topic(partition.topic))

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset of a time or later; the end if there is none."""
        records = self._kafka.topic(partition.topic)
        later = (
            at
            for at, one in enumerate(records)
            if one is not None and self._kafka.time_ms(partition.topic, at) >= time_ms
        )
        return next(later, len(records))

    def seek(self, partition: Partition, offset: int) -> None:
        """Assign the partition if need be and read on from an offset; CorruptError if it is out of range."""
        first, end = self.bounds(partition)
        if not first <= offset <= end:
            raise CorruptError(f"{partition.topic}/{partition.number}: offset {offset} is outside {first}..{end}")
        self._positions = {key: at for key, at in self._positions.items() if key.topic != partition.topic}
        self._positions[partition] = offset

    def position(self, partition: Partition) -> int:
        """The offset at which an assigned partition is read next."""
        return self._positions[partition]

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:  # noqa: ARG002 - never waits
        """The next records of the assigned partitions that are not paused."""
        found: list[Fetched] = []
        for partition, offset in self._positions.items():
            if partition in self._paused:
                continue
            records, at = self._kafka.topic(partition.topic), offset
            if at < self._kafka.first(partition.topic):
                raise CorruptError(f"{partition.topic}/{partition.number}: offset {at} is gone")
            if offset == len(records):
                continue
            for item in records[offset:]:
                if len(found) == most:
                    break
                if item is not None:
                    put_ms = self._kafka.time_ms(partition.topic, at)
                    found.append(Fetched(partition, at, item.key, item.value, item.headers, put_ms))
                at += 1
            self._positions[partition] = at
        return tuple(found)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        self._paused.difference_update(partitions)


class MemoryTransfers:
    """Implements Transfers: copies `per_turn` objects at each `finished`, so that a test can look at half a copy."""

    def __init__(self, peers: Mapping[str, ObjectStore], store: ObjectStore, per_turn: int = 1_000) -> None:
        self.per_turn = per_turn
        self._peers = peers
        self._store = store
        self._waiting: deque[CopyJob] = deque()

    def start(self, job: CopyJob) -> None:
        """Begin, unless a job of this id is under way."""
        if all(one.job_id != job.job_id for one in self._waiting):
            self._waiting.append(job)

    def cancel(self, job_id: str) -> None:
        """Give up a job."""
        self._waiting = deque(one for one in self._waiting if one.job_id != job_id)

    def finished(self) -> tuple[CopyResult, ...]:
        """Copy a few and report them."""
        count = min(self.per_turn, len(self._waiting))
        return tuple(copied(self._waiting.popleft(), self._peers, self._store) for _ in range(count))


class Granting(Protocol):
    """As much of a run's controller as an agent asks."""

    def grant(self, launch: str, committed_step: int) -> GrantReply:
        """The standing of a launch."""


class MemoryGrants:
    """Implements Grants: asks the controllers of a region in the same process."""

    def __init__(self, controls: Mapping[str, Granting]) -> None:
        self._controls = controls

    def ask(self, run: str, launch: str, node: str, committed_step: int) -> GrantReply:
        """The standing of a launch."""
        del node
        if run not in self._controls:
            raise RetryableError(f"run {run!r} is not served here")
        return self._controls[run].grant(launch, committed_step)


class MemorySchemaRegistry:
    """Implements SchemaRegistry: one number a schema, whatever the subject. It judges no compatibility."""

    def __init__(self) -> None:
        self.subjects: dict[str, list[int]] = {}
        self.schemas: list[str] = []

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema under a subject; MisconfiguredError if it is none."""
        try:
            Codec().learn(schema)
        except Exception as error:  # fastavro raises many kinds on a text that is no schema; all mean the same here
            raise MisconfiguredError(f"{subject}: no Avro schema: {error}") from error
        if schema not in self.schemas:
            self.schemas.append(schema)
        found = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if found not in versions:
            versions.append(found)
        return found


class MemoryStandbyPool:
    """Implements StandbyPool: reads and verifies every object, and calls that loading.

    `waiting_ranks` and `load_s` may be set at any time; `staged` holds the steps in the order in which they came.
    """

    def __init__(self, store: ObjectStore, waiting_ranks: int = 2, load_s: float = 0.5) -> None:
        self.waiting_ranks = waiting_ranks
        self.load_s = load_s
        self.staged: list[int] = []
        self._store = store
        self._resident: dict[str, Manifest] = {}  # the one before, and the newest

    def stage(self, manifest: Manifest, manifest_digest: str) -> float:
        """Make a checkpoint resident; CorruptError if an object of it is missing or not what was saved."""
        for named in objects(manifest):
            body = self._store.get(named.key)
            if body is None:
                raise CorruptError(f"{named.key} is not in the store")
            if digest(body) != named.sha256:
                raise CorruptError(f"{named.key} is not what its manifest names")
        others = [one for one in self._resident.items() if one[0] != manifest_digest]
        self._resident = {**dict(others[-1:]), manifest_digest: manifest}
        self.staged.append(manifest.step)
        return self.load_s

    def health(self) -> PoolHealth:
        """Look at the nodes; as long as nothing is staged, how many ranks are wanted is not known."""
        newest = next(reversed(self._resident), "")
        return PoolHealth(
            ready=bool(newest) and self.waiting_ranks > 0,
            waiting_ranks=self.waiting_ranks if newest else 0,
            staged_digest=newest,
            staged_step=self._resident[newest].step if newest else 0,
            load_s=self.load_s if newest else 0.0,
            proof="loaded" if newest else "",
        )

    def folder(self, manifest_digest: str) -> Path | None:
        """Where a staged checkpoint would lie."""
        return Path("/memory") / manifest_digest if manifest_digest in self._resident else None
