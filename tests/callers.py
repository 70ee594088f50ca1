"""Callers for tests: one of each role, with tokens that stand here, and the headers with which each asks."""

from __future__ import annotations

import socket
from pathlib import Path

from services.adapters.http.sending import HttpClient
from services.adapters.tokens import digest_of
from services.http.callers import Caller, Callers, Role, text_of
from services.http.endpoints import endpoint_of
from services.http.server import Listen
from services.settings import Settings

NODE = "n0"
TOKENS: dict[Role, str] = {role: f"a-token-for-the-{role}-of-tests" for role in ("viewer", "agent", "operator")}
NAMES: dict[Role, str] = {"viewer": "vic", "agent": "n0-agent", "operator": "ann"}


def headers_as(role: Role) -> dict[str, str]:
    """The headers of a request by the caller of this role."""
    return {"Authorization": f"Bearer {TOKENS[role]}", "Content-Type": "application/json"}


def callers_file(folder: Path) -> Path:
    """A file with one caller of each role."""
    path = folder / "callers.json"
    path.touch(mode=0o600)
    path.write_text(
        text_of(
            tuple(
                Caller(name=NAMES[role], role=role, token_sha256=digest_of(token), node=NODE if role == "agent" else "")
                for role, token in TOKENS.items()
            )
        ),
        encoding="utf-8",
    )
    return path


def listening(folder: Path, port: int = 0) -> Listen:
    """On loopback, for these callers."""
    return Listen(port=port, callers=Callers(callers_file(folder)))


def token_file(folder: Path, role: Role) -> Path:
    """A file with the token of the caller of this role."""
    path = folder / f"{role}.token"
    path.touch(mode=0o600)
    path.write_text(TOKENS[role], encoding="utf-8")
    return path


def scraped(settings: Settings, service: str, region: str) -> str:
    """The metrics of a running service, as whoever may look at them."""
    at = endpoint_of(settings, service, region)
    return HttpClient(at.url, timeout_s=10.0, answer_bytes_max=64 << 20).get("/metrics", at.headers()).body.decode()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection; from now on it does not block."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
