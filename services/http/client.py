"""Asking a service on its port."""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import RetryableError
from services.adapters.http.sending import HttpClient
from services.settings import HOST

TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 64 << 20  # the status of a thousand runs


def ask(port: int, path: str, body: dict[str, object] | None = None) -> dict[str, Any] | None:
    """A service's JSON answer; None if it does not answer."""
    at = HttpClient(f"http://{HOST}:{port}", timeout_s=TIMEOUT_S, answer_bytes_max=ANSWER_BYTES_MAX)
    try:
        if body is None:
            answer = at.get(path)
        else:
            answer = at.post(json.dumps(body).encode(), {"Content-Type": "application/json"}, path)
        if not answer.is_success:
            return None
        plain: dict[str, Any] = json.loads(answer.body)
    except (RetryableError, ValueError):
        return None
    return plain
