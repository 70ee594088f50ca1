"""Asking the person at the terminal, and waiting for what was asked of a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer

from services.cli.exits import FAILED

LOOK_S = 0.2
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in your words; kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Ends the command unless the person says yes, or did so by `--yes`."""
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)


def until(done: Callable[[], bool], patience_s: float) -> None:
    """Look again and again until it is done, or patience ends."""
    deadline_s = time.monotonic() + patience_s  # noqa: TID251 - a command's own patience
    while not done() and time.monotonic() < deadline_s:  # noqa: TID251 - as above
        time.sleep(LOOK_S)  # noqa: TID251 - as above
