"""`farside doctor`: check settings, Kafka, stores, clocks and the witness; `doctor determinism`: compare trainings."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import FAILED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.serve import Config
from services.cli.settings_file import load

if TYPE_CHECKING:
    from services.adapters.kafka.connection import KafkaCluster
    from services.settings import KafkaSettings, LinkSettings, RegionSettings, Settings

SKEW_S_MAX = 5.0  # the stores' clocks are for people; the lease measures durations only
RUNS_S = 300.0

app = typer.Typer(invoke_without_command=True, add_completion=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was checked, whether it passed, and a sentence for people."""

    what: str
    passed: bool
    detail: str


@app.callback()
def doctor(context: typer.Context, config: Config = None, *, as_json: Json = False) -> None:
    """Check each region's settings, Kafka, store and clock, its users' rights, and the witness's conditional writes.

    Small test objects are written to each region's store and to the witness. A store that fails the witness's checks
    cannot be used as a witness.

    Example: farside doctor

    Exit codes: 0 every check passed, 1 some check failed, 2 misconfigured.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console  # noqa: PLC0415 - `farside --help` must be quick

    with misconfigured_exits():
        settings = load(config)
        summary = f"{len(settings.runs)} runs, {len(settings.regions)} regions"
        findings = [Finding("settings", passed=True, detail=summary)]
        with Console(stderr=True).status("checking every region, and the witness's conditional writes"):
            for name, region in settings.regions.items():
                findings += _region(name, region)
                for peer, link in region.links.items():
                    findings += [_pulls_only(name, peer, link), _reads_only(name, peer, link)]
                findings += _drills_beside(name, region)
            findings += _witness(settings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.passed else 'FAIL'} {finding.what}: {finding.detail}")
    raise typer.Exit(0 if all(finding.passed for finding in findings) else FAILED)


def _try(what: str, check: Callable[[], str]) -> Finding:
    """One check on its own: whatever it raises is its finding, and the others are made all the same."""
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above

    try:
        return Finding(what, passed=True, detail=check())
    except FarsideError as error:
        return Finding(what, passed=False, detail=str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks must not take away what the others found
        return Finding(what, passed=False, detail=f"the check itself failed: {type(error).__name__}: {error}")


def _region(name: str, region: RegionSettings) -> list[Finding]:
    from pipelines import paths  # noqa: PLC0415 - as above
    from services.adapters.kafka.log import KafkaSource  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of, store_of  # noqa: PLC0415 - as above

    def kafka() -> str:
        with contextlib.closing(KafkaSource(cluster_of(region))) as source:
            missing = set(paths.TOPICS) - {partition.topic for partition in source.partitions(paths.TOPICS)}
        return f"{region.kafka} answers{_in_clear(region)}" + (
            f"; topics that do not exist yet: {', '.join(sorted(missing))}" if missing else ""
        )

    def store() -> str:
        store_of(region).put(paths.health("doctor", name), b"doctor")
        return f"{region.s3} accepts a write"

    checks = {"Kafka": kafka, "topics": lambda: _topics(region), "store": store, "clock": lambda: _clock(region)}
    return [_try(f"{name} {what}", check) for what, check in checks.items()]


def _topics(region: RegionSettings) -> str:
    """The topics as the brokers have them; MisconfiguredError names each that breaks a promise."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from pipelines.core.topic_rules import faults_of, summary_of  # noqa: PLC0415 - as above
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.kafka.topic_facts import topic_facts  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of  # noqa: PLC0415 - as above

    every = topic_facts(cluster_of(region), paths.TOPICS)
    if not every:
        return "there are none yet: the first service makes them"
    wrong = [
        f"{facts.name}: {fault}"
        for facts in every
        for fault in faults_of(facts, replication=region.replication, compacted=facts.name in paths.COMPACTED)
    ]
    if wrong:
        raise MisconfiguredError("; ".join(wrong))
    return summary_of(every)


def _pulls_only(name: str, peer: str, link: LinkSettings) -> Finding:
    """6.2: a region's link may read its peer's store and not write there: a superseded region could spoil it."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.s3.object_store import S3ObjectStore  # noqa: PLC0415 - as above
    from services.runtime.clients import client_of  # noqa: PLC0415 - as above

    key = paths.health("doctor", name)

    def check() -> str:
        store = S3ObjectStore(client_of(link.s3, link.credentials_file), link.bucket)
        store.size(key)  # a user whose password is wrong is refused writes too: so a read has to work first
        try:
            store.put(key, b"")
        except MisconfiguredError:
            return f"{link.s3} lets the link's user read and refuses its writes"
        raise MisconfiguredError(
            f"the user of {link.credentials_file} may write to {peer}'s store: see docs/credentials.md"
        )

    return _try(f"{name} only pulls from {peer}", check)


def _reads_only(name: str, peer: str, link: LinkSettings) -> Finding:
    """6.2: a region's link may read its peer's Kafka and not write there."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of  # noqa: PLC0415 - as above

    def check() -> str:
        _refused(cluster_of(link), paths.transactional_prefix(peer))
        return f"{link.kafka} lets the link's user read and refuses its writes{_in_clear(link)}"

    return _try(f"{name} only reads {peer}'s Kafka", check)


def _drills_beside(name: str, region: RegionSettings) -> list[Finding]:
    """I10: a drill's user may not write to the real topics."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from services.runtime.clients import cluster_of  # noqa: PLC0415 - as above

    if region.drill_kafka_credentials_file is None:
        return []

    def check() -> str:
        _refused(cluster_of(region, region.drill_kafka_credentials_file), paths.transactional_prefix(name), reads=False)
        return f"{region.kafka} refuses the drill's user writes to the real topics"

    return [_try(f"{name} drills beside its topics", check)]


def _refused(cluster: KafkaCluster, transactional_prefix: str, *, reads: bool = True) -> None:
    """MisconfiguredError if this user may write to farside's topics; with `reads`, also if it may not read them."""
    from pipelines import paths  # noqa: PLC0415 - as above
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.kafka.acls import GUIDE, allowed  # noqa: PLC0415 - as above
    from services.adapters.kafka.log import KafkaSource  # noqa: PLC0415 - as above

    with contextlib.closing(KafkaSource(cluster)) as source:
        there = not reads or bool(source.partitions([paths.HEARTBEATS]))
    may = allowed(cluster, paths.HEARTBEATS, f"{transactional_prefix}doctor", there=there)
    if may:
        raise MisconfiguredError(f"{cluster.who} may {may}: {GUIDE}")


def _in_clear(kafka: KafkaSettings) -> str:
    secret = kafka.kafka_credentials_file is not None and kafka.kafka_tls_ca_file is None
    return "; no TLS, so the password crosses the network in the clear: for development only" if secret else ""


def _clock(region: RegionSettings) -> str:
    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.s3.faults import mapped_errors  # noqa: PLC0415 - as above
    from services.adapters.s3.object_store import place_of  # noqa: PLC0415 - as above
    from services.adapters.system_clock import SystemClock  # noqa: PLC0415 - as above
    from services.runtime.clients import client_of  # noqa: PLC0415 - as above

    client = client_of(region.s3, region.credentials_file)
    with mapped_errors("the store's clock", place_of(client, region.bucket)):
        date = client.head_bucket(Bucket=region.bucket)["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    if not date:
        return "not compared: the store's answers have no Date header"
    skew_s = SystemClock().wall_ms() / 1000 - parsedate_to_datetime(date).timestamp()
    if abs(skew_s) > SKEW_S_MAX:
        raise MisconfiguredError(
            f"this machine's clock differs by {skew_s:+.1f} s from the store's: synchronise both (NTP)"
        )
    return f"this machine's clock differs by {skew_s:+.1f} s from the store's"


def _witness(settings: Settings) -> list[Finding]:
    """Every promise of a witness, from each region: those that hold are kept when another one is broken."""
    findings: list[Finding] = []
    for name, region in settings.regions.items():
        found: list[Finding] = []
        asked = _try(f"witness from {name}", partial(_proves, settings, region, name, found))
        findings += [*found] if asked.passed else [*found, asked]
    return findings


def _proves(settings: Settings, region: RegionSettings, name: str, found: list[Finding]) -> str:
    from services.adapters.s3.conformance import probe  # noqa: PLC0415 - as above
    from services.adapters.system_clock import SystemEntropy  # noqa: PLC0415 - as above
    from services.runtime.clients import client_of  # noqa: PLC0415 - as above

    client = client_of(region.witness, region.witness_credentials_file)
    checks = probe(client, settings.witness.bucket, SystemEntropy())
    found += [Finding(f"witness from {name}: {check.name}", check.passed, check.detail) for check in checks]
    return "it was tried"


@app.command()
def determinism(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps in each of the two trainings.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 7,
    *,
    as_json: Json = False,
) -> None:
    """Train the example model twice on this machine, from one seed, and compare the parameters bit for bit.

    The mode `exact` works only on machines on which the two are identical.

    Example: farside doctor determinism --steps 10

    Exit codes: 0 bit-identical, 1 different, or a training failed.
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
            f"two trainings of {steps} steps: {'bit-identical' if same else 'DIFFERENT'} "
            f"({digests[0][:12]}, {digests[1][:12]})"
        )
    raise typer.Exit(0 if same else FAILED)
