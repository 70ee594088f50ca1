"""Finds the settings file of a command: --config, or its default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from services.settings import Settings


def load(config: Path | None) -> Settings:
    """The settings of --config, else of FARSIDE_CONFIG, else ./farside.toml, else the local stack's.

    Raises:
        MisconfiguredError: the file is missing or wrong, with one line for each wrong key; or it was found in the
            current folder, and others can write it.
    """
    from services import settings  # noqa: PLC0415 - heavy; `farside --help` must be quick

    return settings.load(path_of(config))


def path_of(config: Path | None) -> Path:
    """The settings file that `load` reads."""
    return config or _default()


def _default() -> Path:
    named, here = os.environ.get("FARSIDE_CONFIG"), Path("farside.toml")
    if named:
        return Path(named)
    if here.exists():
        from services.adapters.private_files import refuse_writable  # noqa: PLC0415 - as in `load`

        refuse_writable(here, "settings file")
        typer.echo("farside: settings from ./farside.toml, in the current folder", err=True)
        return here
    from infra.local.background_stack import default_folder  # noqa: PLC0415 - only where nothing else was named

    return default_folder() / "farside.toml"
