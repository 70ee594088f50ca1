"""One HTTP request, with the limits that every client of ours has: grants, webhooks, schema registries, commands.

A request ends in a bounded time, its answer is read up to a bounded size, no redirection is followed, and a certificate
that is not trusted is a person's to put right. Nothing is repeated here: see `services.wrappers.retrying`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pipelines.errors import MisconfiguredError, RetryableError

if TYPE_CHECKING:
    import httpx

WAITS_MAX = 3  # connecting, the answer's first byte, and the rest of it may each take the timeout


class NoAnswerError(RetryableError):
    """No answer came, or not the whole of it.

    Args:
        why: in the library's words, which may hold a part of the address.
        kind: in one word, which holds nothing of it.
    """

    def __init__(self, why: str, kind: str) -> None:
        super().__init__(why or kind)
        self.kind = kind


class UntrustedError(MisconfiguredError):
    """The server's certificate is signed by nobody that we trust, or is another host's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer; `headers` by their names in lower case, `body` as far as the limit goes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the request was taken: a status of 200 to 299."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's own


class HttpClient:
    """Sends requests to one server; threads may share it. Each request has a connection of its own.

    Proxies are taken from the environment, as the library does it, but never for a server on loopback.

    Args:
        url: the server's root, or the one address that is asked.
        timeout_s: for connecting, for the first byte of an answer, and for each wait for more of it. A whole answer may
            take three times as long.
        answer_bytes_max: so much of an answer is read; the rest is left.
        tls_ca_file: the certificate authorities to trust; None: the system's, or those of SSL_CERT_FILE.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        answer_bytes_max: int,
        tls_ca_file: Path | None = None,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._answer_bytes_max = answer_bytes_max
        self._tls_ca_file = tls_ca_file

    def get(self, path: str = "", headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
        """Ask for what is below the address; errors as of `post`."""
        return self._ask("GET", path, None, headers)

    def post(self, body: bytes, headers: Mapping[str, str], path: str = "") -> Answer:
        """Send a body to a place below the address.

        Raises:
            NoAnswerError: nobody answers, or not in time.
            UntrustedError: the server's certificate is not trusted.
        """
        return self._ask("POST", path, body, headers)

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        import httpx  # noqa: PLC0415 - it takes a quarter of a second, and `farside --help` must be quick

        deadline_s = time.monotonic() + WAITS_MAX * self._timeout_s
        try:
            request = self._client.build_request(method, self._url + path, content=body, headers=headers)
            with contextlib.closing(self._client.send(request, stream=True)) as response:
                return self._read(response, deadline_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            untrusted = _certificate_fault(error)
            if untrusted is not None:
                raise UntrustedError(untrusted) from None
            raise NoAnswerError(str(error), type(error).__name__) from None

    def _read(self, response: httpx.Response, deadline_s: float) -> Answer:
        """The answer, its body read within the limits; a refusal counts as an answer also if its body breaks off."""
        import httpx  # noqa: PLC0415 - as above

        pieces, left = list[bytes](), self._answer_bytes_max
        try:
            for piece in response.iter_raw():
                pieces.append(piece[:left])
                left -= len(pieces[-1])
                if left == 0:
                    break
                if time.monotonic() > deadline_s:
                    raise httpx.ReadTimeout("the answer takes too long")
        except httpx.HTTPError:
            if response.is_success:
                raise
        return Answer(response.status_code, response.reason_phrase, dict(response.headers), b"".join(pieces))

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx  # noqa: PLC0415 - as above

        try:
            return httpx.Client(
                verify=self._tls(),
                timeout=self._timeout_s,
                trust_env=not _is_loopback(self._url),
                # A connection that is kept may be closed by the other side just as the next request is sent.
                limits=httpx.Limits(max_keepalive_connections=0),
                headers={"Accept-Encoding": "identity", "User-Agent": "farside"},  # the size limit counts what comes
            )
        except (ValueError, ImportError) as error:  # a proxy of a kind that the library does not know
            raise NoAnswerError(
                f"the address, or the environment's proxy, cannot be used: {error}", "ProxyError"
            ) from None

    def _tls(self) -> ssl.SSLContext:
        if self._url.startswith("https://"):
            try:
                return ssl.create_default_context(cafile=self._tls_ca_file)
            except OSError as error:
                raise MisconfiguredError(f"certificate authorities {self._tls_ca_file}: {error}") from None
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody; quick to make, and not used


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificate_fault(error: BaseException) -> str | None:
    """Why a certificate is not trusted, if that is what an error comes from."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None
