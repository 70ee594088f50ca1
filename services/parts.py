"""What the services are made of, from the settings: one region's clients, signer, lineage and journal."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from pipelines import paths
from pipelines.core.lease import PROFILES, LeaseProfile
from pipelines.errors import MisconfiguredError
from pipelines.flows.lineages import Lineages
from services.adapters.kafka import ensure_topics
from services.adapters.s3 import S3ObjectStore, connect, ensure_bucket
from services.adapters.signer import Ed25519Signer
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.journal import ServiceJournal
from services.settings import LinkSettings, RegionSettings, Settings, credentials
from services.wrappers.retrying import retrying

PREPARE_S = 60.0


class Parts:
    """One service's surroundings in one region."""

    def __init__(self, settings: Settings, region: str, service: str) -> None:
        self.settings = settings
        self.region = region
        self.here: RegionSettings = settings.region(region)
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
        self.signer = Ed25519Signer(
            key_id=region,
            private_key_path=self.here.signing_key_file,
            trusted={name: one.public_key_file for name, one in settings.regions.items()},
        )
        for run in settings.runs:
            paths.check_run(run)

    @property
    def profile(self) -> LeaseProfile:
        """The lease's times."""
        return PROFILES[self.settings.profile]

    def store(self) -> S3ObjectStore:
        """A client of this region's bucket; each flow has its own."""
        return store_of(self.here)

    def peer_store(self, peer: str) -> S3ObjectStore:
        """A client of another region's bucket, through the link."""
        link = self.link(peer)
        return _store(link.s3, link.bucket, link.credentials_file)

    def link(self, peer: str) -> LinkSettings:
        """How this region reaches another; MisconfiguredError if it is not said."""
        if peer not in self.here.links:
            raise MisconfiguredError(f"regions.{self.region}.links.{peer} is missing: {peer} cannot be reached")
        return self.here.links[peer]

    def peers(self) -> tuple[str, ...]:
        """The other regions."""
        return tuple(name for name in self.settings.regions if name != self.region)

    def lineages(self) -> Lineages:
        """The lineage as this region's store knows it."""
        return Lineages(self.store())

    def only_run(self) -> str:
        """The run that a one-run service serves; MisconfiguredError unless there is exactly one."""
        if len(self.settings.runs) != 1:
            raise MisconfiguredError(f"runs: this service serves one run, the settings have {len(self.settings.runs)}")
        return next(iter(self.settings.runs))

    def prepare(self) -> None:
        """Wait for this region's store and Kafka, and make the bucket and the topics that are missing.

        Raises:
            RetryableError: they did not answer in time.
        """
        keys = credentials(self.here.credentials_file)
        client = connect(endpoint=self.here.s3, access_key=keys.access_key, secret_key=keys.secret_key)

        def make() -> None:
            ensure_bucket(client, self.here.bucket)
            ensure_topics(self.here.kafka, replication=self.here.replication)

        retrying(
            make, clock=self.clock, deadline_s=PREPARE_S, waits=lambda why: self.journal.say("service.waits", why=why)
        )


def store_of(region: RegionSettings) -> S3ObjectStore:
    """A client of a region's own bucket."""
    return _store(region.s3, region.bucket, region.credentials_file)


def _store(endpoint: str, bucket: str, credentials_file: Path) -> S3ObjectStore:
    keys = credentials(credentials_file)
    return S3ObjectStore(connect(endpoint=endpoint, access_key=keys.access_key, secret_key=keys.secret_key), bucket)
