"""Ports of every process: time, identities, signatures, the journal, and receivers outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Time. `boottime_s` never jumps and counts suspended time (CLOCK_BOOTTIME); wall time is for people."""

    def boottime_s(self) -> float:
        """Seconds on this machine's own clock; only differences mean anything."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch; for records and people, never for decisions."""

    def sleep(self, seconds: float) -> None:
        """Wait. May return late, never early.

        Args:
            seconds: at least so long; nothing for 0 and less.
        """


class Entropy(Protocol):
    """The source of new identities."""

    def new_id(self) -> str:
        """32 hexadecimal digits, never the same twice."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The payload of a signed record, and the region whose key signed it."""

    payload: bytes
    region: str


class Verifier(Protocol):
    """Everybody's public keys; who has no more than these can sign nothing."""

    def opened(self, envelope: bytes) -> Opened:
        """The payload of an encoded `Signed` record, and who signed it: what counts is held against that (I17).

        Args:
            envelope: as `Signer.sign` makes it.

        Raises:
            CorruptError: it is no such record, or is not signed by a key that we trust.
        """


class Signer(Verifier, Protocol):
    """This region's signing key, and everybody's public keys."""

    def sign(self, payload: bytes) -> bytes:
        """An encoded `Signed` record around a payload. Raises nothing.

        Args:
            payload: an encoded record.
        """


class Poster(Protocol):
    """A receiver outside: a webhook, an approval hook, or a dead-man's switch."""

    def post(self, key: str, body: bytes) -> None:
        """Send a body under an idempotency key.

        Args:
            key: the receiver may drop what it has seen under the same key.
            body: JSON.

        Raises:
            RetryableError: it was not taken: no answer, or a refusal.
        """

    def judge(self, key: str, body: bytes) -> str:
        """As `post`, to somebody who may object; why not, or "" for no objection.

        Args:
            key: as for `post`.
            body: JSON.

        Raises:
            RetryableError: neither taken nor objected to.
        """


class SchemaRegistry(Protocol):
    """A company's registry of its topics' schemas, each under a number of the registry's own."""

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema under a subject; it is registered if it was not. Idempotent.

        Args:
            subject: the name under which the registry keeps its versions.
            schema: Avro's JSON text.

        Raises:
            RetryableError: the registry does not answer, or is overloaded.
            MisconfiguredError: it refuses the user or the schema, or is no registry.
        """


class Journal(Protocol):
    """The record of what flows did: structured log, metrics and timeline use the same event names."""

    def say(self, event: str, **fields: object) -> None:
        """Record one dotted event name with its fields. Raises nothing: with a full disk the event is not kept.

        Args:
            event: from the vocabulary of docs and metrics.
            **fields: what happened to what.
        """
