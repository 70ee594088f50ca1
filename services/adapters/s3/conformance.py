"""Whether an S3 server earns the witness role: a probe of its conditional writes.

Servers differ: some ignore If-None-Match and If-Match, and on such a one two regions would both win. Every check here
is a promise that the lease protocol rests on (design 6.3, 6.6); a store that fails one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from pipelines.ports import Entropy
from services.adapters.s3.object_store import MISSING, REFUSED_CONDITION, code_of, mapped_errors

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

RACERS = 8
ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the probe: whether it held, and what was seen."""

    name: str
    passed: bool
    detail: str


def probe(client: S3Client, bucket: str, entropy: Entropy) -> tuple[Check, ...]:
    """Try every promise on fresh keys under `probe/`, which are deleted afterwards.

    Raises:
        RetryableError: the store does not answer; nothing was learnt.
        MisconfiguredError: it denies us.
    """
    store = _Store(client, bucket, f"probe/{entropy.new_id()}")
    checks: dict[str, Callable[[_Store], str]] = {
        "create-only refuses an existing key": _create_only,
        "a stale version is refused": _stale,
        "a missing key is not created by If-Match": _missing,
        "each body has its own ETag": _etags,
        f"of {RACERS} creators one wins": _create_races,
        f"of {RACERS} replacers one wins": _replace_races,
        "a read sees the write before it": _read_back,
    }
    with mapped_errors("conformance probe"):
        try:
            faults = [(name, check(store)) for name, check in checks.items()]
        finally:
            store.clean()
    return tuple(Check(name, passed=not wrong, detail=wrong or "as it must be") for name, wrong in faults)


class _Store:
    """The few requests that the checks make."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._keys: set[str] = set()

    def put(self, key: str, body: str, *, replaces: str | None) -> str | None:
        """A conditional put; the new ETag, or None if it was refused."""
        self._keys.add(key)
        name = f"{self._prefix}/{key}"
        try:
            if replaces is None:
                done = self._client.put_object(Bucket=self._bucket, Key=name, Body=body.encode(), IfNoneMatch="*")
            else:
                done = self._client.put_object(Bucket=self._bucket, Key=name, Body=body.encode(), IfMatch=replaces)
        except ClientError as error:
            if code_of(error) in REFUSED_CONDITION | MISSING:
                return None
            raise
        return done["ETag"]

    def get(self, key: str) -> str | None:
        """The body; None if there is none."""
        try:
            got = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")
        except ClientError as error:
            if code_of(error) in MISSING:
                return None
            raise
        return got["Body"].read().decode()

    def clean(self) -> None:
        """Delete what the probe made."""
        for key in self._keys:
            self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")


def _create_only(store: _Store) -> str:
    store.put("created", "one", replaces=None)
    if store.put("created", "two", replaces=None) is not None:
        return "If-None-Match was ignored: the second creator was told that it had won"
    body = store.get("created")
    return "" if body == "one" else f"the refused write changed the object to {body!r}"


def _stale(store: _Store) -> str:
    first = store.put("versions", "one", replaces=None)
    second = store.put("versions", "two", replaces=first)
    if second is None:
        return "If-Match refused the version that is there"
    return "" if store.put("versions", "three", replaces=first) is None else "If-Match was ignored: a stale write won"


def _missing(store: _Store) -> str:
    if store.put("absent", "one", replaces='"0123456789abcdef0123456789abcdef"') is not None:
        return "If-Match on a missing key was told that it had won"
    return "" if store.get("absent") is None else "If-Match on a missing key created it"


def _etags(store: _Store) -> str:
    seen, etag = set(), None
    for number in range(ROUNDS):
        etag = store.put("etags", f"body {number}", replaces=etag)
        seen.add(etag)
    return "" if len(seen) == ROUNDS and None not in seen else f"{ROUNDS} bodies had {len(seen)} ETags"


def _create_races(store: _Store) -> str:
    wrong = 0
    for number in range(ROUNDS):
        key = f"create-race-{number}"
        wrong += _race(store, key, None) != 1
    return f"{wrong} of {ROUNDS} races had not exactly one winner" if wrong else ""


def _replace_races(store: _Store) -> str:
    wrong = 0
    for number in range(ROUNDS):
        key = f"replace-race-{number}"
        wrong += _race(store, key, store.put(key, "before", replaces=None)) != 1
    return f"{wrong} of {ROUNDS} races had not exactly one winner" if wrong else ""


def _race(store: _Store, key: str, replaces: str | None) -> int:
    """The number of racers whose write succeeded, or RACERS + 1 if the object is not the winner's."""
    bodies = [f"{key} racer {racer}" for racer in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as pool:
        etags = list(pool.map(lambda body: store.put(key, body, replaces=replaces), bodies))
    winners = [body for body, etag in zip(bodies, etags, strict=True) if etag is not None]
    if len(winners) == 1 and store.get(key) != winners[0]:
        return RACERS + 1
    return len(winners)


def _read_back(store: _Store) -> str:
    etag = None
    for number in range(ROUNDS):
        etag = store.put("read-back", str(number), replaces=etag)
        body = store.get("read-back")
        if body != str(number):
            return f"wrote {number}, read {body!r}: a lost reply could not be settled by a read"
    return ""
