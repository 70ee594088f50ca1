"""How the commands read the regions' logs: by readers of their own, which need no service of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import paths
from pipelines.errors import RetryableError
from pipelines.ports import Clock
from services.adapters.system_clock import SystemClock

if TYPE_CHECKING:
    from pipelines.flows.log.log_reader import Decoding, OnProgress
    from services.adapters.kafka.log import KafkaSource
    from services.settings import RegionSettings, Settings

At = Annotated[
    str | None,
    typer.Option(
        "--at", help="The region whose log is read. Default: the first region of the settings whose Kafka answers."
    ),
]
REPORT_EVERY_S = 2.0


def reader(here: RegionSettings) -> KafkaSource:
    """A reader that belongs to no group and commits nothing."""
    from services.adapters.kafka.log import KafkaSource  # noqa: PLC0415 - `farside --help` must be quick
    from services.runtime.clients import cluster_of  # noqa: PLC0415 - as above

    return KafkaSource(cluster_of(here, here.operator_kafka_credentials_file))


@contextmanager
def log_of(settings: Settings, at: str | None) -> Iterator[tuple[str, KafkaSource]]:
    """The region whose log is read, and a reader of it; without `at`, the first region that answers.

    Raises:
        RetryableError: no region's log can be read.
    """
    names = list(settings.regions) if at is None else [at]
    for name in names:
        source = reader(settings.region(name))
        try:
            source.partitions([paths.HEARTBEATS])
        except RetryableError as error:
            source.close()
            typer.echo(f"farside: {name} does not answer: {error}", err=True)
            continue
        if at is None:
            typer.echo(f"reading the log of {name}", err=True)
        try:
            yield name, source
        finally:
            source.close()
        return
    raise RetryableError(f"no log can be read; tried {', '.join(names)}")


def decoding_of(here: RegionSettings) -> Decoding:
    """Decodes records; a schema that this version does not have is fetched from the region's store."""
    from pipelines.flows.log.log_reader import Decoding  # noqa: PLC0415 - `farside --help` must be quick
    from schemas.codec import Codec  # noqa: PLC0415 - as above

    def stored(key: str) -> bytes | None:
        from services.runtime.clients import store_of  # noqa: PLC0415 - connecting takes most of a second, and is rarely needed

        return store_of(here).get(key)

    return Decoding(Codec(), SystemClock(), stored)


def progress(clock: Clock | None = None) -> OnProgress:
    """Prints to stderr every two seconds how far a read has come; a short read prints nothing."""
    clock = clock or SystemClock()
    began_s = reported_s = clock.boottime_s()

    def report(done: int, total: int) -> None:
        nonlocal reported_s
        now_s = clock.boottime_s()
        ended = done >= total and reported_s > began_s
        if now_s - reported_s < REPORT_EVERY_S and not ended:
            return
        reported_s = now_s
        text = f"read {done} of {total} records ({100 * done // max(total, 1)} %, {done / (now_s - began_s):.0f}/s)"
        live = sys.stderr.isatty()
        typer.echo(f"\r{text}" if live else text, err=True, nl=ended or not live)

    return report
