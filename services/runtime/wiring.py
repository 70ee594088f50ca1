"""A service's parts, made from the settings: its region's clients, signer, lineage and journal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from pipelines import paths
from pipelines.core.lease_profiles import LeaseProfile
from pipelines.errors import MisconfiguredError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.authority.reachability import KAFKA, STORE, Probe, Reachability
from pipelines.flows.log.writer_schemas import store_schemas
from pipelines.ports import EventLog
from schemas.codec import Codec
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaSource, ensure_topics
from services.adapters.s3.object_store import S3ObjectStore, ensure_bucket
from services.adapters.signer import Ed25519Signer, Ed25519Verifier, TrustedKeys, key_id_of
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.http.server import Listen
from services.runtime.clients import client_of, cluster_of, peer_pieces_of, peer_store_of, store_of
from services.runtime.journal import ServiceJournal
from services.runtime.listening import listen_of
from services.runtime.process import Process
from services.runtime.scheduler import Flow, Scheduler
from services.settings import LinkSettings, RegionSettings, Settings
from services.wrappers.retrying import RetryingObjectStore, repeat_until_done

PROBE_TIMEOUT_S = 2.0


class Wiring:
    """One service's surroundings in one region.

    Args:
        settings: of every region.
        region: where the service runs.
        service: agent, controller, replicator or warmer.

    Raises:
        MisconfiguredError: there is no such region, a key file cannot be read, or a run's name is not allowed.
    """

    def __init__(self, settings: Settings, region: str, service: str) -> None:
        self._listen: Listen | None = None
        self.settings = settings
        self.region = region
        self.service = service
        self.here: RegionSettings = settings.region(region)
        self.kafka = cluster_of(self.here)
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.registry = CollectorRegistry()
        self.journal = ServiceJournal(
            service=service,
            region=region,
            folder=settings.state_dir / "timeline",
            clock=self.clock,
            registry=self.registry,
        )
        self.verifier = verifier_of(settings)
        for run in settings.runs:
            paths.check_run(run)

    @property
    def profile(self) -> LeaseProfile:
        """The lease's times."""
        return self.settings.lease_profile

    def store(self) -> RetryingObjectStore:
        """A client of this region's bucket; each flow has its own."""
        return store_of(self.here)

    def peer_store(self, peer: str) -> RetryingObjectStore:
        """A client of another region's bucket, through the link."""
        return peer_store_of(self.link(peer))

    def peer_pieces(self, peer: str) -> S3ObjectStore:
        """A client of another region's bucket, through the link, for copies."""
        return peer_pieces_of(self.link(peer))

    def peer_kafka(self, peer: str) -> KafkaCluster:
        """Another region's Kafka, through the link, as a user who may only read there."""
        return cluster_of(self.link(peer))

    def link(self, peer: str) -> LinkSettings:
        """The settings of the link to another region; MisconfiguredError if there are none."""
        return self.settings.link(self.region, peer)

    def reachability(
        self, observer: str, log: EventLog, closing: list[Callable[[], None]], nodes_at_s: Callable[[str], float]
    ) -> Reachability:
        """The flow that measures whether this service reaches the other regions, through clients of its own."""
        probes: dict[str, dict[str, Probe]] = {}
        for peer in self.peers():
            link, source = self.link(peer), KafkaSource(self.peer_kafka(peer), int(PROBE_TIMEOUT_S * 1000))
            store = S3ObjectStore(client_of(link.s3, link.credentials_file, timeout_s=PROBE_TIMEOUT_S), link.bucket)
            closing.append(source.close)
            probes[peer] = {
                KAFKA: partial(source.partitions, [paths.HEARTBEATS]),
                STORE: partial(store.size, paths.health("controller", peer)),
            }
        every_s = max(PROBE_TIMEOUT_S, self.profile.poll_s)
        return Reachability(
            region=self.region,
            observer=observer,
            probes=probes,
            log=log,
            codec=Codec(),
            clock=self.clock,
            every_s=every_s,
            nodes_at_s=nodes_at_s,
        )

    def peers(self) -> tuple[str, ...]:
        """The other regions."""
        return tuple(name for name in self.settings.regions if name != self.region)

    def epoch_store(self) -> EpochStore:
        """The lineage as this region's store knows it."""
        return EpochStore(self.store())

    def only_run(self) -> str:
        """The run that a one-run service serves; MisconfiguredError unless there is exactly one."""
        if len(self.settings.runs) != 1:
            raise MisconfiguredError(f"runs: this service serves one run, the settings have {len(self.settings.runs)}")
        return next(iter(self.settings.runs))

    def prepare_to_serve(self) -> None:
        """As `prepare`, for a service; whom it lets in is settled before it waits for anything.

        Raises:
            MisconfiguredError: one of them refuses us, or it is not settled who may ask this service.
        """
        self._listen = listen_of(self.settings, self.region, self.service)
        self.prepare()

    def prepare(self) -> None:
        """Wait for this region's store and Kafka, and make the bucket, topics and schemas that are missing.

        However long that takes: a dependency that is slow to start is no reason to end.

        Raises:
            MisconfiguredError: one of them refuses us.
        """
        client = client_of(self.here.s3, self.here.credentials_file)

        def make() -> None:
            ensure_bucket(client, self.here.bucket)
            ensure_topics(self.kafka, replication=self.here.replication)
            store_schemas(self.store())

        repeat_until_done(
            make, clock=self.clock, deadline_s=math.inf, waits=lambda why: self.journal.say("service.waits", why=why)
        )

    def serve(
        self,
        flows: Mapping[str, Flow],
        *,
        status: Callable[[], object],
        close: Sequence[Callable[[], None]],
        routes: Sequence[BaseRoute] = (),
        schedulers: Sequence[Scheduler] = (),
    ) -> int:
        """Turn the flows and serve on the service's own port until the end; the exit code."""
        process = Process(
            clock=self.clock,
            journal=self.journal,
            registry=self.registry,
            listen=self._listen or listen_of(self.settings, self.region, self.service),
            status=status,
            routes=routes,
        )
        return process.run(flows, close, schedulers)


def trusted_keys(settings: Settings) -> TrustedKeys:
    """The public keys of every region of the settings, its dated ones too, and which of them are revoked."""
    keys = {}
    for name, region in settings.regions.items():
        keys[key_id_of(name)] = region.public_key_file
        keys |= {key_id_of(name, date): path for date, path in region.public_key_files.items()}
    return TrustedKeys(keys, settings.revoked_keys)


def verifier_of(settings: Settings) -> Ed25519Verifier:
    """Believes every region of the settings, and can sign nothing: for all that is no agent and no sweeper."""
    return Ed25519Verifier(trusted_keys(settings))


def signer_of(settings: Settings, region: str) -> Ed25519Signer:
    """A region's signer; it reads the region's private key, which must make a pair with one of its public keys."""
    return Ed25519Signer(
        key_id=region, private_key_path=settings.region(region).signing_key_file, trusted=trusted_keys(settings)
    )
