"""A sweep of one run in one region, wired from the settings: the one place where a user who may delete is used."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry

from pipelines.core.retention import SweepPolicy
from pipelines.errors import MisconfiguredError
from pipelines.flows.retention.sweep import Sweep
from schemas.codec import Codec
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.runtime.clients import peer_store_of, store_of
from services.runtime.journal import ServiceJournal
from services.runtime.wiring import signer_of
from services.settings import Settings


def sweep_of(settings: Settings, region: str, run: str, without: Collection[str] = ()) -> Sweep:
    """A sweep; `without`: regions that are gone for good, which need nothing of ours any more."""
    here, wanted, clock = settings.region(region), settings.run(run), SystemClock()
    strange = sorted(set(without) - (settings.regions.keys() - {region}))
    if strange:
        raise MisconfiguredError(f"--without {strange[0]}: there is no other region of that name")
    peers = {}
    for peer in settings.regions.keys() - {region, *without}:
        peers[peer] = peer_store_of(settings.link(region, peer))
    return Sweep(
        run=run,
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
        policy=SweepPolicy(wanted.keep_generations, here.sweep_grace_s),
    )
