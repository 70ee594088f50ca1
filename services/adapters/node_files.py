"""The small files and records of a node's directory, checked before an agent takes them for what they should be.

Anything may lie on a node's disk: a file that a power loss left half, one of a newer client, one that a script wrote
there. Each function takes decoded JSON and gives back the value, or raises NodeFileError, which says what is wrong.
Fields that are not known are left out: a newer client may write more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from farside import _spool
from pipelines import paths
from pipelines.core.resume_mode import StartRequest
from pipelines.core.set_aside import clipped
from pipelines.errors import MisconfiguredError
from pipelines.ports import Beat, SpoolRecord

UNREADABLE = "unreadable"
NUMBER_END = 2**63
TEXT_MAX = 200
LANES_MAX = 16
FINGERPRINT_MAX = 1_000  # entries
_TEXTS = ("lane", "kind", "run")
_NUMBERS = ("seq", "epoch", "attempt", "step", "time_ms")


class NodeFileError(ValueError):
    """A file, folder or record of the node's directory is not what it should be."""


def check_run(name: str) -> None:
    """NodeFileError unless a folder's name can be a run's, here and in object keys."""
    try:
        paths.check_run(_spool.safe_name(name, "run"))
    except (ValueError, MisconfiguredError) as error:
        raise NodeFileError(clipped(error)) from error


def check_name(name: str) -> None:
    """NodeFileError unless a folder's name can be a producer's or a launch's."""
    try:
        _spool.safe_name(name, "folder")
    except ValueError as error:
        raise NodeFileError(clipped(error)) from error


def beat_of(producer: str, found: Mapping[str, Any]) -> Beat:
    """A producer's beat.json; what a heartbeat could not carry is refused."""
    numbers = {name: _number(found, name) for name in ("step", "time_ms", "epoch", "attempt")}
    last_seq = found.get("last_seq", {})
    if not isinstance(last_seq, dict) or len(last_seq) > LANES_MAX:
        raise NodeFileError("last_seq is no small object")
    for lane in last_seq:
        _short(lane, "a lane in last_seq")
    return Beat(
        producer=producer,
        phase=_short(found.get("phase"), "phase"),
        budget_s=_seconds(found, "budget_s"),
        last_seq={str(lane): _number(last_seq, lane) for lane in last_seq},
        **numbers,
    )


def request_of(found: Mapping[str, Any]) -> StartRequest:
    """A launch's request.json."""
    fingerprint = found.get("fingerprint", {})
    if not isinstance(fingerprint, dict) or len(fingerprint) > FINGERPRINT_MAX:
        raise NodeFileError("fingerprint is no object of some names")
    world_size = _number(found, "world_size", 1)
    if world_size < 1:
        raise NodeFileError(f"world_size is {world_size}")
    return StartRequest(
        _short(found.get("mode", "exact"), "mode"),
        world_size,
        {clipped(name): clipped(value) for name, value in fingerprint.items()},
        _short(found.get("guard", ""), "guard"),
    )


def asker_of(found: Mapping[str, Any]) -> str:
    """The producer that wrote a request.json; "" if its client is older and does not say."""
    producer = found.get("producer", "")
    if producer != "":
        check_name(_short(producer, "producer"))
    return str(producer)


def check_grant(found: Mapping[str, Any]) -> None:
    """NodeFileError unless a grant.json names its launch, epoch and attempt."""
    check_name(_short(found.get("launch"), "launch"))
    for name in ("epoch", "attempt"):
        _number(found, name)


def offset_of(found: Mapping[str, Any]) -> int:
    """The offset in a position's file."""
    return _number(found, "offset")


def state_of(text: bytes) -> tuple[int, str]:
    """Size and SHA-256 in the descriptor of a rank's state."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NodeFileError(clipped(error)) from error
    if not isinstance(found, dict):
        raise NodeFileError("it does not hold a JSON object")
    return _number(found, "size"), _short(found.get("sha256"), "sha256")


def record_of(run: str, producer: str, entry: dict[str, Any], end: int) -> SpoolRecord:
    """The record; one with other fields than ours goes on as `unreadable`, to end as a dead letter with its content."""
    why = _unlike_ours(run, entry)
    if not why:
        return SpoolRecord(producer=producer, end=end, **entry)
    return SpoolRecord(
        producer=producer,
        lane=UNREADABLE,
        seq=0,
        kind=UNREADABLE,
        run=run,
        epoch=0,
        attempt=0,
        step=0,
        time_ms=0,
        body={"record": entry, "why": why},
        end=end,
    )


def _unlike_ours(run: str, entry: dict[str, Any]) -> str:
    """Why a record's fields are unlike ours, "" if they are not; numbers have to fit the events' 64 bits."""
    odd = set(entry) ^ {*_TEXTS, *_NUMBERS, "body"}
    if odd:
        return clipped(f"fields that are missing or unknown: {', '.join(sorted(ascii(one) for one in odd))}")
    try:
        for name in _TEXTS:
            _short(entry[name], name)
        for name in _NUMBERS:
            _number(entry, name)
    except NodeFileError as error:
        return str(error)
    if not isinstance(entry["body"], dict):
        return "body is no object"
    return "" if entry["run"] == run else "it is of another run"


def _short(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.isascii() or len(value) > TEXT_MAX:
        raise NodeFileError(f"{name} is no plain text of at most {TEXT_MAX} characters")
    return value


def _number(found: Mapping[str, Any], name: str, default: object = None) -> int:
    value = found.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < NUMBER_END:
        raise NodeFileError(f"{clipped(name, 100)} is no number of 63 bits")
    return value


def _seconds(found: Mapping[str, Any], name: str) -> float:
    value = found.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < NUMBER_END:
        raise NodeFileError(f"{name} is no number of seconds")
    return float(value)
