"""Asking a region's services on their ports; each path and the record that it answers stand here once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from pipelines.errors import MisconfiguredError, RetryableError
from schemas.http_bodies import (
    AcknowledgeAnswer,
    AcknowledgeBody,
    AgentStatus,
    ControllerStatus,
    FailoverAnswer,
    FailoverBody,
    HistoryAnswer,
    MoveAnswer,
    MoveBody,
    PreviewAnswer,
    RedriveAnswer,
    RedriveBody,
    ReplayAnswer,
    ReplayBody,
    ReplicatorStatus,
    RunStatus,
    WarmerStatus,
)
from services.adapters.http.sending import HttpClient
from services.http.bodies import BodyError, from_json, to_json
from services.settings import HOST, Settings

TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 64 << 20  # the status of a thousand runs
HEADERS = {"Content-Type": "application/json"}
T = TypeVar("T")


class UnexpectedAnswerError(MisconfiguredError):
    """Another program, or a version that does not fit, answers on a service's port."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one service of a region is asked."""

    service: str
    region: str
    port: int

    def __str__(self) -> str:
        return f"the {self.service} of {self.region} on port {self.port}"


def ask(at: Endpoint, path: str, kind: type[T], body: object | None = None) -> T | None:
    """A service's answer as the record of this kind; None if it does not answer, or refuses the request.

    Args:
        at: the service.
        path: of its HTTP.
        kind: the record that it answers.
        body: the record that it is sent, by POST; None: GET.

    Raises:
        UnexpectedAnswerError: it answers something else; names the service and the first wrong field.
    """
    client = HttpClient(f"http://{HOST}:{at.port}", timeout_s=TIMEOUT_S, answer_bytes_max=ANSWER_BYTES_MAX)
    try:
        answer = client.get(path) if body is None else client.post(to_json(body), HEADERS, path)
    except RetryableError:
        return None
    if not answer.is_success:
        return None
    try:
        return from_json(kind, answer.body)
    except BodyError as error:
        raise UnexpectedAnswerError(f"{at} answers something else: {error}") from error


@dataclass(frozen=True, slots=True)
class ControllerClient:
    """A region's controller. Each method: None if it does not answer; UnexpectedAnswerError as of `ask`."""

    at: Endpoint

    def status(self) -> ControllerStatus | None:
        """Every run, as this controller believes it to be."""
        return ask(self.at, "/status", ControllerStatus)

    def status_of(self, run: str) -> RunStatus | None:
        """One run; None also if this controller does not serve it."""
        return (self.status() or {}).get(run)

    def preview(self, run: str) -> PreviewAnswer | None:
        """The gates that a failover to this region would meet now."""
        return ask(self.at, f"/v1/preview?run={quote(run)}", PreviewAnswer)

    def failover(self, body: FailoverBody) -> FailoverAnswer | None:
        """Have this region take a run over."""
        return ask(self.at, "/v1/failover", FailoverAnswer, body)

    def move(self, body: MoveBody) -> MoveAnswer | None:
        """Ask the holder for a planned move, a pause, an adoption ..."""
        return ask(self.at, "/v1/ask", MoveAnswer, body)

    def history(self, run: str) -> HistoryAnswer | None:
        """Every noted change of authority."""
        return ask(self.at, f"/v1/history?run={quote(run)}", HistoryAnswer)

    def acknowledge(self, body: AcknowledgeBody) -> AcknowledgeAnswer | None:
        """Close an alarm of this controller's own."""
        return ask(self.at, "/v1/alarm", AcknowledgeAnswer, body)


@dataclass(frozen=True, slots=True)
class ReplicatorClient:
    """A region's replicator; errors as of `ControllerClient`."""

    at: Endpoint

    def status(self) -> ReplicatorStatus | None:
        """Every lane that it follows."""
        return ask(self.at, "/status", ReplicatorStatus)

    def replay(self, body: ReplayBody) -> ReplayAnswer | None:
        """Have records looked at once more, or learn what has become of that."""
        return ask(self.at, "/v1/replay", ReplayAnswer, body)

    def redrive(self, body: RedriveBody) -> RedriveAnswer | None:
        """Have a dead letter handled once more, or learn what has become of that."""
        return ask(self.at, "/v1/redrive", RedriveAnswer, body)

    def acknowledge(self, body: AcknowledgeBody) -> AcknowledgeAnswer | None:
        """Close an alarm, or learn what has become of that."""
        return ask(self.at, "/v1/alarm", AcknowledgeAnswer, body)


@dataclass(frozen=True, slots=True)
class WarmerClient:
    """A region's warmer; errors as of `ControllerClient`."""

    at: Endpoint

    def status(self) -> WarmerStatus | None:
        """The standby pool."""
        return ask(self.at, "/status", WarmerStatus)


@dataclass(frozen=True, slots=True)
class AgentClient:
    """A region's agent; errors as of `ControllerClient`."""

    at: Endpoint

    def status(self) -> AgentStatus | None:
        """The node's spool, grants and troubles."""
        return ask(self.at, "/status", AgentStatus)


def controller_of(settings: Settings, region: str) -> ControllerClient:
    """The controller of a region."""
    return ControllerClient(Endpoint("controller", region, settings.region(region).ports.controller))


def replicator_of(settings: Settings, region: str) -> ReplicatorClient:
    """The replicator of a region."""
    return ReplicatorClient(Endpoint("replicator", region, settings.region(region).ports.replicator))


def warmer_of(settings: Settings, region: str) -> WarmerClient:
    """The warmer of a region."""
    return WarmerClient(Endpoint("warmer", region, settings.region(region).ports.warmer))


def agent_of(settings: Settings, region: str) -> AgentClient:
    """The agent of a region's node."""
    return AgentClient(Endpoint("agent", region, settings.region(region).ports.agent))
