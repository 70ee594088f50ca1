"""A drill: the loss of the primary, rehearsed in a standby to the first optimizer step, on a throw-away branch.

A second copy of the shipped controller and agent runs here beside the real ones. They read the region's real
checkpoints; all that they write goes under a prefix, topics, a lease record and a signing key of the drill's own. A
simulated primary holds the drill's lease and sends heartbeats, then stops. Nothing of it can touch the real lease
(I10), and the drill ends as soon as the region's real controller sees trouble.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from pipelines import paths
from pipelines.core.failover_decision import Reason, policy_of
from pipelines.core.failure_detector import LEAST
from pipelines.core.lineage import LineageView
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, StartFolders
from pipelines.flows.agent.publisher import Publisher
from pipelines.flows.authority.controller import Controller
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.drill_history import Drill, keep
from pipelines.flows.authority.heartbeat_reader import HeartbeatReader, PeerState
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.authority.simulated_primary import NODE, DrillPorts, LostPrimary, SimulatedPrimary
from pipelines.flows.standby.recoverable import RecoverableCheckpoint, RecoverableFinder
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.ports import GrantReply
from schemas.codec import Codec
from services.adapters.arena import Arena, fetch_index_folder
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.adapters.memory.grants import MemoryGrants
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.s3.object_store import S3ObjectStore
from services.adapters.signer import Ed25519Signer, TrustedKeys, generate_keypair, key_id_of
from services.adapters.spool import NodeSpool
from services.http.endpoints import UnexpectedAnswerError, controller_of, warmer_of
from services.runtime.child_processes import compiling_environment, kill_families, spawn, tail
from services.runtime.clients import client_of, cluster_of, own_pieces_of
from services.runtime.journal import ServiceJournal
from services.runtime.scheduler import Flow, Scheduler
from services.runtime.wiring import Wiring, trusted_keys
from services.settings import Settings
from services.wrappers.overlay import OverlayLog, OverlaySource, OverlayStore

LOOK_S = 0.02
START_S, STEP_S = 300.0, 120.0
JOIN_S = 10.0
RETRY_S = 1.0  # until a flow whose dependency does not answer turns again; if it never answers, the drill times out
FLOWS = 7
CONTROL = "control"
VERIFY = "verify"
PARTS = ("detect", "fence", "restore", "first_step")
REAL_TROUBLE = frozenset(
    {Reason.PRIMARY_SILENT, Reason.REGION_LOST, Reason.REFUSED, Reason.OPERATOR, Reason.SWITCHOVER, Reason.LINK_LOST}
)
Say = Callable[[str], None]


@dataclass(slots=True)
class Marks:
    """The drill's journal, which keeps when each event happened first (on this machine's clock) and its fields."""

    parts: Wiring
    journal: ServiceJournal
    at_s: dict[str, float] = field(default_factory=dict)
    fields_of: dict[str, dict[str, Any]] = field(default_factory=dict)

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.fields_of.setdefault(event, fields)
        self.at_s.setdefault(event, self.parts.clock.boottime_s())
        self.journal.say(event, **fields)


def rehearse(settings: Settings, region: str, run: str, command: tuple[str, ...], actor: str, say: Say) -> Drill:
    """Rehearse the loss of the primary in a standby, and keep the result in the history of drills.

    Args:
        settings: every region's.
        region: the standby.
        run: whose primary is treated as lost.
        command: starts the trainer on this node; it gets FARSIDE_RUN, FARSIDE_NODE_DIR and FARSIDE_LAUNCH.
        actor: who asked for it.
        say: called with a sentence at each stage of the drill.

    Raises:
        MisconfiguredError: there is no command.
        RetryableError: this region is no standby with a checkpoint now, or its store or Kafka does not answer.
    """
    if not command:
        raise MisconfiguredError(
            f"runs.{run}.drill_command is not set: set it to the command that starts the trainer, or give it after --"
        )
    parts = Wiring(settings, region, "drill")
    authority = parts.epoch_store().newest(run)
    if authority is None or authority.region == region:
        raise RetryableError(f"{region} is no standby of {run}: run the drill in a region that does not hold the run")
    newest = RecoverableFinder(parts.store(), parts.verifier, Codec()).newest(run, authority.view)
    if newest is None:
        raise RetryableError(f"{region} has no recoverable checkpoint of {run}: there is nothing to resume from")
    warmer = warmer_of(settings, region).status()
    stage = Stage(parts, run, authority.view, newest)
    drill = Drill(
        drill_id=stage.drill_id,
        run=run,
        region=region,
        holder=authority.region,
        time_ms=parts.clock.wall_ms(),
        actor=actor,
        good=False,
        predicted_parts_s={} if warmer is None else warmer.predicted_parts_s,
        promised_s=settings.run(run).rto_s,
    )
    try:
        finished = stage.play(drill, command, say)
    finally:
        stage.sweep()
    keep(stage.own, finished)
    return finished


class Stage:
    """Everything that one drill has of its own: folder, prefix, lease, topics, key, flows and trainer."""

    def __init__(self, parts: Wiring, run: str, view: LineageView, newest: RecoverableCheckpoint) -> None:
        here = parts.here
        self._parts, self._run, self._view, self._newest = parts, run, view, newest
        self.drill_id = f"{parts.region}-{parts.entropy.new_id()[:12]}"
        self._folder = parts.settings.state_dir / "drills" / self.drill_id
        self._folder.mkdir(parents=True, mode=0o700)
        self._node_dir = self._folder / "node"
        self._node_dir.mkdir()
        journal = ServiceJournal(
            service="drill",
            region=parts.region,
            folder=self._folder,
            clock=parts.clock,
            registry=CollectorRegistry(),
            quiet=True,
        )
        self._marks = Marks(parts, journal)
        self._prefix = paths.drill_prefix(self.drill_id)
        self._client = client_of(here.s3, here.drill_credentials_file or here.credentials_file)
        self._kafka = cluster_of(here, here.drill_kafka_credentials_file)
        self.own = S3ObjectStore(self._client, here.bucket)
        self._store = OverlayStore(parts.store(), self.own, self._prefix)
        self._spool = NodeSpool(self._node_dir, self._marks)
        self._scheduler = Scheduler(parts.clock, FLOWS)
        self._failures: list[str] = []
        self._closing: list[Callable[[], None]] = []

    def play(self, drill: Drill, command: tuple[str, ...], say: Say) -> Drill:
        """Carry the drill out; at the end, whatever happened, nothing of it is left running."""
        ensure_topics(self._kafka, self._parts.here.replication, prefix=paths.DRILL_TOPICS)
        log, signer = OverlayLog(self._log(), paths.DRILL_TOPICS), self._signer()
        peer_states = {name: self._listener(name) for name in (drill.holder, self._parts.region)}
        leases = S3LeaseStore(self._client, self._parts.here.bucket, Codec(), self._prefix)
        simulated_primary = self._simulated_primary(drill.holder, leases, log)
        self_evidence = self._self_evidence(log)
        verifier = self._verifier(signer)
        observers = Observers(peer_states=peer_states, self_evidence=self_evidence, verifier=verifier)
        control = self._control(drill.holder, leases, observers, signer)
        publish = self._agent(control, log, signer)
        flows = {
            "simulated-primary": simulated_primary.turn,
            CONTROL: control.turn,
            "publish": publish.turn,
            "self_evidence": self_evidence.turn,
            VERIFY: verifier.turn,
        }
        flows |= {f"heartbeats-{name}": self._heartbeats(listener).turn for name, listener in peer_states.items()}
        for name, flow in flows.items():
            self._scheduler.add(name, flow)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in flows]
        own = {"FARSIDE_RUN": self._run, "FARSIDE_NODE_DIR": str(self._node_dir), "FARSIDE_LAUNCH": self.drill_id}
        trainer = spawn(command, compiling_environment(own), Path.cwd(), self._folder / "trainer.log")
        try:
            for thread in threads:
                thread.start()
            return self._scenes(drill, simulated_primary, control, peer_states[drill.holder], trainer, say)
        except RetryableError as error:
            return dataclasses.replace(drill, why=str(error))
        finally:
            self._scheduler.end()
            kill_families([trainer])
            for thread in threads:
                thread.join(JOIN_S)
            for close in self._closing:
                with contextlib.suppress(Exception):  # the drill is over: an error at closing changes nothing
                    close()

    def sweep(self) -> None:
        """Delete the objects that the drill wrote; all of them are under its own prefix."""
        bucket = self._parts.here.bucket
        for key in self.own.list(self._prefix):
            self._client.delete_object(Bucket=bucket, Key=key)

    def _scenes(
        self,
        drill: Drill,
        simulated_primary: SimulatedPrimary,
        control: Controller,
        listener: PeerState,
        trainer: subprocess.Popen[bytes],
        say: Say,
    ) -> Drill:
        marks = self._marks.at_s

        def wait(what: str, done: Callable[[], bool], patience_s: float) -> None:
            self._wait(what, done, patience_s, trainer)

        say("the drill's trainer starts, beside the real pool")
        wait("ranks that wait for their grant", lambda: bool(self._spool.launches(self._run)), START_S)
        wait("the simulated primary's heartbeats", lambda: _heard(listener), START_S)
        wait("a standby that hears its primary", lambda: control.status().reason == Reason.PRIMARY_WELL.value, START_S)
        marks.pop("failover.silent", None)
        simulated_primary.die()
        lost_at_s = simulated_primary.beat_at_s
        say(f"the simulated primary of {drill.holder} has stopped its heartbeats")
        patience_s = STEP_S + 3 * self._parts.profile.challenger_wait_s
        wait("the drill's epoch", lambda: "failover.promoted" in marks and "failover.silent" in marks, patience_s)
        say("the standby has won the drill's epoch")
        wait("the grant", lambda: "publish.granted" in marks, STEP_S)
        wait("the first step", lambda: "drill.stepped" in marks, STEP_S)
        order = ("failover.silent", "failover.promoted", "drill.loaded", "drill.stepped")
        times_s = (lost_at_s, *(marks[event] for event in order))
        measured = dataclasses.replace(
            drill,
            measured_parts_s={name: times_s[at + 1] - times_s[at] for at, name in enumerate(PARTS)},
            from_step=self._marks.fields_of["launch.granted"]["step"],
            first_step=self._marks.fields_of["drill.stepped"]["step"],
            good=True,
        )
        if drill.promised_s is not None and (measured.measured_rto_s or 0.0) > drill.promised_s:
            why = f"it took longer than the {drill.promised_s:.1f} s that are promised"
            return dataclasses.replace(measured, good=False, why=why)
        return measured

    def _wait(self, what: str, done: Callable[[], bool], patience_s: float, trainer: subprocess.Popen[bytes]) -> None:
        clock = self._parts.clock
        deadline_s, looked_s = clock.boottime_s() + patience_s, float("-inf")
        while not done():
            self._look()
            now_s = clock.boottime_s()
            if self._failures:
                raise RetryableError(self._failures[0])
            if trainer.poll() is not None:
                last_lines = tail(self._folder / "trainer.log")
                raise RetryableError(
                    f"the trainer ended with exit code {trainer.returncode} before {what}:\n{last_lines}"
                )
            if now_s - looked_s >= 1.0:
                self._give_way()
                looked_s = now_s
            if now_s > deadline_s:
                raise RetryableError(f"{what} did not come within {patience_s:.0f} s; logs in {self._folder}")
            clock.sleep(LOOK_S)

    def _give_way(self) -> None:
        """End the drill if the real controller is gone, has the run, or sees a trouble that may become a failover."""
        try:
            real = controller_of(self._parts.settings, self._parts.region).status_of(self._run)
        except UnexpectedAnswerError as error:
            raise RetryableError(str(error)) from error
        if real is None:
            raise RetryableError(
                "the region's real controller does not answer: a drill needs it, to stop if there is a real trouble"
            )
        if real.primary == self._parts.region or real.reason in {reason.value for reason in REAL_TROUBLE}:
            raise RetryableError(f"the drill stopped for a real trouble: the real controller says {real.reason}")

    def _steps(self) -> list[int]:
        return [beat.step for beat in self._spool.beats(self._run) if beat.phase == "train"]

    def _look(self) -> None:
        """Note when a rank first reports that it has its state, and when it first reports a step of its own."""
        start = self._marks.fields_of.get("launch.granted")
        if start is None:
            return
        newest = max(self._steps(), default=-1)
        for event, reached in (("drill.loaded", newest >= start["step"]), ("drill.stepped", newest > start["step"])):
            if reached and event not in self._marks.at_s:
                self._marks.say(event, step=newest)

    def _work(self) -> None:
        while (taken := self._scheduler.take()) is not None:
            name, flow = taken
            self._scheduler.done(name, self._once(name, flow))

    def _once(self, name: str, flow: Flow) -> float:
        """One turn of a flow; returns the seconds until its next turn. A failure ends the drill, and is its reason."""
        try:
            return flow()
        except RetryableError:
            return RETRY_S
        except Exception:  # noqa: BLE001 - the drill ends with the trace
            self._failures.append(f"{name} failed: {traceback.format_exc()}")
            return START_S

    # --- the parts of a drill ---

    def _log(self) -> KafkaLog:
        log = KafkaLog(self._kafka)
        self._closing.append(log.close)
        return log

    def _signer(self) -> Ed25519Signer:
        """Verifies the regions' signatures; signs with a new key, which only this drill trusts."""
        key_id = key_id_of(self._parts.region, "drill")
        private, public = generate_keypair(self._folder, key_id)
        known = trusted_keys(self._parts.settings)
        trusted = TrustedKeys({**known.paths, key_id: public}, known.revoked)
        return Ed25519Signer(key_id=key_id, private_key_path=private, trusted=trusted)

    def _listener(self, region: str) -> PeerState:
        return PeerState(region=region, run=self._run, clock=self._parts.clock, wake=self._wake)

    def _heartbeats(self, listener: PeerState) -> HeartbeatReader:
        source = KafkaSource(self._kafka)
        self._closing.append(source.close)
        own_topics = OverlaySource(source, paths.DRILL_TOPICS)
        return HeartbeatReader(
            region=listener.region, source=own_topics, codec=Codec(), clock=self._parts.clock, peer_states=[listener]
        )

    def _wake(self) -> None:
        self._scheduler.wake(CONTROL)

    def _simulated_primary(self, holder: str, leases: S3LeaseStore, log: OverlayLog) -> SimulatedPrimary:
        return SimulatedPrimary(
            lost=LostPrimary(region=holder, run=self._run, view=self._view, step=self._newest.manifest.step),
            ports=DrillPorts(
                leases=leases,
                log=log,
                codec=Codec(),
                clock=self._parts.clock,
                entropy=self._parts.entropy,
            ),
            profile=self._parts.profile,
        )

    def _self_evidence(self, log: OverlayLog) -> SelfEvidence:
        return SelfEvidence(
            region=self._parts.region,
            log=log,
            store=self._store,
            codec=Codec(),
            clock=self._parts.clock,
            entropy=self._parts.entropy,
        )

    def _verifier(self, signer: Ed25519Signer) -> CheckpointVerifier:
        """Reads the real checkpoints back; a note about damage lies beside, as all that a drill writes."""
        return CheckpointVerifier(
            run=self._run,
            ports=VerifierPorts(
                store=self._store,
                pieces=own_pieces_of(self._parts.here),
                signer=signer,
                codec=Codec(),
                clock=self._parts.clock,
                journal=self._marks,
            ),
            wake=lambda: self._scheduler.wake(VERIFY),
            tell=self._wake,
        )

    def _control(
        self,
        holder: str,
        leases: S3LeaseStore,
        observers: Observers,
        signer: Ed25519Signer,
    ) -> Controller:
        return Controller(
            role=RunRole(
                run=self._run,
                region=self._parts.region,
                first_region=holder,
                candidate=True,
                policy=policy_of(self._parts.profile, settle_s=0.0),
            ),
            ports=ControllerPorts(
                leases=leases,
                store=self._store,
                signer=signer,
                codec=Codec(),
                clock=self._parts.clock,
                entropy=self._parts.entropy,
                journal=self._marks,
            ),
            observers=observers,
            wake=self._wake,
        )

    def _agent(self, control: Controller, log: OverlayLog, signer: Ed25519Signer) -> Publisher:
        """A second agent for the node: it reads the real arena and never writes to it."""
        arena, base = Arena(self._parts.here.arena_dir / self._run), self._parts.store()

        def locate(manifest_digest: str) -> str | None:
            folder = arena.folder(manifest_digest)
            return None if folder is None else str(folder)

        def fetch(reply: GrantReply) -> str:
            target = self._folder / "fetched"
            return str(fetch_index_folder(base, signer, Codec(), reply.start_manifest_key, target))

        return Publisher(
            AgentNode(self._parts.region, f"{self._parts.here.node}-drill"),
            AgentPorts(
                spool=self._spool,
                store=self._store,
                log=log,
                grants=MemoryGrants({self._run: control}),
                signer=signer,
                codec=Codec(),
                clock=self._parts.clock,
                entropy=self._parts.entropy,
                journal=self._marks,
            ),
            folders=StartFolders(locate=locate, fetch=fetch),
        )


def _heard(listener: PeerState) -> bool:
    """Whether there were enough heartbeats to learn their rhythm, as a real standby has of a real primary."""
    node = listener.pulse.nodes.get(NODE)
    return node is not None and len(node.rhythm.intervals_s) >= LEAST
