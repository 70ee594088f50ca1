"""The HTTP server of every service, on loopback: /healthz, /metrics and /status; a service may add its own routes.

prometheus-client's own server answers 200 to any path, so health is served here (503 when a flow stands still).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from pipelines.errors import CorruptError, FarsideError, MisconfiguredError
from pipelines.ports import Clock
from schemas.codec import DecodeError
from services.http.bodies import BodyError, from_json, to_json
from services.settings import HOST

STUCK_S = 30.0
START_S = 10.0
BODY_BYTES_MAX = 16 << 20  # a replay's list of offsets is the longest
T = TypeVar("T")


async def body_of(request: Request, kind: type[T]) -> T:
    """The request's body as the record of this kind; HTTPException 400 says which field is missing or wrong."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise HTTPException(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
    try:
        return from_json(kind, bytes(body))
    except BodyError as error:
        raise HTTPException(400, str(error)) from error


def answer_of(record: object) -> Response:
    """A record, or a dictionary of records, as the answer to a request."""
    return Response(to_json(record), media_type="application/json")


def application(routes: Sequence[BaseRoute]) -> Starlette:
    """The routes; an error of our tree in one is its answer, with a status that says whose it is."""

    def answered(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _request, error: PlainTextResponse(str(error), status)

    # What was asked for is wrong; or a dependency of ours cannot be asked now.
    statuses = {CorruptError: 400, DecodeError: 503, FarsideError: 503}
    return Starlette(routes=routes, exception_handlers={kind: answered(code) for kind, code in statuses.items()})


@dataclass(slots=True)
class Turns:
    """When each flow turned last, on the service's clock."""

    clock: Clock
    at_s: dict[str, float] = field(default_factory=dict)

    def stuck(self) -> dict[str, float]:
        """The flows that have not turned for too long, with their ages."""
        now_s = self.clock.boottime_s()
        return {name: now_s - at_s for name, at_s in list(self.at_s.items()) if now_s - at_s > STUCK_S}


class HttpServer:
    """Serves on a thread of its own until `close`.

    Args:
        port: of loopback.
        turns: when each flow turned last, for `/healthz`.
        registry: the collectors behind `/metrics`.
        status: the record, or the dictionary of records, that `/status` answers.
        routes: further paths.
    """

    def __init__(
        self,
        *,
        port: int,
        turns: Turns,
        registry: CollectorRegistry,
        status: Callable[[], object],
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        def healthz(_: Request) -> Response:
            stuck = turns.stuck()
            return JSONResponse({"ok": not stuck, "stuck_s": stuck}, status_code=503 if stuck else 200)

        def metrics(_: Request) -> Response:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

        def answer_status(_: Request) -> Response:
            return answer_of(status())

        own = [Route("/healthz", healthz), Route("/metrics", metrics), Route("/status", answer_status)]
        config = uvicorn.Config(
            application([*own, *routes]), host=HOST, port=port, log_config=None, lifespan="off", access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="ops", daemon=True)
        self._port = port

    def start(self) -> None:
        """Serve; MisconfiguredError if the port is taken."""
        self._thread.start()
        pause = threading.Event()
        for _ in range(int(START_S / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            pause.wait(0.02)
        if not self._server.started:
            raise MisconfiguredError(f"cannot serve on {HOST}:{self._port}: is the port taken?")

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(START_S)
