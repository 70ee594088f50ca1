"""The Grants port over HTTP: how an agent asks its region's controller."""

from __future__ import annotations

import http.client
import urllib.request

from pipelines.errors import RetryableError
from pipelines.ports import GrantReply
from schemas.http_bodies import GrantBody
from services.http.bodies import BodyError, from_json, to_json


class HttpGrants:
    """Implements Grants.

    Args:
        base_url: the controller's, http only.
        timeout_s: for connecting, and for the answer.
    """

    def __init__(self, base_url: str, timeout_s: float = 1.0) -> None:
        if not base_url.startswith("http://"):
            raise ValueError(f"{base_url!r} is no http URL")
        self._url = f"{base_url}/v1/grant"
        self._timeout_s = timeout_s

    def ask(self, run: str, launch: str, node: str, committed_step: int) -> GrantReply:
        """The standing of a launch; RetryableError if the controller does not give a usable answer."""
        body = to_json(GrantBody(run=run, launch=launch, node=node, committed_step=committed_step))
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, data=body, headers=kind)  # noqa: S310 - http only, checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310 - as above
                return from_json(GrantReply, answer.read())
        except (OSError, http.client.HTTPException, BodyError) as error:
            raise RetryableError(f"controller at {self._url}: {error}") from error
