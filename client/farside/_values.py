"""Plain values as JSON, exactly: what is decoded equals what was encoded, in value and in type.

A state holds learning rates, counters, lists of betas and the like. ``torch.save`` would pickle them,
and a pickle is a program; JSON is not. What JSON lacks is written as an object with one key that begins
with ``$``.
"""

from __future__ import annotations

import json
import math
from typing import Any, SupportsFloat

from farside.errors import UnsupportedValueError


def encode_value(name: str, value: object) -> bytes:
    """``value`` as JSON bytes.

    Args:
        name: where the value was found, for the error's text.
        value: None, bool, int, float, str, and lists, tuples and dictionaries of these.

    Raises:
        UnsupportedValueError: it is, or holds, anything else.
    """
    return json.dumps(_to_json(name, value), separators=(",", ":"), allow_nan=False).encode()


def decode_value(data: bytes) -> Any:  # noqa: ANN401 - a state's values are what the user put there
    """The value that ``encode_value`` was given.

    Raises:
        ValueError: these bytes did not come from ``encode_value``.
    """
    return _from_json(json.loads(data))


def _to_json(name: str, value: object) -> object:
    kind = type(value)  # exact types: a subclass would come back as its base
    if value is None or kind in {bool, int, str}:
        return value
    if isinstance(value, float) and kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list) and kind is list:
        return [_to_json(name, element) for element in value]
    if isinstance(value, tuple) and kind is tuple:
        return {"$tuple": [_to_json(name, element) for element in value]}
    if isinstance(value, dict) and kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _to_json(name, element) for key, element in value.items()}
        return {"$dict": [[_to_json(name, key), _to_json(name, element)] for key, element in value.items()]}
    raise UnsupportedValueError(
        f"{name} holds a {kind.__module__}.{kind.__qualname__}, which cannot be stored without pickling it. "
        f"A checkpoint holds tensors, numbers, strings, None, lists, tuples and dictionaries; "
        f"give anything else to run.rank_state() as bytes of your own."
    )


def _from_json(value: Any) -> Any:  # noqa: ANN401 - see decode_value
    if isinstance(value, list):
        return [_from_json(element) for element in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag == "$float":
            return float(content)
        if tag == "$tuple":
            return tuple(_from_json(element) for element in content)
        if tag == "$dict":
            return {_from_json(key): _from_json(element) for key, element in content}
    return {key: _from_json(element) for key, element in value.items()}


def portable_float(value: SupportsFloat) -> float | str:
    """A metric as JSON: a number, or ``nan``, ``inf``, ``-inf`` as a string. ``float()`` reads both back."""
    number = float(value)
    return number if math.isfinite(number) else repr(number)
