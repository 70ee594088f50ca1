"""The controller's own routes: grants for agents, and the requests of operators.

The actor of whatever is done is the name of the credential that asks. An agent asks for its own node and runs only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipelines.core.failover_decision import Decision
from pipelines.core.remembering import forget_oldest
from pipelines.flows.authority.planned_moves import KINDS, MoveRequest
from pipelines.flows.authority.run_watch import RunWatch
from pipelines.flows.authority.takeover_requests import TakeoverRequest
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
from services.http.door import caller_of
from services.http.server import answer_of, body_of

STEP_MAX = 10**12
ANSWERS_MAX = 1_000  # to moves, remembered for whoever asks again
_LAUNCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # as the client makes them: it becomes a part of a key
_KEY = re.compile(r"[A-Za-z0-9_-]{8,128}")


class Authority(Protocol):
    """The part of a run's controller that is reached by HTTP."""

    def grant(self, launch: str, committed_step: int, *, node: str, begins: bool) -> GrantReply:
        """A launch's standing: granted, wait or superseded."""

    def ask_takeover(self, request: TakeoverRequest) -> FailoverAnswer:
        """Note that a person wants this region to take the run over, or say what has become of that."""

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
        self._answered: dict[str, tuple[object, MoveAnswer]] = {}  # by key: the request, and its answer

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
        body, agent = await body_of(request, GrantBody), caller_of(request)
        if not agent.may_ask_for(body.run, body.node):
            raise HTTPException(403, f"{agent.name} may not ask for run {body.run!r} on node {body.node!r}")
        if body.committed_step > STEP_MAX:
            raise HTTPException(400, f"committed_step: at most {STEP_MAX} is wanted")
        if not _LAUNCH.fullmatch(body.launch):
            raise HTTPException(400, "launch: 1 to 128 letters, digits, '.', '_' and '-' are wanted")
        control = self._of(body.run)
        return answer_of(control.grant(body.launch, body.committed_step, node=body.node, begins=body.begins))

    async def _failover(self, request: Request) -> Response:
        body = await body_of(request, FailoverBody)
        asked = TakeoverRequest(
            key=_checked_key(body.key),
            actor=caller_of(request).name,
            note=body.note,
            epoch=body.epoch,
            fenced=body.fenced,
            fenced_epoch=body.fenced_epoch,
        )
        return answer_of(self._of(body.run).ask_takeover(asked))

    def _preview(self, request: Request) -> Response:
        decision = self._of(request.query_params.get("run", "")).preview()
        gates = tuple(gate.status() for gate in decision.gates)
        return answer_of(PreviewAnswer(action=decision.action.value, reason=decision.reason.value, gates=gates))

    async def _ask(self, request: Request) -> Response:
        body, actor = await body_of(request, MoveBody), caller_of(request).name
        if body.kind not in KINDS:
            raise HTTPException(400, f"kind: one of {', '.join(KINDS)}")
        key, control = f"{body.run}/{_checked_key(body.key)}", self._of(body.run)
        known = self._answered.get(key)
        if known is not None and known[0] != (actor, body):
            raise HTTPException(409, "key: it was used for another request")
        if known is None:
            move = MoveRequest(body.kind, actor, body.note, body.target, body.at_ms)
            known = (actor, body), MoveAnswer(refused=control.ask(move))
            self._answered[key] = known
            forget_oldest(self._answered, ANSWERS_MAX)
        return answer_of(known[1])

    def _history(self, request: Request) -> Response:
        records = self._of(request.query_params.get("run", "")).history()
        return answer_of(HistoryAnswer(records=records))

    async def _acknowledge(self, request: Request) -> Response:
        body, actor = await body_of(request, AcknowledgeBody), caller_of(request).name
        known = any(control.watch.acknowledge(body.alarm, actor) for control in self._controls.values())
        return answer_of(AcknowledgeAnswer(state="done" if known else "unknown"))


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise HTTPException(400, "key: 8 to 128 letters, digits, '_' and '-' are wanted")
    return key
