"""Mutated requests to a controller's and a replicator's HTTP: an answer below 500, or 503, and one that has words."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from starlette.applications import Starlette
from starlette.routing import Route

from pipelines.core.failover_decision import Action, Decision, Reason
from pipelines.flows.authority.takeover_requests import TakeoverRequest
from pipelines.ports import GrantReply
from schemas.codec import Codec
from schemas.http_bodies import (
    AcknowledgeAnswer,
    AcknowledgeBody,
    FailoverAnswer,
    FailoverBody,
    GrantBody,
    MoveBody,
    RedriveAnswer,
    RedriveBody,
    ReplayAnswer,
    ReplayBody,
)
from schemas.records import Lease
from services.http.authority_routes import STEP_MAX, AuthorityRoutes
from services.http.bodies import to_json
from services.http.callers import Callers
from services.http.door import ROLES
from services.http.server import application
from services.replicator import acknowledging, redriving, replaying
from tests.callers import NAMES, NODE, TOKENS, callers_file
from tests.fuzz.lease_target import lease_of
from tests.fuzz.mutations import NASTY, mutated

BODIES = {
    "/v1/grant": GrantBody(run="gpt", launch="l", committed_step=4, node="n0"),
    "/v1/failover": FailoverBody(run="gpt", note="", key="k" * 16, epoch=1, fenced=False),
    "/v1/ask": MoveBody(run="gpt", kind="pause", note="n", target="west", at_ms=5, key="k" * 16),
    "/v1/replay": ReplayBody(
        peer="east", lane="metrics", replay_id="r", cluster="c", topic_id="t", partition=0, offsets=(1, 2, 3)
    ),
    "/v1/redrive": RedriveBody(peer="east", lane="metrics", ask_id="a", partition=0, offset=3, force=False),
    "/v1/alarm": AcknowledgeBody(peer="east", lane="metrics", alarm="abc"),
}
_FOLDER = TemporaryDirectory()
LANE_PATHS = frozenset({"/v1/replay", "/v1/redrive", "/v1/alarm"})  # the last one a controller has too


class _Watch:
    """A run's findings: there are none."""

    def acknowledge(self, alarm: str, actor: str) -> bool:
        """Not known."""
        assert isinstance(alarm + actor, str)
        return False


class _Run:
    """A run's controller and a lane's flow: takes what it is given down to the record that it would write."""

    def __init__(self) -> None:
        self.lane_alarms = self
        self.watch = _Watch()

    def grant(self, launch: str, committed_step: int, *, node: str, begins: bool) -> GrantReply:
        """As the controller: what is asked ends up in the lease record."""
        Codec().encode(cast("Any", lease_of(launch or "gpt", 1)))
        assert -1 <= committed_step <= STEP_MAX, "it would block every later failover"
        assert (node, type(begins)) == (NODE, bool), "an agent asks for its own node"
        return GrantReply("wait", reason=launch)

    def ask_takeover(self, request: TakeoverRequest) -> FailoverAnswer:
        """Taken down, in the name of the credential."""
        assert request.actor == NAMES["operator"]
        return FailoverAnswer(state="waits", why=request.note)

    def preview(self) -> Decision:
        """Nothing would be done."""
        return Decision(Action.WAIT, Reason.EPOCHS_UNKNOWN)

    def ask(self, body: Any) -> str:  # noqa: ANN401 - a MoveRequest
        """Refused in words."""
        return f"not now: {body.kind}"

    def history(self) -> tuple[Lease, ...]:
        """One record."""
        return (lease_of("gpt", 2),)

    def replay(self, places: object) -> ReplayAnswer:
        """Taken down."""
        return ReplayAnswer(state="waits", why=type(places).__name__)

    def redrive(self, request: object) -> RedriveAnswer:
        """Taken down."""
        return RedriveAnswer(state="waits", why=type(request).__name__)

    def acknowledge(self, alarm: str, actor: str) -> AcknowledgeAnswer:
        """Taken down."""
        return AcknowledgeAnswer(state=f"unknown {alarm} {actor}"[:20])


@cache
def _application(*, is_controller: bool) -> Starlette:
    run = cast("Any", _Run())
    flows = {"east/metrics": run}
    handlers = {"replay": replaying(flows), "redrive": redriving(flows), "alarm": acknowledging(flows)}
    own = [Route(f"/v1/{name}", handler, methods=["POST"]) for name, handler in handlers.items()]
    callers = Callers(callers_file(Path(_FOLDER.name)))
    return application(AuthorityRoutes({"gpt": run}).routes() if is_controller else own, callers)


def bodies(generator: random.Random, _folder: Path) -> None:
    """A request that was damaged or made up: never an answer 500, never an error that leaves the server."""
    path = generator.choice([*BODIES, "/v1/preview", "/v1/history"])
    body, query = b"", b""
    if path in BODIES:
        body = to_json(BODIES[path])
        if generator.random() < 0.5:
            plain = json.loads(body)
            plain[generator.choice(list(plain))] = generator.choice(NASTY)
            body = json.dumps(plain).encode()
        if generator.random() < 0.6:
            body = mutated(generator, body)
    else:
        query = mutated(generator, b"run=gpt")
    app = _application(is_controller=path not in LANE_PATHS or (path == "/v1/alarm" and generator.random() < 0.5))
    headers = _headers(generator)
    status, said = asyncio.run(_asked(app, path, query, body, generator.choice((1, 7, 10**9)), headers))
    assert status < 500 or status == 503, f"{path} {status}: {said!r}"
    assert said, f"{path} {status} without a word"
    if b"origin" in headers or _role_in(headers) not in ROLES[path]:
        assert status in {401, 403, 421}, f"{path} with {headers} was answered {status}"


def _headers(generator: random.Random) -> dict[bytes, bytes]:
    """The headers of a request by somebody with a name, sometimes one of them damaged, forged or a browser's."""
    token = TOKENS[generator.choice(sorted(TOKENS))].encode()
    headers = {b"host": b"127.0.0.1:1", b"content-type": b"application/json", b"authorization": b"Bearer " + token}
    if generator.random() < 0.3:
        name = generator.choice([*headers, b"origin"])
        forged = generator.choice((b"", b"http://elsewhere.example", b"text/plain"))
        headers[name] = forged if generator.random() < 0.5 else mutated(generator, headers.get(name, forged))[:500]
    return headers


def _role_in(headers: Mapping[bytes, bytes]) -> str:
    """The role that a request's credential has; "" if it is nobody's."""
    token = headers[b"authorization"].partition(b" ")[2].strip()
    return next((role for role, known in TOKENS.items() if known.encode() == token), "")


async def _asked(
    app: Starlette, path: str, query: bytes, body: bytes, piece_bytes: int, headers: Mapping[bytes, bytes]
) -> tuple[int, bytes]:
    """One request to the application, its body in pieces; the answer's status and body."""
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)][:200]
    pieces = [*pieces, body[sum(map(len, pieces)) :]]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI's
        sent.append(message)

    scope = {"type": "http", "method": "POST" if path in BODIES else "GET", "path": path, "query_string": query}
    more = {
        "headers": list(headers.items()),
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "server": ("x", 1),
    }
    await app(scope | more, cast("Any", receive), cast("Any", send))
    said = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return int(next(message["status"] for message in sent if message["type"] == "http.response.start")), said
