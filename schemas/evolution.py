"""Which foreign writer's schema may be used: one that is harmless to read, and a safe evolution of what was released.

A schema says how much a decoder does for each byte: an array of nulls takes no byte an item, so thirty bytes can hold
an interpreter for hours, and a record in itself has no end. So every value must take a byte, and every schema an end.
Then a value costs no more than its own bytes, whatever lengths stand in it.

The rules of compatibility are those of "Schema Resolution" in Apache Avro's specification, 1.12; regions upgrade at
different times, so they must hold in both directions, against every release (FULL_TRANSITIVE).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

TEXT_MAX_BYTES = 256 * 1024
DEPTH_MAX = 16

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_HOLDS = {"items": "array", "values": "map"}
_PROMOTED = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


class UnsafeSchemaError(ValueError):
    """A schema by which nothing is decoded here; the text says why."""


def check(text: str, released: Iterable[str]) -> None:
    """Refuse a writer's schema that is not harmless, or no safe evolution of what was released.

    Args:
        text: the schema, as JSON.
        released: every schema of the same name that was ever released, and today's; as JSON.

    Raises:
        UnsafeSchemaError: it is refused.
    """
    if len(text) > TEXT_MAX_BYTES:
        raise UnsafeSchemaError(f"it is longer than {TEXT_MAX_BYTES} bytes")
    theirs = _Schema(text)
    for other in map(_Schema, released):
        for reader, writer, which in ((other, theirs, "it cannot be read by"), (theirs, other, "it cannot read")):
            why = _why_not(reader, reader.top, writer, writer.top)
            if why:
                raise UnsafeSchemaError(f"{which} a release of {name_of(other.top)}: {why}")


def name_of(schema: Any) -> str:  # noqa: ANN401 - parsed JSON
    """The name of a named type, without its namespace; "" if it is none."""
    name = schema.get("name") if isinstance(schema, dict) else None
    return str(name).rpartition(".")[2] if name else ""


class _Schema:
    """A parsed schema whose every value takes a byte, and which has an end."""

    def __init__(self, text: str) -> None:
        self.top = json.loads(text)
        self.names: dict[str, Any] = {}
        self._depths: dict[str, int] = {}
        self._depth(self.top, "")

    def resolved(self, schema: Any) -> Any:  # noqa: ANN401 - parsed JSON
        """A type, where it is a name the one of that name."""
        return self.names.get(schema.rpartition(".")[2], schema) if isinstance(schema, str) else schema

    def _depth(self, schema: Any, where: str) -> int:  # noqa: ANN401 - parsed JSON
        """How deep the values of a type nest; UnsafeSchemaError if they have no end, or take no byte."""
        if isinstance(schema, str):
            return self._depth_of_name(schema, where)
        if isinstance(schema, list):
            branches = [branch for branch in schema if _kind(branch) != "null"]  # a branch's number takes the byte
            inner = [self._depth(branch, where) for branch in branches]
            is_empty = not schema
        else:
            inner, is_empty = self._inner(schema, where)
        if is_empty:
            raise UnsafeSchemaError(f"{where}a value of it takes no byte")
        depth = 1 + max(inner, default=0)
        if depth > DEPTH_MAX:
            raise UnsafeSchemaError(f"{where}it is nested deeper than {DEPTH_MAX}")
        if isinstance(schema, dict) and "name" in schema:
            # Known from here on, so that it cannot contain itself.
            self.names[name_of(schema)], self._depths[name_of(schema)] = schema, depth
        return depth

    def _inner(self, schema: Any, where: str) -> tuple[list[int], bool]:  # noqa: ANN401 - parsed JSON
        """The depths of the types in a type, and whether its values may take no byte."""
        kind = schema["type"]
        if kind in {"record", "error"}:
            fields = schema["fields"]
            return [self._depth(field["type"], f"field {field['name']}: ") for field in fields], not fields
        if kind == "array":
            return [self._depth(schema["items"], where)], False
        if kind == "map":
            return [self._depth(schema["values"], where)], False
        if kind in {"enum", "fixed"}:
            return [], kind == "fixed" and schema["size"] < 1
        return [self._depth(kind, where)], False

    def _depth_of_name(self, name: str, where: str) -> int:
        if name == "null":
            raise UnsafeSchemaError(f"{where}a value of it takes no byte")
        bare = name.rpartition(".")[2]
        if name not in _PRIMITIVES and bare not in self._depths:
            raise UnsafeSchemaError(f"{where}{name} is not known, or contains itself")
        return self._depths.get(bare, 0)


def _why_not(readers: _Schema, reader: Any, writers: _Schema, writer: Any) -> str:  # noqa: ANN401 - parsed JSON
    """Why values of one schema cannot be read by another; "" if they can."""
    reader, writer = readers.resolved(reader), writers.resolved(writer)
    if isinstance(writer, list):
        return next(filter(None, (_why_not(readers, reader, writers, branch) for branch in writer)), "")
    if isinstance(reader, list):
        is_taken = any(not _why_not(readers, branch, writers, writer) for branch in reader)
        return "" if is_taken else f"no branch takes {_kind(writer)}"
    kind, theirs = _kind(reader), _kind(writer)
    if kind != theirs:
        return "" if kind in _PROMOTED.get(theirs, set()) else f"{theirs} is no {kind}"
    if kind in {"record", "error"}:
        return _why_not_record(readers, reader, writers, writer)
    for part in ("items", "values"):
        if kind == _HOLDS[part]:
            return _why_not(readers, reader[part], writers, writer[part])
    return _why_not_named(reader, writer) if kind in {"enum", "fixed"} else ""


def _why_not_named(reader: Any, writer: Any) -> str:  # noqa: ANN401 - parsed JSON
    """As `_why_not`, of two enums or two fixed."""
    if name_of(reader) != name_of(writer) or reader.get("size") != writer.get("size"):
        return f"{name_of(writer)} is another {_kind(writer)} than {name_of(reader)}"
    more = set(writer.get("symbols", ())) - set(reader.get("symbols", ()))
    return f"{name_of(reader)} has no {', '.join(sorted(more))}" if more and "default" not in reader else ""


def _why_not_record(readers: _Schema, reader: Any, writers: _Schema, writer: Any) -> str:  # noqa: ANN401 - parsed JSON
    if name_of(reader) != name_of(writer):
        return f"{name_of(writer)} is another record than {name_of(reader)}"
    written = {field["name"]: field["type"] for field in writer["fields"]}
    for field in reader["fields"]:
        if field["name"] not in written:
            if "default" not in field:
                return f"{name_of(reader)}.{field['name']} is missing, and has no default"
            continue
        why = _why_not(readers, field["type"], writers, written[field["name"]])
        if why:
            return f"{name_of(reader)}.{field['name']}: {why}"
    return ""


def _kind(schema: Any) -> str:  # noqa: ANN401 - parsed JSON
    while isinstance(schema, dict):
        schema = schema["type"]
    return str(schema)
