"""Who is let in, before anything of a request is believed or its body is read.

Every path asks for a credential, on loopback too: there, any program of the machine and any page in a browser could
send a request. One table says which role may ask for what; a path that is not in it is the operators'. A browser sends
`Origin` with every cross-site request, and a name that was made to point at us (DNS rebinding) stands in `Host`: no
page is ours, so the first is refused, and so is every `Host` but our own names and plain addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.errors import MisconfiguredError
from services.http.bodies import JSON
from services.http.callers import Caller, Callers, Role

HEALTH = "/healthz"  # for whoever watches the process; it tells a stranger no more than well or not
_LOOK: frozenset[Role] = frozenset({"viewer", "operator"})
_MOVE: frozenset[Role] = frozenset({"operator"})
_WORK: frozenset[Role] = frozenset({"agent"})
ROLES: Mapping[str, frozenset[Role]] = {
    "/metrics": _LOOK,
    "/status": _LOOK,
    "/v1/preview": _LOOK,
    "/v1/history": _LOOK,
    "/v1/grant": _WORK,
    "/v1/failover": _MOVE,
    "/v1/ask": _MOVE,
    "/v1/alarm": _MOVE,
    "/v1/replay": _MOVE,
    "/v1/redrive": _MOVE,
}
LOOPBACK_NAMES = frozenset({"localhost"})


class Door:
    """An ASGI application around another one.

    Args:
        app: answers whoever is let in.
        callers: who may ask; the one who does stands in the request's scope.
        names: by which this service is asked, beside plain addresses.
    """

    def __init__(self, app: ASGIApp, callers: Callers, names: Collection[str]) -> None:
        self._app, self._callers = app, callers
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or let the application answer."""
        if scope["type"] != "http":
            return  # there is no websocket here
        refused = self._refusal(scope)
        await (self._app if refused is None else refused)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in; None if it is."""
        headers = Headers(scope=scope)
        host = _host_in(headers)
        if host not in self._names and not _is_address(host):
            return _no(421, "Host: this service does not go by that name (setting api.addresses)")
        if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
            return _no(403, "a page in a browser is not answered")
        try:
            scope["caller"] = self._caller(headers)
        except MisconfiguredError as error:
            return _no(503, str(error))
        return None if scope["path"] == HEALTH else _forbidden(scope, headers)

    def _caller(self, headers: Headers) -> Caller | None:
        kind, _, token = headers.get("authorization", "").partition(" ")
        return self._callers.caller_of(token.strip()) if kind.lower() == "bearer" else None


def _forbidden(scope: Scope, headers: Headers) -> Response | None:
    """The answer to a caller who may not do this; None to one who may."""
    caller, path = scope["caller"], str(scope["path"])
    if caller is None:
        return _no(401, "no valid credential: send `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"})
    roles = ROLES.get(path, _MOVE)
    if caller.role not in roles:
        return _no(403, f"{caller.name} is {_a(caller.role)}: {path} is for {' or '.join(sorted(map(_a, roles)))}")
    if scope["method"] == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        return _no(415, f"Content-Type: {JSON} is wanted")
    return None


def caller_of(request: Request) -> Caller:
    """Who asks; the door let nobody pass without a name."""
    caller: Caller = request.scope["caller"]
    return caller


def is_known(request: Request) -> bool:
    """Whether somebody with a name asks, where strangers may ask too."""
    return request.scope.get("caller") is not None


def _host_in(headers: Headers) -> str:
    """The name in `Host`, without a port and brackets, in lower case."""
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return ""
    host = hosts[0].strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _a(role: str) -> str:
    return f"an {role}" if role[0] in "ao" else f"a {role}"


def _no(status: int, why: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(why, status, headers)
