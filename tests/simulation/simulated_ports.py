"""Ports over the shipped memory fakes, with a network between: each call gives way before and after what it does.

A `Site` says which ways a call goes. `Trouble` says which of them are out of order now; who put them so is not known
here, and the checkers know nothing of either.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.core.lease import Held
from pipelines.core.retention import Listed
from pipelines.errors import CorruptError, FencedError, RetryableError, UnknownOutcomeError
from pipelines.paths import CheckpointId
from pipelines.ports import Fetched, GrantReply, Message, Opened, Partition, SpoolRecord
from schemas.codec import Codec
from schemas.records import Lease, Record
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from tests.simulation.kernel import Process
from tests.simulation.register_checker import READ, REFUSED, UNKNOWN, WROTE, Operation

TIMEOUT_S = 1.5
POLL_LEAST_S, POLL_MOST_S = 0.5, 1.5


class Watcher(Protocol):
    """Who is told of everything that takes effect: the checkers."""

    def created(self, region: str, key: str, body: bytes) -> None:
        """An object is new in a region's store."""

    def overwritten(self, region: str, key: str, body: bytes) -> None:
        """An object was put, whatever was there."""

    def asks_to_create(self, process: str, region: str, key: str, body: bytes) -> None:
        """A process is about to send a creation."""

    def asks_to_publish(self, process: str, region: str, messages: Sequence[Message]) -> None:
        """A process is about to send messages to its region's log."""

    def appended(self, region: str, message: Message, looked: Mapping[str, int]) -> None:
        """A message is visible; `looked`: the newest epoch of each run that its writer had listed."""

    def landed(self, lease: Lease, asked_s: float) -> None:
        """A lease write took effect; it was sent at `asked_s`."""

    def accepted(self, region: str, record: SpoolRecord) -> None:
        """A record is durable in a node's spool."""

    def rotten(self, own: CheckpointId) -> None:
        """A rank state of this checkpoint changed in the spool before it was read."""


class Trouble:
    """Counts what is out of order, by name: troubles may overlap."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def begin(self, name: str) -> None:
        """One more reason."""
        self._counts[name] = self._counts.get(name, 0) + 1

    def end(self, name: str) -> None:
        """One reason less."""
        left = self._counts.get(name, 0) - 1
        if left > 0:
            self._counts[name] = left
        else:
            self._counts.pop(name, None)

    def clear(self) -> None:
        """All is well."""
        self._counts.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._counts

    def __bool__(self) -> bool:
        return bool(self._counts)


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and the ways to it and back."""

    server: str
    request: str
    reply: str
    lost: str
    late: str


def site(kind: str, region: str, caller: str) -> Site:
    """The Kafka or the store of a region as it is reached from another, or from its own."""
    server = f"{kind}@{region}"
    return Site(server, f"{caller}>{region}", f"{region}>{caller}", f"lost:{server}", f"late:{server}")


def witness_site(caller: str) -> Site:
    """The witness as a region reaches it."""
    ways = f"{caller}>witness", f"witness>{caller}"
    return Site("witness", *ways, f"lost:{ways[0]}", f"late:{ways[0]}")


class Calls:
    """The common part of a process's ports: giving way, and finding out whether the other side answers."""

    def __init__(self, process: Process, trouble: Trouble) -> None:
        self.process, self.trouble = process, trouble

    def reach(self, where: Site, call: str) -> None:
        """The request is on its way; RetryableError if it does not arrive."""
        process, trouble = self.process, self.trouble
        if process.traps:
            process.point(call)
        process.pause(0.002 + 0.03 * process.random.random())
        if trouble and (where.server in trouble or where.request in trouble):
            process.pause(TIMEOUT_S)
            raise RetryableError(f"{where.server} does not answer")

    def back(self, where: Site, call: str) -> None:
        """The answer is on its way; RetryableError if it does not arrive."""
        process, trouble = self.process, self.trouble
        process.pause(0.002 + 0.03 * process.random.random())
        if trouble and (where.reply in trouble or where.lost in trouble):
            process.pause(TIMEOUT_S)
            raise RetryableError(f"{where.server}'s answer was lost")
        if process.traps:
            process.point(call, after=True)

    def is_late(self, where: Site) -> bool:
        """Whether what was sent takes effect only after its sender has given up."""
        return bool(self.trouble) and where.late in self.trouble and self.process.random.random() < 0.6

    def gave_up(self, act: Callable[[], object], most_s: float) -> None:
        """It takes effect later, whether its sender still lives or not; the sender waits in vain."""
        self.process.kernel.at(TIMEOUT_S + self.process.random.uniform(0.0, most_s), act)
        self.process.pause(TIMEOUT_S)


class WatchedObjects(MemoryObjectStore):
    """A region's bucket: its checkers see what is created, and a listing is not a walk through everything."""

    def __init__(self, region: str, watcher: Watcher) -> None:
        super().__init__()
        self._region, self._watcher = region, watcher
        self._keys: list[str] = []

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none."""
        if key in self.objects:
            return False
        self.objects[key] = body
        bisect.insort(self._keys, key)
        self._watcher.created(self._region, key, body)
        return True

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        if key not in self.objects:
            bisect.insort(self._keys, key)
        self.objects[key] = body
        self._watcher.overwritten(self._region, key, body)

    def slip_in(self, key: str, body: bytes) -> None:
        """The region itself is hostile: no checker is told, as long as it stays there."""
        if key not in self.objects:
            bisect.insort(self._keys, key)
        self.objects[key] = body

    def flip(self, key: str) -> None:
        """One bit goes bad at rest: nobody wrote, nobody is told."""
        body = self.objects[key]
        self.objects[key] = bytes([body[0] ^ 1]) + body[1:]

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none."""
        super().delete(key)
        at = bisect.bisect_left(self._keys, key)
        if self._keys[at : at + 1] == [key]:
            del self._keys[at]

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        begin = bisect.bisect_left(self._keys, prefix)
        return tuple(self._keys[begin : bisect.bisect_left(self._keys, prefix + "\x7f")])


class SimulatedStore:
    """Implements ObjectStore for one process."""

    def __init__(self, calls: Calls, where: Site, objects: WatchedObjects, watcher: Watcher, region: str) -> None:
        self._calls, self._where, self._objects = calls, where, objects
        self._watcher, self._region = watcher, region

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is none."""
        self._calls.reach(self._where, "store.get")
        body = self._objects.get(key)
        self._calls.back(self._where, "store.get")
        return body

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """Implements PieceStore: an object is one piece."""
        body = self.get(key)
        return None if body is None else (piece for piece in [body])

    def create(self, key: str, body: bytes) -> bool:
        """Put only if there is none; without an answer it may be there, or may still land."""
        call = f"store.create {key}"
        self._watcher.asks_to_create(self._calls.process.name, self._region, key, body)
        self._calls.reach(self._where, call)
        if self._calls.is_late(self._where):
            self._calls.gave_up(lambda: self._objects.create(key, body), 20.0)
            raise RetryableError(f"{self._where.server} did not answer in time")
        made = self._objects.create(key, body)
        self._calls.back(self._where, call)
        return made

    def put(self, key: str, body: bytes) -> None:
        """Put, whatever was there."""
        self._calls.reach(self._where, "store.put")
        self._objects.put(key, body)
        self._calls.back(self._where, "store.put")

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix, sorted."""
        self._calls.reach(self._where, "store.list")
        found = self._objects.list(prefix)
        if found and prefix.endswith("/epochs/"):
            self._calls.process.looked[prefix.split("/")[1]] = int(found[-1].rpartition("/")[2])
        self._calls.back(self._where, "store.list")
        return found

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is none."""
        self._calls.reach(self._where, "store.size")
        found = self._objects.size(key)
        self._calls.back(self._where, "store.size")
        return found

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """As `list`, with sizes and times."""
        self._calls.reach(self._where, "store.list")
        found = self._objects.entries(prefix)
        self._calls.back(self._where, "store.list")
        return found

    def delete(self, key: str) -> None:
        """Remove the object."""
        self._calls.reach(self._where, "store.delete")
        self._objects.delete(key)
        self._calls.back(self._where, "store.delete")


class SimulatedLog:
    """Implements EventLog for one process; after an error its producer is made anew, as KafkaLog's is."""

    def __init__(
        self, calls: Calls, where: Site, kafka: MemoryKafka, watcher: Watcher, transactional_id: str | None = None
    ) -> None:
        self._calls, self._where, self._kafka, self._watcher = calls, where, kafka, watcher
        self._id = transactional_id
        self._producer = MemoryLog(kafka, transactional_id)

    def publish(self, messages: Sequence[Message]) -> None:
        """Append; without an answer some of them, from the first on, may be there, or may still land."""
        self._watcher.asks_to_publish(self._calls.process.name, self._kafka.cluster, messages)
        self._calls.reach(self._where, "log.publish")
        if self._calls.is_late(self._where):
            self._calls.gave_up(lambda: self._append(messages, {}), 15.0)
            raise RetryableError(f"{self._where.server} did not answer in time")
        looked = self._calls.process.looked
        if self._where.lost in self._calls.trouble:
            self._append(messages[: self._calls.process.random.randint(0, len(messages))], looked)
        else:
            self._append(messages, looked)
        self._calls.back(self._where, "log.publish")

    def transaction(self, messages: Sequence[Message]) -> None:
        """Append all or none; an unanswered commit may be there, or land until the next producer has begun."""
        producer, looked = self._producer, dict(self._calls.process.looked)
        try:
            self._calls.reach(self._where, "log.transaction")
            if messages and self._calls.is_late(self._where):
                producer.transaction(())  # it has begun; a newer one fences it
                self._calls.gave_up(lambda: self._commit(producer, messages, looked), 5.0)
                raise UnknownOutcomeError(f"{self._where.server} did not answer the commit in time")
            self._commit(producer, messages, looked, fenced=True)
            self._calls.back(self._where, "log.transaction")
        except RetryableError as error:
            self._producer = MemoryLog(self._kafka, self._id)
            raise UnknownOutcomeError(str(error)) from error

    def _commit(
        self, producer: MemoryLog, messages: Sequence[Message], looked: Mapping[str, int], *, fenced: bool = False
    ) -> None:
        try:
            producer.transaction(messages)
        except FencedError:
            if fenced:
                raise
            return  # too late: a newer producer has aborted it
        for message in messages:
            self._watcher.appended(self._kafka.cluster, message, looked)

    def _append(self, messages: Sequence[Message], looked: Mapping[str, int]) -> None:
        MemoryLog(self._kafka).publish(messages)
        for message in messages:
            self._watcher.appended(self._kafka.cluster, message, looked)


class SimulatedSource:
    """Implements EventSource for one process; a poll waits a while, as one of the real client does."""

    def __init__(self, calls: Calls, where: Site, kafka: MemoryKafka) -> None:
        self._calls, self._where = calls, where
        self._source = MemorySource(kafka)

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of these topics as they are now."""
        self._calls.reach(self._where, "source.partitions")
        found = self._source.partitions(topics)
        self._calls.back(self._where, "source.partitions")
        return found

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset still there, end offset)."""
        self._calls.reach(self._where, "source.bounds")
        found = self._source.bounds(partition)
        self._calls.back(self._where, "source.bounds")
        return found

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset of a time or later."""
        self._calls.reach(self._where, "source.offset_at")
        found = self._source.offset_at(partition, time_ms)
        self._calls.back(self._where, "source.offset_at")
        return found

    def seek(self, partition: Partition, offset: int) -> None:
        """Assign the partition if need be and read on from an offset."""
        self._calls.reach(self._where, "source.seek")
        self._source.seek(partition, offset)

    def position(self, partition: Partition) -> int:
        """The offset at which an assigned partition is read next."""
        return self._source.position(partition)

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records, if there are any by the end of the wait."""
        process, trouble = self._calls.process, self._calls.trouble
        if process.traps:
            process.point("source.poll")
        process.pause(POLL_LEAST_S + (POLL_MOST_S - POLL_LEAST_S) * process.random.random())
        where = self._where
        if trouble and (where.server in trouble or where.request in trouble or where.reply in trouble):
            process.pause(TIMEOUT_S)
            raise RetryableError(f"{where.server} does not answer")
        found = self._source.poll(timeout_s, most)
        if found and process.traps:
            process.point("source.poll", after=True)
        return found

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._source.pause(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        self._source.resume(partitions)


class WitnessServer:
    """The witness, and what its clients saw of it."""

    def __init__(self, watcher: Watcher) -> None:
        self.leases = MemoryLeaseStore()
        self.operations: dict[str, list[Operation]] = {}  # of each run
        self._watcher = watcher
        self._versions: dict[str, str] = {}

    def write(self, lease: Lease, expected_etag: str | None, asked_s: float) -> str | None:
        """A write takes effect, or is refused."""
        etag = self.leases.write(lease, expected_etag)
        if etag is not None:
            self._versions[etag] = lease.write_id
            self._watcher.landed(lease, asked_s)
        return etag

    def version_of(self, etag: str | None) -> str | None:
        """Which write made the version that an ETag names."""
        return None if etag is None else self._versions.get(etag)

    def saw(self, run: str, operation: Operation) -> None:
        """One request and its answer."""
        self.operations.setdefault(run, []).append(operation)


class SimulatedLeases:
    """Implements LeaseStore for one process: a write may be lost, land late, or win without an answer."""

    def __init__(self, calls: Calls, where: Site, server: WitnessServer) -> None:
        self._calls, self._where, self._server = calls, where, server

    def read(self, run: str) -> Held | None:
        """The record now; None if it does not exist."""
        invoked_s = self._calls.process.kernel.now_s
        self._calls.reach(self._where, "witness.read")
        held = self._server.leases.read(run)
        self._calls.back(self._where, "witness.read")
        self._saw(run, READ, None if held is None else held.lease.write_id, invoked_s)
        return held

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Replace one version; the new ETag, or None if the record had moved on."""
        invoked_s, named = self._calls.process.kernel.now_s, self._server.version_of(expected_etag)
        self._saw(lease.run, UNKNOWN, lease.write_id, invoked_s)
        try:
            self._calls.reach(self._where, f"witness.write {lease.reason}")
            late = self._calls.is_late(self._where)
            if late:
                self._calls.gave_up(lambda: self._server.write(lease, expected_etag, invoked_s), 40.0)
            etag = None if late else self._server.write(lease, expected_etag, invoked_s)
            self._calls.back(self._where, f"witness.write {lease.reason}")
        except RetryableError as error:
            raise UnknownOutcomeError(str(error)) from error
        if late:
            raise UnknownOutcomeError("the witness did not answer in time")
        if etag is None:
            self._saw(lease.run, REFUSED, named, invoked_s)
        else:
            self._saw(lease.run, WROTE, lease.write_id, invoked_s)
        return etag

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Leave the create-only audit copy of an epoch."""
        self._calls.reach(self._where, "witness.claim")
        made = self._server.leases.claim(run, epoch, body)
        self._calls.back(self._where, "witness.claim")
        return made

    def claimed(self, run: str) -> int:
        """The highest epoch of which an audit copy was left."""
        self._calls.reach(self._where, "witness.claimed")
        found = self._server.leases.claimed(run)
        self._calls.back(self._where, "witness.claimed")
        return found

    def note(self, lease: Lease) -> None:
        """Leave a create-only copy of a record for the history."""
        self._calls.reach(self._where, "witness.note")
        self._server.leases.note(lease)
        self._calls.back(self._where, "witness.note")

    def noted(self, run: str) -> tuple[Lease, ...]:
        """The noted records, oldest first."""
        self._calls.reach(self._where, "witness.noted")
        found = self._server.leases.noted(run)
        self._calls.back(self._where, "witness.noted")
        return found

    def _saw(self, run: str, kind: str, version: str | None, invoked_s: float) -> None:
        process = self._calls.process
        self._server.saw(run, Operation(process.name, kind, version, invoked_s, process.kernel.now_s))


class Granting(Protocol):
    """A run's controller, as its region's agents reach it."""

    def grant(self, launch: str, committed_step: int, *, node: str, begins: bool) -> GrantReply:
        """The standing of a launch."""


class SimulatedGrants:
    """Implements Grants: asks the controller process of the region, which may be away or stand still."""

    def __init__(self, calls: Calls, controller: Callable[[], tuple[Process, Mapping[str, Granting]] | None]) -> None:
        self._calls, self._controller = calls, controller

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        """The standing of a launch."""
        process = self._calls.process
        if process.traps:
            process.point("grants.ask")
        process.pause(0.002 + 0.01 * process.random.random())
        found = self._controller()
        if found is None or not found[0].alive or found[0].frozen_until_s > process.kernel.now_s:
            process.pause(TIMEOUT_S)
            raise RetryableError("the controller does not answer")
        reply = found[1][run].grant(launch, committed_step, node=node, begins=begins)
        process.pause(0.002 + 0.01 * process.random.random())
        if process.traps:
            process.point("grants.ask", after=True)
        return reply


class RememberingCodec(Codec):
    """The shipped codec, which decodes the same bytes once: a message has many readers, and records never change."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, Record] = {}

    def decode(self, value: bytes) -> Record:
        """The record in `value`."""
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = super().decode(value)
        return found


class KeyedSigner:
    """Implements Signer with a secret for each region, since Ed25519 is slow.

    Args:
        region: whose key it has; what anybody signed is opened by everybody.
    """

    def __init__(self, region: str = "nobody") -> None:
        self._region = region

    def sign(self, payload: bytes) -> bytes:
        """The payload behind the region's seal."""
        return _sealed(self._region, payload)

    def opened(self, envelope: bytes) -> Opened:
        """The payload, and whose seal it has; CorruptError if the seal does not fit."""
        region = envelope[: envelope.find(b"\n")].decode(errors="replace")
        payload = envelope[len(region) + 17 :]
        if _sealed(region, payload) != envelope:
            raise CorruptError("the seal does not fit its payload")
        return Opened(payload, region)


def _sealed(region: str, payload: bytes) -> bytes:
    seal = hashlib.blake2b(payload, key=f"simulated {region}".encode()[:64], digest_size=16).digest()
    return region.encode() + b"\n" + seal + payload
