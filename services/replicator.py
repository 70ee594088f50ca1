"""The replicator of a region: one flow for each peer and lane."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipelines import paths
from pipelines.core.lease import NEVER_S
from pipelines.errors import CorruptError, MisconfiguredError
from pipelines.flows.replication.damage_repair import DamageRepair, RepairPorts
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.replication.redrive_requests import parse_request
from pipelines.flows.replication.replay_requests import parse_places
from pipelines.ports import EventSource
from schemas.codec import Codec
from schemas.http_bodies import AcknowledgeBody, RedriveBody, ReplayBody, ReplicatorStatus
from services.adapters.kafka.fast_log import WRITER, log_of
from services.adapters.kafka.log import KafkaLog, KafkaSource
from services.adapters.transfers import ThreadTransfers
from services.http.door import caller_of
from services.http.server import answer_of, body_of
from services.runtime.metrics import ReplicatorCollector
from services.runtime.wiring import Wiring
from services.settings import Settings
from services.wrappers.unwrapped import Wrap, unwrapped


def run(settings: Settings, region: str, wrap: Wrap = unwrapped) -> int:
    """Serve one region until told to stop; the exit code. `wrap` is given each lane's ports: <lane>.log and others."""
    check_follows(settings, region)
    parts = Wiring(settings, region, "replicator")
    parts.prepare_to_serve()
    parts.journal.say("kafka.writer", library=WRITER)
    flows: dict[str, LaneReplicator] = {}
    closing: list[Callable[[], None]] = []
    for peer in parts.peers():
        for lane in paths.REPLICATED_LANES:
            source, again = (KafkaSource(parts.peer_kafka(peer)) for _ in range(2))
            closing += [source.close, again.close]
            flows[f"{peer}/{lane}"] = flow_of(parts, peer, lane, source, closing, again, wrap)
    log = KafkaLog(parts.kafka)
    closing.append(log.close)
    reachability = parts.reachability("replicator", log, closing, lambda _peer: NEVER_S)

    repair = repair_of(parts)

    def status() -> ReplicatorStatus:
        unreached, unrepaired = reachability.trouble, repair.troubles()
        return {
            name: dataclasses.replace(flow.status(), reachability_trouble=unreached, repair_troubles=unrepaired)
            for name, flow in flows.items()
        }

    routes = [Route("/v1/replay", replaying(flows), methods=["POST"])]
    routes.append(Route("/v1/redrive", redriving(flows), methods=["POST"]))
    routes.append(Route("/v1/alarm", acknowledging(flows), methods=["POST"]))
    parts.registry.register(ReplicatorCollector(flows))
    turned = {name: flow.turn for name, flow in flows.items()} | {
        "reachability": reachability.turn,
        "repair": repair.turn,
    }
    return parts.serve(turned, status=status, close=closing, routes=routes)


def repair_of(parts: Wiring) -> DamageRepair:
    """The flow that repairs this region's damaged objects from the other regions."""
    return DamageRepair(
        parts.region,
        RepairPorts(
            store=parts.store(),
            peers={peer: parts.peer_store(peer) for peer in parts.peers()},
            peer_pieces={peer: parts.peer_pieces(peer) for peer in parts.peers()},
            signer=parts.verifier,
            codec=Codec(),
            journal=parts.journal,
        ),
    )


def flow_of(
    parts: Wiring,
    peer: str,
    lane: str,
    source: EventSource,
    closing: list[Callable[[], None]],
    again: EventSource | None = None,
    wrap: Wrap = unwrapped,
) -> LaneReplicator:
    """The flow of one lane of a peer, which it reads from `source`; `closing` gets the clients to close at the end."""
    own, letters = KafkaSource(parts.kafka), KafkaSource(parts.kafka)
    log = log_of(parts.kafka, paths.transactional_id(parts.region, peer, lane))
    copies = wrap(f"{lane}.copies", parts.store())
    transfers = ThreadTransfers(peers={peer: parts.peer_pieces(peer)}, store=copies)
    closing += [own.close, letters.close, log.close, transfers.close]
    return LaneReplicator(
        PeerLane(peer, lane),
        LanePorts(
            peer_source=source,
            own_source=own,
            log=wrap(f"{lane}.log", log),
            store=wrap(f"{lane}.store", parts.store()),
            peer_store=parts.peer_store(peer),
            transfers=wrap(f"{lane}.transfers", transfers),
            lineage=parts.epoch_store(),
            signer=parts.verifier,
            codec=Codec(),
            clock=parts.clock,
            journal=parts.journal,
            visible_source=letters,
            replay_source=again,
            unknown_wait_s=parts.settings.replicate.unknown_wait_s,
        ),
        runs=tuple(parts.settings.runs),
    )


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def replaying(flows: Mapping[str, LaneReplicator]) -> Handler:
    """The route by which somebody asks that records be looked at again; asked once more, it answers how that went."""

    async def replay(request: Request) -> Response:
        body = await body_of(request, ReplayBody)
        try:
            places = parse_places(body)
        except CorruptError as error:
            raise HTTPException(400, str(error)) from error
        return answer_of(_lane_of(flows, body).replay(places))

    return replay


def redriving(flows: Mapping[str, LaneReplicator]) -> Handler:
    """The route by which somebody asks that a dead letter be handled again; the same `ask_id` is the same request."""

    async def redrive(request: Request) -> Response:
        body = dataclasses.replace(await body_of(request, RedriveBody), actor=caller_of(request).name)
        return answer_of(_lane_of(flows, body).redrive(parse_request(body)))

    return redrive


def acknowledging(flows: Mapping[str, LaneReplicator]) -> Handler:
    """The route by which a person acknowledges an alarm; asked once more, it answers whether that is done."""

    async def acknowledge(request: Request) -> Response:
        body = await body_of(request, AcknowledgeBody)
        return answer_of(_lane_of(flows, body).lane_alarms.acknowledge(body.alarm, caller_of(request).name))

    return acknowledge


def check_follows(settings: Settings, region: str) -> None:
    """Refuse to begin unless every region is followed at its own Kafka.

    A run may be held by any region, and an event counts only where it was read from the region that first published it.
    So a region that reaches another one by way of a third, a standby of a standby, would never see its events.

    Raises:
        MisconfiguredError: a link is missing, or two of them lead to the same Kafka.
    """
    links = settings.region(region).links
    reached: dict[str, str] = {settings.region(region).kafka: region}
    for peer in settings.regions:
        if peer == region:
            continue
        if peer not in links:
            by = ", ".join(sorted(links)) or "none"
            raise MisconfiguredError(
                f"regions.{region}.links.{peer} is missing (there are: {by}): {region} would be a standby of a "
                f"standby, which is refused: what {peer} publishes is followed at {peer} only (docs/events.md)"
            )
        other = reached.setdefault(links[peer].kafka, peer)
        if other != peer:
            raise MisconfiguredError(
                f"regions.{region}.links.{peer}.kafka is the Kafka of {other} ({links[peer].kafka}): a standby of a "
                f"standby is refused: what {peer} publishes is followed at {peer} only (docs/events.md)"
            )


def _lane_of(flows: Mapping[str, LaneReplicator], body: ReplayBody | RedriveBody | AcknowledgeBody) -> LaneReplicator:
    flow = flows.get(f"{body.peer}/{body.lane}")
    if flow is None:
        raise HTTPException(404, f"no such flow; there are {', '.join(flows)}")
    return flow
