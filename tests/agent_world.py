"""An agent on a real node directory: two runs of one launch each, whose log and store are in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farside import _spool
from pipelines import paths
from pipelines.core.set_aside import MARK
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts
from pipelines.flows.agent.grant_renewal import GrantRenewal
from pipelines.flows.agent.publisher import Publisher
from pipelines.ports import GrantReply
from schemas.codec import Codec, digest
from schemas.records import Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.spool import NodeSpool
from services.adapters.system_clock import SystemEntropy
from tests.manifests import INTENT, SHARD
from tests.manual_clock import ManualClock

CODEC = Codec()
PRODUCER = "r00000-0123456789abcdef"
BEAT = {"step": 10, "phase": "train", "budget_s": 60.0, "time_ms": 5, "last_seq": {"metrics": 1}}
REQUEST = {"launch": "l1", "producer": PRODUCER, "run": "gpt", "world_size": 1, "mode": "exact", "fingerprint": {}}
ITEM = {
    "fqn": "w",
    "kind": "tensor",
    "rank": 0,
    "offset": 0,
    "length": 24,
    "sha256": digest(SHARD[:24]),
    "dtype": "float32",
    "shape": [2, 3],
    "chunk_offsets": [0, 0],
    "chunk_sizes": [2, 3],
}
GOOD = INTENT | {"items": [ITEM], "planner": {"w": ["model", "w"]}}


class AgentWorld(ManualClock):
    """Implements Grants, Journal and Clock: an agent on a real node directory with two runs of one launch each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(100.0)
        self.node_dir = folder / "node"
        self.kafka, self.store = MemoryKafka("east"), MemoryObjectStore()
        self.said: list[tuple[str, dict[str, Any]]] = []
        private, public = generate_keypair(folder, "east")
        self.signer = Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
        self.writers = {run: self.begin(run) for run in ("gpt", "other")}
        fake: Any = self
        self.spool = NodeSpool(self.node_dir, fake)
        self.agent = Publisher(
            AgentNode("east", "n0"),
            AgentPorts(
                spool=self.spool,
                store=self.store,
                log=MemoryLog(self.kafka),
                grants=fake,
                signer=self.signer,
                codec=Codec(),
                clock=fake,
                entropy=SystemEntropy(),
                journal=fake,
            ),
        )
        self.renewal = GrantRenewal(node="n0", spool=self.spool, grants=fake, clock=self, journal=fake)

    def begin(self, run: str) -> _spool.SpoolWriter:
        """A rank of a run that beats and asks for its start."""
        writer = _spool.SpoolWriter(_spool.producer_folder(self.node_dir, run, PRODUCER), run)
        self.put(_spool.beat_path(self.producer(run)), BEAT | {"epoch": 1, "attempt": 1})
        launch = _spool.launch_folder(self.node_dir, run, "l1")
        launch.mkdir(parents=True)
        self.put(_spool.request_path(launch), REQUEST | {"run": run})
        return writer

    def save(self, step: int, body: Mapping[str, Any]) -> None:
        """A checkpoint of the run gpt: its files, which are good, and its intent."""
        folder = _spool.checkpoint_folder(self.node_dir, "gpt", 1, 1, step)
        folder.mkdir(parents=True)
        (folder / _spool.shard_name(0)).write_bytes(SHARD)
        (folder / _spool.state_name(0)).write_bytes(b"rng")
        self.put(folder / _spool.state_descriptor_name(0), {"size": 3, "sha256": digest(b"rng")})
        self.writers["gpt"].append("checkpoints", "intent", epoch=1, attempt=1, step=step, body=dict(body))

    def producer(self, run: str) -> Path:
        """A rank's folder."""
        return _spool.producer_folder(self.node_dir, run, PRODUCER)

    def put(self, path: Path, value: object) -> None:
        """Write a file: bytes, or JSON."""
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())

    def say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - as the port
        """Implements Journal."""
        self.said.append((event, fields))

    def ask(self, *_: object, **__: object) -> GrantReply:
        """Implements Grants: always granted."""
        return GrantReply("granted", epoch=1, attempt=1, valid_s=3.0, forks=((1, 0, -1),), fencing="hard")

    def turn(self, turns: int = 4) -> None:
        """So many turns of both flows, a second each."""
        for _ in range(turns):
            self.agent.turn()
            self.renewal.turn()
            self.now_s += 1.0

    def events(self, topic: str, run: str) -> list[Any]:
        """A run's events in a topic."""
        records = [one for one in self.kafka.topic(topic) if one is not None and MARK not in dict(one.headers)]
        return [CODEC.decode(one.value) for one in records if one.key == run.encode()]

    def skipped(self) -> str:
        """The journal's lines about files that were left alone."""
        return "\n".join(f"{fields['path']}: {fields['why']}" for name, fields in self.said if name == "spool.skipped")

    def check_the_other_goes_on(self) -> None:
        """A metric, a heartbeat and a grant of the run whose files are good."""
        seq = self.writers["other"].append(
            "metrics", "metric", epoch=1, attempt=1, step=1, body={"values": {"loss": 1.0}}
        )
        beats = len(self.events(paths.HEARTBEATS, "other"))
        self.now_s += 10.0
        self.turn(2)
        metrics = self.events(paths.METRICS, "other")
        assert isinstance(metrics[-1], Metric)
        assert (metrics[-1].seq, len(self.events(paths.HEARTBEATS, "other")) > beats) == (seq, True)
        assert _spool.grant_path(_spool.launch_folder(self.node_dir, "other", "l1")).exists()
