"""`farside doctor`: settings, Kafka, stores, clocks, the witness; `farside doctor determinism`: the training."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from services.adapters.kafka.cluster import KafkaCluster
    from services.settings import KafkaSettings, LinkSettings, RegionSettings, Settings

SKEW_S_MAX = 5.0  # the stores' clocks are for people; the lease measures durations only
RUNS_S = 300.0
PRODUCTION_REPLICATION = 3

app = typer.Typer(help="Check what Farside rests on.", invoke_without_command=True, add_completion=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    what: str
    passed: bool
    detail: str


@app.callback()
def doctor(context: typer.Context, config: Config = None, *, as_json: Json = False) -> None:
    """Check settings, Kafka, stores and clocks of each region, and probe the witness's conditional writes.

    A store that fails the probe cannot be a witness.

    Exit codes: 0 all is well, 1 something is not, 2 misconfigured.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console  # noqa: PLC0415 - `farside --help` must be quick

    with misconfigured_exits():
        settings = load(config)
        found = [Finding("settings", passed=True, detail=f"{len(settings.runs)} runs, {len(settings.regions)} regions")]
        with Console(stderr=True).status("asking every region, and racing for keys at the witness"):
            for name, region in settings.regions.items():
                found += _region(name, region)
                for peer, link in region.links.items():
                    found += [_pulls_only(name, peer, link), _reads_only(name, peer, link)]
                found += _drills_beside(name, region)
            found += _witness(settings)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
    else:
        for one in found:
            typer.echo(f"{'ok  ' if one.passed else 'FAIL'} {one.what}: {one.detail}")
    raise typer.Exit(0 if all(one.passed for one in found) else FAILED)


def _try(what: str, check: Callable[[], str]) -> Finding:
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above

    try:
        return Finding(what, passed=True, detail=check())
    except FarsideError as error:
        return Finding(what, passed=False, detail=str(error))


def _region(name: str, region: RegionSettings) -> list[Finding]:
    from pipelines import paths  # noqa: PLC0415 - as above
    from services.adapters.kafka.log import KafkaSource  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of, store_of  # noqa: PLC0415 - as above

    def kafka() -> str:
        with contextlib.closing(KafkaSource(cluster_of(region))) as source:
            missing = set(paths.TOPICS) - {one.topic for one in source.partitions(paths.TOPICS)}
        return f"{region.kafka} answers{_in_clear(region)}" + (
            f"; not made yet: {', '.join(sorted(missing))}" if missing else ""
        )

    def store() -> str:
        store_of(region).put(paths.health("doctor", name), b"doctor")
        return f"{region.s3} takes a write"

    found = [_try(f"{name} Kafka", kafka), _try(f"{name} store", store), _try(f"{name} clock", lambda: _clock(region))]
    below = region.replication < PRODUCTION_REPLICATION
    noted = "replication is below 3: for development only" if below else f"replication {region.replication}"
    return [*found, Finding(f"{name} topics", passed=True, detail=noted)]


def _pulls_only(name: str, peer: str, link: LinkSettings) -> Finding:
    """6.2: what one region may write in another's store, a zombie may spoil there."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from pipelines.errors import FarsideError, MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.s3.object_store import S3ObjectStore  # noqa: PLC0415 - as above
    from services.runtime.clients import client_of  # noqa: PLC0415 - as above

    what, key = f"{name} only pulls from {peer}", paths.health("doctor", name)
    store = S3ObjectStore(client_of(link.s3, link.credentials_file), link.bucket)
    try:
        store.size(key)  # a user who is let in to nothing at all is refused a write too
    except FarsideError as error:
        return Finding(what, passed=False, detail=str(error))
    try:
        store.put(key, b"")
    except MisconfiguredError:
        return Finding(what, passed=True, detail=f"{link.s3} refuses it a write")
    except FarsideError as error:
        return Finding(what, passed=False, detail=str(error))
    return Finding(what, passed=False, detail=f"{link.credentials_file} may write there: docs/credentials.md")


def _reads_only(name: str, peer: str, link: LinkSettings) -> Finding:
    """The same of its Kafka."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of  # noqa: PLC0415 - as above

    def check() -> str:
        _refused(cluster_of(link), paths.transactional_prefix(peer))
        return f"{link.kafka} refuses it a write{_in_clear(link)}"

    return _try(f"{name} only reads {peer}'s Kafka", check)


def _drills_beside(name: str, region: RegionSettings) -> list[Finding]:
    """I10: a drill's user has no business in the real topics."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of  # noqa: PLC0415 - as above

    if region.drill_kafka_credentials_file is None:
        return []

    def check() -> str:
        _refused(cluster_of(region, region.drill_kafka_credentials_file), paths.transactional_prefix(name), reads=False)
        return f"{region.kafka} refuses a drill's user a write in the real topics"

    return [_try(f"{name} drills beside its topics", check)]


def _refused(cluster: KafkaCluster, transactional_prefix: str, *, reads: bool = True) -> None:
    """MisconfiguredError if this user may write farside's topics; also if it should read them, and may not."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.kafka.access import GUIDE, allowed  # noqa: PLC0415 - as above
    from services.adapters.kafka.log import KafkaSource  # noqa: PLC0415 - as above

    with contextlib.closing(KafkaSource(cluster)) as source:
        there = not reads or bool(source.partitions([paths.HEARTBEATS]))
    may = allowed(cluster, paths.HEARTBEATS, f"{transactional_prefix}doctor", there=there)
    if may:
        raise MisconfiguredError(f"{cluster.who} may {may}: {GUIDE}")


def _in_clear(kafka: KafkaSettings) -> str:
    secret = kafka.kafka_credentials_file is not None and kafka.kafka_tls_ca_file is None
    return "; no TLS, so the secret can be heard: for development only" if secret else ""


def _clock(region: RegionSettings) -> str:
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.s3.object_store import mapped_errors  # noqa: PLC0415 - as above
    from services.adapters.system_clock import SystemClock  # noqa: PLC0415 - as above
    from services.runtime.clients import client_of  # noqa: PLC0415 - as above

    client = client_of(region.s3, region.credentials_file)
    with mapped_errors("the store's clock"):
        told = client.head_bucket(Bucket=region.bucket)["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    if not told:
        return "the store does not tell the time"
    skew_s = SystemClock().wall_ms() / 1000 - parsedate_to_datetime(told).timestamp()
    if abs(skew_s) > SKEW_S_MAX:
        raise MisconfiguredError(f"{skew_s:+.1f} s against the store's: put the clocks right (NTP)")
    return f"{skew_s:+.1f} s against the store's"


def _witness(settings: Settings) -> list[Finding]:
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above
    from services.adapters.s3.conformance import probe  # noqa: PLC0415 - as above
    from services.adapters.system_clock import SystemEntropy  # noqa: PLC0415 - as above
    from services.runtime.clients import client_of  # noqa: PLC0415 - as above

    found = []
    for name, region in settings.regions.items():
        client = client_of(region.witness, region.witness_credentials_file)
        try:
            checks = probe(client, settings.witness.bucket, SystemEntropy())
        except FarsideError as error:
            found.append(Finding(f"witness from {name}", passed=False, detail=str(error)))
            continue
        found += [Finding(f"witness from {name}: {one.name}", one.passed, one.detail) for one in checks]
    return found


@app.command()
def determinism(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 5,
    seed: Annotated[int, typer.Option(help="Of both runs.")] = 7,
    *,
    as_json: Json = False,
) -> None:
    """Train K steps twice on this machine and compare the parameters: `exact` rests on it.

    Exit codes: 0 bit-identical, 1 not, or it did not run.
    """
    from pipelines.errors import RetryableError  # noqa: PLC0415 - as above
    from services.demo.actors import Actors  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory(prefix="farside-doctor-") as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        actors = Actors(folder, folder / "none.toml", ())
        try:
            for run in ("first", "second"):
                actors.trainer(run, folder / run, ["--steps", str(steps), "--seed", str(seed)], {})
                actors.wait(f"the {run} run", (folder / run / "final.json").exists, RUNS_S)
        except RetryableError as error:
            typer.echo(f"farside: {error}", err=True)
            raise typer.Exit(FAILED) from error
        finally:
            actors.stop()
        digests = [json.loads((folder / run / "final.json").read_text())["digest"] for run in ("first", "second")]
    same = digests[0] == digests[1]
    if as_json:
        typer.echo(json.dumps({"steps": steps, "seed": seed, "digests": digests, "bit_identical": same}))
    else:
        typer.echo(
            f"{steps} steps twice: {'bit-identical' if same else 'DIFFERENT'} ({digests[0][:12]}, {digests[1][:12]})"
        )
    raise typer.Exit(0 if same else FAILED)
