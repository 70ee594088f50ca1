"""`farside replay`: plan first, then re-drive events into the live handlers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.ask import Json
from services.cli.fail import FAILED, misconfigured_exits
from services.cli.serve import Config

if TYPE_CHECKING:
    from pipelines.flows.replay import Plan
    from services.settings import Settings


def replay(
    run: Annotated[str, typer.Option(help="The run whose events are told in the plan.")],
    lane: Annotated[str, typer.Option(help="checkpoints, metrics or data-versions.")],
    begin: Annotated[str, typer.Option("--from", help="Where to begin: earliest.")] = "earliest",
    region: Annotated[str | None, typer.Option(help="Whose handlers. Default: the run's first standby.")] = None,
    peer: Annotated[str | None, typer.Option(help="Whose log. Default: the run's first region.")] = None,
    config: Config = None,
    *,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; without this, only the plan is shown.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a lane holds and what would become of it; with --execute, let the region's replicator read it again.

    Handling twice changes nothing. Heartbeats and control cannot be replayed.

    Exit codes: 0 planned, or asked for; 1 something does not answer; 2 misconfigured, or not replayable.
    """
    from services.cli.ask import ask  # noqa: PLC0415 - `farside --help` must be quick
    from services.settings import load  # noqa: PLC0415 - as above

    with misconfigured_exits():
        settings = load(config)
        wanted = settings.run(run)
        region, peer = region or next(iter(wanted.standby), ""), peer or wanted.first_region
        found = _plan(settings, run=run, lane=lane, begin=begin, region=region, peer=peer)
    port = settings.region(region).ports.replicator
    if execute and ask(port, "/v1/replay", {"peer": peer, "lane": lane}) is None:
        typer.echo(f"farside: the replicator of {region} does not answer on port {port}", err=True)
        raise typer.Exit(FAILED)
    if as_json:
        typer.echo(json.dumps({"run": run, "region": region, "peer": peer, "executed": execute, **found.plain()}))
        return
    typer.echo(f"{lane} of {peer} into the handlers of {region}: {found.records} records, {found.size_bytes} bytes")
    typer.echo(f"  steps {found.steps}, epochs {sorted(found.epochs)}")
    typer.echo(f"  new {found.new}, already done {found.done}, branch {found.branch}, undecodable {found.undecodable}")
    typer.echo("asked: they are being read again" if execute else "a plan: nothing was done; --execute does it")


def _plan(settings: Settings, *, run: str, lane: str, begin: str, region: str, peer: str) -> Plan:
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.flows import replay as flow  # noqa: PLC0415 - as above
    from pipelines.flows.lineages import Lineages  # noqa: PLC0415 - as above
    from schemas.codec import Codec  # noqa: PLC0415 - as above
    from services.adapters.kafka import KafkaSource  # noqa: PLC0415 - as above
    from services.adapters.system_clock import SystemClock  # noqa: PLC0415 - as above
    from services.clients import cluster_of, store_of  # noqa: PLC0415 - as above

    flow.check_lane(lane)
    if begin != "earliest":
        raise MisconfiguredError(f"--from {begin!r}: only `earliest` is there yet")
    here = settings.region(region)
    source = KafkaSource(cluster_of(settings.link(region, peer)))
    own = KafkaSource(cluster_of(here, here.operator_kafka_credentials_file))
    clock, codec = SystemClock(), Codec()
    try:
        return flow.plan(
            run=run,
            peer=peer,
            lane=lane,
            source=source,
            ledger=flow.read_ledger(own, codec, clock),
            lineage=Lineages(store_of(here)),
            codec=codec,
            clock=clock,
        )
    finally:
        source.close()
        own.close()
