"""The controller of a region: a reader of each region's log, a probe, and a scheduler for the leases of all runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from pydantic import SecretStr

from pipelines.core.failover_decision import FailoverPolicy, policy_of
from pipelines.core.lease import NEVER_S
from pipelines.errors import RetryableError
from pipelines.flows.authority.approval_hook import ApprovalHook
from pipelines.flows.authority.controller import Controller
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.drill_history import DrillHistory
from pipelines.flows.authority.heartbeat_reader import HeartbeatReader, PeerState
from pipelines.flows.authority.peer_epochs import PeerEpochs
from pipelines.flows.authority.region_watch import RegionWatch
from pipelines.flows.authority.self_evidence import SelfEvidence
from pipelines.flows.authority.webhooks import Receivers, WatchedController, Webhooks
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.ports import ObjectStore
from schemas.codec import Codec
from schemas.http_bodies import ControllerStatus, RunStatus
from services.adapters.http.poster import HttpPoster
from services.adapters.kafka.log import KafkaLog, KafkaSource
from services.adapters.s3.conformance import refuse_unfit
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.s3.object_store import S3ObjectStore
from services.http.authority_routes import AuthorityRoutes
from services.http.endpoints import agent_of, replicator_of, warmer_of
from services.runtime.clients import client_of, own_pieces_of, repeating
from services.runtime.metrics import ControllerCollector
from services.runtime.one_run import OneRun
from services.runtime.scheduler import Flow, Scheduler
from services.runtime.wiring import Wiring
from services.settings import RunSettings, Settings
from services.wrappers.grouped_leases import GATHERS_S_MAX, GroupedLeases
from services.wrappers.retrying import STORE_BESIDE_LEASE
from services.wrappers.witness import Witness

LEASE_TIMEOUT_S = 2.0
# A slow answer holds a thread: the threads that a thousand runs of the default profile need are 300 requests a second
# times the seconds that an answer takes, so these do up to 0.2 s an answer.
LEASE_THREADS_MAX = 64
# Runs of a lease group wait for each other's company, which costs a thread and no request.
GROUPED_THREADS_MAX = 256
# Checkpoints are read back by so many threads, so that of many runs no large one holds up the others.
VERIFY_THREADS_MAX = 4
# Hooks, webhooks and drills' histories have a scheduler of their own: one that hangs must not hold up a lease.
NOTICE_THREADS_MAX = 8


def run(settings: Settings, region: str) -> int:
    """Serve one region until told to stop; the exit code."""
    parts = Wiring(settings, region, "controller")
    parts.prepare_to_serve()
    controller = _Controller(parts)
    controller.prove_witness()
    parts.registry.register(ControllerCollector(controller.status))
    return parts.serve(
        controller.flows,
        status=controller.status,
        close=controller.closing,
        routes=AuthorityRoutes(controller.controls).routes(),
        schedulers=(controller.leases, controller.notices, controller.verifying),
    )


class _Controller:
    """The parts that all runs of a region share, and each run's own flows."""

    def __init__(self, parts: Wiring) -> None:
        self.parts = parts
        runs = parts.settings.runs
        grouped = len(parts.settings.groups())
        threads = min(len(runs) - grouped, LEASE_THREADS_MAX) + min(grouped, GROUPED_THREADS_MAX)
        self.leases = Scheduler(parts.clock, threads)
        self.notices = Scheduler(parts.clock, min(len(runs), NOTICE_THREADS_MAX))
        # Shared: a client of its own for each of a thousand runs would take a minute to make.
        self._pieces = own_pieces_of(parts.here, VERIFY_THREADS_MAX)
        self._verifiers_store = repeating(self._pieces)
        self.verifying = Scheduler(parts.clock, min(len(runs), VERIFY_THREADS_MAX))
        self.closing: list[Callable[[], None]] = []
        self.flows: dict[str, Flow] = {}
        self._runs: dict[str, OneRun] = {}
        self._codec = Codec()  # shared: nobody here makes it learn
        self._store, self._shared_witness, self._witness = self._stores()
        log = KafkaLog(parts.kafka)
        self.closing.append(log.close)
        self._reachability = parts.reachability("controller", log, self.closing, self._nodes_at_s)
        self.flows["reachability"] = self._reachability.turn
        peers = {peer: parts.peer_store(peer) for peer in parts.peers()}
        self._peer_epochs = PeerEpochs(peers, runs, parts.clock)
        self.flows["peer-epochs"] = self._peer_epochs.turn
        self._self_evidence = self._attested()
        self._region_watch = self._watched()
        self._peer_states = {name: self._listen(name) for name in runs}
        for other in parts.settings.regions:
            self._hear(other)
        self.drills = {name: self._drills(name, run_settings) for name, run_settings in runs.items()}
        self.controls = {name: self._control(name, run_settings) for name, run_settings in runs.items()}

    def status(self) -> ControllerStatus:
        """Every run, with the age of its last good drill here, and why its flows stand if they do."""
        return {run: self._status(run, control) for run, control in self.controls.items()}

    def _status(self, run: str, control: Controller) -> RunStatus:
        status = control.status()
        parts = {name: one.trouble for name, one in self._runs.items() if name.startswith(f"{run}/") and one.trouble}
        return dataclasses.replace(status, drill=self.drills[run].status(), troubles=status.troubles | parts)

    def prove_witness(self) -> None:
        """Refuse to begin with a witness that cannot be one. One that does not answer is tried at the first request.

        Raises:
            MisconfiguredError: it ignores conditional writes, or denies us; the text says what to do.
        """
        try:
            self._shared_witness.prove()
        except RetryableError as error:
            self.parts.journal.say("witness.waits", why=str(error))

    def _one_run(self, name: str, part: str, flow: Flow) -> Flow:
        """A run's flow, whose errors end nothing but its own turn."""
        one = self._runs[f"{name}/{part}"] = OneRun(name, part, flow, self.parts.journal)
        return one.turn

    def _stores(self) -> tuple[ObjectStore, Witness, GroupedLeases]:
        """This region's store, and the witness as all runs ask it."""
        parts, here = self.parts, self.parts.here
        connections = min(self.leases.threads, LEASE_THREADS_MAX) + self.notices.threads
        store = client_of(here.s3, here.credentials_file, timeout_s=LEASE_TIMEOUT_S, connections=connections)
        # Nothing repeats a request to the witness: a repeated one turns a lost reply into a false refusal (6.3).
        witness = client_of(
            here.witness, here.witness_credentials_file, timeout_s=LEASE_TIMEOUT_S, connections=connections
        )
        bucket = parts.settings.witness.bucket
        shared = Witness(
            S3LeaseStore(witness, bucket, self._codec),
            parts.registry,
            partial(refuse_unfit, witness, bucket, parts.entropy),
        )
        leases = GroupedLeases(
            shared,
            shared,
            group_of=parts.settings.groups(),
            codec=self._codec,
            clock=parts.clock,
            entropy=parts.entropy,
            gathers_s=min(GATHERS_S_MAX, parts.profile.poll_s / 10),
        )
        return repeating(S3ObjectStore(store, here.bucket), STORE_BESIDE_LEASE), shared, leases

    def _nodes_at_s(self, peer: str) -> float:
        """When a node of a region was heard last, for any run."""
        return max((of_run[peer].pulse.nodes_at_s for of_run in self._peer_states.values()), default=NEVER_S)

    def _attested(self) -> SelfEvidence:
        parts = self.parts
        log = KafkaLog(parts.kafka)
        self.closing.append(log.close)
        self_evidence = SelfEvidence(
            region=parts.region,
            log=log,
            store=parts.store(),
            codec=Codec(),
            clock=parts.clock,
            entropy=parts.entropy,
        )
        self.flows["self_evidence"] = self_evidence.turn
        return self_evidence

    def _watched(self) -> RegionWatch:
        """Asks the region's other services about themselves; one without a fixed port cannot be asked."""
        parts = self.parts
        ports = parts.here.ports
        replicator = replicator_of(parts.settings, parts.region, is_command=False)
        agent = agent_of(parts.settings, parts.region, is_command=False)
        warmer = warmer_of(parts.settings, parts.region, is_command=False)
        watch = RegionWatch(
            parts.clock,
            replicator=replicator.status if ports.replicator and parts.peers() else None,
            agent=agent.status if ports.agent else None,
            warmer=warmer.status if ports.warmer else None,
        )
        self.flows["region-watch"] = watch.turn
        return watch

    def _listen(self, name: str) -> dict[str, PeerState]:
        wake = self._waking(name)
        return {
            other: PeerState(region=other, run=name, clock=self.parts.clock, wake=wake)
            for other in self.parts.settings.regions
        }

    def _hear(self, other: str) -> None:
        parts, own = self.parts, other == self.parts.region
        source = KafkaSource(parts.kafka if own else parts.peer_kafka(other))
        self.closing.append(source.close)
        heartbeats = HeartbeatReader(
            region=other,
            source=source,
            codec=Codec(),
            clock=parts.clock,
            peer_states=[of_run[other] for of_run in self._peer_states.values()],
            checkpoints=own,
        )
        self.flows[f"heartbeats-{other}"] = heartbeats.turn

    def _drills(self, name: str, run_settings: RunSettings) -> DrillHistory:
        history = DrillHistory(run=name, store=self._store, clock=self.parts.clock, most_days=run_settings.drill_days)
        self.notices.add(f"{name}/drills", self._one_run(name, "drills", history.turn))
        return history

    def _control(self, name: str, run_settings: RunSettings) -> Controller:
        parts = self.parts
        control = Controller(
            role=RunRole(
                run=name,
                region=parts.region,
                first_region=run_settings.first_region,
                candidate=parts.region in {run_settings.first_region, *run_settings.standby},
                policy=_policy(parts, run_settings),
            ),
            ports=ControllerPorts(
                leases=self._witness,
                store=self._store,
                signer=parts.verifier,
                codec=self._codec,
                clock=parts.clock,
                entropy=parts.entropy,
                journal=parts.journal,
            ),
            observers=Observers(
                peer_states=self._peer_states[name],
                self_evidence=self._self_evidence,
                verifier=self._verifier(name),
                reachability=self._reachability,
                peer_epochs=self._peer_epochs,
                region_watch=self._region_watch,
            ),
            hook=self._hook(name, run_settings),
            wake=self._waking(name),
        )
        self.leases.add(f"{name}/lease", self._one_run(name, "lease", control.turn))
        if run_settings.webhook_url is not None or run_settings.ping_url is not None:
            notify = self._notify(name, run_settings, control)
            self.notices.add(f"{name}/notify", self._one_run(name, "notify", notify.turn))
        return control

    def _verifier(self, name: str) -> CheckpointVerifier:
        parts, flow = self.parts, f"{name}/verify"
        verifier = CheckpointVerifier(
            run=name,
            ports=VerifierPorts(
                store=self._verifiers_store,
                pieces=self._pieces,
                signer=parts.verifier,
                codec=self._codec,
                clock=parts.clock,
                journal=parts.journal,
            ),
            wake=lambda: self.verifying.wake(flow),
            tell=self._waking(name),
        )
        self.verifying.add(flow, self._one_run(name, "verify", verifier.turn))
        return verifier

    def _hook(self, name: str, run_settings: RunSettings) -> ApprovalHook | None:
        """Who may object to a move; None if nobody may."""
        if run_settings.before_url is None:
            return None
        parts = self.parts
        hook = ApprovalHook(
            poster=HttpPoster(
                run_settings.before_url.get_secret_value(),
                parts.clock,
                run_settings.webhook_key_file,
                run_settings.before_timeout_s,
            ),
            timeout_s=run_settings.before_timeout_s,
            clock=parts.clock,
            journal=parts.journal,
            wake=lambda: self.notices.wake(f"{name}/hook"),
        )
        self.notices.add(f"{name}/hook", self._one_run(name, "hook", hook.turn))
        return hook

    def _notify(self, name: str, run_settings: RunSettings, control: Controller) -> Webhooks:
        parts = self.parts
        return Webhooks(
            run=name,
            region=parts.region,
            receivers=Receivers(
                webhook=_poster(parts, run_settings, run_settings.webhook_url),
                ping=_poster(parts, run_settings, run_settings.ping_url),
                ping_s=run_settings.ping_s,
            ),
            watched=WatchedController(won=control.won, turned_at_s=lambda: control.turned_at_s),
            store=self._store,
            clock=parts.clock,
            journal=parts.journal,
        )

    def _waking(self, name: str) -> Callable[[], None]:
        return lambda: self.leases.wake(f"{name}/lease")


def _policy(parts: Wiring, run_settings: RunSettings) -> FailoverPolicy:
    return policy_of(
        parts.profile,
        rpo_steps=run_settings.rpo_steps,
        rto_s=run_settings.rto_s,
        settle_s=run_settings.settle_s,
        fencing=run_settings.fencing,
        in_step=run_settings.group is not None,
    )


def _poster(parts: Wiring, run_settings: RunSettings, url: SecretStr | None) -> HttpPoster | None:
    if url is None:
        return None
    return HttpPoster(url.get_secret_value(), parts.clock, run_settings.webhook_key_file)
