"""The controller of a region: the lease of each run on a thread of its own, listeners and probes on theirs."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Gauge
from pydantic import SecretStr

from pipelines.core.decide import FailoverPolicy, policy_of
from pipelines.core.lease import NEVER_S
from pipelines.flows.attest import Attest
from pipelines.flows.drills import Drills
from pipelines.flows.failover import Control
from pipelines.flows.hook import Hook
from pipelines.flows.listen import Listen
from pipelines.flows.notify import Notify
from pipelines.flows.sight import Sight
from schemas.codec import Codec
from services.adapters.kafka import KafkaLog, KafkaSource
from services.adapters.lease_s3 import S3LeaseStore
from services.adapters.poster import HttpPoster
from services.authority_routes import AuthorityRoutes
from services.clients import client_of
from services.parts import Parts
from services.process import Flow
from services.settings import RunSettings, Settings

LEASE_TIMEOUT_S = 2.0


def run(settings: Settings, region: str) -> int:
    """Serve one region until told to stop; the exit code."""
    parts = Parts(settings, region, "controller")
    parts.prepare()
    flows: dict[str, Flow] = {}
    closing: list[Callable[[], None]] = []
    heard: dict[str, list[Listen]] = {name: [] for name in settings.regions}

    def nodes_at_s(peer: str) -> float:
        return max((one.pulse.nodes_at_s for one in heard[peer]), default=NEVER_S)

    log = KafkaLog(parts.here.kafka)
    closing.append(log.close)
    sight = parts.sight("controller", log, closing, nodes_at_s)
    flows["sight"] = sight.step
    controls = {name: _control(parts, name, flows, closing, heard, sight) for name in settings.runs}
    drills = {name: _drills(parts, name) for name in settings.runs}
    flows |= {f"{name}/drills": one.step for name, one in drills.items()}
    epoch = Gauge("farside_epoch", "Epoch of the run as seen here.", ["run"], registry=parts.registry)
    valid = Gauge("farside_lease_valid_seconds", "What is left of our lease.", ["run"], registry=parts.registry)

    kept = Gauge(
        "farside_promise_kept",
        "1 while a failover to us would keep the run's objectives.",
        ["run"],
        registry=parts.registry,
    )

    def status() -> dict[str, object]:
        found = {name: control.status() for name, control in controls.items()}
        for name, one in found.items():
            epoch.labels(name).set(float(str(one["epoch"])))
            valid.labels(name).set(float(str(one["valid_s"])))
            kept.labels(name).set(float(bool(one["promise_kept"])))
            one["drill"] = drills[name].status()
        return dict(found)

    return parts.serve(flows, status=status, close=closing, routes=AuthorityRoutes(controls).routes())


def _control(
    parts: Parts,
    name: str,
    flows: dict[str, Flow],
    closing: list[Callable[[], None]],
    heard: dict[str, list[Listen]],
    sight: Sight,
) -> Control:
    settings, region, here = parts.settings, parts.region, parts.here
    listeners = {}
    for other in settings.regions:
        source = KafkaSource(here.kafka if other == region else parts.link(other).kafka)
        closing.append(source.close)
        listeners[other] = Listen(region=other, run=name, source=source, codec=Codec(), clock=parts.clock)
        heard[other].append(listeners[other])
        flows[f"{name}/listen-{other}"] = listeners[other].step
    log = KafkaLog(here.kafka)
    closing.append(log.close)
    attest = Attest(
        region=region,
        run=name,
        log=log,
        store=parts.store(),
        codec=Codec(),
        clock=parts.clock,
        entropy=parts.entropy,
    )
    flows[f"{name}/attest"] = attest.step
    wanted = settings.run(name)
    hook = None
    if wanted.before_url is not None:
        poster = HttpPoster(wanted.before_url.get_secret_value(), wanted.before_timeout_s)
        hook = Hook(poster=poster, timeout_s=wanted.before_timeout_s, clock=parts.clock, journal=parts.journal)
        flows[f"{name}/hook"] = hook.step
    # One attempt a request: the SDK's own retry turns a lost reply into a false refusal (6.3).
    witness = client_of(here.witness, here.witness_credentials_file, attempts=1, timeout_s=LEASE_TIMEOUT_S)
    control = Control(
        region=region,
        run=name,
        first_region=wanted.first_region,
        candidate=region in {wanted.first_region, *wanted.standby},
        leases=S3LeaseStore(witness, settings.witness.bucket, Codec()),
        listeners=listeners,
        attest=attest,
        store=parts.store(),
        signer=parts.signer,
        codec=Codec(),
        clock=parts.clock,
        entropy=parts.entropy,
        journal=parts.journal,
        sight=sight,
        hook=hook,
        policy=_policy(parts, wanted),
    )
    flows[f"{name}/lease"] = control.step
    notify = _notify(parts, name, control)
    if notify is not None:
        flows[f"{name}/notify"] = notify.step
    return control


def _policy(parts: Parts, wanted: RunSettings) -> FailoverPolicy:
    return policy_of(
        parts.profile,
        rpo_steps=wanted.rpo_steps,
        rto_s=wanted.rto_s,
        settle_s=wanted.settle_s,
        fencing=wanted.fencing,
    )


def _drills(parts: Parts, name: str) -> Drills:
    return Drills(run=name, store=parts.store(), clock=parts.clock, most_days=parts.settings.run(name).drill_days)


def _notify(parts: Parts, name: str, control: Control) -> Notify | None:
    """Who is told of the run's moves; None if nobody is to be."""
    wanted = parts.settings.run(name)
    if wanted.webhook_url is None and wanted.ping_url is None:
        return None
    return Notify(
        run=name,
        region=parts.region,
        webhook=_poster(wanted.webhook_url),
        ping=_poster(wanted.ping_url),
        ping_s=wanted.ping_s,
        won=control.won,
        turned_at_s=lambda: control.turned_at_s,
        store=parts.store(),
        clock=parts.clock,
        journal=parts.journal,
    )


def _poster(url: SecretStr | None) -> HttpPoster | None:
    return None if url is None else HttpPoster(url.get_secret_value())
