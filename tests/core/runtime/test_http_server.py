"""The paths that every service serves, and how its process ends."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipelines.errors import FencedError, RetryableError
from services.adapters.system_clock import SystemClock
from services.http.server import HttpServer, Turns, answer_of, body_of
from services.runtime.journal import ServiceJournal
from services.runtime.process import FAILED_EXIT, FENCED_EXIT, Process
from tests.callers import headers_as, listening

CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """As it was, after a process has set it."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@dataclass(frozen=True, slots=True)
class _Wish:
    """The body of a route that only this test has."""

    run: str


def _ask(port: int, path: str, body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers_as("operator"))
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_is_503_when_a_flow_stands_still_and_a_bad_body_is_one_clear_400(tmp_path: Path) -> None:
    """Each answer says what is wrong; metrics and status are there beside it."""
    turns = Turns(CLOCK)

    async def request(request: Request) -> Response:
        return answer_of(await body_of(request, _Wish))

    server = HttpServer(
        listen=listening(tmp_path),
        turns=turns,
        registry=CollectorRegistry(),
        status=lambda: {"n": 1},
        routes=[Route("/wish", request, methods=["POST"])],
    )
    server.start()
    port = server.port
    try:
        turns.at_s["lease"] = CLOCK.boottime_s()
        assert _ask(port, "/healthz")[0] == 200
        turns.at_s["lease"] -= 1_000
        code, text = _ask(port, "/healthz")
        assert (code, json.loads(text)["ok"]) == (503, False)
        assert json.loads(_ask(port, "/status")[1]) == {"n": 1}
        assert _ask(port, "/metrics")[0] == 200
        code, text = _ask(port, "/wish", b"{")
        assert (code, "no JSON" in text) == (400, True)
        assert "run: a str is wanted" in _ask(port, "/wish", b'{"run": 1}')[1]
        assert _ask(port, "/wish", b'{"run": "gpt"}')[0] == 200
    finally:
        server.close()


@pytest.mark.parametrize(("error", "code"), [(FencedError("newer"), FENCED_EXIT), (KeyError("bug"), FAILED_EXIT)])
def test_a_process_ends_with_the_code_that_says_why(tmp_path: Path, error: Exception, code: int) -> None:
    """Fenced is 3, a failure is 1, and both are in the timeline with their reason."""
    registry = CollectorRegistry()
    journal = ServiceJournal(service="agent", region="east", folder=tmp_path, clock=CLOCK, registry=registry)

    def flow() -> float:
        raise error

    process = Process(clock=CLOCK, journal=journal, registry=registry, listen=listening(tmp_path), status=dict)
    assert process.run({"flow": flow}) == code
    lines = [json.loads(line) for line in (tmp_path / "agent-east.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines][-1] == "service.ended"
    assert any(str(error) in str(line.get("why")) for line in lines)


def test_a_flow_whose_dependency_is_away_ends_no_process(tmp_path: Path) -> None:
    """It is turned again, and the journal has why it waited; only the signal ends the process."""
    registry = CollectorRegistry()
    journal = ServiceJournal(service="agent", region="east", folder=tmp_path, clock=CLOCK, registry=registry)
    turns: list[str] = []

    def flow() -> float:
        turns.append("turned")
        if len(turns) == 1:
            raise RetryableError("Kafka is away")
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.1

    process = Process(clock=CLOCK, journal=journal, registry=registry, listen=listening(tmp_path), status=dict)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert process.run({"flow": flow}) == 0
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert len(turns) > 1
    assert "Kafka is away" in (tmp_path / "agent-east.jsonl").read_text()


def test_a_process_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    """Exit 0, and what it holds is closed."""
    registry = CollectorRegistry()
    journal = ServiceJournal(service="agent", region="east", folder=tmp_path, clock=CLOCK, registry=registry)
    closed = threading.Event()

    def flow() -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.1

    process = Process(clock=CLOCK, journal=journal, registry=registry, listen=listening(tmp_path), status=dict)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert process.run({"flow": flow}, [closed.set]) == 0
        assert gc.get_freeze_count() > 0, "the collector looks at what was made for the start"
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert closed.is_set()
