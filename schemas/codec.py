"""Bytes to records and back: Avro single-object encoding, and the only DecodeError.

Source: Apache Avro 1.12 specification, "Single-object encoding": the marker C3 01, the CRC-64-AVRO fingerprint of the
writer's schema (8 bytes, little-endian), then the datum. The fingerprint names the writer's schema, so a region that
was upgraded earlier or later still reads what it gets.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fastavro

from schemas import evolution, records

MARKER = b"\xc3\x01"
HEADER_BYTES = 10
VALUE_MAX_BYTES = 64 * 1024 * 1024  # what is longer is no record, and is not decoded
_FOLDER = Path(__file__).parent

R = TypeVar("R", bound=records.Record)


class DecodeError(Exception):
    """Bytes that are no record that this version can read; they are kept in `value`."""

    def __init__(self, reason: str, value: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = value


class UnknownSchemaError(DecodeError):
    """The writer's schema is not known here (yet): fetch `schemas/<fingerprint>` and try again."""

    def __init__(self, fingerprint: str, value: bytes) -> None:
        super().__init__(f"unknown schema fingerprint {fingerprint}: fetch schemas/{fingerprint} and retry", value)
        self.fingerprint = fingerprint


@functools.cache
def record_types() -> Mapping[str, type[records.Record]]:
    """Every record that has a schema of its own, by name."""
    types = (item for item in vars(records).values() if isinstance(item, type))
    return {cls.__name__: cls for cls in types if issubclass(cls, records.Record) and cls.schema_name}


def schema_text(cls: type[records.Record]) -> str:
    """The Avro schema of a record, as it lies in the repository."""
    return _text(cls.schema_name)


@functools.cache
def _text(name: str) -> str:
    return (_FOLDER / f"{name}.avsc").read_text(encoding="utf-8")


def _schema(cls: type[records.Record]) -> Any:  # noqa: ANN401 - fastavro's parsed schema has no type
    return _parsed(cls.schema_name)


@functools.cache
def _parsed(name: str) -> Any:  # noqa: ANN401 - fastavro's parsed schema has no type
    return fastavro.parse_schema(json.loads(_text(name)))


@functools.cache
def _released() -> dict[str, Any]:
    """Every schema that was ever released, by its fingerprint."""
    return {_fingerprint_of(text): fastavro.parse_schema(json.loads(text)) for _, text in released_texts()}


def released_texts() -> tuple[tuple[str, str], ...]:
    """The number and the text of every schema that was ever released."""
    files = sorted((_FOLDER / "released").rglob("*.avsc"))
    return tuple((path.parts[-3], path.read_text(encoding="utf-8")) for path in files)


@functools.cache
def _of_name(name: str) -> tuple[str, ...]:
    """Every schema of a record that was ever released, and today's, as text."""
    released = (text for _, text in released_texts() if evolution.name_of(json.loads(text)) == name)
    return tuple(dict.fromkeys((*released, schema_text(record_types()[name]))))


def _fingerprint_of(text: str) -> str:
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(text))
    return str(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))


def all_schemas() -> dict[str, str]:
    """Every schema that this version can read, as text, by its fingerprint; the oldest release first."""
    return dict(_texts())


@functools.cache
def _texts() -> Mapping[str, str]:
    today = {fingerprint(cls): schema_text(cls) for cls in record_types().values()}
    return {_fingerprint_of(text): text for _, text in released_texts()} | today


def fingerprint(cls: type[records.Record]) -> str:
    """The CRC-64-AVRO fingerprint of a record's schema: 16 hexadecimal digits, as it stands on the wire."""
    return _named_fingerprint(cls.schema_name)


@functools.cache
def _named_fingerprint(name: str) -> str:
    return _fingerprint_of(_text(name))


def writer_of(value: bytes) -> str:
    """The fingerprint of the schema that some bytes were written with; DecodeError if they name none."""
    if len(value) < HEADER_BYTES or value[:2] != MARKER:
        raise DecodeError("not Avro single-object encoding: it does not begin with c3 01", value)
    return value[2:HEADER_BYTES].hex()


class Codec:
    """Encodes and decodes records; knows our own schemas, the released ones, and those that were given to `learn`.

    Not safe for use by several threads while `learn` runs; each flow has its own.
    """

    def __init__(self) -> None:
        self._writers: dict[str, Any] = {}
        for cls in record_types().values():
            self._writers[fingerprint(cls)] = _schema(cls)
        for name, writer in _released().items():
            self._writers.setdefault(name, writer)
        self._learnt: dict[str, str] = {}

    def learn(self, text: str) -> str:
        """Remember a writer's schema (JSON text); returns its fingerprint.

        Raises:
            UnsafeSchemaError: by this one nothing is decoded: `schemas.evolution` says why.
            ValueError: it is no schema; fastavro raises others, too.
        """
        name = evolution.name_of(json.loads(text))
        if name not in record_types():
            raise evolution.UnsafeSchemaError(f"schema {name or '(none)'} is no record of this version")
        evolution.check(text, _of_name(name))
        # Without logical types: a date in the place of a number is no safe evolution, and the fingerprint hides it.
        canonical = fastavro.schema.to_parsing_canonical_form(json.loads(text))
        fingerprint_of = str(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        self._writers.setdefault(fingerprint_of, fastavro.parse_schema(json.loads(canonical)))
        self._learnt.setdefault(fingerprint_of, text)
        return fingerprint_of

    def text_of(self, name: str) -> str:
        """The JSON text of a writer's schema that is known here, by its fingerprint; KeyError if it is not."""
        return _texts()[name] if name in _texts() else self._learnt[name]

    def encode(self, record: records.Record) -> bytes:
        """One record as single-object bytes."""
        cls = type(record)
        out = io.BytesIO()
        out.write(MARKER + bytes.fromhex(fingerprint(cls)))
        fastavro.schemaless_writer(out, _schema(cls), _plain(record))
        return out.getvalue()

    def decode(self, value: bytes) -> records.Record:
        """The record in `value`.

        Raises:
            UnknownSchemaError: the writer's schema has to be fetched first.
            DecodeError: the bytes are not ours, are torn, are too many, or carry more than the record.
        """
        if len(value) > VALUE_MAX_BYTES:
            raise DecodeError(f"{len(value)} bytes are no record: {VALUE_MAX_BYTES} are permitted", value)
        name = writer_of(value)
        writer = self._writers.get(name)
        if writer is None:
            raise UnknownSchemaError(name, value)
        cls = record_types().get(str(writer["name"]).rpartition(".")[2])
        if cls is None:
            raise DecodeError(f"schema {writer['name']} is no record of this version", value)
        body = io.BytesIO(value[HEADER_BYTES:])
        try:
            plain = fastavro.schemaless_reader(body, writer, _schema(cls))
        except Exception as error:  # fastavro raises many kinds on torn bytes; all mean the same here
            raise DecodeError(f"undecodable {cls.__name__}: {type(error).__name__}: {error}", value) from error
        if body.read(1):
            raise DecodeError(f"{cls.__name__} is followed by more bytes", value)
        return _build(cls, typing.cast("dict[str, Any]", plain))

    def decode_as(self, cls: type[R], value: bytes) -> R:
        """As `decode`, but anything other than a `cls` is a DecodeError."""
        record = self.decode(value)
        if not isinstance(record, cls):
            raise DecodeError(f"expected {cls.__name__}, found {type(record).__name__}", value)
        return record


def digest(payload: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal: how manifests, chunks and states are named."""
    return hashlib.sha256(payload).hexdigest()


# The conversion of a field's value to plain Avro or back, looked up once for each class; None: the value stays.
_Turn = Callable[[Any], Any]


def _plain(record: records.Record) -> dict[str, Any]:
    """A record as a tree of plain Avro values."""
    return {
        name: getattr(record, name) if turn is None else turn(getattr(record, name))
        for name, turn in _turns(type(record), _TO_PLAIN, _to_plain)
    }


def _build(cls: type[records.Record], plain: dict[str, Any]) -> records.Record:
    turns = _turns(cls, _FROM_PLAIN, _from_plain)
    return cls(**{name: plain[name] if turn is None else turn(plain[name]) for name, turn in turns})


_Turns = tuple[tuple[str, _Turn | None], ...]
_TO_PLAIN: dict[str, _Turns] = {}
_FROM_PLAIN: dict[str, _Turns] = {}


def _turns(cls: type[records.Record], known: dict[str, _Turns], turn_of: Callable[[Any], _Turn | None]) -> _Turns:
    turns = known.get(cls.__name__)
    if turns is None:
        hints = typing.get_type_hints(cls)
        turns = tuple((field.name, turn_of(hints[field.name])) for field in dataclasses.fields(cls))
        known[cls.__name__] = turns
    return turns


def _to_plain(hint: Any) -> _Turn | None:  # noqa: ANN401 - a type hint
    if typing.get_origin(hint) is tuple:
        inner = _to_plain(typing.get_args(hint)[0])
        return list if inner is None else lambda value: [inner(item) for item in value]
    return _plain if isinstance(hint, type) and issubclass(hint, records.Record) else None


def _from_plain(hint: Any) -> _Turn | None:  # noqa: ANN401 - a type hint
    if typing.get_origin(hint) is tuple:
        inner = _from_plain(typing.get_args(hint)[0])
        return tuple if inner is None else lambda plain: tuple(inner(item) for item in plain)
    if isinstance(hint, type) and issubclass(hint, records.Record):
        return functools.partial(_build, hint)
    return None
