"""Checks every promise after each round, from outside: spools, logs, stores, journals, the witness. Knows no fault."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.core.lineage import Standing, standing
from pipelines.core.manifests import objects
from pipelines.core.metric_batches import rows_of
from pipelines.errors import RetryableError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.paths import CheckpointId
from pipelines.ports import Partition
from schemas.codec import Codec, DecodeError, digest
from schemas.records import Checkpoint, Event, Lease, Manifest
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaSource
from services.adapters.s3.object_store import S3ObjectStore
from services.adapters.spool import NodeSpool
from services.runtime.clients import client_of, cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings
from tests.integration.fault_clocks import Clocks

Span = tuple[float, float]
SPANS_KEPT = 300
Identity = tuple[str, int, str, str, int]  # run, epoch, producer, lane, number
POLL_S, BATCH = 0.3, 500


class Lines:
    """The new whole lines of a file of JSON lines, each given once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new(self) -> list[dict[str, Any]]:
        """The records written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class Log:
    """One region's replicated lanes, each record read once."""

    def __init__(self, cluster: KafkaCluster, run: str) -> None:
        self._source, self._codec, self._run = KafkaSource(cluster), Codec(), run
        self._followed: set[Partition] = set()

    def new(self) -> list[Event]:
        """The records that became visible since the last call; none while Kafka does not answer."""
        found: list[Event] = []
        try:
            if len(self._followed) < len(paths.REPLICATED_LANES):
                for partition in self._source.partitions([paths.topic(lane) for lane in paths.REPLICATED_LANES]):
                    self._source.seek(partition, self._source.bounds(partition)[0])
                    self._followed.add(partition)
            more = True
            while more:  # new ones come all the time: a look ends with the first batch that is not full
                items = self._source.poll(POLL_S, BATCH)
                more = len(items) == BATCH
                found += [row for item in items for row in self._rows(item.value)]
        except RetryableError:
            return found
        return found

    def close(self) -> None:
        """Drop the consumer."""
        self._source.close()

    def _rows(self, value: bytes) -> tuple[Event, ...]:
        try:
            event = self._codec.decode(value)
        except DecodeError:
            return ()
        return rows_of(event) if isinstance(event, Event) and event.run == self._run else ()


class Writes:
    """The lease writes that controllers were told they had won, in true time."""

    def __init__(self) -> None:
        self._places: dict[int, str] = {}
        self._spans: dict[str, list[Span]] = {}

    def won(self, region: str, epoch: int, seq: int, span: Span | None) -> list[str]:
        """Take in one: its number, and from before it was sent until its validity ends; what that breaks."""
        found, place = [], f"{region}, epoch {epoch}"
        if seq in self._places:
            found.append(f"I3: write {seq} was won twice, by {self._places[seq]} and by {place}")
        self._places[seq] = place
        if span is None:
            return found
        for other, spans in self._spans.items():
            both_s = max((min(span[1], one[1]) - max(span[0], one[0]) for one in spans), default=0.0)
            if other != region and both_s > 0:
                found.append(f"I1: {region} and {other} held the lease for {both_s:.3f} s at once")
        self._spans[region] = [*self._spans.get(region, []), span][-SPANS_KEPT:]
        return found


class Judge:
    """Remembers what it saw, so that each look costs what is new only."""

    def __init__(self, settings: Settings, clocks: Clocks, witness: str, run: str) -> None:
        self._settings, self._clocks, self._run = settings, clocks, run
        self._codec = Codec()
        regions = settings.regions
        self._stores = {name: store_of(here) for name, here in regions.items()}
        self._spools = {name: NodeSpool(here.node_dir) for name, here in regions.items()}
        self._logs = {name: Log(cluster_of(here), run) for name, here in regions.items()}
        timeline = settings.state_dir / "timeline"
        self._journals = {name: Lines(timeline / f"controller-{name}.jsonl") for name in regions}
        client = client_of(witness, next(iter(regions.values())).witness_credentials_file)
        self._witness = S3ObjectStore(client, settings.witness.bucket)
        self._offsets: dict[tuple[str, str], int] = {}
        self._open: dict[Identity, tuple[int, int]] = {}  # accepted, and not yet seen everywhere
        self._seen: dict[str, Counter[Identity]] = {name: Counter() for name in regions}
        self._copies: dict[str, Counter[Identity]] = {name: Counter() for name in regions}
        self._writes = Writes()
        self._noted: dict[str, Lease] = {}
        self._chain: list[dict[str, Any]] = []
        self._found: list[str] = []
        self.accepted: Counter[tuple[str, int]] = Counter()  # records in a region's spool, by epoch
        self.branches = 0  # records that turned out to lie past a fork

    # --- what is new ---

    def look(self) -> None:
        """Take in what the spools, the logs and the journals have got since."""
        self._look_at_spools()
        for region, log in self._logs.items():
            for event in log.new():
                self._take(region, event)
        for region, journal in self._journals.items():
            for line in journal.new():
                if line["event"] == "lease.written":
                    self._take_write(region, line)

    def progress(self, region: str, epoch: int) -> int:
        """How many records a region's nodes have accepted under an epoch."""
        self._look_at_spools()
        return self.accepted[region, epoch]

    def missing(self, holder: str, before: set[Identity]) -> set[Identity]:
        """Of these accepted events, those on the lineage that some region's log does not show yet (I14)."""
        view = EpochStore(self._stores[holder])(self._run)
        if view is None:
            return before
        for identity in list(self._open):
            if standing(view, *self._open[identity]) is Standing.BRANCH:
                del self._open[identity]  # closed for good: a chain only grows
                self.branches += 1
            elif all(identity in seen for seen in self._seen.values()):
                del self._open[identity]
        return before & self._open.keys()

    def taken(self) -> set[Identity]:
        """Everything accepted that was not yet seen everywhere."""
        return set(self._open)

    @property
    def own_duplicates(self) -> int:
        """Published twice by an agent that died between: readers count them once (I15)."""
        return sum(count - 1 for seen in self._seen.values() for count in seen.values())

    def _look_at_spools(self) -> None:
        for region, spool in self._spools.items():
            for producer in spool.producers(self._run):
                offset = self._offsets.get((region, producer), 0)
                while records := spool.read(self._run, producer, offset):
                    offset = self._offsets[region, producer] = records[-1].end
                    for one in records:
                        self._open[one.run, one.epoch, one.producer, one.lane, one.seq] = (one.epoch, one.step)
                        self.accepted[region, one.epoch] += 1

    def _take(self, region: str, event: Event) -> None:
        identity = (event.run, event.epoch, event.producer, event.lane, event.seq)
        self._seen[region][identity] += 1
        if event.region != region:
            self._copies[region][identity] += 1
            if self._copies[region][identity] > 1:
                self._found.append(f"I15: {region}'s log has a copy twice: {identity}")
        if isinstance(event, Checkpoint) and event.state == "committed":
            self._found += [
                f"I13: {why}" for why in self._incomplete(region, event.manifest_key, event.manifest_digest)
            ]

    def _take_write(self, region: str, line: Mapping[str, Any]) -> None:
        name, span = f"controller-{region}", None
        if line["until_s"] is not None:  # a release holds nothing
            span = (self._clocks.true_s(name, line["from_s"]), self._clocks.true_s(name, line["until_s"]))
        self._found += self._writes.won(region, int(line["epoch"]), int(line["renew_seq"]), span)

    # --- what must hold ---

    def broken(self, lineage: Sequence[dict[str, Any]]) -> list[str]:
        """Every promise that does not hold; `lineage` is the holder's."""
        found, self._found = self._found, []
        for before, after in itertools.pairwise(lineage):
            if (after["epoch"], after["parent_epoch"]) != (before["epoch"] + 1, before["epoch"]):
                found.append(f"I2: epoch {after['epoch']} follows {before['epoch']}")
        if list(lineage[: len(self._chain)]) != self._chain:
            found.append(f"I3: the chain was {self._chain} and is {lineage}")
        for entry in lineage[len(self._chain) :]:
            found += [f"I7: epoch {entry['epoch']}: {why}" for why in self._fork_incomplete(entry)]
        self._chain = list(lineage)
        return found + self._history(lineage)

    def unrecorded(self, lineage: Sequence[dict[str, Any]]) -> list[int]:
        """I12: the epochs of which the witness's history does not tell."""
        for key in self._witness.list(paths.history_prefix(self._run)):
            if key not in self._noted:
                self._noted[key] = self._codec.decode_as(Lease, self._witness.get(key) or b"")
        recorded = {entry.epoch for record in self._noted.values() for entry in record.lineage}
        return sorted({int(entry["epoch"]) for entry in lineage} - recorded)

    def _history(self, lineage: Sequence[dict[str, Any]]) -> list[str]:
        found = [f"I12: nobody noted epoch {epoch}" for epoch in self.unrecorded(lineage)]
        forks: dict[int, tuple[int, str]] = {}
        for record in self._noted.values():
            for entry in record.lineage:
                fork = (entry.fork_step, entry.fork_manifest_digest)
                if forks.setdefault(entry.epoch, fork) != fork:
                    found.append(f"I9: epoch {entry.epoch} has two forks")
        return found

    def _fork_incomplete(self, entry: Mapping[str, Any]) -> list[str]:
        """I7: what an epoch forked from is whole in the region that won it."""
        region, step, wanted = str(entry["region"]), int(entry["fork_step"]), str(entry["fork_manifest_digest"])
        if step < 0:
            return []
        keys = self._stores[region].list(paths.checkpoints_prefix(self._run))
        at_step = [one.manifest for one in paths.committed(keys) if one.step == step]
        for key in at_step:
            if not self._incomplete(region, key, wanted):
                return []
        return [f"{region} does not have the whole checkpoint of step {step} ({wanted[:12]}), only {at_step}"]

    def _incomplete(self, region: str, manifest_key: str, wanted: str) -> list[str]:
        """The objects of a manifest that a region's store lacks, in words; empty if it has them all."""
        store, place = self._stores[region], f"{region}: {manifest_key}"
        envelope = store.get(manifest_key)
        if envelope is None:
            return [f"{place} is not there"]
        payload = signer_of(self._settings, region).verify(envelope)
        manifest = self._codec.decode(payload)
        if digest(payload) != wanted or not isinstance(manifest, Manifest):
            return [f"{place} is not the manifest that was named"]
        own = CheckpointId(manifest.run, manifest.epoch, manifest.attempt, manifest.step)
        if own.manifest != manifest_key:
            return [f"{place} is the manifest of {own.prefix}"]
        bodies = ((one, store.get(one.key)) for one in objects(manifest))
        return [
            f"{region}: {one.key} is not whole" for one, body in bodies if body is None or digest(body) != one.sha256
        ]

    def close(self) -> None:
        """Drop the consumers."""
        for log in self._logs.values():
            log.close()
