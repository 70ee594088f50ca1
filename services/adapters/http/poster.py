"""The Poster port over HTTP: how a region's controller reaches a webhook or a dead-man's switch."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from pipelines.errors import MisconfiguredError, RetryableError

TIMEOUT_S = 5.0
OBJECTIONS = frozenset({403, 409})
REASON_BYTES = 500


class HttpPoster:
    """Implements Poster. The address may carry a secret, so no error shows more of it than its host."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise MisconfiguredError("a webhook's or ping's address begins with http:// or https://")
        self._url, self._timeout_s = url, timeout_s
        self._host = url.split("/")[2].rpartition("@")[2]

    def post(self, key: str, body: bytes) -> None:
        """Send it under an idempotency key; RetryableError unless it was answered with success."""
        refused = self.judge(key, body)
        if refused:
            raise RetryableError(f"{self._host} refused: {refused}")

    def judge(self, key: str, body: bytes) -> str:
        """As `post`, but 403 and 409 are an objection, whose reason is the answer's first line."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        request = urllib.request.Request(self._url, data=body, headers=headers)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310 - as above
                answer.read()
                return ""
        except urllib.error.HTTPError as error:
            if error.code in OBJECTIONS:
                said = error.read(REASON_BYTES).decode(errors="replace").strip().splitlines()
                return said[0] if said else f"{self._host} answered {error.code}"
            raise RetryableError(f"{self._host} answered {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            raise RetryableError(f"{self._host} does not answer: {type(error).__name__}") from None
