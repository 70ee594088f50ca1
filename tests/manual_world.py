"""Two regions under one clock that the test turns: shipped controllers and an agent, over a witness that can be cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines import paths
from pipelines.core.failover_decision import FailoverPolicy, policy_of
from pipelines.core.failure_detector import Rhythm
from pipelines.core.heartbeats import NodeHeartbeats, RegionHeartbeats
from pipelines.core.lease import Held
from pipelines.core.lease_profiles import FAST
from pipelines.core.resume_mode import StartRequest
from pipelines.errors import RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, StartFolders
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.authority.controller import Controller
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.peer_epochs import PeerEpochs
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, GrantReply, Message
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Lease
from services.adapters.memory.kafka import MemoryKafka, MemoryLog
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.spool import MemorySpool
from services.adapters.signer import Ed25519Signer
from services.adapters.system_clock import SystemEntropy
from tests.fleet_signer import FleetSigner
from tests.manual_clock import ManualClock

SHARD = b"0123456789" * 10
REGIONS = ("east", "west")
FAST_POLICY = policy_of(FAST)
TURN_S = 0.1
PATIENCE_S = 60.0


def signer_in(folder: Path) -> Ed25519Signer:
    """One key for all regions, each of which signs in its own name."""
    return FleetSigner.in_folder(folder)


class CutWitness(MemoryLeaseStore):
    """One controller's way to the witness."""

    def __init__(self, shared: MemoryLeaseStore) -> None:
        super().__init__(**{one.name: getattr(shared, one.name) for one in dataclasses.fields(shared)})
        self.away = False

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore."""
        self._reach()
        return super().read(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore."""
        self._reach()
        return super().write(lease, expected_etag)

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Implements LeaseStore."""
        self._reach()
        return super().claim(run, epoch, body)

    def claimed(self, run: str) -> int:
        """Implements LeaseStore."""
        self._reach()
        return super().claimed(run)

    def note(self, lease: Lease) -> None:
        """Implements LeaseStore."""
        self._reach()
        super().note(lease)

    def _reach(self) -> None:
        if self.away:
            raise RetryableError("the witness does not answer")


class ManualRegion:
    """Controllers with their region's store and log; implements EventLog, Grants and Journal."""

    def __init__(
        self,
        name: str,
        clock: ManualClock,
        witness: MemoryLeaseStore,
        signer: Ed25519Signer,
        policy: FailoverPolicy = FAST_POLICY,
    ) -> None:
        self.name, self.clock, self.policy = name, clock, policy
        self.store, self.kafka = MemoryObjectStore(), MemoryKafka(name)
        self.peer_states = {other: PeerState(region=other, run="gpt", clock=clock) for other in REGIONS}
        self.controls: list[Controller] = []
        self.self_evidences: list[SelfEvidence] = []  # of each of them
        self.verifiers: list[CheckpointVerifier] = []  # and so these
        self._shared, self._signer = witness, signer
        self.peer_epochs: PeerEpochs | None = None  # of the controllers that are started next
        self.witness, self.control = self.start()

    def start(self) -> tuple[CutWitness, Controller]:
        """A controller process of this region, and its way to the witness; those before it go on."""
        own: Any = self
        witness = CutWitness(self._shared)
        common: Any = {"codec": Codec(), "clock": self.clock, "entropy": SystemEntropy()}
        self.self_evidence = SelfEvidence(region=self.name, log=own, store=self.store, **common)
        control = Controller(
            role=RunRole(run="gpt", region=self.name, first_region="east", candidate=True, policy=self.policy),
            ports=ControllerPorts(leases=witness, store=self.store, signer=self._signer, journal=own, **common),
            observers=Observers(
                peer_states=self.peer_states,
                self_evidence=self.self_evidence,
                verifier=self._verifier(),
                peer_epochs=self.peer_epochs,
            ),
        )
        self.controls.append(control)
        self.self_evidences.append(self.self_evidence)
        return witness, control

    def _verifier(self) -> CheckpointVerifier:
        own: Any = self
        ports = VerifierPorts(
            store=self.store, pieces=self.store, signer=self._signer, codec=Codec(), clock=self.clock, journal=own
        )
        self.verifiers.append(CheckpointVerifier(run="gpt", ports=ports))
        return self.verifiers[-1]

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        del event, fields

    def publish(self, messages: Sequence[Message]) -> None:
        """Implements EventLog."""
        MemoryLog(self.kafka).publish(messages)

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        """Implements Grants."""
        del run
        return self.control.grant(launch, committed_step, node=node, begins=begins)

    def hears(self, region: str, step: int, phase: str = "train") -> None:
        """A sign of life of a region's node and controller has arrived here."""
        now_s = self.clock.now_s
        node = NodeHeartbeats(step, phase, 60.0, now_s, Rhythm(now_s))
        self.peer_states[region].pulse = RegionHeartbeats({"n0": node}, now_s, now_s)

    def turn(self) -> None:
        """One turn of each controller."""
        for control, self_evidence in zip(self.controls, self.self_evidences, strict=True):
            self_evidence.log_ack_at_s = self_evidence.store_put_at_s = self.clock.now_s
            control.turn()
        for verifier in self.verifiers:
            while verifier.turn() == 0.0:
                pass

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoint events published in this region's log, in order."""
        found = [Codec().decode(one.value) for one in self.kafka.topic(paths.CHECKPOINTS) if one is not None]
        return [one for one in found if isinstance(one, Checkpoint)]


class ManualWorld:
    """East trains under the fast profile, west stands by and has everything that east committed before the cut."""

    def __init__(self, signer: Ed25519Signer, policy: FailoverPolicy = FAST_POLICY) -> None:
        self.clock, self.spool, self.signer = ManualClock(1000.0), MemorySpool("gpt"), signer
        witness = MemoryLeaseStore()
        self.east, self.west = (ManualRegion(name, self.clock, witness, signer, policy) for name in REGIONS)
        self.history = witness.history
        self.link, self.step = True, 0
        self.phases = dict.fromkeys(REGIONS, "train")
        self.agent = self.agent_over(lambda port: port)
        self.turns_agent: Callable[[], object] = lambda: self.agent.turn()  # noqa: PLW0108 - whichever agent runs then
        self.spool.wants("launch-1", StartRequest())

    def agent_over(self, wrapped: Callable[[Any], Any]) -> Publisher:
        """A fresh agent of east, each of whose remote ports is wrapped."""
        return Publisher(
            AgentNode("east", "n0"),
            AgentPorts(
                spool=self.spool,
                store=wrapped(self.east.store),
                log=wrapped(self.east),
                grants=wrapped(self.east),
                signer=self.signer,
                codec=Codec(),
                clock=self.clock,
                entropy=SystemEntropy(),
                journal=wrapped(self.east),
            ),
            folders=StartFolders(locate=lambda _digest: "/arena/A"),
        )

    def turn(self) -> None:
        """A tenth of a second of everybody."""
        self.clock.now_s += TURN_S
        self.spool.beat(Beat("gpt-r0", self.step, "train", 60.0, 0, 1, 1))
        for region in (self.east, self.west):
            for other in REGIONS:
                if self.link or region.name == other:
                    region.hears(other, self.step, self.phases[other])
            region.turn()
        self.turns_agent()

    def until(self, condition: Callable[[], object], what: str) -> float:
        """Turn until it holds; the seconds that it took."""
        begun_s = self.clock.now_s
        while not condition():
            assert self.clock.now_s < begun_s + PATIENCE_S, what
            self.turn()
        return self.clock.now_s - begun_s

    def save(self, step: int, attempt: int = 1, shard: bytes = SHARD, chunk: int = 100) -> CheckpointId:
        """The trainer saves a checkpoint, in chunks of so many bytes."""
        self.step, own = step, CheckpointId("gpt", 1, attempt, step)
        self.spool.save(own, 0, shard, b"rng")
        pieces = [shard[at : at + chunk] for at in range(0, len(shard), chunk)]
        chunks = [{"size": len(one), "sha256": digest(one)} for one in pieces]
        rank = {"rank": 0, "size": len(shard), "sha256": digest(shard), "chunks": chunks}
        body = {"mode": "exact", "world_size": 1, "fingerprint": {}, "health": {}, "data_version": "", "items": []}
        before = step - 10 if step > 10 and attempt == 1 else None
        body |= {"previous_step": before, "ranks": [rank], "planner": {}}
        self.spool.accept(f"gpt-r{attempt - 1}", "checkpoints", "intent", step, body, of=(1, attempt))
        return own

    def outcomes(self) -> dict[int, str]:
        """The events published of each checkpoint."""
        return {one.step: one.state for one in self.east.checkpoints()}

    def replicate(self) -> None:
        """West has all that east has committed."""
        for key in self.east.store.list("runs/gpt/e0"):
            self.west.store.create(key, self.east.store.get(key) or b"")

    @property
    def trainer_state(self) -> str:
        """The trainer's standing."""
        return str(self.spool.told["launch-1"][-1]["state"])

    @property
    def lease(self) -> Lease:
        """The record at the witness."""
        return self.west.witness.records["gpt"].lease


def world_with_step_10(signer: Ed25519Signer, policy: FailoverPolicy = FAST_POLICY) -> ManualWorld:
    """Step 10 is committed in east and verified in west, and the trainer knows."""
    found = ManualWorld(signer, policy)
    found.until(lambda: "launch-1" in found.spool.granted, "the launch is granted")
    found.save(10)
    found.until(lambda: found.outcomes() == {10: "committed"}, "step 10")
    found.replicate()
    found.until(lambda: found.trainer_state == "granted", "the trainer knows")
    return found
