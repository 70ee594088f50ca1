"""How a command ends when it cannot go on: one clear line, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pipelines.errors import MisconfiguredError, RetryableError

FAILED, MISCONFIGURED = 1, 2


@contextmanager
def misconfigured_exits() -> Iterator[None]:
    """Exit 2 with a line for each setting that is wrong, 1 if something does not answer."""
    try:
        yield
    except MisconfiguredError as error:
        for line in str(error).splitlines():
            typer.echo(f"farside: {line}", err=True)
        raise typer.Exit(MISCONFIGURED) from error
    except RetryableError as error:
        typer.echo(f"farside: {error}", err=True)
        raise typer.Exit(FAILED) from error
