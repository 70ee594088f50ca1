"""Who is let in, before anything of a request is believed: credential, role, host, origin, content type, size, time."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from pipelines.errors import MisconfiguredError
from pipelines.ports import GrantReply
from schemas.http_bodies import FailoverAnswer
from services.adapters.private_files import read_secret, refuse_writable
from services.adapters.system_clock import SystemClock
from services.cli import app
from services.http import limits
from services.http.authority_routes import STEP_MAX, AuthorityRoutes
from services.http.callers import Callers, Role
from services.http.door import ROLES
from services.http.server import HttpServer, Turns
from services.operations import credentials
from tests.callers import NAMES, NODE, TOKENS, callers_file, headers_as, is_closed, listening
from tests.waiting import wait_until

GRANT = {"run": "gpt", "launch": "l", "committed_step": 5, "node": NODE}
FAILOVER = {"run": "gpt", "note": "", "key": "k" * 16, "epoch": 1, "fenced": False}
MOVE = {"run": "gpt", "kind": "pause", "note": "", "target": "", "at_ms": 0, "key": "m" * 16}


@dataclass
class _Control:
    """A run's controller, which remembers whatever got through to it."""

    got: list[Any] = field(default_factory=list)

    def grant(self, launch: str, committed_step: int, *, node: str, begins: bool) -> GrantReply:
        self.got.append((launch, committed_step, node, begins))
        return GrantReply("wait")

    def ask_takeover(self, request: Any) -> FailoverAnswer:  # noqa: ANN401 - a TakeoverRequest
        self.got.append(request)
        return FailoverAnswer(state="waits")

    def ask(self, request: Any) -> str:  # noqa: ANN401 - a MoveRequest
        self.got.append(request)
        return ""

    def history(self) -> tuple[()]:
        return ()


@dataclass
class _Served:
    """A controller's server, and who asks it."""

    port: int
    control: _Control
    callers: Path

    def ask(self, path: str, body: object = None, role: Role | None = "operator", **headers: str) -> tuple[int, str]:
        """The status and the text of an answer; a header that is given as "" is left out."""
        sent: dict[str, str] = headers_as(role) if role else {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        plain = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = {name: value for name, value in sent.items() if value}
            connection.request("GET" if body is None else "POST", path, plain, sent)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[_Served]:
    """One run's controller behind the door."""
    control = _Control()
    server = HttpServer(
        listen=listening(tmp_path),
        turns=Turns(SystemClock()),
        registry=CollectorRegistry(),
        status=dict,
        routes=AuthorityRoutes(cast("Any", {"gpt": control})).routes(),
    )
    server.start()
    yield _Served(server.port, control, tmp_path / "callers.json")
    server.close()


BODIES: dict[str, object] = {"/v1/grant": GRANT, "/v1/failover": FAILOVER, "/v1/ask": MOVE}
OWN = ("/metrics", "/status", "/v1/history?run=gpt", *BODIES)


@pytest.mark.parametrize("role", [None, *TOKENS])
def test_each_role_may_ask_for_its_own_and_nothing_else(served: _Served, role: Role | None) -> None:
    """On loopback too; whoever has no credential learns no more than whether the service is well."""
    for path in OWN:
        status, said = served.ask(path, BODIES.get(path), role)
        may = role in ROLES[path.partition("?")[0]]
        assert (status == 200) == may, f"{path} as {role}: {status} {said}"
        assert may or status == (403 if role else 401)
    assert served.ask("/healthz", role=role)[0] == 200
    assert ("stuck_s" in served.ask("/healthz", role=role)[1]) == (role is not None)
    assert served.ask("/v1/not-listed", {}, role)[0] == (404 if role == "operator" else 403 if role else 401)


@pytest.mark.parametrize("token", ["", "x" * 30, TOKENS["operator"][:-1], f"{TOKENS['operator']}x"])
def test_a_wrong_credential_is_none(served: _Served, token: str) -> None:
    """Also one that is nearly right."""
    assert served.ask("/v1/failover", FAILOVER, Authorization=f"Bearer {token}")[0] == 401
    assert served.ask("/v1/failover", FAILOVER, Authorization=f"Basic {TOKENS['operator']}")[0] == 401
    assert served.control.got == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:80"}, 421),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
    ],
    ids=str,
)
def test_a_page_in_a_browser_moves_nothing(served: _Served, headers: dict[str, str], status: int) -> None:
    """A cross-site POST made a controller take over; even with a stolen credential it does not now."""
    answered, said = served.ask("/v1/failover", FAILOVER, "operator", **cast("Any", headers))
    assert answered == status, said
    assert len(served.control.got) == (status == 200)


def test_the_actor_is_the_credentials_name_whatever_the_body_says(served: _Served) -> None:
    """The history had names in it that anybody could write there."""
    assert served.ask("/v1/failover", FAILOVER | {"actor": "the president"})[0] == 200
    assert served.ask("/v1/ask", MOVE | {"actor": "\\ud800"})[0] == 200
    assert [one.actor for one in served.control.got] == [NAMES["operator"]] * 2


def test_an_agent_asks_for_its_own_node_and_runs(served: _Served) -> None:
    """A stolen credential of one node says nothing about another's."""
    assert served.ask("/v1/grant", GRANT | {"node": "n1"}, "agent")[0] == 403
    assert served.ask("/v1/grant", GRANT | {"begins": True}, "agent")[0] == 200
    assert served.control.got == [("l", 5, NODE, True)]
    own = credentials.caller("n0-agent", "agent", TOKENS["agent"], NODE, ("other",))
    credentials.admit(served.callers, own)
    assert served.ask("/v1/grant", GRANT, "agent")[0] == 403


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        ("/v1/grant", {"committed_step": 2**62}, "committed_step"),
        ("/v1/grant", {"committed_step": STEP_MAX + 1}, "committed_step"),
        ("/v1/grant", {"committed_step": 10**30}, "committed_step"),
        ("/v1/grant", {"committed_step": -2}, "committed_step"),
        ("/v1/grant", {"launch": "../../epochs/1"}, "launch"),
        ("/v1/grant", {"launch": "l" * 129}, "launch"),
        ("/v1/failover", {"note": "x" * 1_001}, "note"),
        ("/v1/failover", {"note": "\x1b[2J"}, "note"),
        ("/v1/failover", {"key": ""}, "key"),
        ("/v1/failover", {"fenced_epoch": 2**62}, "fenced_epoch"),
        ("/v1/ask", {"at_ms": 10**30}, "at_ms"),
        ("/v1/ask", {"key": "../" * 5}, "key"),
    ],
    ids=str,
)
def test_numbers_and_names_are_bounded_where_they_arrive(
    served: _Served, path: str, change: dict[str, object], field: str
) -> None:
    """A committed step of 2^62 kept every later failover from happening."""
    body = cast("dict[str, object]", BODIES[path])
    status, said = served.ask(path, body | change, "agent" if path == "/v1/grant" else "operator")
    assert (status, field in said) == (400, True), said
    assert served.control.got == []


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udfff"', b"1" + b"0" * 30])
def test_a_lone_surrogate_or_a_huge_number_ends_nothing(served: _Served, text: bytes) -> None:
    """It reached the record's writer, and ended the controller."""
    body = json.dumps(FAILOVER | {"note": "@"}).encode().replace(b'"@"', text)
    assert served.ask("/v1/failover", body)[0] == 400
    assert served.ask("/status")[0] == 200
    assert served.control.got == []


def test_a_move_is_made_once_under_its_key(served: _Served) -> None:
    """A request whose answer was lost is sent again; another one under its key is refused."""
    first = served.ask("/v1/ask", MOVE)
    assert served.ask("/v1/ask", MOVE) == first
    assert len(served.control.got) == 1
    assert served.ask("/v1/ask", MOVE | {"kind": "resume"})[0] == 409
    assert served.ask("/v1/ask", MOVE | {"key": "n" * 16})[0] == 200
    assert len(served.control.got) == 2


def _open(served: _Served) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port))
    connection.settimeout(20)
    return connection


def _head(served: _Served, more: str) -> bytes:
    lines = ["POST /v1/ask HTTP/1.1", f"Host: 127.0.0.1:{served.port}", *map(": ".join, headers_as("operator").items())]
    return "\r\n".join([*lines, more, "", ""]).encode()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_body_is_refused_and_not_kept(served: _Served, *, chunked: bool) -> None:
    """600 MiB took 1.4 GB; now at most 1 MiB is read, whatever its length is said to be."""
    before = _resident_bytes()
    more = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {600 << 20}"
    piece = b"x" * (1 << 16)
    framed = f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if chunked else piece
    with _open(served) as connection:
        connection.sendall(_head(served, more))
        answer = threading.Thread(target=_pour, args=(connection, framed), daemon=True)
        answer.start()
        assert b" 413 " in connection.recv(1000)
    answer.join()
    assert _resident_bytes() - before < 64 << 20
    assert served.control.got == []


def _pour(connection: socket.socket, piece: bytes) -> None:
    try:
        for _ in range(2_000):
            connection.sendall(piece)
    except OSError:
        return  # the server has had enough


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGESIZE")


def test_half_sent_requests_hold_nobody_up_and_do_not_stay_open(
    served: _Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """900 of them stayed open for ever; now the oldest makes room for the next, and each has its time."""
    half = [_open(served) for _ in range(150)]
    try:
        for number, connection in enumerate(half):
            connection.sendall(_head(served, "Content-Length: 100")[: None if number % 2 else -4])
        wait_until(lambda: sum(not is_closed(one) for one in half) <= limits.CONNECTIONS_MAX, 20, "room is made")
        assert served.ask("/status")[0] == 200
        monkeypatch.setattr(limits, "REQUEST_S", 0.2)
        late = _open(served)
        half.append(late)
        late.sendall(b"POST /v1/ask HT")
        wait_until(lambda: is_closed(late), 20, "its time is over")
    finally:
        for connection in half:
            connection.close()


def test_an_idle_connection_may_ask_again(served: _Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus keeps its connection: the time counts from a request's first byte."""
    monkeypatch.setattr(limits, "REQUEST_S", 0.5)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    pause = threading.Event()
    for _ in range(3):
        connection.request("GET", "/metrics", headers=headers_as("viewer"))
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:1]) == (200, b"")
        pause.wait(0.4)
    connection.close()


def test_a_file_of_secrets_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """One clear line, with the mode and the remedy, and nothing of what is in it."""
    path = callers_file(tmp_path)
    for mode in (0o604, 0o640, 0o644):
        path.chmod(mode)
        with pytest.raises(MisconfiguredError, match=f"can be read by others .mode 0{mode:o}.: chmod 600"):
            Callers(path)
    path.chmod(0o600)
    Callers(path)
    with pytest.raises(MisconfiguredError, match="No such file"):
        read_secret(tmp_path / "none", "token file")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Invalid JSON"),
        ('{"callers": [{"name": "a", "role": "root", "token_sha256": "%s"}]}' % ("a" * 64), "callers.0.role"),
        ('{"callers": [{"name": "a\\u001b", "role": "viewer", "token_sha256": "%s"}]}' % ("a" * 64), "callers.0.name"),
        ('{"callers": [{"name": "a", "role": "agent", "token_sha256": "%s"}]}' % ("a" * 64), "an agent has a node"),
        ('{"callers": [{"name": "a", "role": "viewer", "token_sha256": "short"}]}', "callers.0.token_sha256"),
    ],
    ids=["json", "role", "name", "node", "digest"],
)
def test_a_callers_file_that_is_wrong_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    """It names the entry, and shows no digest."""
    path = callers_file(tmp_path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MisconfiguredError, match=why) as refused:
        Callers(path)
    assert "\n" not in str(refused.value)
    assert "a" * 64 not in str(refused.value)


def test_a_caller_is_let_in_and_locked_out_without_a_restart(served: _Served, tmp_path: Path) -> None:
    """By `farside token`; a file that cannot be used any more lets nobody in."""

    def token(*words: str) -> int:
        return CliRunner().invoke(app, ["token", *words, "--callers", str(served.callers)]).exit_code

    own = tmp_path / "bob.token"
    assert token("--name", "bob", "--role", "operator", "--to", str(own)) == 0
    assert own.stat().st_mode & 0o077 == 0
    bearer = f"Bearer {own.read_text(encoding='utf-8').strip()}"
    assert served.ask("/v1/failover", FAILOVER, Authorization=bearer)[0] == 200
    assert served.control.got[-1].actor == "bob"
    assert token("--name", "bob", "--remove") == 0
    assert token("--name", "bob", "--remove") == 1
    assert served.ask("/v1/failover", FAILOVER, Authorization=bearer)[0] == 401
    assert served.ask("/status")[0] == 200
    assert token("--name", "a node", "--to", str(own)) == 2
    served.callers.chmod(0o644)
    assert served.ask("/status")[0] == 503


def test_a_settings_file_that_others_could_have_written_is_refused(tmp_path: Path) -> None:
    """The current folder may be anybody's."""
    path = tmp_path / "farside.toml"
    path.write_text("", encoding="utf-8")
    path.chmod(0o644)
    refuse_writable(path, "settings file")
    path.chmod(0o664)
    with pytest.raises(MisconfiguredError, match="can be written by others"):
        refuse_writable(path, "settings file")
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(MisconfiguredError, match="can be written by others"):
        refuse_writable(path, "settings file")
    tmp_path.chmod(0o700)


def test_settings_of_the_current_folder_are_named_and_must_be_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is typed in the wrong folder would move another fleet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FARSIDE_CONFIG", raising=False)
    path = tmp_path / "farside.toml"
    path.write_text("profile = 1\n", encoding="utf-8")
    path.chmod(0o644)
    done = CliRunner().invoke(app, ["status"])
    assert "farside: settings from ./farside.toml, in the current folder" in done.stderr
    path.chmod(0o666)
    done = CliRunner().invoke(app, ["status"])
    assert (done.exit_code, "can be written by others (mode 0666)" in done.stderr) == (2, True)
