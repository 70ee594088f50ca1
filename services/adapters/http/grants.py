"""The Grants port over HTTP: how an agent asks its region's controller."""

from __future__ import annotations

from pipelines.errors import RetryableError
from pipelines.ports import GrantReply
from schemas.http_bodies import GrantBody
from services.adapters.http.sending import HttpClient, NoAnswerError
from services.http.bodies import BodyError, from_json, to_json

ANSWER_BYTES_MAX = 4 << 20
HEADERS = {"Content-Type": "application/json"}


class HttpGrants:
    """Implements Grants.

    Args:
        base_url: the controller's, http only.
        timeout_s: for connecting, and for each part of the answer.
    """

    def __init__(self, base_url: str, timeout_s: float = 1.0) -> None:
        if not base_url.startswith("http://"):
            raise ValueError(f"{base_url!r} is no http URL")
        self._url = f"{base_url}/v1/grant"
        self._http = HttpClient(self._url, timeout_s=timeout_s, answer_bytes_max=ANSWER_BYTES_MAX)

    def ask(self, run: str, launch: str, node: str, committed_step: int) -> GrantReply:
        """The standing of a launch; RetryableError if the controller does not give a usable answer."""
        body = to_json(GrantBody(run=run, launch=launch, node=node, committed_step=committed_step))
        try:
            answer = self._http.post(body, HEADERS)
        except NoAnswerError as error:
            raise RetryableError(f"controller at {self._url}: {error}") from error
        if not answer.is_success:
            raise RetryableError(f"controller at {self._url} answered {answer.status}")
        try:
            return from_json(GrantReply, answer.body)
        except BodyError as error:
            raise RetryableError(f"controller at {self._url}: {error}") from error
