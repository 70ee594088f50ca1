"""Who may ask a service: each caller's name and role, and the digest of its token, from one file.

The file is read again when it has changed, so a caller is let in or locked out without a restart. One that cannot be
read any more lets nobody in.
"""

from __future__ import annotations

import hmac
import json
import threading
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import MisconfiguredError
from services.adapters.private_files import read_secret, stamp_of
from services.adapters.tokens import digest_of

NAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
CALLERS_MAX = 10_000
FILE = "callers file"  # in the text of an error
Role = Literal["viewer", "agent", "operator"]


class Caller(BaseModel):
    """One person or service.

    Attributes:
        name: the actor of what it does, in the history.
        role: viewer (status and metrics), agent (grants for its own node and runs), operator (moves, and what a viewer
            sees).
        token_sha256: of its token.
        node: an agent's own node, the only one for which it may ask.
        runs: an agent's runs; none: every run of its region.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    role: Role
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    node: str = Field(default="", max_length=200)
    runs: tuple[str, ...] = Field(default=(), max_length=10_000)

    @model_validator(mode="after")
    def _an_agent_has_a_node(self) -> Caller:
        if (self.role == "agent") != bool(self.node):
            raise ValueError("an agent has a node, and nobody else has one")
        return self

    def may_ask_for(self, run: str, node: str) -> bool:
        """Whether an agent may ask for a launch of this run on this node."""
        return self.role == "agent" and node == self.node and (not self.runs or run in self.runs)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    callers: tuple[Caller, ...] = Field(max_length=CALLERS_MAX)


class Callers:
    """The callers of one file. Any thread may ask.

    Args:
        path: of the JSON file, which only its owner may read.

    Raises:
        MisconfiguredError: it cannot be read, or is no such file, or others can read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp = stamp_of(path, FILE)
        self._known = callers_in(path)

    def caller_of(self, token: str) -> Caller | None:
        """Whose token it is; None: nobody's. Takes as long for a wrong one as for a right one.

        Raises:
            MisconfiguredError: the file has changed, and cannot be used as it is now.
        """
        digest, found = digest_of(token), None
        for caller in self._newest():
            if hmac.compare_digest(caller.token_sha256, digest):
                found = caller
        return found

    def _newest(self) -> tuple[Caller, ...]:
        with self._lock:
            stamp = stamp_of(self._path, FILE)
            if stamp != self._stamp:
                self._known = callers_in(self._path)
                self._stamp = stamp
            return self._known


def callers_in(path: Path) -> tuple[Caller, ...]:
    """The callers of a file; MisconfiguredError as of `Callers`: one line, which shows nothing of a token."""
    text = read_secret(path, FILE)
    try:
        callers = _File.model_validate_json(text).callers
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise MisconfiguredError(f"callers file {path}: {place}: {first['msg']}") from None
    seen: dict[str, Caller] = {}  # a name may stand there twice, while its token is changed
    for caller in callers:
        first_of = seen.setdefault(caller.name, caller)
        if (first_of.role, first_of.node, first_of.runs) != (caller.role, caller.node, caller.runs):
            raise MisconfiguredError(f"callers file {path}: {caller.name} stands there twice, with different rights")
    return callers


def text_of(callers: tuple[Caller, ...]) -> str:
    """The file's text for these callers."""
    plain = [caller.model_dump(mode="json", exclude_defaults=True) for caller in callers]
    return json.dumps({"callers": plain}, indent=2) + "\n"
