"""`farside agent | replicator | warmer | controller`: one service in the foreground."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import misconfigured_exits

Region = Annotated[str, typer.Option(help="The region that this process belongs to.")]
Config = Annotated[
    Path | None, typer.Option(help="The settings. Default: FARSIDE_CONFIG, ./farside.toml, or the local stack's.")
]

PARTS = {
    "agent": "Publish a training node's spool to its region's store and Kafka.",
    "replicator": "Follow the other regions: copy, verify, then re-publish their events.",
    "warmer": "Keep the newest proven checkpoint resident in the standby pool.",
    "controller": "Hold the lease, or watch the primary and take over when it is lost.",
}


def command(service: str) -> Callable[..., None]:
    """The verb of one service; its module is imported when it runs."""

    def serve(region: Region, config: Config = None) -> None:

        from services.cli.settings_file import load  # noqa: PLC0415 - heavy; `farside --help` must be quick

        with misconfigured_exits():
            settings = load(config)
            code = importlib.import_module(f"services.{service}").run(settings, region)
        raise typer.Exit(code)

    serve.__doc__ = (
        f"{PARTS[service]}\n\n    Exit codes: 0 SIGTERM, 1 failed, 2 misconfigured, 3 fenced by a newer one."
    )
    return serve
