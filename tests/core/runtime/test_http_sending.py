"""The one HTTP client: what it sends where, how long it waits, how much it reads, and whom it trusts."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipelines.errors import MisconfiguredError
from services.adapters.http.sending import HttpClient, NoAnswerError, UntrustedError


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what the test wants, by path, and keeps what it was asked."""

    answers: dict[str, Callable[[_Handler], None]]
    asked: list[tuple[str, str, bytes]]

    def do_POST(self) -> None:
        """Keep the request, and answer."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append((self.command, self.path, body))
        self.answers.get(self.path, _plain(200, b"ok"))(self)

    def do_GET(self) -> None:
        """Keep the request, and answer."""
        self.do_POST()

    def log_message(self, *_args: object) -> None:
        """Nothing to say."""


def _plain(code: int, body: bytes, **headers: str) -> Callable[[_Handler], None]:
    def answer(handler: _Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on loopback; its handler's answers are the test's."""

    class Handler(_Handler):
        answers: dict[str, Callable[[_Handler], None]] = {}  # noqa: RUF012 - one a test
        asked: list[tuple[str, str, bytes]] = []  # noqa: RUF012 - one a test

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def _handler(server: http.server.ThreadingHTTPServer) -> type[_Handler]:
    kind = server.RequestHandlerClass
    assert isinstance(kind, type)
    assert issubclass(kind, _Handler)
    return kind


def _client(
    server: http.server.ThreadingHTTPServer,
    *,
    host: str = "127.0.0.1",
    timeout_s: float = 5.0,
    answer_bytes_max: int = 100,
) -> HttpClient:
    return HttpClient(
        f"http://{host}:{server.server_port}",
        timeout_s=timeout_s,
        answer_bytes_max=answer_bytes_max,
    )


def test_an_answer_comes_with_its_status_whatever_that_is(server: http.server.ThreadingHTTPServer) -> None:
    """A refusal is an answer, and its headers and body are the caller's to read."""
    _handler(server).answers["/no"] = _plain(409, b"not now", Why="later")
    answer = _client(server).post(b"body", {"Content-Type": "text/plain"}, "/no")
    assert (answer.status, answer.is_success, answer.body, answer.headers["why"]) == (409, False, b"not now", "later")
    assert _client(server).get("/yes").is_success
    assert _handler(server).asked == [("POST", "/no", b"body"), ("GET", "/yes", b"")]


def test_a_long_answer_is_read_up_to_the_limit(server: http.server.ThreadingHTTPServer) -> None:
    """A server that sends without end costs no memory and no time."""

    def endless(handler: _Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65_536)
        except OSError:
            return  # the client has gone

    _handler(server).answers["/"] = endless
    assert _client(server, answer_bytes_max=100_000).get("/").body == b"x" * 100_000


def test_an_answer_that_drips_is_given_up(server: http.server.ThreadingHTTPServer) -> None:
    """Each byte comes in time, and the whole never would."""

    def dripping(handler: _Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            return

    _handler(server).answers["/"] = dripping
    began_s = time.monotonic()
    with pytest.raises(NoAnswerError, match="takes too long"):
        _client(server, timeout_s=0.3, answer_bytes_max=1_000).get("/")
    assert time.monotonic() - began_s < 5.0


def test_no_redirection_is_followed(server: http.server.ThreadingHTTPServer) -> None:
    """It would carry what is sent, and who sends it, to somebody who was not named: the redirection is the answer."""
    handler = _handler(server)
    handler.answers["/here"] = _plain(307, b"", Location="/there")
    handler.answers["/away"] = _plain(307, b"", Location=f"http://localhost:{server.server_port}/there")
    client = _client(server)
    assert [client.post(b"body", {}, path).status for path in ("/here", "/away")] == [307, 307]
    assert [path for _, path, _ in handler.asked] == ["/here", "/away"]


def test_loopback_is_never_asked_through_a_proxy(
    server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the environment's proxies nobody listens here: what is asked through one fails."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert _client(server).get("/").is_success
    assert _client(server, host="localhost").get("/").is_success
    with pytest.raises(NoAnswerError):
        HttpClient("http://elsewhere.invalid", timeout_s=1.0, answer_bytes_max=10).get("/")


def test_a_proxy_that_cannot_be_used_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request may find the environment's address put right; a controller goes on meanwhile."""
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(NoAnswerError, match="proxy"):
        HttpClient("http://elsewhere.invalid", timeout_s=1.0, answer_bytes_max=10).get("/")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:notaport"])
def test_nobody_there_is_no_answer(url: str) -> None:
    """Its kind is one word that holds nothing of the address."""
    with pytest.raises(NoAnswerError) as silent:
        HttpClient(url, timeout_s=1.0, answer_bytes_max=10).get("/secret")
    assert silent.value.kind.isidentifier()


def _certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that is signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today)
        .not_valid_after(today + dt.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_is_trusted_by_the_file_of_its_authority_and_else_not(
    server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    """A person puts it right: an untrusted server is not asked again and again."""
    path = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}"
    assert HttpClient(url, timeout_s=5.0, answer_bytes_max=10, tls_ca_file=path).get("/").body == b"ok"
    with pytest.raises(UntrustedError, match="self-signed"):
        HttpClient(url, timeout_s=5.0, answer_bytes_max=10).get("/")
    with pytest.raises(MisconfiguredError, match="certificate authorities"):
        HttpClient(url, timeout_s=5.0, answer_bytes_max=10, tls_ca_file=tmp_path / "none.pem").get("/")
