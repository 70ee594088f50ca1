"""Regions as they ship, in simulated time: controllers, agents, replicators, warmers and trainers, as processes.

`pipelines.flows` run unchanged; time, the network, the witness, Kafka and the stores are simulated. What goes wrong is
in `fault_plan.py` and done in `region_faults.py`; what must hold is judged by `authority_checker.py` and
`event_checker.py`, which see what takes effect and never why.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipelines import paths
from pipelines.core.failover_decision import policy_of
from pipelines.core.fork_choice import Rounds
from pipelines.core.lease_profiles import LeaseProfile
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy, StartFolders
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.authority.controller import Controller
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.authority.heartbeat_reader import HeartbeatReader, PeerState
from pipelines.flows.authority.reachability import KAFKA, STORE, Probe, Reachability
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.replication.damage_repair import DamageRepair, RepairPorts
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import TURN_S, LaneReplicator
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.flows.standby.warmer import Warmer, WarmerPorts
from services.adapters.memory.kafka import MemoryKafka
from services.adapters.memory.spool import MemorySpool
from services.adapters.memory.standby_pool import MemoryStandbyPool
from tests.simulation import fault_plan, region_faults
from tests.simulation.fault_plan import LENGTH_S, Fault
from tests.simulation.kernel import Kernel, Process, Strand
from tests.simulation.regions_judge import Judge
from tests.simulation.simulated_ports import (
    Calls,
    KeyedSigner,
    RememberingCodec,
    SimulatedGrants,
    SimulatedLeases,
    SimulatedLog,
    SimulatedSource,
    SimulatedStore,
    Trouble,
    WatchedObjects,
    WitnessServer,
    site,
    witness_site,
)
from tests.simulation.simulated_trainer import NodeSpools, SimulatedTrainer
from tests.simulation.simulated_transfers import Link, SimulatedTransfers

PROFILE = LeaseProfile(name="simulated", lease_s=10.0, renew_s=2.5, poll_s=1.5, rho=0.01, margin_s=0.5)
NAMES = ("east", "west", "north", "south")
SUPERVISOR_S = 3.0  # after so long a process that ended is started again
HEALED_S = 20.0  # training goes on for so long after the last fault
SETTLES_S = 240.0  # and within so long everything is where it belongs
LOOKS_S = 5.0
ROUNDS = Rounds(newest_s=25.0, old_s=75.0, damaged_s=4.0)
VERIFIED_AGE_S_MAX = 40.0  # a checkpoint that was read back longer ago is no fork (I20)


@dataclass
class World:
    """Everything that a seed decides. `faults` overrides the seed's own list; `length_s` cuts it short."""

    seed: int
    faults: Sequence[Fault] | None = None
    length_s: float = LENGTH_S
    drift: float = PROFILE.rho
    planted: Callable[[str, Any], Any] = lambda _name, port: port  # a port, or one with a fault planted in it
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Derive everything from the seed."""
        luck = random.Random(f"{self.seed}/world")
        self.kernel = Kernel()
        self.trouble = Trouble()
        count, runs = luck.choices((2, 3, 4), (6, 3, 1))[0], luck.choices((1, 2, 3), (8, 2, 1))[0]
        self.names, self.runs = NAMES[:count], tuple(f"run{number}" for number in range(1, runs + 1))
        self.settle_s = luck.choice((0.0, 0.0, 30.0, 3600.0))
        self.judge = Judge(self.names, self.kernel, PROFILE, VERIFIED_AGE_S_MAX)
        self.witness = WitnessServer(self.judge)
        self.codec = RememberingCodec()
        if self.faults is None:
            self.faults = fault_plan.drawn(self.seed, self.names, self.runs)
        self.regions = {name: Region(self, name, random.Random(f"{self.seed}/{name}")) for name in self.names}

    @property
    def ends_at_s(self) -> float:
        """After that the trainers take no step more."""
        return self.length_s + HEALED_S

    def say(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{self.kernel.now_s:9.3f} {text}")

    def run(self) -> World:
        """Faults, healing, and then until everything is where it belongs or too much time has passed."""
        kernel, judge = self.kernel, self.judge
        for region in self.regions.values():
            region.begin()
        for fault in self.faults or ():
            if fault.at_s < self.length_s:
                kernel.at(fault.at_s, partial(region_faults.strike, self, fault))
        kernel.at(self.length_s, partial(region_faults.heal, self))
        kernel.run(self.ends_at_s, judge.is_broken)
        until_s = self.ends_at_s
        while not judge.found and kernel.now_s < self.ends_at_s + SETTLES_S:
            until_s += LOOKS_S
            kernel.run(until_s, judge.is_broken)
            if not judge.missing(self.survivors):
                break
        judge.conclude(self.witness, self.survivors)
        for region in self.regions.values():
            region.close()
        return self

    @property
    def survivors(self) -> dict[str, WatchedObjects]:
        """The stores of the regions that were not lost for good."""
        return {name: region.objects for name, region in self.regions.items() if not region.lost}


class Region:
    """One region: what lasts (its store, Kafka, spools), and the processes that come and go."""

    def __init__(self, world: World, name: str, luck: random.Random) -> None:
        self.world, self.name = world, name
        self.lost = self.down = False
        self.signer = KeyedSigner(name)
        self.objects = WatchedObjects(name, world.judge)
        self.kafka = MemoryKafka(name)
        for topic in paths.TOPICS:
            self.kafka.topic(topic)
        self.spools = {run: MemorySpool(run) for run in world.runs}
        self.clocks = {
            service: (luck.choice((1 - world.drift, 1.0, 1 + world.drift)), luck.uniform(0, 1e6))
            for service in fault_plan.SERVICES
        }
        self.luck = {
            "stubborn_steps": luck.choice((0, 0, 5, 25)),
            "step_ms": luck.choice((600, 1000, 1500)),
            "save_every": luck.choice((3, 5, 8)),
        }
        self.launches = dict.fromkeys(world.runs, 0)
        self.trainers: dict[str, SimulatedTrainer] = {}
        self.processes: dict[str, Process] = {}  # the newest of each name
        self.older: list[Process] = []  # others that may still live
        self.controls: dict[str, Controller] = {}
        self.replicators: list[tuple[str, str, LaneReplicator]] = []  # of which peer, and which lane
        self._starts: dict[str, Callable[[Process], None]] = {
            "controller": self._controller,
            "agent": self._agent,
            "replicator": self._replicator,
        }
        for run in world.runs:
            self._starts[f"warmer/{run}"] = partial(self._warmer, run)
            self._starts[f"trainer/{run}"] = partial(self._trainer, run)
        self._incarnations = 0

    # --- processes ---

    def begin(self) -> None:
        """Start everything that does not run."""
        for name in self._starts:
            if name not in self.processes or not self.processes[name].alive:
                self.start(name)

    def start(self, name: str) -> None:
        """Start one process, beside an older one of its name if that still lives."""
        if self.lost or self.down:
            return
        self._incarnations += 1
        rate, offset_s = self.clocks[name.partition("/")[0]]
        full = f"{name.partition('/')[0]}@{self.name}" + (f"/{name.partition('/')[2]}" if "/" in name else "")
        process = Process(
            self.world.kernel,
            full,
            f"{self.world.seed}/{full}/{self._incarnations}",
            rate=rate,
            offset_s=offset_s,
            ended=partial(self._ended, name),
        )
        before = self.processes.get(name)
        if before is not None and before.alive:
            self.older.append(before)
        self.processes[name] = process
        self._starts[name](process)

    def crash(self, name: str, back_in_s: float) -> None:
        """A process is killed, and started again after a while."""
        process = self.processes.get(name)
        if process is None or not process.alive:
            return
        self.world.say(f"{process.name} is killed")
        process.kill()
        self.world.kernel.at(back_in_s, partial(self._again, name, process))

    def living(self) -> list[Process]:
        """Every process that lives, older ones too."""
        self.older = [one for one in self.older if one.alive]
        return [*self.older, *(one for one in self.processes.values() if one.alive)]

    def close(self) -> None:
        """The world is over."""
        for process in self.living():
            process.kill()

    def _again(self, name: str, instead_of: Process) -> None:
        if self.processes.get(name) is instead_of:
            self.start(name)

    def _ended(self, name: str, process: Process, why: str, failed: bool) -> None:
        if not process.alive:
            return
        self.world.say(f"{process.name} ended: {why}")
        if failed:
            self.world.judge.fail(f"{process.name}: {why}")
        process.kill()
        self.world.kernel.at(SUPERVISOR_S, partial(self._again, name, process))

    # --- ports ---

    def _store(self, calls: Calls, of: str = "") -> SimulatedStore:
        region = self.world.regions[of or self.name]
        return SimulatedStore(
            calls, site("store", region.name, self.name), region.objects, self.world.judge, region.name
        )

    def _log(self, calls: Calls, transactional_id: str | None = None) -> SimulatedLog:
        return SimulatedLog(calls, site("kafka", self.name, self.name), self.kafka, self.world.judge, transactional_id)

    def _source(self, calls: Calls, of: str) -> SimulatedSource:
        return SimulatedSource(calls, site("kafka", of, self.name), self.world.regions[of].kafka)

    def _journal(self, process: Process) -> Any:  # noqa: ANN401 - implements Journal
        return _Journal(self.world, process)

    def _peers(self) -> list[str]:
        return [name for name in self.world.names if name != self.name]

    # --- what runs in them ---

    def _controller(self, process: Process) -> None:
        world, calls = self.world, Calls(process, self.world.trouble)
        store = self._store(calls)
        strands: dict[str, Strand] = {}
        peer_states: dict[str, dict[str, PeerState]] = {}
        for run in world.runs:
            wake = partial(_wake, strands, run)
            peer_states[run] = {name: PeerState(region=name, run=run, clock=process, wake=wake) for name in world.names}
        self_evidence = SelfEvidence(
            region=self.name, log=self._log(calls), store=store, codec=world.codec, clock=process, entropy=process
        )
        reachability = self._reachability(process, calls, peer_states)
        leases = world.planted("leases", SimulatedLeases(calls, witness_site(self.name), world.witness))
        controls: dict[str, Controller] = {}
        verifiers: dict[str, CheckpointVerifier] = {}
        for run in world.runs:
            verifiers[run] = self._verifier(process, run, store, strands)
            controls[run] = Controller(
                role=RunRole(
                    run=run,
                    region=self.name,
                    first_region=world.names[0],
                    candidate=True,
                    policy=replace(policy_of(PROFILE, settle_s=world.settle_s), verified_age_s_max=VERIFIED_AGE_S_MAX),
                ),
                ports=ControllerPorts(
                    leases=leases,
                    store=store,
                    signer=self.signer,
                    codec=world.codec,
                    clock=process,
                    entropy=process,
                    journal=self._journal(process),
                ),
                observers=Observers(
                    peer_states=peer_states[run],
                    self_evidence=self_evidence,
                    verifier=verifiers[run],
                    reachability=reachability,
                ),
                wake=partial(_wake, strands, run),
            )
        self.controls = controls
        process.watches = partial(world.judge.claims, process, self.name, controls)
        process.turn("self_evidence", self_evidence.turn)
        process.turn("reachability", reachability.turn)
        for name in world.names:
            heartbeats = HeartbeatReader(
                region=name,
                source=self._source(calls, name),
                codec=world.codec,
                clock=process,
                peer_states=[of[name] for of in peer_states.values()],
                checkpoints=name == self.name,
            )
            process.turn(f"heartbeats-{name}", heartbeats.turn)
        for run in world.runs:
            strands[run] = process.turn(f"lease-{run}", controls[run].turn, 0.1)
            strands[f"{run}/verify"] = process.turn(f"verify-{run}", verifiers[run].turn, 0.1)

    def _verifier(
        self, process: Process, run: str, store: SimulatedStore, strands: dict[str, Strand]
    ) -> CheckpointVerifier:
        return CheckpointVerifier(
            run=run,
            ports=VerifierPorts(
                store=store,
                pieces=self.world.planted("verifier's pieces", store),
                signer=self.signer,
                codec=self.world.codec,
                clock=process,
                journal=self._journal(process),
            ),
            rounds=ROUNDS,
            wake=partial(_wake, strands, f"{run}/verify"),
            tell=partial(_wake, strands, run),
        )

    def _reachability(
        self, process: Process, calls: Calls, peer_states: dict[str, dict[str, PeerState]]
    ) -> Reachability:
        probes: dict[str, dict[str, Probe]] = {}
        for peer in self._peers():
            source, store = self._source(calls, peer), self._store(calls, peer)
            probes[peer] = {
                KAFKA: partial(source.partitions, [paths.HEARTBEATS]),
                STORE: partial(store.size, paths.health("controller", peer)),
            }
        return Reachability(
            region=self.name,
            observer="controller",
            probes=probes,
            log=self._log(calls),
            codec=self.world.codec,
            clock=process,
            every_s=2 * PROFILE.poll_s,
            nodes_at_s=lambda peer: max(of_run[peer].pulse.nodes_at_s for of_run in peer_states.values()),
        )

    def _agent(self, process: Process) -> None:
        calls = Calls(process, self.world.trouble)
        spool: Any = self.world.planted("spool", NodeSpools(process, self.spools))
        flow = Publisher(
            AgentNode(self.name, f"{self.name}-n0"),
            AgentPorts(
                spool=spool,
                store=self._store(calls),
                log=self._log(calls),
                grants=self.world.planted("grants", SimulatedGrants(calls, self._controlling)),
                signer=self.signer,
                codec=self.world.codec,
                clock=process,
                entropy=process,
                journal=self._journal(process),
            ),
            PublishPolicy(heartbeat_s=1.5),
            StartFolders(locate=lambda digest: f"/memory/{digest}"),
        )
        process.turn("publish", flow.turn, 0.8)

    def _controlling(self) -> tuple[Process, dict[str, Controller]] | None:
        process = self.processes.get("controller")
        return None if process is None else (process, self.controls)

    def _replicator(self, process: Process) -> None:
        self.replicators = []
        calls = Calls(process, self.world.trouble)
        for peer in self._peers():
            for lane in paths.REPLICATED_LANES:
                store, peer_store = self._store(calls), self._store(calls, peer)
                flow = LaneReplicator(
                    PeerLane(peer, lane),
                    LanePorts(
                        peer_source=self._source(calls, peer),
                        own_source=self.world.planted("own log", self._source(calls, self.name)),
                        log=self._log(calls, f"farside-replicator-{self.name}-{peer}-{lane}"),
                        store=self.world.planted("replicator's store", store),
                        peer_store=peer_store,
                        transfers=self.world.planted(
                            "transfers",
                            SimulatedTransfers(
                                process, {peer: peer_store}, store, Link(self.world.trouble, f"{peer}>{self.name}")
                            ),
                        ),
                        lineage=self.world.planted("lineage", EpochStore(store)),
                        signer=self.signer,
                        codec=self.world.codec,
                        clock=process,
                        journal=self._journal(process),
                        visible_source=self._source(calls, self.name),
                        replay_source=self._source(calls, peer),
                    ),
                )
                self.replicators.append((peer, lane, flow))
                process.turn(f"{peer}/{lane}", flow.turn, polled_s=TURN_S)
        process.turn("repair", self._repair(process, calls).turn)

    def _repair(self, process: Process, calls: Calls) -> DamageRepair:
        peers = {peer: self._store(calls, peer) for peer in self._peers()}
        return DamageRepair(
            self.name,
            RepairPorts(
                store=self._store(calls),
                peers=peers,
                peer_pieces=peers,
                signer=self.signer,
                codec=self.world.codec,
                journal=self._journal(process),
            ),
        )

    def _warmer(self, run: str, process: Process) -> None:
        calls = Calls(process, self.world.trouble)
        store = self._store(calls)
        epoch_store = EpochStore(store)
        pool = MemoryStandbyPool(store, 1)

        def standby() -> bool:
            newest = epoch_store.newest(run)
            return newest is not None and newest.region != self.name

        flow = Warmer(
            region=self.name,
            run=run,
            ports=WarmerPorts(
                store=store,
                pool=pool,
                log=self._log(calls),
                signer=self.signer,
                codec=self.world.codec,
                clock=process,
                entropy=process,
                journal=self._journal(process),
            ),
            lineage=epoch_store,
            standby=standby,
        )

        def turn() -> float:
            pool.waiting_ranks = int(self.trainers[run].waits)
            try:
                return flow.turn()
            except (RetryableError, CorruptError):  # as services/warmer.py does
                return 1.0

        process.turn("warm", turn, 2.0)

    def _trainer(self, run: str, process: Process) -> None:
        before = self.trainers.get(run)
        trainer = SimulatedTrainer(
            process, self.name, self.spools[run], self.world.judge, f"{self.name}-{run}", self.luck
        )
        trainer.number = 0 if before is None else before.number
        trainer.ends_at_s = self.world.ends_at_s
        if before is not None:
            before.leaves()
        self.trainers[run] = trainer
        process.strand("train", trainer.live)


class _Journal:
    """Implements Journal: lines of the trace."""

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process

    def say(self, event: str, **fields: object) -> None:
        """One line."""
        self._world.say(f"{self._process.name} {event} {fields}")


def _wake(strands: dict[str, Strand], run: str) -> None:
    if run in strands:
        strands[run].wake()
