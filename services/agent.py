"""The agent of a training node: settings -> wiring -> loop."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipelines.core.metric_batches import BatchPolicy
from pipelines.errors import MisconfiguredError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy, StartFolders
from pipelines.flows.agent.grant_renewal import GrantRenewal
from pipelines.flows.agent.publisher import Publisher
from pipelines.ports import GrantReply
from schemas.codec import Codec
from schemas.http_bodies import AgentStatus, GrantRenewalStatus, KafkaPathStatus, PublisherStatus
from services.adapters.arena import Arena, fetch_index_folder
from services.adapters.http.grants import HttpGrants
from services.adapters.kafka.fast_log import WRITER, log_of
from services.adapters.spool import NodeSpool
from services.http.endpoints import endpoint_of
from services.runtime.wiring import Wiring, signer_of
from services.settings import Settings
from services.wrappers.unwrapped import Wrap, unwrapped
from services.wrappers.watched import WatchedLog, endpoints


def run(settings: Settings, region: str, wrap: Wrap = unwrapped) -> int:
    """Serve one node until told to stop; the exit code. `wrap` is given the ports spool, store and log."""
    parts = Wiring(settings, region, "agent")
    signer = signer_of(settings, region)
    parts.prepare_to_serve()
    parts.journal.say("kafka.writer", library=WRITER)
    here, store = parts.here, parts.store()
    spool = NodeSpool(here.node_dir, parts.journal, keep_s=settings.publish.keep_logs_s)
    arenas = {name: Arena(here.arena_dir / name) for name in settings.runs}

    def locate(manifest_digest: str) -> str | None:
        folders = (arena.folder(manifest_digest) for arena in arenas.values())
        return next((str(folder) for folder in folders if folder is not None), None)

    def fetch(reply: GrantReply) -> str:
        target = here.node_dir / "agent" / "fetched" / reply.start_manifest_digest
        return str(fetch_index_folder(store, signer, Codec(), reply.start_manifest_key, Path(target)))

    publish = settings.publish
    log = WatchedLog(
        [partial(log_of, replace(parts.kafka, bootstrap=address)) for address in endpoints(here.kafka)],
        unanswered_s=publish.unanswered_s,
        journal=parts.journal,
    )
    grants = grants_of(settings, region)
    grant_renewal = GrantRenewal(
        node=here.node,
        spool=NodeSpool(here.node_dir),
        grants=grants,
        clock=parts.clock,
        journal=parts.journal,
    )
    flow = Publisher(
        AgentNode(region, here.node),
        AgentPorts(
            spool=wrap("spool", spool),
            store=wrap("store", store),
            log=wrap("log", log),
            grants=grants,
            signer=signer,
            codec=Codec(),
            clock=parts.clock,
            entropy=parts.entropy,
            journal=parts.journal,
        ),
        PublishPolicy(
            batches=BatchPolicy(publish.batch_rows, publish.batch_bytes, publish.batch_age_s),
            catch_up_bytes_s=publish.catch_up_bytes_s,
        ),
        StartFolders(locate=locate, fetch=fetch),
    )

    def status() -> AgentStatus:
        return _status(flow.status(), grant_renewal.status(), log.status())

    return parts.serve({"publish": flow.turn, "grant_renewal": grant_renewal.turn}, status=status, close=[log.close])


def grants_of(settings: Settings, region: str) -> HttpGrants:
    """How a region's agent asks its controller; MisconfiguredError if its credential cannot be read."""
    token_file = settings.region(region).api.agent_token_file
    if token_file is None:
        raise MisconfiguredError(f"regions.{region}.api.agent_token_file is missing: the agent asks for grants with it")
    at = replace(endpoint_of(settings, "controller", region, is_command=False), token_file=token_file)
    at.headers()
    return HttpGrants(at.url, at.headers, tls_ca_file=at.tls_ca_file)


def _status(published: PublisherStatus, renewed: GrantRenewalStatus, kafka: KafkaPathStatus) -> AgentStatus:
    return AgentStatus(
        producer=published.producer,
        backlog=published.backlog,
        backlog_checkpoints=published.backlog_checkpoints,
        committed_step=published.committed_step,
        troubles=published.troubles,
        launches=published.launches,
        hard_left_s=renewed.hard_left_s,
        hard_troubles=renewed.hard_troubles,
        kafka=kafka,
    )
