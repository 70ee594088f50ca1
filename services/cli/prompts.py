"""Options that many commands share, asking the person at the terminal, and waiting for a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer

from services.cli.exits import FAILED

LOOK_S = 0.2
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Reason = Annotated[str, typer.Option("--reason", help="Your reason, in your own words; kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def confirm(question: str, *, yes: bool) -> None:
    """End the command with exit code 1 unless the person answers yes, or did so by `--yes`."""
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)


def until(done: Callable[[], bool], patience_s: float) -> None:
    """Ask `done` again and again until it is true or `patience_s` is over."""
    deadline_s = time.monotonic() + patience_s  # noqa: TID251 - a command's own patience
    while not done() and time.monotonic() < deadline_s:  # noqa: TID251 - as above
        time.sleep(LOOK_S)  # noqa: TID251 - as above
