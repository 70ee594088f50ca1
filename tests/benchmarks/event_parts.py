"""The parts of `bench-events`, each measured by itself on brokers that are running."""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from farside import _spool
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines import paths
from pipelines.core.metric_batches import BatchPolicy
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.log.envelope import wrap
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Checkpoint
from services.adapters.http.grants import HttpGrants
from services.adapters.kafka.log import KafkaLog
from services.adapters.spool import NodeSpool
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.demo.actors import Failed
from services.runtime.clients import cluster_of, store_of
from services.runtime.journal import ServiceJournal
from services.runtime.wiring import signer_of
from services.settings import HOST, Settings
from tests.benchmarks import event_load
from tests.benchmarks.event_load import CHUNK, CODEC, EAST, METRICS_TOPIC, RUN, VERSIONS_TOPIC, WEST, Sender, Tail
from tests.benchmarks.event_losses import Losses
from tests.benchmarks.event_peers import Farside, Mirror, Peer, Usage
from tests.manifests import put_checkpoint

SETTLES_S = 120.0
CHECKPOINT_CHUNKS, CHECKPOINT_CHUNK_BYTES = 4, 256 * 1024
Say = Callable[[str], None]
Part = Callable[[], dict[str, Any]]
Looks = list[tuple[int, Usage]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    copied: int = 300_000
    passed: int = 1_000_000  # through the replicator, for its memory
    rate: int = 1_000
    seconds: int = 20
    warm_up_s: int = 5
    default_refresh_s: float = 60.0  # for so long a new topic is waited for under the mirror's default
    lost: int = 1_000
    new_topics: int = 3
    published: int = 50_000
    checkpoints: int = 200
    deadline_s: float = 300.0


class Bench:
    """The brokers and both peers, of which one runs at a time."""

    def __init__(self, stack: Stack, config: Path, settings: Settings, scale: Scale, say: Say) -> None:
        self._folder, self._config, self._settings = stack.folder, config, settings
        self._scale, self._say = scale, say
        self.farside = Farside(stack, settings, config)
        self.mirror = Mirror(stack, Tools.cached(), None)
        self.mirror_1_s = Mirror(stack, Tools.cached(), 1)
        self._looks: Looks = []
        self._expected = 0  # metrics of the run that the second region must have

    def close(self) -> None:
        """End what runs."""
        for peer in (self.farside, self.mirror, self.mirror_1_s):
            peer.stop()

    def parts(self) -> dict[str, Part]:
        """In their order; what is measured of a process that runs comes before it is stopped."""
        mirror, farside = self.mirror, self.farside
        return {
            "loaded": self._load,
            "mirror.copy": lambda: self._copy(mirror),
            "mirror.latency": lambda: self._latency(mirror),
            "mirror.new_topic_default": lambda: self._new_topic_default(mirror),
            "mirror.new_topic": self._new_topics,
            "mirror.losses": lambda: self._losses(self.mirror_1_s),
            "farside.copy": lambda: self._copy(farside),
            "farside.memory": self._memory,
            "farside.latency": lambda: self._latency(farside),
            "farside.new_topic": self._new_lanes,
            "farside.checkpoints": self._checkpoints,
            "farside.losses": lambda: self._losses(farside),
            "farside.scan": self._scan,
            "farside.plan": self._plan,
            "farside.publish": self._publish,
        }

    # --- both ---

    def _load(self) -> dict[str, Any]:
        """All that is to be copied is there before anybody copies."""
        for run in (RUN, "gpt2"):
            seen = {"run": run, "epoch": 1, "region": EAST, "forks": [[1, 0, -1]]}
            store_of(self._settings.region(WEST)).create(paths.epoch_seen(run, 1), json.dumps(seen).encode())
        for peer in (self.mirror, self.farside):
            peer.east.make(peer.source(METRICS_TOPIC))
            peer.east.send(event_load.metrics(peer.source(METRICS_TOPIC), "copied", 0, self._scale.copied))
        sample = next(event_load.metrics(METRICS_TOPIC, "copied", 0, 1))
        return {
            "records": self._scale.copied,
            "value_bytes": len(sample.value),
            "headers": len(sample.headers),
            "headers_bytes": sum(len(name) + len(value) for name, value in sample.headers),
        }

    def _copy(self, peer: Peer) -> dict[str, Any]:
        """From the start of the process to the last record's visibility; `steady` begins at the first record's."""
        count, begun_s = self._scale.copied, time.monotonic()
        peer.start()
        looks = peer.wait("copying", count, self._scale.deadline_s)
        if isinstance(peer, Mirror):
            peer.check()
        first_done, first = next((done, usage) for done, usage in looks if done)
        last_done, last = looks[-1]
        self._looks = looks
        steady_s = last.cpu_s - first.cpu_s
        return {
            "records": last_done,
            "seconds": round(last.at_s - begun_s, 1),
            "cpu_s": round(last.cpu_s, 2),
            "records_per_cpu_s": round(last_done / last.cpu_s),
            "start_cpu_s": round(first.cpu_s, 2),
            "steady_records_per_cpu_s": round((last_done - first_done) / steady_s) if steady_s > 0 else None,
            "peak_mb": round(last.peak_mb, 1),
        }

    def _latency(self, peer: Peer) -> dict[str, Any]:
        """From before the producer's send in the first region to a committed read in the second one."""
        scale = self._scale
        topic, target = peer.source(METRICS_TOPIC), peer.target(METRICS_TOPIC)
        messages = list(event_load.metrics(topic, "latency", 0, scale.rate * (scale.seconds + scale.warm_up_s) + 1))
        peer.start()
        with contextlib.closing(Tail(peer.west.cluster, target)) as tail:
            sender = Sender(peer.east.cluster, messages, scale.rate)
            found = event_load.latencies(tail, sender, scale.rate * scale.warm_up_s, scale.seconds + SETTLES_S)
        if peer is self.farside:
            self._expected += len(messages)
        return {
            "events": len(found),
            "events_per_s": round((len(messages) - 1) / sender.took_s),
        } | _percentiles(found)

    def _losses(self, peer: Peer) -> dict[str, Any]:
        found = Losses(peer, self._scale.lost, SETTLES_S).measured(self._say)
        peer.stop()
        return found

    def _appears(
        self, peer: Peer, topic: str, message: Message, deadline_s: float, *, made: bool = True
    ) -> float | None:
        """Seconds from before a topic is made to the visibility of its first record; None if it takes longer."""
        with contextlib.closing(Tail(peer.west.cluster, peer.target(topic))) as tail:
            begun_s = time.monotonic()
            if made:
                peer.east.make(peer.source(topic))
            peer.east.send([message])
            at_s = tail.until(event_load.name_of(dict(message.headers)), deadline_s)
        return None if at_s is None else round(at_s - begun_s, 2)

    # --- the mirror ---

    def _new_topic_default(self, peer: Peer) -> dict[str, Any]:
        topic = f"{paths.TOPIC_PREFIX}new-0"
        (message,) = event_load.versions(peer.source(topic), "new", 1, 1)
        found = self._appears(peer, topic, message, self._scale.default_refresh_s)
        peer.stop()
        return {"refresh_s": 600, "waited_s": self._scale.default_refresh_s, "seconds": found}

    def _new_topics(self) -> dict[str, Any]:
        """With the shortest refresh that it has; begun when it has copied a record of a topic that it knows."""
        peer = self.mirror_1_s
        peer.start()
        known = next(event_load.metrics(peer.source(METRICS_TOPIC), "known", 0, 1))
        if self._appears(peer, METRICS_TOPIC, known, SETTLES_S, made=False) is None:
            raise Failed(f"{peer.name} copied nothing within {SETTLES_S:.0f} s")
        found = []
        for at in range(1, self._scale.new_topics + 1):
            topic = f"{paths.TOPIC_PREFIX}new-{at}"
            (message,) = event_load.versions(peer.source(topic), "new", 1, 1)
            found.append(self._appears(peer, topic, message, SETTLES_S))
        return {"refresh_s": 1, "seconds": _all(found)}

    # --- Farside ---

    def _memory(self) -> dict[str, Any]:
        """The rest of the records passes while it is watched."""
        scale, looks = self._scale, list(self._looks)
        self.farside.start()

        def watched() -> Iterator[Message]:
            for at, one in enumerate(event_load.metrics(METRICS_TOPIC, "copied", scale.copied, scale.passed)):
                if at % CHUNK == 0:
                    looks.append((self.farside.done(), self.farside.usage()))
                yield one

        self.farside.east.send(watched())
        looks += self.farside.wait("passing all", scale.passed, self._scale.deadline_s)
        self._expected += scale.passed
        begin = next(usage for done, usage in looks if done * 10 >= scale.passed)
        last = looks[-1][1]
        return {
            "records": looks[-1][0],
            "first_mb": round(next(usage for done, usage in looks if done).rss_mb, 1),
            "begin_mb": round(begin.rss_mb, 1),  # after a tenth
            "end_mb": round(last.rss_mb, 1),
            "peak_mb": round(last.peak_mb, 1),
            "end_to_begin": round(last.rss_mb / begin.rss_mb, 3),
        }

    def _checkpoints(self) -> dict[str, Any]:
        """From before a committed checkpoint's event is sent to its visibility, with its bytes copied and verified."""
        self.farside.start()
        store, signer = store_of(self._settings.region(EAST)), signer_of(self._settings, EAST)
        found, count = [], self._scale.checkpoints
        chunks = [bytes([at]) * CHECKPOINT_CHUNK_BYTES for at in range(CHECKPOINT_CHUNKS)]
        with (
            contextlib.closing(KafkaLog(self.farside.east.cluster)) as log,
            contextlib.closing(Tail(self.farside.west.cluster, paths.CHECKPOINTS)) as tail,
        ):
            for seq in range(1, count + 2):
                own = CheckpointId("gpt2", 1, 1, seq)
                event = put_checkpoint(store, signer, own, seq=seq, chunks=chunks, time_ms=SystemClock().wall_ms())
                message = wrap(event, "checkpoint", CODEC)
                begun_s = time.monotonic()
                log.publish([message])
                at_s = tail.until(event_load.name_of(dict(message.headers)), SETTLES_S)
                if at_s is None:
                    raise Failed(f"checkpoint {seq} was not visible within {SETTLES_S:.0f} s")
                found.append(at_s - begun_s)
        found = sorted(found[1:])  # the first one makes the topic and the connections
        size = CHECKPOINT_CHUNK_BYTES * CHECKPOINT_CHUNKS
        return {"checkpoints": count, "bytes": size} | _percentiles(found)

    def _new_lanes(self) -> dict[str, Any]:
        """The first record of lanes whose topics were not there, and of a run that is new on one that was."""
        self.farside.start()
        identity = event_load.common("new", 1, "checkpoints")
        given_up = Checkpoint(
            **identity,
            state="superseded",
            manifest_key="",
            manifest_digest="",
            lineage_seq=1,
            size_bytes=0,
            reason="for the benchmark",
        )
        (version,) = event_load.versions(VERSIONS_TOPIC, "new", 1, 1)
        checkpoint = wrap(given_up, "checkpoint", CODEC)
        metric = next(event_load.metrics(METRICS_TOPIC, "new", 0, 1, run="gpt2"))
        lanes = [
            self._appears(self.farside, VERSIONS_TOPIC, version, SETTLES_S),
            self._appears(self.farside, paths.CHECKPOINTS, checkpoint, SETTLES_S),
        ]
        run = self._appears(self.farside, METRICS_TOPIC, metric, SETTLES_S, made=False)
        return {"seconds": _all(lanes), "new_run_s": _all([run])[0]}

    def _scan(self) -> dict[str, Any]:
        """`farside events count`, which also proves that every record is visible once."""
        found, seconds, cpu_s = self._command("events", "count", "--at", WEST, "--lane", "metrics", "--run", RUN)
        records = sum(int(one["records"]) for one in found)
        if records != self._expected:
            raise Failed(f"{records} metrics are visible in {WEST}, {self._expected} were sent")
        return _rate(records, seconds, cpu_s)

    def _plan(self) -> dict[str, Any]:
        """`farside replay`, which decodes every record and looks its number up."""
        found, seconds, cpu_s = self._command("replay", "--run", RUN, "--lane", "metrics")
        (row,) = found["rows"]
        if row["fates"].get("done") != self._expected:
            raise Failed(f"the plan finds {row['fates']} of {self._expected} records done")
        return _rate(int(row["records"]), seconds, cpu_s)

    def _command(self, *args: str) -> tuple[Any, float, float]:
        """A command's output, and the time and CPU that it took."""
        argv = [sys.executable, "-m", "services.cli", *args, "--config", str(self._config), "--json"]
        before, begun_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        seconds, after = time.monotonic() - begun_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise Failed(f"farside {args[0]} ended with {done.returncode}:\n{done.stderr}")
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return json.loads(done.stdout), seconds, cpu_s

    def _publish(self) -> dict[str, Any]:
        """The agent's own flow, on a node's spool, a real store and a real Kafka."""
        self.farside.east.make(paths.HEARTBEATS)
        return {
            "alone": self._published(BatchPolicy(rows_max=1, age_s=0.0)),
            "in_batches": self._published(BatchPolicy(age_s=0.2)),
        }

    def _published(self, batches: BatchPolicy) -> dict[str, Any]:
        run, count = f"publish-{batches.rows_max}", self._scale.published
        here, node = self._settings.region(EAST), self._folder / "nodes" / f"bench-{batches.rows_max}"
        writer = _spool.SpoolWriter(_spool.producer_folder(node, run, "r00000-1"), run)
        values = {f"train/metric_{at}": 1.0 / (at + 3) for at in range(8)}
        for step in range(1, count + 1):
            writer.append(_spool.LANE_METRICS, "metric", epoch=1, attempt=1, step=step, body={"values": values})
        writer.close()
        journal = ServiceJournal(
            service="agent",
            region=EAST,
            folder=node / "timeline",
            clock=SystemClock(),
            registry=CollectorRegistry(),
            quiet=True,
        )
        spool, log = NodeSpool(node, journal, keep_s=3600.0), KafkaLog(cluster_of(here))
        flow = Publisher(
            AgentNode(EAST, "bench"),
            AgentPorts(
                spool=spool,
                store=store_of(here),
                log=log,
                grants=HttpGrants(f"http://{HOST}:{here.ports.controller}", dict),  # no launch asks, so it is not asked
                signer=signer_of(self._settings, EAST),
                codec=Codec(),
                clock=SystemClock(),
                entropy=SystemEntropy(),
                journal=journal,
            ),
            PublishPolicy(batches=batches, catch_up_bytes_s=1e12),
        )
        end, begun_s, begun_cpu_s = spool.end(run, "r00000-1"), time.monotonic(), time.process_time()
        with contextlib.closing(log):
            while spool.position(run, "r00000-1") < end:
                time.sleep(flow.turn())
                if time.monotonic() - begun_s > self._scale.deadline_s:
                    raise Failed(f"the agent did not publish {count} metrics; {flow.status()}")
            cpu_s = time.process_time() - begun_cpu_s
        return {
            "events": count,
            "cpu_us_per_event": round(1e6 * cpu_s / count, 1),
            "events_per_s": round(count / (time.monotonic() - begun_s)),
        }


def _all(found: list[float | None]) -> list[float]:
    seconds = [one for one in found if one is not None]
    if len(seconds) < len(found):
        raise Failed(f"a first record was not visible within {SETTLES_S:.0f} s")
    return seconds


def _percentiles(found_s: list[float]) -> dict[str, float]:
    """Of durations that are sorted."""
    return {
        "p50_ms": round(1000 * statistics.median(found_s), 2),
        "p99_ms": round(1000 * found_s[int(0.99 * len(found_s))], 2),
        "max_ms": round(1000 * found_s[-1], 2),
    }


def _rate(records: int, seconds: float, cpu_s: float) -> dict[str, Any]:
    return {
        "records": records,
        "seconds": round(seconds, 1),
        "records_per_s": round(records / seconds),
        "records_per_cpu_s": round(records / cpu_s),
    }
