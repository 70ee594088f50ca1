"""What the commands that speak to a schema registry have in common: its options, its user, a topic's wire format."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.errors import MisconfiguredError

if TYPE_CHECKING:
    from pipelines.ports import SchemaRegistry
    from services.adapters.http.schema_registry import RegistryUser

USERNAME, PASSWORD = "FARSIDE_REGISTRY_USERNAME", "FARSIDE_REGISTRY_PASSWORD"

Url = typer.Option("--registry", help="The root of a Confluent-compatible API, below which /subjects is.")
Credentials = Annotated[
    Path | None,
    typer.Option(
        "--registry-credentials",
        help=f"A JSON file with username and password. Default: {USERNAME} and {PASSWORD}, if they are set.",
    ),
]


class Wire(enum.StrEnum):
    """How a topic's values are framed."""

    AVRO = "avro"  # single-object encoding: the same bytes
    CONFLUENT = "confluent"


@dataclass(frozen=True, slots=True)
class Wiring:
    """The wire format that was asked for, and the registry that numbers its schemas."""

    wire: Wire = Wire.AVRO
    url: str | None = None
    credentials: Path | None = None

    @property
    def is_confluent(self) -> bool:
        """Whether a registry is needed."""
        return self.wire is Wire.CONFLUENT

    def check(self, *, into_topic: bool) -> None:
        """MisconfiguredError if that cannot be had: only a topic has another wire format, and it needs a registry."""
        if not self.is_confluent:
            if self.url is not None or self.credentials is not None:
                raise MisconfiguredError(f"--registry goes with --wire {Wire.CONFLUENT}: {Wire.AVRO} needs none")
            return
        if not into_topic:
            raise MisconfiguredError(
                f"--wire {Wire.CONFLUENT} goes with --to topic:replay.NAME: handlers and files take bytes as they are"
            )
        self.registry()

    def registry(self) -> SchemaRegistry:
        """The registry, which is not spoken to yet; MisconfiguredError if it is not or wrongly named."""
        if self.url is None:
            raise MisconfiguredError(
                f"--wire {Wire.CONFLUENT} needs --registry URL: a Confluent-compatible schema registry"
            )
        return registry_of(self.url, self.credentials)


def registry_of(url: str, credentials: Path | None, environment: Mapping[str, str] = os.environ) -> SchemaRegistry:
    """A registry as its user; MisconfiguredError if the address or the credentials are no such."""
    from services.adapters.http.schema_registry import HttpSchemaRegistry  # noqa: PLC0415 - `farside --help` must be quick

    return HttpSchemaRegistry(url, user_of(credentials, environment))


def user_of(path: Path | None, environment: Mapping[str, str]) -> RegistryUser | None:
    """The user that a file names, or else the environment; None if neither does. No error shows what is in them."""
    from services.adapters.http.schema_registry import RegistryUser  # noqa: PLC0415 - as above
    from services.settings import secrets_of  # noqa: PLC0415 - as above

    if path is None:
        username, password = environment.get(USERNAME), environment.get(PASSWORD)
        if (username is None) != (password is None):
            raise MisconfiguredError(f"of {USERNAME} and {PASSWORD} only one is set: set both, or none")
        return None if username is None or password is None else RegistryUser(username, password)
    found = secrets_of(path, "registry credentials file", "username", "password")
    return RegistryUser(found["username"], found["password"])
