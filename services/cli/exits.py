"""Ends a command that cannot go on with a line for each reason on stderr, and with an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pipelines.errors import MisconfiguredError, RetryableError

FAILED, MISCONFIGURED = 1, 2


@contextmanager
def misconfigured_exits() -> Iterator[None]:
    """Exit 2 with a line for each setting or option that is wrong; exit 1 if a service does not answer."""
    try:
        yield
    except MisconfiguredError as error:
        for line in str(error).splitlines():
            typer.echo(f"farside: {line}", err=True)
        raise typer.Exit(MISCONFIGURED) from error
    except RetryableError as error:
        typer.echo(f"farside: {error}", err=True)
        raise typer.Exit(FAILED) from error
