"""Asking: the services on their ports, and the person at the terminal."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Annotated, Any

import typer

from services.cli.fail import FAILED
from services.settings import HOST

TIMEOUT_S = 2.0
LOOK_S = 0.2
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in your words; kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def ask(port: int, path: str, body: dict[str, object] | None = None) -> dict[str, Any] | None:
    """A service's JSON answer; None if it does not answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{HOST}:{port}{path}", data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - as above
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, http.client.HTTPException, ValueError):
        return None


def confirm(question: str, *, yes: bool) -> None:
    """Ends the command unless the person says yes, or did so by `--yes`."""
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)


def until(done: Callable[[], bool], patience_s: float) -> None:
    """Look again and again until it is done, or patience ends."""
    deadline_s = time.monotonic() + patience_s  # noqa: TID251 - a command's own patience
    while not done() and time.monotonic() < deadline_s:  # noqa: TID251 - as above
        time.sleep(LOOK_S)  # noqa: TID251 - as above
