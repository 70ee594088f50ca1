"""The contract of Grants: a controller's reply comes through whole, and silence is retryable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pipelines.errors import RetryableError
from pipelines.ports import GrantReply, Grants
from services.adapters.http.grants import HttpGrants
from services.adapters.memory.grants import MemoryGrants
from services.adapters.system_clock import SystemClock
from services.http.authority_routes import AuthorityRoutes
from services.http.server import HttpServer, Turns
from tests.callers import headers_as, listening

GRANTED = GrantReply(
    "granted",
    epoch=2,
    attempt=3,
    valid_s=1.5,
    start_step=30,
    start_manifest_key="runs/gpt/m",
    start_manifest_digest="d" * 64,
    start_lineage_seq=4,
    forks=((1, 0, -1), (2, 1, 30)),
    draining=True,
    committed_step=40,
    recoverable_step=30,
)
REPLIES = {
    "launch-granted": GRANTED,
    "launch-waits": GrantReply("wait", epoch=2, forks=((1, 0, -1),), reason="east holds epoch 2"),
    "launch-over": GrantReply("superseded", epoch=3, attempt=1, reason="west holds epoch 3"),
}


class _Control:
    """Answers by the launch's name, and remembers what was told."""

    def __init__(self) -> None:
        self.committed_steps: list[int] = []
        self.asked: list[tuple[str, bool]] = []

    def grant(self, launch: str, committed_step: int, *, node: str, begins: bool) -> GrantReply:
        self.committed_steps.append(committed_step)
        self.asked.append((node, begins))
        return REPLIES[launch]


@pytest.fixture
def control() -> _Control:
    """One run's."""
    return _Control()


@pytest.fixture(params=["memory", "http"])
def grants(request: pytest.FixtureRequest, control: _Control, tmp_path: Path) -> Iterator[Grants]:
    """In the same process, and through a real server on loopback."""
    if request.param == "memory":
        yield MemoryGrants({"gpt": control})
        return
    controls: Any = {"gpt": control}  # the routes of operators are not asked here
    server = HttpServer(
        listen=listening(tmp_path),
        registry=CollectorRegistry(),
        turns=Turns(SystemClock()),
        status=dict,
        routes=AuthorityRoutes(controls).routes(),
    )
    server.start()
    yield HttpGrants(f"http://127.0.0.1:{server.port}", lambda: headers_as("agent"))
    server.close()


@pytest.mark.parametrize("launch", sorted(REPLIES))
def test_a_reply_comes_through_whole(grants: Grants, control: _Control, launch: str) -> None:
    """Every field, and the newest committed step reaches the controller."""
    assert grants.ask("gpt", launch, "n0", 40) == REPLIES[launch]
    assert grants.ask("gpt", launch, "n0", 41, begins=True) == REPLIES[launch]
    assert control.committed_steps == [40, 41]
    assert control.asked == [("n0", False), ("n0", True)]


def test_a_run_that_is_not_served_is_retryable(grants: Grants) -> None:
    """It may be served later."""
    with pytest.raises(RetryableError):
        grants.ask("other", "launch-granted", "n0", -1)


def test_a_controller_that_is_away_is_retryable() -> None:
    """Nobody listens on port 1."""
    with pytest.raises(RetryableError, match="controller at"):
        HttpGrants("http://127.0.0.1:1", dict).ask("gpt", "launch-granted", "n0", -1)
