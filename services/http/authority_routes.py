"""What the controller answers beside its health: grants for agents, and what operators ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.core.failover_decision import Decision
from pipelines.errors import RetryableError
from pipelines.flows.authority.planned_moves import KINDS, MoveRequest
from pipelines.ports import GrantReply
from schemas.records import Lease
from services.http.server import asked


class Authority(Protocol):
    """What is asked of a run's controller."""

    def grant(self, launch: str, committed_step: int) -> GrantReply:
        """The standing of a launch."""

    def ask_takeover(self, actor: str, note: str = "", *, fenced: bool = False) -> None:
        """A person wants this region to take over."""

    def preview(self) -> Decision:
        """What that would meet now."""

    def ask(self, body: MoveRequest) -> str:
        """A person asks the holder; why it cannot be, or ""."""

    def history(self) -> tuple[Lease, ...]:
        """Every noted change of authority."""


class AuthorityRoutes:
    """One region's runs."""

    def __init__(self, controls: Mapping[str, Authority]) -> None:
        self._controls = controls

    def routes(self) -> list[Route]:
        """For the service's server."""
        return [
            Route("/v1/grant", self._grant, methods=["POST"]),
            Route("/v1/failover", self._failover, methods=["POST"]),
            Route("/v1/preview", self._preview),
            Route("/v1/ask", self._ask, methods=["POST"]),
            Route("/v1/history", self._history),
        ]

    def _of(self, run: str) -> Authority:
        if run not in self._controls:
            raise HTTPException(404, f"run {run!r} is not served here")
        return self._controls[run]

    async def _grant(self, request: Request) -> Response:
        body = await asked(request, run=str, launch=str, committed_step=int)
        reply = self._of(body["run"]).grant(body["launch"], body["committed_step"])
        return JSONResponse(dataclasses.asdict(reply))

    async def _failover(self, request: Request) -> Response:
        body = await asked(request, run=str, actor=str, note=str, fenced=bool)
        self._of(body["run"]).ask_takeover(body["actor"], body["note"], fenced=body["fenced"])
        return JSONResponse({"asked": True})

    def _preview(self, request: Request) -> Response:
        decision = self._of(request.query_params.get("run", "")).preview()
        gates = [gate.plain() for gate in decision.gates]
        return JSONResponse({"action": decision.action.value, "reason": decision.reason.value, "gates": gates})

    async def _ask(self, request: Request) -> Response:
        body = await asked(request, run=str, kind=str, actor=str, note=str, target=str, at_ms=int)
        if body["kind"] not in KINDS:
            raise HTTPException(400, f"kind: one of {', '.join(KINDS)}")
        refused = self._of(body["run"]).ask(
            MoveRequest(body["kind"], body["actor"], body["note"], body["target"], body["at_ms"])
        )
        return JSONResponse({"refused": refused})

    def _history(self, request: Request) -> Response:
        try:
            records = self._of(request.query_params.get("run", "")).history()
        except RetryableError as error:
            raise HTTPException(503, str(error)) from error
        return JSONResponse({"records": [dataclasses.asdict(lease) for lease in records]})
