"""Every method of the S3 ports, against everything that may come instead of an answer: only our tree's errors leave."""

from __future__ import annotations

import contextlib
import http.client
import inspect
import socket
import ssl
import string
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast
from xml.etree.ElementTree import ParseError

import botocore.exceptions
import pytest
import urllib3.exceptions
from botocore.awsrequest import AWSResponse
from botocore.parsers import ResponseParserError
from types_boto3_s3 import S3Client

from infra.local.stack import Stack
from pipelines.errors import CorruptError, FarsideError, MisconfiguredError, RetryableError, UnknownOutcomeError
from schemas.codec import Codec, DecodeError
from schemas.records import LeaseGroup
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.s3.object_store import S3ObjectStore, connect, ensure_bucket
from tests.contract.conftest import witness_client
from tests.contract.nonsense_store import NonsenseStore, answer, nonsense_store, s3_error
from tests.contract.test_lease_store import FIRST

READS: dict[str, Callable[[S3ObjectStore, S3LeaseStore], object]] = {
    "get": lambda store, _: store.get("a/b"),
    "pieces": lambda store, _: None if (found := store.pieces("a/b")) is None else b"".join(found),
    "list": lambda store, _: store.list("a/"),
    "entries": lambda store, _: store.entries("a/"),
    "size": lambda store, _: store.size("a/b"),
    "lease read": lambda _, leases: leases.read("gpt"),
    "lease noted": lambda _, leases: leases.noted("gpt"),
    "group read": lambda _, leases: leases.read_group("g"),
}
WRITES: dict[str, Callable[[S3ObjectStore, S3LeaseStore], object]] = {
    "create": lambda store, _: store.create("a/b", b"x"),
    "put": lambda store, _: store.put("a/b", b"x"),
    "delete": lambda store, _: store.delete("a/b"),
}
CONDITIONAL: dict[str, Callable[[S3ObjectStore, S3LeaseStore], object]] = {
    "lease create": lambda _, leases: leases.write(FIRST, None),
    "lease write": lambda _, leases: leases.write(FIRST, '"etag"'),
    "lease claim": lambda _, leases: leases.claim("gpt", 2, b"x"),
    "lease note": lambda _, leases: leases.note(FIRST),
    "group write": lambda _, leases: leases.write_group(LeaseGroup(group="g", write_id="w"), '"etag"'),
}
METHODS = READS | WRITES | CONDITIONAL

TRUNCATED = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 1000\r\n\r\nonly this'
HALF_XML = answer(200, b"<?xml version='1.0'?><ListBucketResult><Contents><Key>a")
NO_STORE: dict[str, bytes] = {
    "a clock that jumped": s3_error(403, "RequestTimeTooSkewed"),
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "junk": bytes(range(256)) * 4,
    "a status beyond numbers": b"HTTP/1.1 abc def\r\n\r\n",
    "a length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx",
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx",
    "a portal": answer(200, b"<html><body>please log in</body></html>"),
    "a portal's loose HTML": answer(200, b"<!doctype html><p>please <br>log in"),
    "half an XML": HALF_XML,
    "an error inside 200": answer(200, b"<Error><Code>InternalError</Code></Error>"),
    "404 of a proxy": answer(404, b"<html>not here</html>"),
    "404 without a word": answer(404),
    "400 of a balancer": answer(400, b"<html><h1>400 Bad request</h1></html>"),
    "307": s3_error(307, "TemporaryRedirect"),
    "302 to nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    **{code: s3_error(503, code) for code in ("InternalError", "NotReadable", "SlowDown", "ServiceUnavailable")},
    "429": s3_error(429, "TooManyRequests"),
    "409": s3_error(409, "ConditionalRequestConflict"),
    "409 of another kind": s3_error(409, "OperationAborted"),
    "RequestTimeout": s3_error(400, "RequestTimeout"),
    "BadDigest": s3_error(400, "BadDigest"),
    "503 without a word": answer(503),
}
FOR_A_PERSON: dict[str, tuple[bytes, str]] = {
    "no bucket": (s3_error(404, "NoSuchBucket"), r"there is no bucket 'nowhere' at http://127.0.0.1:\d+: check"),
    "denied": (s3_error(403, "AccessDenied"), "denies it"),
    "403 without a word": (answer(403), "denies it"),
    "expired": (s3_error(403, "ExpiredToken"), "denies it"),
    "elsewhere": (s3_error(301, "PermanentRedirect"), "served elsewhere"),
    "another region's": (s3_error(400, "AuthorizationHeaderMalformed"), "served elsewhere"),
    "not implemented": (s3_error(501, "NotImplemented"), "refuses it"),
    "no such method": (s3_error(405, "MethodNotAllowed"), "refuses it"),
}


Ports = tuple[S3ObjectStore, S3LeaseStore]


@pytest.fixture(scope="module")
def server() -> Iterator[NonsenseStore]:
    """A store that says what it is told to."""
    with nonsense_store() as store:
        yield store


@pytest.fixture(scope="module")
def client(server: NonsenseStore) -> S3Client:
    """One for all tests: to make it takes longer than to ask."""
    return connect(endpoint=f"http://127.0.0.1:{server.port}", access_key="a", secret_key="s", timeout_s=5.0)  # noqa: S106


@pytest.fixture
def ports(server: NonsenseStore, client: S3Client) -> Ports:
    """Both adapters on it."""
    server.says, server.says_to_head = b"", None
    return S3ObjectStore(client, "nowhere"), S3LeaseStore(client, "nowhere", Codec())


def _sent_once(server: NonsenseStore, name: str) -> None:
    """A HEAD's bare 404 may be asked about by a GET; and the library reads a redirected bucket's region by a HEAD."""
    puts = [line for line in server.requests if not line.startswith("HEAD")]
    assert len(puts) <= 1, (name, server.requests)


@pytest.mark.parametrize("said", sorted(NO_STORE))
def test_an_answer_that_says_nothing_is_tried_again_and_never_taken_for_absence_or_success(
    server: NonsenseStore, ports: Ports, said: str
) -> None:
    """Neither None, nor an empty list, nor a win: a RetryableError; and a conditional write is then unknown (I4)."""
    server.says = NO_STORE[said]
    for name, method in METHODS.items():
        server.requests.clear()
        reads_body = name in {"get", "pieces", "lease read", "group read"} and NO_STORE[said].startswith(
            b"HTTP/1.1 200"
        )
        wanted: tuple[type[Exception], ...] = (UnknownOutcomeError,) if name in CONDITIONAL else (RetryableError,)
        if reads_body or name == "delete":
            # The bytes of an object are judged by who knows its digest, or decodes them. And whoever takes a portal's
            # 200 for the end of an object that is in nobody's way loses nothing.
            wanted += (DecodeError,)
        outcome = _outcome(partial(method, *ports))
        if isinstance(outcome, Exception):
            assert isinstance(outcome, wanted), f"{name}: {outcome!r}"
        else:
            assert reads_body or name == "delete", f"{name} believes {said}"
        _sent_once(server, name)


@pytest.mark.parametrize("said", sorted(FOR_A_PERSON))
def test_a_refusal_in_the_stores_own_words_is_one_line_for_a_person(
    server: NonsenseStore, ports: Ports, said: str
) -> None:
    """Whatever was asked; also of a conditional write, of which it says that nothing was written."""
    server.says, text = FOR_A_PERSON[said]
    for name, method in METHODS.items():
        server.requests.clear()
        with pytest.raises(MisconfiguredError, match=text) as caught:
            method(*ports)
        assert "\n" not in str(caught.value), name
        _sent_once(server, name)


def test_only_the_stores_own_word_that_there_is_no_such_key_is_absence(server: NonsenseStore, ports: Ports) -> None:
    """A HEAD has no word: a GET is asked for it. A wrong bucket in the settings made 23 checkpoints corrupt once."""
    server.says_to_head = answer(404)
    server.says = s3_error(404, "NoSuchKey")
    store, leases = ports
    assert (store.get("a"), store.pieces("a"), store.size("a")) == (None, None, None)
    assert leases.read("gpt") is None
    assert leases.write(FIRST, '"etag"') is None
    store.delete("a")
    server.says = s3_error(404, "NoSuchBucket")
    with pytest.raises(MisconfiguredError, match="check bucket and the address"):
        store.size("a")
    with pytest.raises(MisconfiguredError, match=r"check witness\.bucket"):
        leases.read("gpt")


def test_a_conflict_is_neither_there_nor_won(server: NonsenseStore, ports: Ports) -> None:
    """S3: nothing was stored. So `create` is tried again; a lease's write is unknown until a read (6.3)."""
    server.says = s3_error(409, "ConditionalRequestConflict")
    store, leases = ports
    with pytest.raises(RetryableError) as caught:
        store.create("a", b"x")
    assert not isinstance(caught.value, UnknownOutcomeError)
    with pytest.raises(UnknownOutcomeError):
        leases.write(FIRST, '"etag"')
    server.says = s3_error(412, "PreconditionFailed")
    assert store.create("a", b"x") is False
    assert leases.write(FIRST, '"etag"') is None


@pytest.mark.parametrize("method", ["get", "pieces", "lease read", "group read", "lease noted"])
def test_a_body_that_breaks_off_is_no_object(server: NonsenseStore, ports: Ports, method: str) -> None:
    """It is read again; nobody is told that a checkpoint is corrupt."""
    server.says = TRUNCATED
    with pytest.raises(RetryableError):
        READS[method](*ports)


@pytest.mark.parametrize("key", ["", "\ud800", "k" * 2_000])
def test_a_key_that_no_store_takes_is_corrupt_and_ends_nothing(server: NonsenseStore, ports: Ports, key: str) -> None:
    """It came with an event: it is no setting of ours, and another try would be refused too."""
    server.says = s3_error(400, "KeyTooLongError")
    store, _ = ports
    for call in (store.get, store.pieces, store.size, store.delete, lambda name: store.create(name, b"x")):
        with pytest.raises(CorruptError, match=r"no such key|takes this key"):
            call(key)


def test_a_bucket_or_an_address_that_cannot_be_is_a_setting_to_put_right(client: S3Client) -> None:
    """The library refuses it before anything is sent."""
    with pytest.raises(MisconfiguredError, match="check bucket in the settings"):
        S3ObjectStore(client, "no bucket/at all").get("a")
    with pytest.raises(MisconfiguredError, match="give http://host:port"):
        connect(endpoint="127.0.0.1:1 or so", access_key="a", secret_key="s")  # noqa: S106


def _made(kind: type[Exception]) -> Exception | None:
    """An instance with every figure of its text filled in; None if it cannot be made here."""
    named = [field for _, field, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if field]
    attempts: tuple[tuple[tuple[Any, ...], dict[str, str]], ...] = (
        (({}, "anything"), {}),  # a ClientError's
        ((), dict.fromkeys(named, "x")),
        ((b"x",), {}),
        ((1, 2), {}),
        (("x", "y", "z"), {}),
    )
    for arguments, named_arguments in attempts:
        with contextlib.suppress(Exception):
            made = kind(*arguments, **named_arguments)
            if f"{made!r} {made}":  # one that cannot even be printed was made wrongly
                return made
    return None


def _raised_below() -> list[Exception]:
    modules = (botocore.exceptions, urllib3.exceptions, http.client)
    kinds = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)}
    plain = [kind for kind in kinds if issubclass(kind, Exception) and not issubclass(kind, Warning)]
    more = [ResponseParserError, ParseError, OSError, ConnectionResetError, BrokenPipeError, TimeoutError]
    more += [socket.gaierror, ssl.SSLError, ssl.SSLEOFError, ssl.SSLCertVerificationError, ValueError, KeyError]
    more += [TypeError, AttributeError, UnicodeDecodeError, MemoryError, RecursionError]
    made = (_made(kind) for kind in sorted({*plain, *more}, key=lambda kind: kind.__name__))
    return [error for error in made if error is not None]


def test_whatever_the_library_or_those_below_it_raise_leaves_as_an_error_of_ours(client: S3Client) -> None:
    """Each class of botocore, urllib3, http.client and ssl, before the answer; no conditional write has then won."""
    errors = _raised_below()
    assert len(errors) > 120
    now: list[Exception] = []

    def fails(**_: object) -> None:
        raise now[0]

    client.meta.events.register("before-send.s3", fails)
    ports = S3ObjectStore(client, "nowhere"), S3LeaseStore(client, "nowhere", Codec())
    try:
        for error in errors:
            now[:] = [error]
            for name, method in METHODS.items():
                _leaves_as_ours(name, error, partial(method, *ports))
    finally:
        client.meta.events.unregister("before-send.s3", fails)


class _Broken:
    """A stream that has a few bytes, and then an error."""

    def __init__(self, error: Exception) -> None:
        self._error, self._left = error, [b"some"]

    def read(self, amt: int | None = None, **_: object) -> bytes:
        if amt is not None and self._left:
            return self._left.pop()
        raise self._error

    def close(self) -> None:
        self._left.clear()


def test_authorities_that_cannot_be_read_are_a_setting_to_put_right(
    server: NonsenseStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And no plain port, which would be tried again for ever."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    client = connect(endpoint=f"https://127.0.0.1:{server.port}", access_key="a", secret_key="s", timeout_s=5.0)  # noqa: S106
    with pytest.raises(MisconfiguredError, match=r"AWS_CA_BUNDLE .*none\.pem: No such file or directory"):
        S3ObjectStore(client, "nowhere").get("key")


def test_whatever_breaks_a_body_leaves_as_an_error_of_ours(client: S3Client) -> None:
    """The library maps two kinds of a stream's errors; urllib3's and ssl's others came through it."""
    now: list[Exception] = []

    def broken(request: Any, **_: object) -> Any:  # noqa: ANN401 - botocore's own
        headers: Any = {"ETag": '"e"', "Content-Length": "9"}
        return AWSResponse(request.url, 200, headers, _Broken(now[0]))

    client.meta.events.register("before-send.s3", cast("Any", broken))
    ports = S3ObjectStore(client, "nowhere"), S3LeaseStore(client, "nowhere", Codec())
    try:
        for error in _raised_below():
            now[:] = [error]
            for name in ("get", "pieces", "lease read", "group read"):
                _leaves_as_ours(name, error, partial(READS[name], *ports))
    finally:
        client.meta.events.unregister("before-send.s3", cast("Any", broken))


def _leaves_as_ours(name: str, error: Exception, call: Callable[[], object]) -> None:
    outcome = _outcome(call)
    assert isinstance(outcome, FarsideError), f"{name}: {error!r} became {outcome!r}"
    assert "\n" not in str(outcome)
    settled = isinstance(outcome, UnknownOutcomeError | MisconfiguredError | CorruptError)
    assert settled or name not in CONDITIONAL, f"{name}: {error!r} became {outcome!r}"


def _outcome(call: Callable[[], object]) -> object:
    """The answer of a call, or what it raised."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it is judged by who asked
        return error


@pytest.mark.servers
def test_a_real_store_tells_a_missing_bucket_from_a_missing_key(stack: Stack) -> None:
    """As the local stack's servers say it, for every method."""
    client = witness_client(stack)
    ensure_bucket(client, "is-there")
    there, nowhere = S3ObjectStore(client, "is-there"), S3ObjectStore(client, "is-not-there")
    assert (there.get("a"), there.pieces("a"), there.size("a"), there.list("")) == (None, None, None, ())
    there.delete("a")
    leases = S3LeaseStore(client, "is-not-there", Codec())
    for name, method in METHODS.items():
        with pytest.raises(MisconfiguredError, match="there is no bucket 'is-not-there' at http"):
            method(nowhere, leases)
        assert name
