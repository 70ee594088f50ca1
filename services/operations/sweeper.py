"""Makes the sweep of one run in one region from the settings. Only here a user is used who may delete checkpoints."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry

from pipelines.core.retention import SweepPolicy
from pipelines.errors import MisconfiguredError
from pipelines.flows.retention.sweep import Sweep, SweepPorts
from schemas.codec import Codec
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.runtime.clients import peer_store_of, store_of
from services.runtime.journal import ServiceJournal
from services.runtime.wiring import signer_of
from services.settings import Settings


def sweep_of(settings: Settings, region: str, run: str, without: Collection[str] = ()) -> Sweep:
    """A sweep of a run in a region. `without` names regions that are gone for good: they are not asked anything."""
    here, wanted, clock = settings.region(region), settings.run(run), SystemClock()
    strange = sorted(set(without) - (settings.regions.keys() - {region}))
    if strange:
        raise MisconfiguredError(f"--without {strange[0]}: the settings have no other region of that name")
    peers = {}
    for peer in settings.regions.keys() - {region, *without}:
        peers[peer] = peer_store_of(settings.link(region, peer))
    return Sweep(
        run=run,
        ports=SweepPorts(
            store=store_of(here, here.sweeper_credentials_file),
            peers=peers,
            signer=signer_of(settings, region),
            codec=Codec(),
            clock=clock,
            entropy=SystemEntropy(),
            journal=ServiceJournal(
                service="sweeper",
                region=region,
                folder=settings.state_dir / "timeline",
                clock=clock,
                registry=CollectorRegistry(),
                quiet=True,
            ),
        ),
        policy=SweepPolicy(wanted.keep_generations, here.sweep_grace_s),
    )
