"""For the commands that use a schema registry: its options, its user, and the wire format of a topic."""

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

Url = typer.Option("--registry", help="Address of a Confluent-compatible schema registry, without the path /subjects.")
Credentials = Annotated[
    Path | None,
    typer.Option(
        "--registry-credentials",
        help="JSON file with the registry's username and password. Default: the environment, as said above.",
    ),
]


class Wire(enum.StrEnum):
    """The wire format of the values in a topic."""

    AVRO = "avro"  # single-object encoding: the bytes as they are in the log
    CONFLUENT = "confluent"


@dataclass(frozen=True, slots=True)
class WireFormat:
    """The wire format that was asked for, and the registry that gives the schemas their ids."""

    wire: Wire = Wire.AVRO
    url: str | None = None
    credentials: Path | None = None

    @property
    def is_confluent(self) -> bool:
        """Whether it is Confluent's wire format, which needs a registry."""
        return self.wire is Wire.CONFLUENT

    def check(self, *, into_topic: bool) -> None:
        """Check that the options fit together.

        Raises:
            MisconfiguredError: Confluent's format was asked for and the target is no topic, or no registry is named; or
                a registry is named and not needed.
        """
        if not self.is_confluent:
            if self.url is not None or self.credentials is not None:
                raise MisconfiguredError(f"--registry is used with --wire {Wire.CONFLUENT} only")
            return
        if not into_topic:
            raise MisconfiguredError(
                f"--wire {Wire.CONFLUENT} is possible with --to topic:replay.NAME only: handlers and files get the "
                "bytes as they are in the log"
            )
        self.registry()

    def registry(self) -> SchemaRegistry:
        """The registry; nothing is sent to it yet.

        Raises:
            MisconfiguredError: no registry is named, or its address or credentials are wrong.
        """
        if self.url is None:
            raise MisconfiguredError(
                f"--wire {Wire.CONFLUENT} needs --registry URL: a Confluent-compatible schema registry"
            )
        return registry_of(self.url, self.credentials)


def registry_of(url: str, credentials: Path | None, environment: Mapping[str, str] = os.environ) -> SchemaRegistry:
    """A client of the registry at `url`, with the user of the file or of the environment.

    Raises:
        MisconfiguredError: the address or the credentials are wrong.
    """
    from services.adapters.http.schema_registry import HttpSchemaRegistry  # noqa: PLC0415 - `farside --help` must be quick

    return HttpSchemaRegistry(url, user_of(credentials, environment))


def user_of(path: Path | None, environment: Mapping[str, str]) -> RegistryUser | None:
    """The user in the file, else the one in the environment, else None. No error shows a username or a password."""
    from services.adapters.http.schema_registry import RegistryUser  # noqa: PLC0415 - as above
    from services.settings import secrets_of  # noqa: PLC0415 - as above

    if path is None:
        username, password = environment.get(USERNAME), environment.get(PASSWORD)
        if (username is None) != (password is None):
            raise MisconfiguredError(f"only one of {USERNAME} and {PASSWORD} is set: set both, or none")
        return None if username is None or password is None else RegistryUser(username, password)
    secrets = secrets_of(path, "registry credentials file", "username", "password")
    return RegistryUser(secrets["username"], secrets["password"])
