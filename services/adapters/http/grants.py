"""The Grants port over HTTP: how an agent asks its region's controller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.ports import GrantReply
from schemas.http_bodies import GrantBody
from services.adapters.http.sending import HttpClient, NoAnswerError
from services.http.bodies import BodyError, from_json, to_json

ANSWER_BYTES_MAX = 4 << 20
REASON_CHARS_MAX = 300


class HttpGrants:
    """Implements Grants.

    Args:
        base_url: the controller's.
        headers: returns those of a request, with the agent's credential; asked each time, since it may change.
        tls_ca_file: the authorities that are trusted with https; None: the system's.
        timeout_s: for connecting, and for each part of the answer.
    """

    def __init__(
        self,
        base_url: str,
        headers: Callable[[], Mapping[str, str]],
        *,
        tls_ca_file: Path | None = None,
        timeout_s: float = 1.0,
    ) -> None:
        self._url, self._headers = f"{base_url}/v1/grant", headers
        self._http = HttpClient(
            self._url, timeout_s=timeout_s, answer_bytes_max=ANSWER_BYTES_MAX, tls_ca_file=tls_ca_file
        )

    def ask(self, run: str, launch: str, node: str, committed_step: int, *, begins: bool = False) -> GrantReply:
        """The standing of a launch; RetryableError if the controller does not give a usable answer."""
        body = GrantBody(run=run, launch=launch, node=node, committed_step=committed_step, begins=begins)
        try:
            answer = self._http.post(to_json(body), self._headers())
        except NoAnswerError as error:
            raise RetryableError(f"controller at {self._url}: {error}") from error
        except MisconfiguredError as error:  # a credential or certificate may be put right while we go on
            raise RetryableError(f"controller at {self._url} cannot be asked: {error}") from error
        if not answer.is_success:
            why = " ".join(answer.body.decode(errors="replace").split())[:REASON_CHARS_MAX]
            raise RetryableError(f"controller at {self._url} answered {answer.status}: {why}")
        try:
            return from_json(GrantReply, answer.body)
        except BodyError as error:
            raise RetryableError(f"controller at {self._url}: {error}") from error
