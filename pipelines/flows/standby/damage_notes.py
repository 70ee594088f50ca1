"""Notes in a region's store about objects whose bytes went bad there: found by a verifier, closed by who repairs them.

A note is create-only, and so is the object that closes it: a key's history stays readable. A note is a hint, never a
proof: who acts on it reads the bytes again and compares them with the signed manifest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pipelines import paths
from pipelines.errors import CorruptError
from pipelines.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Damage:
    """One object that is not what its manifest names.

    Attributes:
        key: of the object.
        why: what is wrong with it, for people.
        seen_ms: when it was found, by wall time.
    """

    key: str
    why: str
    seen_ms: int


@dataclass(frozen=True, slots=True)
class DamageNote:
    """An open note, and where it lies."""

    place: str
    damage: Damage


def leave_note(store: ObjectStore, damage: Damage) -> None:
    """Note a damaged object, unless an open note says so already.

    Raises:
        RetryableError: the store does not answer.
        CorruptError: the key is no checkpoint's.
    """
    if _open(store.list(paths.damage_of(damage.key))):
        return
    body = json.dumps(asdict(damage), sort_keys=True).encode()
    store.create(paths.damaged(damage.key, damage.seen_ms), body)


def open_notes(store: ObjectStore, prefix: str = paths.DAMAGE) -> tuple[DamageNote, ...]:
    """The notes that nobody has closed, oldest key first.

    Args:
        store: of the region.
        prefix: of one run, or of one object; else of the whole region.

    Raises:
        RetryableError: the store does not answer.
    """
    notes = ((place, store.get(place)) for place in _open(store.list(prefix)))
    return tuple(DamageNote(place, _read(place, body)) for place, body in notes if body is not None)


def close_note(store: ObjectStore, note: DamageNote, how: str) -> None:
    """Say how a note's trouble ended: repaired, or gone.

    Raises:
        RetryableError: the store does not answer.
    """
    store.create(f"{note.place}{paths.REPAIRED}", json.dumps({"how": how}).encode())


def _open(places: tuple[str, ...]) -> list[str]:
    closed = {place.removesuffix(paths.REPAIRED) for place in places if place.endswith(paths.REPAIRED)}
    return [place for place in places if place not in closed and not place.endswith(paths.REPAIRED)]


def _read(place: str, body: bytes) -> Damage:
    """The note's text; a note that cannot be read still names its place, so that a person can look."""
    try:
        plain = json.loads(body)
        damage = Damage(key=str(plain["key"]), why=str(plain["why"]), seen_ms=int(plain["seen_ms"]))
        if place.startswith(paths.damage_of(damage.key)):
            return damage
    except (ValueError, KeyError, TypeError, CorruptError, RecursionError):
        pass
    return Damage(key="", why=f"the note at {place} cannot be read", seen_ms=0)
