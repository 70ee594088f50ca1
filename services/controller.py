"""The controller of a region: the lease of each run on a thread of its own, listeners and probes on theirs."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.flows.attest import Attest
from pipelines.flows.failover import Control
from pipelines.flows.listen import Listen
from schemas.codec import Codec
from services.adapters.kafka import KafkaLog, KafkaSource
from services.adapters.lease_s3 import S3LeaseStore
from services.clients import client_of
from services.ops import asked
from services.parts import Parts
from services.process import Flow
from services.settings import Settings

LEASE_TIMEOUT_S = 2.0


def run(settings: Settings, region: str) -> int:
    """Serve one region until told to stop; the exit code."""
    parts = Parts(settings, region, "controller")
    parts.prepare()
    flows: dict[str, Flow] = {}
    closing: list[Callable[[], None]] = []
    controls = {name: _control(parts, name, flows, closing) for name in settings.runs}
    epoch = Gauge("farside_epoch", "Epoch of the run as seen here.", ["run"], registry=parts.registry)
    valid = Gauge("farside_lease_valid_seconds", "What is left of our lease.", ["run"], registry=parts.registry)

    def status() -> dict[str, object]:
        found = {name: control.status() for name, control in controls.items()}
        for name, one in found.items():
            epoch.labels(name).set(float(str(one["epoch"])))
            valid.labels(name).set(float(str(one["valid_s"])))
        return dict(found)

    return parts.serve(flows, status=status, close=closing, routes=_routes(controls))


def _control(parts: Parts, name: str, flows: dict[str, Flow], closing: list[Callable[[], None]]) -> Control:
    settings, region, here = parts.settings, parts.region, parts.here
    listeners = {}
    for other in settings.regions:
        source = KafkaSource(here.kafka if other == region else parts.link(other).kafka)
        closing.append(source.close)
        listeners[other] = Listen(region=other, run=name, source=source, codec=Codec(), clock=parts.clock)
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
    # One attempt a request: the SDK's own retry turns a lost reply into a false refusal (6.3).
    witness = client_of(here.witness, settings.witness.credentials_file, attempts=1, timeout_s=LEASE_TIMEOUT_S)
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
        profile=parts.profile,
    )
    flows[f"{name}/lease"] = control.step
    return control


def _routes(controls: dict[str, Control]) -> list[Route]:
    def unknown(name: object) -> Response:
        return JSONResponse({"error": f"run {name!r} is not served here"}, status_code=404)

    async def grant(request: Request) -> Response:
        wish = await asked(request, run=str, launch=str, committed_step=int)
        control = controls.get(wish["run"])
        if control is None:
            return unknown(wish["run"])
        reply = control.grant(wish["launch"], wish["committed_step"])
        return JSONResponse({name: getattr(reply, name) for name in reply.__slots__})

    async def failover(request: Request) -> Response:
        wish = await asked(request, run=str, actor=str)
        control = controls.get(wish["run"])
        if control is None:
            return unknown(wish["run"])
        control.ask_takeover(wish["actor"])
        return JSONResponse({"asked": True})

    async def preview(request: Request) -> Response:
        control = controls.get(request.query_params.get("run", ""))
        if control is None:
            return unknown(request.query_params.get("run"))
        decision = control.preview()
        gates = [gate.plain() for gate in decision.gates]
        return JSONResponse({"action": decision.action.value, "reason": decision.reason.value, "gates": gates})

    return [
        Route("/v1/grant", grant, methods=["POST"]),
        Route("/v1/failover", failover, methods=["POST"]),
        Route("/v1/preview", preview),
    ]
