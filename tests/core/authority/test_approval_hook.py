"""The before-hook: an objection holds a move back, silence does not, and a person's failover does not ask."""

from __future__ import annotations

import dataclasses
import http.server
import threading
from collections.abc import Iterator

import pytest

from pipelines.core import lease as core
from pipelines.core.failover_decision import Action, Decision, Reason
from pipelines.core.lease import Author, Belief, Held
from pipelines.core.lease_profiles import FAST
from pipelines.errors import RetryableError
from pipelines.flows.authority.approval_hook import HOLDS_S, ApprovalHook
from pipelines.ports import Poster
from services.adapters.http.poster import HttpPoster
from services.adapters.system_clock import SystemClock
from tests.manual_clock import ManualClock

LEASE = core.first("gpt", Author("east", "e1", "w0", "created", "controller", 0), FAST)
WEST = core.was_read(Belief(region="west", incarnation="w1"), Held(LEASE, "etag"), 0.0)
LOST = Decision(Action.TAKE_OVER, Reason.REGION_LOST)


class _Outside(ManualClock):
    """Somebody who is asked: what they answer, and what they were asked."""

    def __init__(self, answer: str | None, poster: Poster | None = None) -> None:
        super().__init__(100.0)
        self.answer, self.keys = answer, list[str]()
        self.hook = ApprovalHook(poster=poster or self, timeout_s=3.0, clock=self, journal=self)

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal: nobody reads it."""

    def post(self, key: str, body: bytes) -> None:
        """Implements Poster."""
        self.judge(key, body)

    def judge(self, key: str, body: bytes) -> str:
        """Implements Poster."""
        assert b'"holder": "east"' in body
        self.keys.append(key)
        if self.answer is None:
            raise RetryableError("no answer")
        return self.answer

    def weighed(self, decision: Decision = LOST) -> Reason:
        """The reason of a decision after the hook weighed it."""
        return self.hook.weigh(decision, WEST).reason


def test_a_move_waits_for_the_answer_and_then_happens() -> None:
    """The first look asks; without an objection the decision is as it was."""
    outside = _Outside("")
    assert outside.weighed() is Reason.HOOK_ASKED
    outside.hook.turn()
    assert (outside.weighed(), outside.keys) == (Reason.REGION_LOST, ["gpt/2/take_over"])
    outside.hook.turn()
    assert len(outside.keys) == 1, "one question, one answer"


def test_an_objection_holds_until_it_is_asked_again() -> None:
    """A veto is no gate for ever: the same question is put again later."""
    outside = _Outside("maintenance of west")
    outside.weighed()
    outside.hook.turn()
    assert outside.weighed() is Reason.VETOED
    assert outside.hook.why == "maintenance of west"
    assert outside.hook.weigh(LOST, WEST).closed[-1].name == "before_hook"
    outside.answer = ""
    outside.now_s += HOLDS_S
    assert outside.weighed() is Reason.HOOK_ASKED
    outside.hook.turn()
    assert outside.weighed() is Reason.REGION_LOST
    assert outside.hook.why == ""


@pytest.mark.parametrize("asked", [True, False])
def test_who_does_not_answer_in_time_has_no_objection(asked: bool) -> None:
    """Whether the connection fails or hangs: a broken hook must not keep a lost run from going on."""
    outside = _Outside(None)
    outside.weighed()
    if asked:
        outside.hook.turn()
    else:
        outside.now_s += 3.0
    assert outside.weighed() is Reason.REGION_LOST


def test_only_automatic_takeovers_and_planned_moves_ask() -> None:
    """A person's failover, what was released to us, renewals and waiting go through."""
    outside = _Outside("no")
    for action, reason in (
        (Action.TAKE_OVER, Reason.OPERATOR),
        (Action.TAKE_OVER, Reason.SWITCHOVER),
        (Action.RENEW, Reason.RENEWAL_DUE),
        (Action.WAIT, Reason.PRIMARY_WELL),
    ):
        assert outside.weighed(Decision(action, reason)) is reason
    assert outside.weighed(Decision(Action.RELEASE, Reason.DRAINED)) is Reason.HOOK_ASKED
    empty = dataclasses.replace(WEST, held=None)
    assert outside.hook.weigh(LOST, empty) == LOST


class _HookServer(http.server.ThreadingHTTPServer):
    """A hook on loopback that gives every question the same answer."""

    def __init__(self, code: int, reason: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.code, self.reason = code, reason


class _Answer(http.server.BaseHTTPRequestHandler):
    server: _HookServer

    def do_POST(self) -> None:
        """Read the question and answer it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.code)
        self.send_header("Content-Length", str(len(self.server.reason)))
        self.end_headers()
        self.wfile.write(self.server.reason)

    def log_message(self, *_args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def hook_server(request: pytest.FixtureRequest) -> Iterator[_HookServer]:
    """A hook that answers with the parameters' code and reason."""
    code, reason = request.param
    server = _HookServer(code, reason)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield server
    server.shutdown()
    server.server_close()
    serving.join()


def _asked_over_http(server: _HookServer) -> _Outside:
    """The hook has been asked about the loss of east, and has answered."""
    outside = _Outside(None, HttpPoster(f"http://127.0.0.1:{server.server_port}/before", SystemClock()))
    assert outside.weighed() is Reason.HOOK_ASKED
    outside.hook.turn()
    return outside


@pytest.mark.parametrize("hook_server", [(403, b"maintenance\nuntil noon"), (409, b"maintenance")], indirect=True)
def test_an_answer_403_or_409_over_http_is_a_veto_with_the_answers_first_line(hook_server: _HookServer) -> None:
    """Both codes count alike: the one who is asked may forbid the move, or say that it conflicts with theirs."""
    outside = _asked_over_http(hook_server)
    assert outside.weighed() is Reason.VETOED
    assert outside.hook.why == "maintenance"


@pytest.mark.parametrize("hook_server", [(403, b""), (409, b"")], indirect=True)
def test_a_veto_without_a_reason_names_who_answered_and_with_which_code(hook_server: _HookServer) -> None:
    """Status must not show an empty reason beside a move that is held back."""
    outside = _asked_over_http(hook_server)
    assert outside.weighed() is Reason.VETOED
    assert outside.hook.why == f"127.0.0.1:{hook_server.server_port} answered {hook_server.code}"


@pytest.mark.parametrize("hook_server", [(200, b"go"), (404, b"no"), (500, b"no")], indirect=True)
def test_every_other_answer_over_http_lets_the_move_go_on(hook_server: _HookServer) -> None:
    """A hook that agrees, is not there or is broken has no objection."""
    outside = _asked_over_http(hook_server)
    assert outside.weighed() is Reason.REGION_LOST
    assert outside.hook.why == ""
