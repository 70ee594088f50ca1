"""What every service serves on loopback: /healthz, /metrics and /status; the controller adds its own routes.

prometheus-client's own server answers 200 to any path, so health is served here (503 when a flow stands still).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pipelines.errors import MisconfiguredError
from pipelines.ports import Clock
from services.settings import HOST

STUCK_S = 30.0
START_S = 10.0


async def asked(request: Request, **wanted: type) -> dict[str, Any]:
    """The request's JSON object with the wanted fields; HTTPException 400 says which one is missing or wrong."""
    try:
        body = await request.json()
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
    for name, kind in wanted.items():
        if not isinstance(body, dict) or not isinstance(body.get(name), kind):
            raise HTTPException(400, f"{name}: a {kind.__name__} is wanted; send {', '.join(wanted)} as JSON")
    return dict(body)


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
    """Serves on a thread of its own until `close`."""

    def __init__(
        self,
        *,
        port: int,
        turns: Turns,
        registry: CollectorRegistry,
        status: Callable[[], Mapping[str, object]],
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        def healthz(_: Request) -> Response:
            stuck = turns.stuck()
            return JSONResponse({"ok": not stuck, "stuck_s": stuck}, status_code=503 if stuck else 200)

        def metrics(_: Request) -> Response:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

        def tell(_: Request) -> Response:
            return JSONResponse(dict(status()))

        own = [Route("/healthz", healthz), Route("/metrics", metrics), Route("/status", tell)]
        config = uvicorn.Config(
            Starlette(routes=[*own, *routes]), host=HOST, port=port, log_config=None, lifespan="off", access_log=False
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
