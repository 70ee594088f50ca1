"""The HTTP server of every service: /healthz, /metrics and /status; a service may add its own routes.

prometheus-client's own server answers 200 to any path, so health is served here (503 when a flow stands still). Who may
ask for what is decided in `door.py`, how much a stranger can hold in `limits.py`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from pipelines.errors import CorruptError, FarsideError, MisconfiguredError
from pipelines.ports import Clock
from schemas.codec import DecodeError
from services.http.bodies import BodyError, request_from_json, to_json
from services.http.callers import Callers
from services.http.door import HEALTH, Door, is_known
from services.http.limits import (
    BODY_BYTES_MAX,
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    KEPT_S,
    BoundedSocket,
    PunctualLoop,
    PunctualProtocol,
)
from services.http.tls import ServerTls
from services.settings import HOST

STUCK_S = 30.0
START_S = 10.0
END_S = 3
BACKLOG = 128
TLS_LOOK_S = 5.0
T = TypeVar("T")


async def body_of(request: Request, kind: type[T]) -> T:
    """The request's body as the record of this kind; HTTPException 400 says which field is missing or wrong."""
    try:
        return request_from_json(kind, await request.body())
    except BodyError as error:
        raise HTTPException(400, str(error)) from error


def answer_of(record: object) -> Response:
    """A record, or a dictionary of records, as the answer to a request."""
    return Response(to_json(record), media_type="application/json")


def application(routes: Sequence[BaseRoute], callers: Callers, names: Sequence[str] = ()) -> Starlette:
    """The routes behind the door; an error of our tree in one is its answer, with a status that says whose it is."""

    def answered(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _request, error: PlainTextResponse(str(error), status)

    # What was asked for is wrong; or a dependency of ours cannot be asked now.
    statuses = {CorruptError: 400, DecodeError: 503, FarsideError: 503}
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Door, callers=callers, names=names),
            Middleware(RequestBodyLimitMiddleware, max_body_size=BODY_BYTES_MAX),
        ],
        exception_handlers={kind: answered(code) for kind, code in statuses.items()},
    )


@dataclass(slots=True)
class Turns:
    """When each flow turned last, on the service's clock."""

    clock: Clock
    at_s: dict[str, float] = field(default_factory=dict)

    def stuck(self) -> dict[str, float]:
        """The flows that have not turned for too long, with their ages."""
        now_s = self.clock.boottime_s()
        return {name: now_s - at_s for name, at_s in list(self.at_s.items()) if now_s - at_s > STUCK_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where a service is asked, by whom, and how.

    Attributes:
        port: 0: any free one.
        callers: who may ask.
        host: the address to listen on.
        names: by which the service is asked, beside plain addresses and localhost.
        tls: its certificate; None: no TLS, which is for loopback alone.
    """

    port: int
    callers: Callers
    host: str = HOST
    names: tuple[str, ...] = ()
    tls: ServerTls | None = None


class HttpServer:
    """Serves on a thread of its own until `close`.

    Args:
        listen: where, and who may ask.
        turns: when each flow turned last, for `/healthz`.
        registry: the collectors behind `/metrics`.
        status: the record, or the dictionary of records, that `/status` answers.
        routes: further paths.
        complain: is told when a renewed certificate cannot be used, once for each reason.
    """

    def __init__(
        self,
        *,
        listen: Listen,
        turns: Turns,
        registry: CollectorRegistry,
        status: Callable[[], object],
        routes: Sequence[BaseRoute] = (),
        complain: Callable[[str], None] = lambda _why: None,
    ) -> None:
        def healthz(request: Request) -> Response:
            stuck = turns.stuck()
            told = {"ok": not stuck} | ({"stuck_s": stuck} if is_known(request) else {})
            return JSONResponse(told, status_code=503 if stuck else 200)

        def metrics(_: Request) -> Response:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

        def answer_status(_: Request) -> Response:
            return answer_of(status())

        own = [Route(HEALTH, healthz), Route("/metrics", metrics), Route("/status", answer_status)]
        tls = listen.tls
        config = uvicorn.Config(
            application([*own, *routes], listen.callers, listen.names),
            http=PunctualProtocol,
            ws="none",
            log_config=None,
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX + 1,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            timeout_keep_alive=KEPT_S,
            timeout_graceful_shutdown=END_S,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="ops", daemon=True)
        self._listen, self._complain = listen, complain
        self._socket = BoundedSocket(_family(listen.host), socket.SOCK_STREAM)
        self._ended = threading.Event()

    def start(self) -> None:
        """Serve; MisconfiguredError if the address cannot be listened on."""
        where = self._listen
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((where.host, where.port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise MisconfiguredError(f"cannot serve on {where.host}:{where.port}: {error.strerror}") from None
        self._thread.start()
        pause = threading.Event()
        for _ in range(int(START_S / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            pause.wait(0.02)
        if not self._server.started:
            raise MisconfiguredError(f"cannot serve on {where.host}:{where.port}: the server does not start")
        if where.tls is not None:
            threading.Thread(target=self._renew, args=(where.tls,), name="tls", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it serves, also if any free port was asked for."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Stop serving."""
        self._ended.set()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(START_S)
        self._socket.close()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=PunctualLoop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    def _renew(self, tls: ServerTls) -> None:
        told = ""
        while not self._ended.wait(TLS_LOOK_S):
            try:
                tls.renew()
                told = ""
            except MisconfiguredError as error:
                if str(error) != told:
                    told = str(error)
                    self._complain(told)


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET  # noqa: PLR2004 - IPv6
    except ValueError:
        return socket.AF_INET
