"""Asking a region's services on their ports; each path and the record that it answers stand here once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
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
from services.adapters.http.sending import Answer, HttpClient, UntrustedError
from services.adapters.tokens import checked, token_in
from services.http.bodies import JSON, BodyError, from_json, to_json
from services.settings import HOST, Settings

TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 64 << 20  # the status of a thousand runs
REASON_CHARS_MAX = 300
TRIES = 3  # of a request that may be repeated, since it has a key
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_REFUSALS = frozenset({400, _UNAUTHORIZED, _FORBIDDEN, 409, 413, 415, 421})  # what asking again would not change
_TOKEN, _TOKEN_FILE = "FARSIDE_TOKEN", "FARSIDE_TOKEN_FILE"
T = TypeVar("T")


class UnexpectedAnswerError(MisconfiguredError):
    """A service refuses us; or another program, or a version that does not fit, answers on its port."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one service of a region is asked, and as whom.

    Attributes:
        address: its host.
        tls: whether it is asked by https.
        tls_ca_file: the authorities that are trusted then; None: the system's.
        token_file: holds the credential; None: there is none.
        is_command: a person asks: the environment's credential goes before the file's.
    """

    service: str
    region: str
    port: int
    address: str = HOST
    tls: bool = False
    tls_ca_file: Path | None = None
    token_file: Path | None = None
    is_command: bool = True

    def __str__(self) -> str:
        where = f"port {self.port}" if self.address == HOST else f"{self.address}:{self.port}"
        return f"the {self.service} of {self.region} on {where}"

    @property
    def url(self) -> str:
        """The service's root."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def headers(self) -> dict[str, str]:
        """The credential, read at each request: it may be changed while we run; MisconfiguredError if it is none."""
        token = self._token()
        return {"Content-Type": JSON} | ({"Authorization": f"Bearer {token}"} if token else {})

    def _token(self) -> str:
        if self.is_command and os.environ.get(_TOKEN):
            return checked(os.environ[_TOKEN], _TOKEN)
        named = os.environ.get(_TOKEN_FILE) if self.is_command else None
        path = Path(named) if named else self.token_file
        return "" if path is None else token_in(path)


def ask(at: Endpoint, path: str, kind: type[T], body: object | None = None) -> T | None:
    """A service's answer as the record of this kind; None if it does not answer, or does not know what is asked for.

    Args:
        at: the service.
        path: of its HTTP.
        kind: the record that it answers.
        body: the record that it is sent, by POST; None: GET.

    Raises:
        UnexpectedAnswerError: it refuses us, or answers something else; names the service and the reason.
        MisconfiguredError: our own credential or certificate authorities cannot be read.
    """
    client = HttpClient(at.url, timeout_s=TIMEOUT_S, answer_bytes_max=ANSWER_BYTES_MAX, tls_ca_file=at.tls_ca_file)
    headers = at.headers()
    try:
        answer = client.get(path, headers) if body is None else client.post(to_json(body), headers, path)
    except UntrustedError as error:
        raise UnexpectedAnswerError(f"{at}: its certificate is not trusted: {error}: see api.tls_ca_file") from None
    except RetryableError:
        return None
    if answer.status in _REFUSALS:
        raise UnexpectedAnswerError(_refusal(at, answer))
    if not answer.is_success:
        return None
    try:
        return from_json(kind, answer.body)
    except BodyError as error:
        raise UnexpectedAnswerError(f"{at} answers something else: {error}") from error


def _refusal(at: Endpoint, answer: Answer) -> str:
    """Why a service refuses, on one line."""
    why = " ".join(answer.body.decode(errors="replace").split())[:REASON_CHARS_MAX]
    setting = f"regions.{at.region}.api."
    named = f"{setting}token_file, {_TOKEN_FILE} or {_TOKEN}" if at.is_command else f"{setting}viewer_token_file"
    advice = f": name a token's file in {named}" if answer.status == _UNAUTHORIZED else ""
    return f"{at} refuses: {why}{advice}"


def ask_keyed(at: Endpoint, path: str, kind: type[T], body: object) -> T | None:
    """As `ask`, for a request with a key, which is the same request when it is sent again: it is, if nobody answers."""
    for _ in range(TRIES):
        answer = ask(at, path, kind, body)
        if answer is not None:
            return answer
    return None


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
        """Have this region take a run over, or learn what has become of that."""
        return ask_keyed(self.at, "/v1/failover", FailoverAnswer, body)

    def move(self, body: MoveBody) -> MoveAnswer | None:
        """Ask the holder for a planned move, a pause, an adoption ..."""
        return ask_keyed(self.at, "/v1/ask", MoveAnswer, body)

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


def endpoint_of(settings: Settings, service: str, region: str, *, is_command: bool = True) -> Endpoint:
    """Where a service of a region is asked.

    Args:
        settings: of every region.
        service: agent, controller, replicator or warmer.
        region: the service's.
        is_command: a person asks, by a command; else one of the region's own services, which only looks.
    """
    here = settings.region(region)
    api = here.api
    return Endpoint(
        service,
        region,
        getattr(here.ports, service),
        address=api.address(service),
        tls=api.speaks_tls(service),
        tls_ca_file=api.tls_ca_file,
        token_file=api.token_file if is_command else api.viewer_token_file,
        is_command=is_command,
    )


def controller_of(settings: Settings, region: str) -> ControllerClient:
    """The controller of a region."""
    return ControllerClient(endpoint_of(settings, "controller", region))


def replicator_of(settings: Settings, region: str, *, is_command: bool = True) -> ReplicatorClient:
    """The replicator of a region."""
    return ReplicatorClient(endpoint_of(settings, "replicator", region, is_command=is_command))


def warmer_of(settings: Settings, region: str, *, is_command: bool = True) -> WarmerClient:
    """The warmer of a region."""
    return WarmerClient(endpoint_of(settings, "warmer", region, is_command=is_command))


def agent_of(settings: Settings, region: str, *, is_command: bool = True) -> AgentClient:
    """The agent of a region's node."""
    return AgentClient(endpoint_of(settings, "agent", region, is_command=is_command))
