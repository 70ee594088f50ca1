"""The SchemaRegistry port over the REST API of Confluent's Schema Registry, which others serve too.

It is one request: `POST /subjects/{subject}/versions`. A registry that knows the schema under this subject answers with
the id that it has; so there is nothing to be looked up before, and asking twice is harmless.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from dataclasses import dataclass, field

from pipelines.errors import MisconfiguredError, RetryableError
from schemas.confluent import ID_MAX
from services.adapters.http.sending import Answer, HttpClient, NoAnswerError, UntrustedError

TIMEOUT_S = 10.0
KIND = "application/vnd.schemaregistry.v1+json"
ANSWER_BYTES_MAX = 1 << 20
REASON_CHARS_MAX = 300
_UNAUTHORIZED, _REFUSED, _NO_SUCH_PLACE = 401, 403, 404
_INCOMPATIBLE, _NO_SCHEMA = 409, 422
_LATER = frozenset({408, 425, 429})
_SERVER_FAILED = 500


@dataclass(frozen=True, slots=True)
class RegistryUser:
    """Who asks, by HTTP's basic authentication. The password shows in no text."""

    username: str
    password: str = field(repr=False)


class HttpSchemaRegistry:
    """Implements SchemaRegistry.

    Args:
        url: the API's root, below which `/subjects` is; http or https.
        user: None for a registry that knows none.
        timeout_s: for connecting, and for each part of the answer.
    """

    def __init__(self, url: str, user: RegistryUser | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._url = check_url(url)
        self._user = user
        # No redirection is followed: it would take the user's password to another place.
        self._http = HttpClient(self._url, timeout_s=timeout_s, answer_bytes_max=ANSWER_BYTES_MAX)

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema under a subject."""
        path = f"/subjects/{urllib.parse.quote(subject, safe='')}/versions"
        body = json.dumps({"schema": schema, "schemaType": "AVRO"}).encode()
        try:
            answer = self._http.post(body, self._headers(), path)
        except NoAnswerError as error:
            raise RetryableError(f"schema registry {self._url} does not answer: {error}") from None
        except UntrustedError as error:
            raise MisconfiguredError(
                f"schema registry {self._url}: its certificate is not trusted ({error}): name its "
                "authority's file in SSL_CERT_FILE"
            ) from None
        if not answer.is_success:
            raise self._refusal(answer, subject)
        return self._id_in(answer.body)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": KIND, "Accept": f"{KIND}, application/json"}
        if self._user is not None:
            pair = f"{self._user.username}:{self._user.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return headers

    def _refusal(self, answer: Answer, subject: str) -> MisconfiguredError | RetryableError:
        """The error for a status that is no success: which of ours it is, and what a person can do."""
        who = "without a user" if self._user is None else f"user {self._user.username!r}"
        status, reason = f"schema registry {self._url} answered {answer.status}", _reason(answer)
        if answer.status in _LATER or answer.status >= _SERVER_FAILED:
            return RetryableError(f"{status} ({reason})")
        advice = {
            _UNAUTHORIZED: f"{who} is not let in: give its credentials in a file or in the environment",
            _REFUSED: f"{who} may not register {subject}: give it that right, or name another user",
            _NO_SUCH_PLACE: "there is no registry's API here: name its root, below which /subjects is",
            _INCOMPATIBLE: f"{subject} holds other schemas, which its compatibility rule sets against this one",
            _NO_SCHEMA: f"it does not take the schema of {subject}",
        }
        at = answer.headers.get("location")
        moved = f"it is now at {at}: name that" if at else "it does not take the request"
        return MisconfiguredError(f"{status}: {advice.get(answer.status, moved)} ({reason})")

    def _id_in(self, answer: bytes) -> int:
        try:
            number = json.loads(answer)["id"]
        except (ValueError, KeyError, TypeError):
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= ID_MAX:
            raise MisconfiguredError(
                f"schema registry {self._url} answers with no schema's id: name the root of a Confluent-compatible "
                "API, below which /subjects is"
            )
        return number


def check_url(url: str) -> str:
    """A registry's address without a slash at its end; MisconfiguredError if it is none, or has a password in it."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise MisconfiguredError(f"schema registry: its address is no URL: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise MisconfiguredError(
            "a schema registry's address has no user in it: give the credentials in a file or in the environment"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise MisconfiguredError(f"schema registry {url!r}: its address is http://HOST[:PORT][/PATH], or https")
    return url.rstrip("/")


def _reason(answer: Answer) -> str:
    """Why a registry refuses, on one line: its `message`, or else the status's own word."""
    try:
        reason = json.loads(answer.body)["message"]
    except (ValueError, KeyError, TypeError):
        reason = answer.reason
    return " ".join(str(reason).split())[:REASON_CHARS_MAX]
