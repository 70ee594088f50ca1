"""The replicator of a region: one flow for each peer and lane."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines import paths
from pipelines.core.alarms import Kind
from pipelines.core.lease import NEVER_S
from pipelines.errors import CorruptError, MisconfiguredError
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.replication.redrive_requests import parse_request
from pipelines.flows.replication.replay_requests import parse_places
from pipelines.ports import EventSource
from schemas.codec import Codec
from services.adapters.kafka.log import KafkaLog, KafkaSource
from services.adapters.transfers import ThreadTransfers
from services.http.server import asked
from services.runtime.wiring import Wiring
from services.settings import Settings
from services.wrappers.unwrapped import Wrap, unwrapped


def run(settings: Settings, region: str, wrap: Wrap = unwrapped) -> int:
    """Serve one region until told to stop; the exit code. `wrap` is given each lane's ports: <lane>.log and others."""
    check_follows(settings, region)
    parts = Wiring(settings, region, "replicator")
    parts.prepare()
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
    lag = Gauge("farside_lag_steps", "Steps that this region is behind.", ["peer", "run"], registry=parts.registry)

    def status() -> dict[str, object]:
        found: dict[str, Any] = {name: flow.status() for name, flow in flows.items()}
        for one in found.values():
            for name, steps in one["lag_steps"].items():
                lag.labels(one["peer"], name).set(steps)
            one["reachability_trouble"] = reachability.trouble
        return found

    routes = [Route("/v1/replay", replaying(flows), methods=["POST"])]
    routes.append(Route("/v1/redrive", redriving(flows), methods=["POST"]))
    routes.append(Route("/v1/alarm", acknowledging(flows), methods=["POST"]))
    parts.registry.register(AlarmCollector(flows))
    turned = {name: flow.turn for name, flow in flows.items()} | {"reachability": reachability.turn}
    return parts.serve(turned, status=status, close=closing, routes=routes)


def flow_of(
    parts: Wiring,
    peer: str,
    lane: str,
    source: EventSource,
    closing: list[Callable[[], None]],
    again: EventSource | None = None,
    wrap: Wrap = unwrapped,
) -> LaneReplicator:
    """The flow of one lane of a peer, which it reads from `source`; `closing` gets what is to be closed."""
    own, letters = KafkaSource(parts.kafka), KafkaSource(parts.kafka)
    log = KafkaLog(parts.kafka, paths.transactional_id(parts.region, peer, lane))
    copies = wrap(f"{lane}.copies", parts.store())
    transfers = ThreadTransfers(peers={peer: parts.peer_store(peer)}, store=copies)
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
            signer=parts.signer,
            codec=Codec(),
            clock=parts.clock,
            journal=parts.journal,
            visible_source=letters,
            replay_source=again,
        ),
        runs=tuple(parts.settings.runs),
    )


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def replaying(flows: Mapping[str, LaneReplicator]) -> Handler:
    """Serves the wish that some records be looked at again: each ask says what has become of them."""

    async def replay(request: Request) -> Response:
        wanted: dict[str, type] = dict.fromkeys(("peer", "lane", "replay_id", "cluster", "topic_id"), str)
        body = await asked(request, **wanted, partition=int, offsets=list)
        try:
            places = parse_places(body)
        except CorruptError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(_of(flows, body).replay(places))

    return replay


def redriving(flows: Mapping[str, LaneReplicator]) -> Handler:
    """Serves the wish that a dead letter be handled again: each ask of one `ask_id` says what has become of it."""

    async def redrive(request: Request) -> Response:
        body = await asked(request, peer=str, lane=str, ask_id=str, partition=int, offset=int, force=bool, actor=str)
        return JSONResponse(_of(flows, body).redrive(parse_request(body)))

    return redrive


def acknowledging(flows: Mapping[str, LaneReplicator]) -> Handler:
    """Serves the wish that an alarm be no longer open: asked again, it says what has become of it."""

    async def acknowledge(request: Request) -> Response:
        body = await asked(request, peer=str, lane=str, alarm=str, actor=str)
        return JSONResponse(_of(flows, body).lane_alarms.acknowledge(body["alarm"], body["actor"]))

    return acknowledge


class AlarmCollector(Collector):
    """Counts alarms by lane, peer and kind: those raised since the process began, and those that are open."""

    def __init__(self, flows: Mapping[str, LaneReplicator]) -> None:
        self._flows = flows

    def collect(self) -> Iterable[Metric]:
        """Implements prometheus_client's Collector."""
        names = ("lane", "peer", "kind")
        raised = CounterMetricFamily("farside_alarms", "Gaps and resets of followed logs.", labels=names)
        is_open = GaugeMetricFamily("farside_alarms_open", "Those neither healed nor acknowledged.", labels=names)
        for name, flow in self._flows.items():
            peer, _, lane = name.partition("/")
            now = flow.lane_alarms.open_by_kind()
            for kind in Kind:
                raised.add_metric((lane, peer, kind.value), flow.lane_alarms.raised[kind.value])
                is_open.add_metric((lane, peer, kind.value), now[kind.value])
        yield raised
        yield is_open


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


def _of(flows: Mapping[str, LaneReplicator], request: Mapping[str, Any]) -> LaneReplicator:
    flow = flows.get(f"{request['peer']}/{request['lane']}")
    if flow is None:
        raise HTTPException(404, f"no such flow; there are {', '.join(flows)}")
    return flow
