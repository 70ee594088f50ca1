"""A region whose store is swept, with its agent and another region, all in memory."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pipelines import paths
from pipelines.core.lineage import LineageView
from pipelines.core.manifests import objects
from pipelines.core.resume_mode import StartRequest
from pipelines.core.retention import SweepPolicy
from pipelines.errors import RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.retention.sweep import Sweep, SweepPorts, Swept
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Manifest
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.spool import MemorySpool
from services.adapters.signer import Ed25519Signer
from services.adapters.system_clock import SystemEntropy
from tests.lineages import lineage_of
from tests.manifests import INTENT, OWN, SHARD, manifest_of, shard_of, state_of
from tests.manual_clock import ManualClock
from tests.tripwire import Tripwire

CODEC = Codec()
DAY_S = 86_400.0
POLICY = SweepPolicy(generations=2, grace_s=DAY_S)


class Far(MemoryObjectStore):
    """Another region's store, which may be out of sight."""

    away = False

    def list(self, prefix: str) -> tuple[str, ...]:
        """All keys that begin with prefix."""
        if self.away:
            raise RetryableError("the link is cut")
        return super().list(prefix)


class SweepWorld(ManualClock):
    """A region's store, sweeper and agent, and another region; implements EventLog, Grants, Journal and Clock."""

    def __init__(self, signer: Ed25519Signer) -> None:
        super().__init__(100 * DAY_S)
        self.signer = signer
        self.store, self.peer = MemoryObjectStore(self.wall_ms), Far(self.wall_ms)
        self.spool = MemorySpool("gpt")
        self.state = "granted"
        self.published: list[Checkpoint] = []
        self.knows(lineage_of((1, 0, -1)))

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        del event, fields

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        """Implements Grants: a launch is the attempt of its number."""
        del run, node, committed_step, begins
        return GrantReply(self.state, epoch=1, attempt=int(launch[-1]), valid_s=3.0, forks=((1, 0, -1),))

    def publish(self, messages: list[Any]) -> None:
        """Implements EventLog."""
        found = [CODEC.decode(message.value) for message in messages]
        self.published += [event for event in found if isinstance(event, Checkpoint)]

    def knows(self, view: LineageView, store: MemoryObjectStore | None = None) -> None:
        """A controller wrote an epoch down."""
        plain = {"run": "gpt", "epoch": view.epoch, "region": "east", "forks": view.forks}
        (store or self.store).create(paths.epoch_seen("gpt", view.epoch), json.dumps(plain).encode())

    def commit(
        self, step: int, *, epoch: int = 1, attempt: int = 1, stores: tuple[MemoryObjectStore, ...] = ()
    ) -> CheckpointId:
        """A whole checkpoint."""
        own = CheckpointId("gpt", epoch, attempt, step)
        chunks, state = (f"{own.prefix} a".encode(), b"b"), b"rng"
        manifest = manifest_of(
            own, lineage_seq=step + attempt, shards=(shard_of(0, *chunks),), rank_states=(state_of(0, state),)
        )
        body = self.signer.sign(CODEC.encode(manifest))
        for store in stores or (self.store,):
            for key, value in zip((own.chunk(0, 0), own.chunk(0, 1)), chunks, strict=True):
                store.create(key, value)
            store.create(own.rank_state(0), state)
            store.create(own.manifest, body)
        return own

    def sweeper(self, wire: Tripwire | None = None, *, peers: bool = False) -> Sweep:
        """A fresh process."""
        wire = wire or Tripwire()
        return Sweep(
            run="gpt",
            ports=SweepPorts(
                store=wire.before(self.store),
                peers={"west": wire.before(self.peer)} if peers else {},
                signer=self.signer,
                codec=Codec(),
                clock=self,
                entropy=SystemEntropy(),
                journal=self,
            ),
            policy=POLICY,
        )

    def sweep(self, times: int = 2) -> Swept:
        """Sweep, and again after each grace; the last one's answer."""
        self.now_s += 1
        found = self.sweeper().execute()
        for _ in range(times - 1):
            self.now_s += 1.5 * DAY_S
            found = self.sweeper().execute()
        return found

    def launch(self, attempt: int) -> None:
        """The trainer is started (again), and saves step 10 under the attempt."""
        self.spool.wants(f"launch-{attempt}", StartRequest())
        self.save(attempt)

    def save(self, attempt: int) -> None:
        """The trainer saves step 10."""
        own = dataclasses.replace(OWN, attempt=attempt)
        self.spool.save(own, 0, SHARD, b"rng")
        producer = f"gpt-r{attempt}"
        record = self.spool.accept(producer, "checkpoints", "intent", 10, INTENT)
        self.spool._records[producer] = [dataclasses.replace(record, attempt=attempt)]

    def agent(self, wire: Tripwire | None = None) -> Publisher:
        """A fresh process."""
        fake: Any = self
        return Publisher(
            AgentNode("east", "n0"),
            AgentPorts(
                spool=self.spool,
                store=(wire or Tripwire()).before(self.store),
                log=fake,
                grants=fake,
                signer=self.signer,
                codec=Codec(),
                clock=fake,
                entropy=SystemEntropy(),
                journal=fake,
            ),
        )

    def turn(self, agent: Publisher, turns: int = 6) -> None:
        """Let the agent work."""
        for _ in range(turns):
            agent.turn()
            self.now_s += 0.5

    def whole(self, store: MemoryObjectStore | None = None) -> set[CheckpointId]:
        """The checkpoints that a manifest claims; every byte that it names must be there."""
        store = store or self.store
        found = set()
        for own in paths.committed(store.list(paths.checkpoints_prefix("gpt"))):
            record = CODEC.decode(self.signer.verify(store.objects[own.manifest]))
            if isinstance(record, Manifest):
                found.add(own)
                for named in objects(record):
                    assert digest(store.objects[named.key]) == named.sha256, f"{named.key} is named and gone"
        return found


def steps(ids: set[CheckpointId]) -> list[int]:
    """In order."""
    return sorted(own.step for own in ids)
