"""The one pair of functions between the records of `schemas/http_bodies.py` and their JSON.

`from_json` refuses a missing or wrongly typed field by its name, and ignores a field that the record does not have: a
newer service may send more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
JSON = "application/json"
INT_LEAST, INT_MOST = -(1 << 63), (1 << 63) - 1  # an Avro long
TEXT_CHARS_MAX = 1_000
NUMBER_MAX = 10**15  # of milliseconds until the year 33,000; of offsets and steps more than there will be
_SAYS = {
    "missing": "it is missing",
    "string_type": "a str is wanted",
    "int_type": "an int is wanted",
    "int_from_float": "an int is wanted",
    "float_type": "a float is wanted",
    "bool_type": "a bool is wanted",
    "tuple_type": "a list is wanted",
    "dict_type": "an object is wanted",
    "dataclass_type": "an object is wanted",
}


class BodyError(ValueError):
    """A body is not what it should be: names the first field that is wrong."""


def to_json(record: object) -> bytes:
    """A record, or a dictionary of records, as JSON. What is infinite or no number becomes null."""
    return _adapter(type(record)).dump_json(record, warnings=False)


def plain(record: object) -> Any:  # noqa: ANN401 - JSON
    """A record as `json.dumps` takes it, for what a command prints."""
    return _adapter(type(record)).dump_python(record, mode="json", warnings=False)


def from_json(kind: type[T], body: bytes | str) -> T:
    """The record of this kind that a body holds.

    Raises:
        BodyError: it is no JSON, or a field is missing, of another type, or a number that no record can hold.
    """
    try:
        record = cast("T", _adapter(kind).validate_json(body, strict=True))
    except ValidationError as error:
        raise BodyError(_sentence(error)) from error
    place = _beyond_records(record)
    if place is not None:
        raise BodyError(f"{place or 'the body'}: a number of 64 bits at most is wanted")
    return record


def request_from_json(kind: type[T], body: bytes | str) -> T:
    """As `from_json`, for what strangers send: its texts and numbers are bounded too.

    Raises:
        BodyError: as of `from_json`; or a text is longer than TEXT_CHARS_MAX or has control characters, which would
            reach terminals and journals; or a number is beyond NUMBER_MAX.
    """
    record = from_json(kind, body)
    wrong = _unbounded(record)
    if wrong is not None:
        place, why = wrong
        raise BodyError(f"{place or 'the body'}: {why}")
    return record


def _unbounded(value: object) -> tuple[str, str] | None:
    """The place of what no request needs, and why it is refused; None if there is nothing."""
    if isinstance(value, str) and (len(value) > TEXT_CHARS_MAX or not value.isprintable()):
        return "", f"a text of at most {TEXT_CHARS_MAX} printable characters is wanted"
    if isinstance(value, int) and not -1 <= value <= NUMBER_MAX:
        return "", f"a number from -1 to {NUMBER_MAX} is wanted"
    for name, one in _inside(value):
        wrong = _unbounded(one)
        if wrong is not None:
            return f"{name}.{wrong[0]}" if wrong[0] else str(name), wrong[1]
    return None


def _inside(value: object) -> Iterable[tuple[object, object]]:
    """The parts of a record, dictionary or list, with their names."""
    if dataclasses.is_dataclass(value):
        return [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, tuple) else ()


def _beyond_records(value: object) -> str | None:
    """The place of a number that would be refused only when it is written down, much later; None if there is none."""
    if isinstance(value, int):
        return None if INT_LEAST <= value <= INT_MOST else ""
    for name, one in _inside(value):
        place = _beyond_records(one)
        if place is not None:
            return f"{name}.{place}" if place else str(name)
    return None


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any record's type
    """Built at the first use of a type, which takes a tenth of a second, and kept."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['msg']}"
    place = ".".join(str(part) for part in first["loc"]) or "the body"
    return f"{place}: {_SAYS.get(first['type'], first['msg'])}"
