"""The controller's own routes: grants for agents, and the requests of operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipelines.core.failover_decision import Decision
from pipelines.flows.authority.planned_moves import KINDS, MoveRequest
from pipelines.flows.authority.run_watch import RunWatch
from pipelines.ports import GrantReply
from schemas.http_bodies import (
    AcknowledgeAnswer,
    AcknowledgeBody,
    FailoverAnswer,
    FailoverBody,
    GrantBody,
    HistoryAnswer,
    MoveAnswer,
    MoveBody,
    PreviewAnswer,
)
from schemas.records import Lease
from services.http.server import answer_of, body_of


class Authority(Protocol):
    """The part of a run's controller that is reached by HTTP."""

    def grant(self, launch: str, committed_step: int) -> GrantReply:
        """A launch's standing: granted, wait or superseded."""

    def ask_takeover(self, actor: str, note: str = "", *, fenced: bool = False) -> None:
        """Note that a person wants this region to take the run over."""

    def preview(self) -> Decision:
        """The decision that a person's failover would meet now; nothing is done."""

    def ask(self, body: MoveRequest) -> str:
        """Note a person's request to the holder; why it is refused, or "" if it is not."""

    @property
    def watch(self) -> RunWatch:
        """Everything that is wrong with the run, and the alarms about it."""

    def history(self) -> tuple[Lease, ...]:
        """Every noted change of authority; the errors of `LeaseStore.noted`."""


class AuthorityRoutes:
    """The routes of one region's runs."""

    def __init__(self, controls: Mapping[str, Authority]) -> None:
        self._controls = controls

    def routes(self) -> list[Route]:
        """The routes for the service's server."""
        return [
            Route("/v1/grant", self._grant, methods=["POST"]),
            Route("/v1/failover", self._failover, methods=["POST"]),
            Route("/v1/preview", self._preview),
            Route("/v1/ask", self._ask, methods=["POST"]),
            Route("/v1/history", self._history),
            Route("/v1/alarm", self._acknowledge, methods=["POST"]),
        ]

    def _of(self, run: str) -> Authority:
        if run not in self._controls:
            raise HTTPException(404, f"run {run!r} is not served here")
        return self._controls[run]

    async def _grant(self, request: Request) -> Response:
        body = await body_of(request, GrantBody)
        return answer_of(self._of(body.run).grant(body.launch, body.committed_step))

    async def _failover(self, request: Request) -> Response:
        body = await body_of(request, FailoverBody)
        self._of(body.run).ask_takeover(body.actor, body.note, fenced=body.fenced)
        return answer_of(FailoverAnswer(asked=True))

    def _preview(self, request: Request) -> Response:
        decision = self._of(request.query_params.get("run", "")).preview()
        gates = tuple(gate.status() for gate in decision.gates)
        return answer_of(PreviewAnswer(action=decision.action.value, reason=decision.reason.value, gates=gates))

    async def _ask(self, request: Request) -> Response:
        body = await body_of(request, MoveBody)
        if body.kind not in KINDS:
            raise HTTPException(400, f"kind: one of {', '.join(KINDS)}")
        move = MoveRequest(body.kind, body.actor, body.note, body.target, body.at_ms)
        return answer_of(MoveAnswer(refused=self._of(body.run).ask(move)))

    def _history(self, request: Request) -> Response:
        records = self._of(request.query_params.get("run", "")).history()
        return answer_of(HistoryAnswer(records=records))

    async def _acknowledge(self, request: Request) -> Response:
        body = await body_of(request, AcknowledgeBody)
        known = any(control.watch.acknowledge(body.alarm, body.actor) for control in self._controls.values())
        return answer_of(AcknowledgeAnswer(state="done" if known else "unknown"))
