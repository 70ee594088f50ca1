"""The Poster port over HTTP: how a region's controller reaches a webhook or a dead-man's switch.

What is posted is signed, so that its receiver can tell it from what others send, and an old message from a new one: the
header `Farside-Signature: t=SECONDS,v1=HEX` has the wall time and the HMAC-SHA256, under the key that both sides know,
of the time as it stands there, a dot, and the body. (The form is Stripe's, for which libraries exist.)
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.ports import Clock
from services.adapters.http.sending import Answer, HttpClient, NoAnswerError, UntrustedError
from services.adapters.private_files import read_secret

TIMEOUT_S = 5.0
OBJECTIONS = frozenset({403, 409})
ANSWER_BYTES_MAX = 64 << 10
REASON_CHARS_MAX = 500
KEY_BYTES_LEAST = 16
SIGNATURE = "Farside-Signature"


def signature_of(key: bytes, wall_s: int, body: bytes) -> str:
    """The header's value for a body that is sent at a wall time."""
    signed = hmac.new(key, f"{wall_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={wall_s},v1={signed}"


def signing_key(path: Path) -> bytes:
    """The key in a file, without white space around it; MisconfiguredError if it is short, or others can read it."""
    key = read_secret(path, "webhook key file").strip()
    if len(key) < KEY_BYTES_LEAST:
        raise MisconfiguredError(f"webhook key file {path} holds no key of at least {KEY_BYTES_LEAST} bytes")
    return key


class HttpPoster:
    """Implements Poster. The address may carry a secret, so no error shows more of it than its host.

    Args:
        url: http or https. No redirection is followed: it would take what is signed to another place.
        clock: its wall time is signed.
        key_file: of the key that signs; read at each message; None: nothing is signed, as for a dead-man's switch.
        timeout_s: for connecting, and for each part of the answer.
    """

    def __init__(self, url: str, clock: Clock, key_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise MisconfiguredError("a webhook's or ping's address begins with http:// or https://")
        if key_file is not None:
            signing_key(key_file)
        self._host = url.split("/")[2].rpartition("@")[2]
        self._clock, self._key_file = clock, key_file
        self._http = HttpClient(url, timeout_s=timeout_s, answer_bytes_max=ANSWER_BYTES_MAX)

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
            return lines[0][:REASON_CHARS_MAX] if lines else f"{self._host} answered {answer.status}"
        raise RetryableError(f"{self._host} answered {answer.status}")

    def _send(self, key: str, body: bytes) -> Answer:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        try:
            if self._key_file is not None:
                wall_s = self._clock.wall_ms() // 1000
                headers[SIGNATURE] = signature_of(signing_key(self._key_file), wall_s, body)
            return self._http.post(body, headers)
        except NoAnswerError as error:
            raise RetryableError(f"{self._host} does not answer: {error.kind}") from None
        except UntrustedError as error:  # it may be put right while we go on, and no webhook may end a controller
            raise RetryableError(f"{self._host}: its certificate is not trusted: {error}") from None
        except MisconfiguredError as error:  # as above
            raise RetryableError(f"{self._host} is not told: {error}") from None
