"""The SchemaRegistry port over the REST API of Confluent's Schema Registry, which others serve too.

It is one request: `POST /subjects/{subject}/versions`. A registry that knows the schema under this subject answers with
the id that it has; so there is nothing to be looked up before, and asking twice is harmless.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from typing import IO

from pipelines.errors import MisconfiguredError, RetryableError
from schemas.confluent import ID_MAX

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


class _StaysHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would take the user's password to another place."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Let it be an error."""


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
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_StaysHere())

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema under a subject."""
        where = f"{self._url}/subjects/{urllib.parse.quote(subject, safe='')}/versions"
        body = json.dumps({"schema": schema, "schemaType": "AVRO"}).encode()
        request = urllib.request.Request(where, data=body, headers=self._headers())  # noqa: S310 - checked above
        return self._id_in(self._answer(request, subject))

    def _headers(self) -> dict[str, str]:
        found = {"Content-Type": KIND, "Accept": f"{KIND}, application/json"}
        if self._user is not None:
            pair = f"{self._user.username}:{self._user.password}".encode()
            found["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return found

    def _answer(self, request: urllib.request.Request, subject: str) -> bytes:
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return bytes(answer.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as error:
            with error:
                said = _reason(error)
            raise self._refusal(error, subject, said) from None
        except (OSError, http.client.HTTPException) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(why, ssl.SSLCertVerificationError):
                raise MisconfiguredError(
                    f"schema registry {self._url}: its certificate is not trusted ({why.verify_message}): name its "
                    "authority's file in SSL_CERT_FILE"
                ) from None
            raise RetryableError(f"schema registry {self._url} does not answer: {why or type(why).__name__}") from None

    def _refusal(self, error: urllib.error.HTTPError, subject: str, said: str) -> MisconfiguredError | RetryableError:
        who = "without a user" if self._user is None else f"user {self._user.username!r}"
        told = f"schema registry {self._url} answered {error.code}"
        if error.code in _LATER or error.code >= _SERVER_FAILED:
            return RetryableError(f"{told} ({said})")
        what = {
            _UNAUTHORIZED: f"{who} is not let in: give its credentials in a file or in the environment",
            _REFUSED: f"{who} may not register {subject}: give it that right, or name another user",
            _NO_SUCH_PLACE: "there is no registry's API here: name its root, below which /subjects is",
            _INCOMPATIBLE: f"{subject} holds other schemas, which its compatibility rule sets against this one",
            _NO_SCHEMA: f"it does not take the schema of {subject}",
        }
        at = error.headers.get("Location")
        moved = f"it is now at {at}: name that" if at else "it does not take the request"
        return MisconfiguredError(f"{told}: {what.get(error.code, moved)} ({said})")

    def _id_in(self, answer: bytes) -> int:
        try:
            found = json.loads(answer)["id"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= ID_MAX:
            raise MisconfiguredError(
                f"schema registry {self._url} answers with no schema's id: name the root of a Confluent-compatible "
                "API, below which /subjects is"
            )
        return found


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


def _reason(error: urllib.error.HTTPError) -> str:
    """What a registry says of its refusal, on one line: its `message`, or else the status's own word."""
    try:
        said = json.loads(error.read(ANSWER_BYTES_MAX))["message"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        said = error.reason
    return " ".join(str(said).split())[:REASON_CHARS_MAX]
