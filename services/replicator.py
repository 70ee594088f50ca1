"""The replicator of a region: one flow for each peer and lane."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from prometheus_client import Gauge
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines import paths
from pipelines.core.lease import NEVER_S
from pipelines.flows.redrive import parse_wish
from pipelines.flows.replicate import Replicate
from schemas.codec import Codec
from services.adapters.kafka import KafkaLog, KafkaSource
from services.adapters.transfers import ThreadTransfers
from services.ops import asked
from services.parts import Parts
from services.settings import Settings
from services.wrappers.unwrapped import Wrap, unwrapped


def run(settings: Settings, region: str, wrap: Wrap = unwrapped) -> int:
    """Serve one region until told to stop; the exit code. `wrap` is given each lane's ports: <lane>.log and others."""
    parts = Parts(settings, region, "replicator")
    parts.prepare()
    flows: dict[str, Replicate] = {}
    closing: list[Callable[[], None]] = []
    for peer in parts.peers():
        for lane in paths.REPLICATED_LANES:
            source, own = KafkaSource(parts.peer_kafka(peer)), KafkaSource(parts.kafka)
            letters = KafkaSource(parts.kafka)
            log = KafkaLog(parts.kafka, paths.transactional_id(region, peer, lane))
            transfers = ThreadTransfers(peers={peer: parts.peer_store(peer)}, store=parts.store())
            closing += [source.close, own.close, letters.close, log.close, transfers.close]
            flows[f"{peer}/{lane}"] = Replicate(
                region=region,
                peer=peer,
                lane=lane,
                source=source,
                own=own,
                log=wrap(f"{lane}.log", log),
                store=wrap(f"{lane}.store", parts.store()),
                peer_store=parts.peer_store(peer),
                transfers=wrap(f"{lane}.transfers", transfers),
                lineage=parts.lineages(),
                signer=parts.signer,
                codec=Codec(),
                clock=parts.clock,
                journal=parts.journal,
                letters=letters,
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

    routes = [Route("/v1/replay", replaying(flows), methods=["POST"])]
    routes.append(Route("/v1/redrive", redriving(flows), methods=["POST"]))
    turned = {name: flow.step for name, flow in flows.items()} | {"sight": sight.step}
    return parts.serve(turned, status=status, close=closing, routes=routes)


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def replaying(flows: Mapping[str, Replicate]) -> Handler:
    """Serves the wish that a lane be read again."""

    async def replay(request: Request) -> Response:
        wish = await asked(request, peer=str, lane=str)
        _of(flows, wish).rewind()
        return JSONResponse({"asked": True})

    return replay


def redriving(flows: Mapping[str, Replicate]) -> Handler:
    """Serves the wish that a dead letter be handled again: each ask of one `ask_id` says what has become of it."""

    async def redrive(request: Request) -> Response:
        wish = await asked(request, peer=str, lane=str, ask_id=str, partition=int, offset=int, force=bool, actor=str)
        return JSONResponse(_of(flows, wish).redrive(parse_wish(wish)))

    return redrive


def _of(flows: Mapping[str, Replicate], wish: Mapping[str, Any]) -> Replicate:
    flow = flows.get(f"{wish['peer']}/{wish['lane']}")
    if flow is None:
        raise HTTPException(404, f"no such flow; there are {', '.join(flows)}")
    return flow
