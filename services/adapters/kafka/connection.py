"""The address of a Kafka and the user to log in as. Light: no client library is imported for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import MisconfiguredError
from services.adapters.tls_faults import authorities

MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")


@dataclass(frozen=True, slots=True)
class KafkaUser:
    """Who logs in by SASL. The password shows in no text."""

    username: str
    password: str = field(repr=False)
    mechanism: str = MECHANISMS[0]


@dataclass(frozen=True, slots=True)
class KafkaCluster:
    """An address with a user; without one it is a cluster that knows none.

    With a file of certificate authorities the connection is TLS.
    """

    bootstrap: str
    user: KafkaUser | None = None
    tls_ca_file: Path | None = None

    @property
    def who(self) -> str:
        """The user and the address, for an error's text."""
        return f"user {self.user.username if self.user else '(none)'} at Kafka {self.bootstrap}"

    def options(self) -> dict[str, Any]:
        """The options of every client of kafka-python.

        Raises:
            MisconfiguredError: the file of certificate authorities cannot be used.
        """
        options: dict[str, Any] = {"bootstrap_servers": self.bootstrap}
        if self.user is not None:
            options |= {
                "sasl_mechanism": self.user.mechanism,
                "sasl_plain_username": self.user.username,
                "sasl_plain_password": self.user.password,
            }
        if self.tls_ca_file is not None:
            options["ssl_context"] = self._trusting(self.tls_ca_file)
        return options | {"security_protocol": self._protocol}

    def librdkafka_options(self) -> dict[str, Any]:
        """The options of every client of librdkafka, which reads the file of certificate authorities by itself.

        Raises:
            MisconfiguredError: the file of certificate authorities cannot be used.
        """
        options: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "security.protocol": self._protocol}
        if self.user is not None:
            options |= {
                "sasl.mechanisms": self.user.mechanism,
                "sasl.username": self.user.username,
                "sasl.password": self.user.password,
            }
        if self.tls_ca_file is not None:
            self._trusting(self.tls_ca_file)  # its own complaint would not name the setting
            options["ssl.ca.location"] = str(self.tls_ca_file)
        return options

    @property
    def _protocol(self) -> str:
        transport = "PLAINTEXT" if self.tls_ca_file is None else "SSL"
        return transport if self.user is None else f"SASL_{transport}"

    @staticmethod
    def _trusting(ca_file: Path) -> ssl.SSLContext:
        try:
            return authorities(ca_file)
        except ssl.SSLError as error:
            raise MisconfiguredError(
                f"kafka_tls_ca_file {ca_file} holds no certificate ({error.reason or error}): it must hold those of "
                "the certificate authorities, in PEM"
            ) from error
        except OSError as error:
            raise MisconfiguredError(
                f"kafka_tls_ca_file {ca_file}: {error.strerror}: name the file with the certificate authorities in PEM"
            ) from error
