"""`farside agent | replicator | warmer | controller`: run one service in the foreground."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import misconfigured_exits

Region = Annotated[str, typer.Option(help="The region that this process belongs to.")]
Config = Annotated[
    Path | None,
    typer.Option(help="Settings file. Default: FARSIDE_CONFIG, else ./farside.toml, else the local stack's."),
]

PARTS = {
    "agent": "Run a training node's agent: upload the trainer's checkpoints to the region's store, publish its events.",
    "replicator": "Run a region's replicator: copy and verify what the other regions publish, then publish it here.",
    "warmer": "Run a region's warmer: keep the newest proven checkpoint in the standby pool's memory.",
    "controller": "Run a region's controller: renew the lease, or watch the primary and take over when it is lost.",
}


def command(service: str) -> Callable[..., None]:
    """The command that runs one service in the foreground; the service's module is imported when it runs."""

    def serve(region: Region, config: Config = None) -> None:

        from services.cli.settings_file import load  # noqa: PLC0415 - heavy; `farside --help` must be quick

        with misconfigured_exits():
            settings = load(config)
            code = importlib.import_module(f"services.{service}").run(settings, region)
        raise typer.Exit(code)

    serve.__doc__ = (
        f"{PARTS[service]}\n\n    It runs in the foreground and ends at SIGTERM or Ctrl-C.\n\n"
        f"    Example: farside {service} --region east\n\n"
        "    Exit codes: 0 ended by SIGTERM or Ctrl-C, 1 failed, 2 misconfigured, 3 fenced: a newer process has taken "
        "its place."
    )
    return serve
