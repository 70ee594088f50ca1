"""Repeating calls that failed, with tenacity: one place for the policies of all clients (decision 0012).

The error's class decides. A RetryableError is repeated. An UnknownOutcomeError never is: the write may have happened,
so only a read may follow it (I4). FencedError, CorruptError and MisconfiguredError would fail again.

| client | who repeats a call |
|---|---|
| a region's object store | RetryingObjectStore with `STORE`; the controller's own with `STORE_BESIDE_LEASE` |
| a schema registry | RetryingSchemaRegistry with `REGISTRY`; in a replay, the replay itself, until its --wait is over |
| Kafka and the store at a service's start | `repeat_until_done`, until they answer |
| the witness, and a drill's lease records | nobody: each request is sent once, and the controller decides (6.3) |
| Kafka | the client library within a call, under the record's sequence number; then the flow's next turn |
| grants, webhooks, pings | the flow's next turn |

All waiting is on the Clock port: tenacity's own stop and wait would ignore a simulated clock (design, section 4).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import tenacity

from pipelines.core.retention import Listed
from pipelines.errors import RetryableError, UnknownOutcomeError
from pipelines.ports import Clock, ObjectStore, SchemaRegistry

T = TypeVar("T")
WAIT_S, WAIT_S_MAX = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is made at most, and for how long it is repeated.

    A call ends at the latest after `repeat_s` + `wait_s_max` + the time of one attempt.
    """

    attempts_max: int
    repeat_s: float  # an attempt that fails later than this after the beginning of the first is the last
    wait_s: float  # the longest wait before the second attempt; it doubles with each further one
    wait_s_max: float


STORE = RetryPolicy(attempts_max=3, repeat_s=15.0, wait_s=0.5, wait_s_max=2.0)
# The controller's turns are timed by its lease: the store's timeout there is 2 s, and one repetition fits.
STORE_BESIDE_LEASE = RetryPolicy(attempts_max=2, repeat_s=3.0, wait_s=0.5, wait_s_max=0.5)
REGISTRY = RetryPolicy(attempts_max=3, repeat_s=15.0, wait_s=1.0, wait_s_max=2.0)


def repeatable(error: BaseException) -> bool:
    """Whether a call that raised this may be made again: nothing was decided, and another try may succeed."""
    return isinstance(error, RetryableError) and not isinstance(error, UnknownOutcomeError)


class Retrier:
    """Makes calls under one policy; threads may share it.

    Args:
        policy: how often and how long.
        clock: measures and waits.
        jitter: draws each wait between nothing and the policy's, so that clients do not come back all at once.
    """

    def __init__(self, policy: RetryPolicy, clock: Clock, jitter: random.Random) -> None:
        self._policy, self._clock, self._jitter = policy, clock, jitter

    def __call__(self, call: Callable[[], T]) -> T:
        """Make a call, again while it may be repeated; what the last attempt raised is raised."""
        policy, clock = self._policy, self._clock
        began_s = clock.boottime_s()
        longest = tenacity.wait_exponential(multiplier=policy.wait_s, max=policy.wait_s_max)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(repeatable),
            stop=lambda state: (
                state.attempt_number >= policy.attempts_max or clock.boottime_s() - began_s >= policy.repeat_s
            ),
            wait=lambda state: self._jitter.uniform(0.0, longest(state)),
            sleep=clock.sleep,
            reraise=True,
        )
        return attempts(call)


class RetryingObjectStore:
    """Implements ObjectStore: another one's, whose calls are repeated.

    A `create` whose answer was lost finds its own object when it is repeated, and answers False: "it is there". That is
    all that a create-only object needs, since equal keys carry equal bytes.

    Args:
        store: makes one attempt a call.
        retry: repeats its calls.
    """

    def __init__(self, store: ObjectStore, retry: Retrier) -> None:
        self._store, self._retry = store, retry

    def get(self, key: str) -> bytes | None:
        """Implements ObjectStore."""
        return self._retry(partial(self._store.get, key))

    def create(self, key: str, body: bytes) -> bool:
        """Implements ObjectStore."""
        return self._retry(partial(self._store.create, key, body))

    def put(self, key: str, body: bytes) -> None:
        """Implements ObjectStore."""
        self._retry(partial(self._store.put, key, body))

    def list(self, prefix: str) -> tuple[str, ...]:
        """Implements ObjectStore."""
        return self._retry(partial(self._store.list, prefix))

    def size(self, key: str) -> int | None:
        """Implements ObjectStore."""
        return self._retry(partial(self._store.size, key))

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        """Implements ObjectStore."""
        return self._retry(partial(self._store.entries, prefix))

    def delete(self, key: str) -> None:
        """Implements ObjectStore."""
        self._retry(partial(self._store.delete, key))


class RetryingSchemaRegistry:
    """Implements SchemaRegistry: another one's, whose calls are repeated; registering twice is harmless.

    Args:
        schemas: makes one attempt a call.
        retry: repeats its calls.
    """

    def __init__(self, schemas: SchemaRegistry, retry: Retrier) -> None:
        self._schemas, self._retry = schemas, retry

    def register(self, subject: str, schema: str) -> int:
        """Implements SchemaRegistry."""
        return self._retry(partial(self._schemas.register, subject, schema))


def repeat_until_done(call: Callable[[], T], *, clock: Clock, deadline_s: float, waits: Callable[[str], None]) -> T:
    """Make a call until it no longer raises RetryableError: for a service's start, which waits for its region.

    Args:
        call: what to do; it may be done several times.
        clock: measures and waits.
        deadline_s: how long in all, on that clock.
        waits: is called with the reason before each wait, which doubles up to `WAIT_S_MAX`.

    Raises:
        RetryableError: the last one, when the time is over.
    """
    began_s = clock.boottime_s()

    def report(state: tenacity.RetryCallState) -> None:
        if state.outcome is not None:
            waits(str(state.outcome.exception()))

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(repeatable),
        stop=lambda _state: clock.boottime_s() - began_s >= deadline_s,
        wait=tenacity.wait_exponential(multiplier=WAIT_S, max=WAIT_S_MAX),
        sleep=clock.sleep,
        before_sleep=report,
        reraise=True,
    )
    return attempts(call)
