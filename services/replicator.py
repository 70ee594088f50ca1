"""The replicator of a region: one flow for each peer and lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines import paths
from pipelines.core.lease import NEVER_S
from pipelines.flows.replicate import Replicate
from schemas.codec import Codec
from services.adapters.kafka import KafkaLog, KafkaSource
from services.adapters.transfers import ThreadTransfers
from services.ops import asked
from services.parts import Parts
from services.settings import Settings


def run(settings: Settings, region: str) -> int:
    """Serve one region until told to stop; the exit code."""
    parts = Parts(settings, region, "replicator")
    parts.prepare()
    flows: dict[str, Replicate] = {}
    closing: list[Callable[[], None]] = []
    for peer in parts.peers():
        for lane in paths.REPLICATED_LANES:
            source, own = KafkaSource(parts.peer_kafka(peer)), KafkaSource(parts.kafka)
            log = KafkaLog(parts.kafka, paths.transactional_id(region, peer, lane))
            transfers = ThreadTransfers(peers={peer: parts.peer_store(peer)}, store=parts.store())
            closing += [source.close, own.close, log.close, transfers.close]
            flows[f"{peer}/{lane}"] = Replicate(
                region=region,
                peer=peer,
                lane=lane,
                source=source,
                own=own,
                log=log,
                store=parts.store(),
                peer_store=parts.peer_store(peer),
                transfers=transfers,
                lineage=parts.lineages(),
                signer=parts.signer,
                codec=Codec(),
                clock=parts.clock,
                journal=parts.journal,
            )
    log = KafkaLog(parts.kafka)
    closing.append(log.close)
    sight = parts.sight("replicator", log, closing, lambda _peer: NEVER_S)
    lag = Gauge("farside_lag_steps", "Steps that this region is behind.", ["peer", "run"], registry=parts.registry)

    def status() -> dict[str, object]:
        found: dict[str, Any] = {name: flow.status() for name, flow in flows.items()}
        for one in found.values():
            for name, steps in one["lag_steps"].items():
                lag.labels(one["peer"], name).set(steps)
            one["sight_trouble"] = sight.trouble
        return found

    async def replay(request: Request) -> Response:
        wish = await asked(request, peer=str, lane=str)
        flow = flows.get(f"{wish['peer']}/{wish['lane']}")
        if flow is None:
            return JSONResponse({"error": f"no such flow; there are {', '.join(flows)}"}, status_code=404)
        flow.rewind()
        return JSONResponse({"asked": True})

    routes = [Route("/v1/replay", replay, methods=["POST"])]
    turned = {name: flow.step for name, flow in flows.items()} | {"sight": sight.step}
    return parts.serve(turned, status=status, close=closing, routes=routes)
