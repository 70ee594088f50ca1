"""A real HTTP server in front of a store, which answers some requests wrongly and passes all others on."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningUser

from services.settings import Credentials

PATIENCE_S = 30.0
CONDITIONS = frozenset({"if-none-match", "if-match"})
_HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive", "expect"})
_SIGNED = frozenset({"authorization", "x-amz-date", "x-amz-content-sha256", "expect", "content-length"})
_CONFLICT = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ConditionalRequestConflict</Code><Message>The conditional '
    b"request cannot succeed due to a conflicting operation against this resource.</Message></Error>"
)
Headers = dict[str, str]
Wrong = Callable[[str, str, Headers], bool]
"""Method, path and headers (lower case) of a request: whether it is answered 409 and not passed on."""
Changed = Callable[[str, str, Headers, bytes], Headers]
"""The headers with which a request (method, path, headers, body) is passed on."""


class Counted:
    """Answers 409 to the first few conditional puts of each key under a prefix."""

    def __init__(self, prefix: str, times: int) -> None:
        self._prefix, self._times = prefix, times
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, headers: Headers) -> bool:
        """Whether this one is answered so."""
        if method != "PUT" or self._prefix not in path or not CONDITIONS & headers.keys():
            return False
        with self._lock:
            self._seen[path] = self._seen.get(path, 0) + 1
            return self._seen[path] <= self._times

    @property
    def refused(self) -> int:
        """How many answers of 409 were given."""
        with self._lock:
            return sum(min(count, self._times) for count in self._seen.values())


def without_conditions(user: Credentials, upstream: str) -> Changed:
    """Conditions are dropped, and the request signed anew as the same user: a store that ignores them."""

    def changed(method: str, path: str, headers: Headers, body: bytes) -> Headers:
        if not CONDITIONS & headers.keys():
            return headers
        kept = {name: value for name, value in headers.items() if name not in {*CONDITIONS, *_SIGNED}}
        request = AWSRequest(method, f"{upstream}{path}", {**kept, "host": urlsplit(upstream).netloc}, body)
        S3SigV4Auth(SigningUser(user.access_key, user.secret_key), "s3", "us-east-1").add_auth(request)
        return {name.lower(): str(value) for name, value in request.headers.items()}

    return changed


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is killed resets its connections."""


@contextlib.contextmanager
def in_front_of(
    upstream: str, *, wrong: Wrong = lambda *_: False, changed: Changed = lambda _method, _path, headers, _body: headers
) -> Iterator[str]:
    """The address of such a server; it ends with the block."""
    target = urlsplit(upstream).netloc

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:  # the name is the library's
            """Nobody reads it."""

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if wrong(self.command, self.path, headers):
                self._answer(HTTPStatus.CONFLICT, {"content-type": "application/xml"}, _CONFLICT)
                return
            asked = changed(self.command, self.path, headers, body)
            connection = http.client.HTTPConnection(target, timeout=PATIENCE_S)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in asked.items():
                    if name not in _HOP:
                        connection.putheader(name, value)
                connection.putheader("content-length", str(len(body)))
                connection.endheaders(body)
                reply = connection.getresponse()
                answer = reply.read()
                more = {name.lower(): value for name, value in reply.getheaders() if name.lower() not in _HOP}
                if self.command == "HEAD":
                    more["content-length"] = reply.getheader("content-length", "0")
                self._answer(reply.status, more, answer)
            finally:
                connection.close()

        def _answer(self, status: int, headers: Headers, body: bytes) -> None:
            self.send_response_only(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815 - the names are the library's

    server = _Server(("127.0.0.1", 0), Passing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
