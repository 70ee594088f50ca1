"""Whether an S3 server earns the witness role: a probe of its conditional writes.

Servers differ: some ignore If-None-Match and If-Match, and on such a one two regions would both win. Every check here
is a promise that the lease protocol rests on (design 6.3, 6.6); a store that fails one is refused.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from pipelines.errors import FarsideError, MisconfiguredError
from pipelines.ports import Entropy
from services.adapters.s3.faults import CONFLICT, MISSING, REFUSED_CONDITION, code_of, mapped_errors
from services.adapters.s3.object_store import place_of, stored

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

RACERS = 8
ROUNDS, ROUNDS_AT_START = 10, 1
CONFLICTS_MAX = 5  # so often a racer begins again because another write was under way


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the probe: whether it held, and what was seen."""

    name: str
    passed: bool
    detail: str


def probe(client: S3Client, bucket: str, entropy: Entropy, rounds: int = ROUNDS) -> tuple[Check, ...]:
    """Try every promise on fresh keys under `probe/`, which are deleted afterwards.

    The checks are tried at the same time, each on keys of its own, since the store may be far away.

    Args:
        client: of the store; it must have connections for as many threads as race.
        bucket: which.
        entropy: names the keys.
        rounds: how many races of each kind, and how many versions of each key.

    Raises:
        RetryableError: the store does not answer; nothing was learnt.
        MisconfiguredError: it denies us.
    """
    store = _Store(client, bucket, f"probe/{entropy.new_id()}", rounds)
    checks: dict[str, Callable[[_Store], str]] = {
        "create-only refuses an existing key": _create_only,
        "a stale version is refused": _stale,
        "a missing key is not created by If-Match": _missing,
        "each body has its own ETag": _etags,
        f"of {RACERS} creators one wins": _create_races,
        f"of {RACERS} replacers one wins": _replace_races,
        "a read sees the write before it": _read_back,
    }
    with mapped_errors("conformance probe", place_of(client, bucket, "witness.bucket")):
        try:
            with ThreadPoolExecutor(len(checks)) as pool:
                faults = list(pool.map(lambda check: check(store), checks.values()))
        finally:
            store.clean()
    named = zip(checks, faults, strict=True)
    return tuple(Check(name, passed=not wrong, detail=wrong or "as it must be") for name, wrong in named)


def refuse_unfit(client: S3Client, bucket: str, entropy: Entropy) -> None:
    """Refuse a store that cannot be a witness: the probe in short, for a controller before it uses one.

    Raises:
        RetryableError: the store does not answer; nothing was learnt.
        MisconfiguredError: it denies us, or broke a promise; the text says which, and what to do.
    """
    broken = [check for check in probe(client, bucket, entropy, ROUNDS_AT_START) if not check.passed]
    if broken:
        seen = "; ".join(f"{check.name}: {check.detail}" for check in broken)
        raise MisconfiguredError(
            f"the witness, {place_of(client, bucket)}, is refused, since two regions could hold a run at once: {seen}. "
            "Name a store that honours If-Match and If-None-Match (regions.*.witness); `farside doctor` tries all of it"
        )


class _Store:
    """The few requests that the checks make; threads share it."""

    def __init__(self, client: S3Client, bucket: str, prefix: str, rounds: int) -> None:
        self.rounds = rounds
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def put(self, key: str, body: str, *, replaces: str | None) -> str | None:
        """A conditional put; the new ETag, or None if it was refused. After a conflict it is tried again."""
        with self._lock:
            self._keys.add(key)
        conflicts = 0
        while True:
            try:
                return self._sent(f"{self._prefix}/{key}", body.encode(), replaces)
            except ClientError as error:
                if code_of(error) in {*REFUSED_CONDITION, MISSING}:
                    return None
                conflicts += code_of(error) in CONFLICT
                if code_of(error) not in CONFLICT or conflicts > CONFLICTS_MAX:
                    raise

    def _sent(self, name: str, body: bytes, replaces: str | None) -> str:
        if replaces is None:
            return stored(self._client.put_object(Bucket=self._bucket, Key=name, Body=body, IfNoneMatch="*"))
        return stored(self._client.put_object(Bucket=self._bucket, Key=name, Body=body, IfMatch=replaces))

    def get(self, key: str) -> str | None:
        """The body; None if there is none."""
        try:
            got = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")
        except ClientError as error:
            if code_of(error) == MISSING:
                return None
            raise
        return got["Body"].read().decode("utf-8", "replace")

    def clean(self) -> None:
        """Delete what the probe made; what cannot be deleted stays, and is in nobody's way."""
        for key in self._keys:
            name = f"{self._prefix}/{key}"
            with (
                contextlib.suppress(FarsideError),
                mapped_errors(f"delete {name}", place_of(self._client, self._bucket)),
            ):
                self._client.delete_object(Bucket=self._bucket, Key=name)


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
    rounds = max(2, store.rounds)
    for number in range(rounds):
        etag = store.put("etags", f"body {number}", replaces=etag)
        seen.add(etag)
    return "" if len(seen) == rounds and None not in seen else f"{rounds} bodies had {len(seen)} ETags"


def _create_races(store: _Store) -> str:
    wrong = 0
    for number in range(store.rounds):
        key = f"create-race-{number}"
        wrong += _race(store, key, None) != 1
    return f"{wrong} of {store.rounds} races had not exactly one winner" if wrong else ""


def _replace_races(store: _Store) -> str:
    wrong = 0
    for number in range(store.rounds):
        key = f"replace-race-{number}"
        wrong += _race(store, key, store.put(key, "before", replaces=None)) != 1
    return f"{wrong} of {store.rounds} races had not exactly one winner" if wrong else ""


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
    for number in range(store.rounds):
        etag = store.put("read-back", str(number), replaces=etag)
        body = store.get("read-back")
        if body != str(number):
            return f"wrote {number}, read {body!r}: a lost reply could not be settled by a read"
    return ""
