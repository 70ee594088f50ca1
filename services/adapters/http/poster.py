"""The Poster port over HTTP: how a region's controller reaches a webhook or a dead-man's switch."""

from __future__ import annotations

from pipelines.errors import MisconfiguredError, RetryableError
from services.adapters.http.sending import REDIRECTS_MAX, Answer, HttpClient, NoAnswerError, UntrustedError

TIMEOUT_S = 5.0
OBJECTIONS = frozenset({403, 409})
REASON_BYTES = 500


class HttpPoster:
    """Implements Poster. The address may carry a secret, so no error shows more of it than its host.

    Args:
        url: http or https; a redirection on the same host is followed, one to another host is a failure.
        timeout_s: for connecting, and for each part of the answer.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise MisconfiguredError("a webhook's or ping's address begins with http:// or https://")
        self._host = url.split("/")[2].rpartition("@")[2]
        self._http = HttpClient(url, timeout_s=timeout_s, answer_bytes_max=REASON_BYTES, redirects_max=REDIRECTS_MAX)

    def post(self, key: str, body: bytes) -> None:
        """Send it under an idempotency key; RetryableError unless it was answered with success."""
        refused = self.judge(key, body)
        if refused:
            raise RetryableError(f"{self._host} refused: {refused}")

    def judge(self, key: str, body: bytes) -> str:
        """As `post`, but 403 and 409 are an objection, whose reason is the answer's first line."""
        answer = self._send(key, body)
        if answer.is_success:
            return ""
        if answer.status in OBJECTIONS:
            lines = answer.body.decode(errors="replace").strip().splitlines()
            return lines[0] if lines else f"{self._host} answered {answer.status}"
        raise RetryableError(f"{self._host} answered {answer.status}")

    def _send(self, key: str, body: bytes) -> Answer:
        try:
            return self._http.post(body, {"Content-Type": "application/json", "Idempotency-Key": key})
        except NoAnswerError as error:
            raise RetryableError(f"{self._host} does not answer: {error.kind}") from None
        except UntrustedError as error:  # it may be put right while we go on, and no webhook may end a controller
            raise RetryableError(f"{self._host}: its certificate is not trusted: {error}") from None
