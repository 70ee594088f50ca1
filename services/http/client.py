"""Asking a service on its port."""

from __future__ import annotations

import http.client
import json
import urllib.request
from typing import Any

from services.settings import HOST

TIMEOUT_S = 2.0


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
