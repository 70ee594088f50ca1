"""Trying again, on a clock that the test turns."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pipelines.errors import (
    CorruptError,
    FarsideError,
    FencedError,
    MisconfiguredError,
    RetryableError,
    UnknownOutcomeError,
)
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.schema_registry import MemorySchemaRegistry
from services.wrappers.retrying import (
    REGISTRY,
    STORE,
    STORE_BESIDE_LEASE,
    WAIT_S_MAX,
    Retrier,
    RetryingObjectStore,
    RetryingSchemaRegistry,
    RetryPolicy,
    repeat_until_done,
)
from tests.manual_clock import ManualClock

NEVER_REPEATED = (UnknownOutcomeError, FencedError, CorruptError, MisconfiguredError)


class _Failing:
    """A call that raises what it was given, one error a time, and is done when none is left.

    Args:
        errors: in order.
        clock: each attempt takes `attempt_s` on it.
        attempt_s: 0 for an error that comes at once.
    """

    def __init__(self, errors: list[FarsideError], clock: ManualClock | None = None, attempt_s: float = 0.0) -> None:
        self.errors, self.clock, self.attempt_s = errors, clock or ManualClock(), attempt_s
        self.attempts = 0

    def __call__(self) -> str:
        self.attempts += 1
        self.clock.now_s += self.attempt_s
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def _retrier(policy: RetryPolicy, clock: ManualClock, seed: int = 1) -> Retrier:
    return Retrier(policy, clock, random.Random(seed))


def test_it_goes_on_until_it_works_and_waits_longer_each_time() -> None:
    """Each wait is reported with its reason."""
    clock, reasons = ManualClock(), list[str]()
    call = _Failing([RetryableError("away"), RetryableError("still away")])
    assert repeat_until_done(call, clock=clock, deadline_s=60.0, waits=reasons.append) == "done"
    assert reasons == ["away", "still away"]
    assert clock.waits_s == sorted(clock.waits_s)


def test_it_gives_up_when_the_time_is_over_with_the_last_reason() -> None:
    """By the port's clock, in simulated time."""
    clock = ManualClock()

    def call() -> str:
        raise RetryableError("away")

    with pytest.raises(RetryableError, match="away"):
        repeat_until_done(call, clock=clock, deadline_s=60.0, waits=lambda _why: None)
    assert 60.0 <= clock.now_s <= 60.0 + WAIT_S_MAX


@pytest.mark.parametrize("kind", NEVER_REPEATED)
def test_what_is_not_retryable_is_raised_at_once(kind: type[FarsideError]) -> None:
    """A fenced writer must stop, and a write whose outcome is unknown may be there: only a read may follow."""
    clock, call = ManualClock(), _Failing([kind("newer"), kind("newer still")])
    with pytest.raises(kind):
        repeat_until_done(call, clock=clock, deadline_s=60.0, waits=lambda _why: None)
    with pytest.raises(kind):
        _retrier(STORE, clock)(call)
    assert (clock.waits_s, call.attempts) == ([], 2)


def test_an_error_of_another_kind_is_nobodys_to_repeat() -> None:
    """A fault of the program ends the turn that met it."""
    clock = ManualClock()

    def call() -> str:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        _retrier(STORE, clock)(call)
    assert clock.waits_s == []


@pytest.mark.parametrize(("policy", "attempts"), [(STORE, 3), (STORE_BESIDE_LEASE, 2), (REGISTRY, 3)])
def test_a_call_is_made_so_often_at_most_and_its_last_error_is_raised(policy: RetryPolicy, attempts: int) -> None:
    """Errors that come at once: the attempts are counted, and the waits between are short."""
    clock = ManualClock()
    call = _Failing([RetryableError(f"away {number}") for number in range(1, 9)])
    with pytest.raises(RetryableError, match=f"away {attempts}"):
        _retrier(policy, clock)(call)
    assert call.attempts == attempts
    assert all(0.0 <= wait_s <= policy.wait_s * 2**number for number, wait_s in enumerate(clock.waits_s))
    assert clock.now_s <= 3.0


@pytest.mark.parametrize(("policy", "attempt_s", "most_s"), [(STORE, 10.0, 25.0), (STORE_BESIDE_LEASE, 4.0, 4.0)])
def test_a_store_that_swallows_requests_is_given_up_by_the_clock(
    policy: RetryPolicy, attempt_s: float, most_s: float
) -> None:
    """A turn must stay short: slow attempts end a call before their number does."""
    clock = ManualClock()
    call = _Failing([RetryableError("no answer") for _ in range(9)], clock, attempt_s)
    with pytest.raises(RetryableError):
        _retrier(policy, clock)(call)
    assert clock.now_s <= most_s


def test_the_waits_are_the_generators_and_differ_between_clients() -> None:
    """One seed gives the same waits; two do not, so that a store that is back is not met by everybody at once."""

    def waits_s(seed: int) -> list[float]:
        clock = ManualClock()
        _retrier(STORE, clock, seed)(_Failing([RetryableError("away"), RetryableError("away")]))
        return clock.waits_s

    assert waits_s(1) == waits_s(1)
    assert waits_s(1) != waits_s(2)


class _LosesAnswers(MemoryObjectStore):
    """An object store of which each first call of a kind does its work, and then its answer is lost."""

    def __init__(self) -> None:
        super().__init__()
        self._lost: set[str] = set()

    def _answer(self, kind: str) -> None:
        if kind not in self._lost:
            self._lost.add(kind)
            raise RetryableError(f"{kind}: no answer")

    def get(self, key: str) -> bytes | None:
        """Implements ObjectStore."""
        body = super().get(key)
        self._answer("get")
        return body

    def create(self, key: str, body: bytes) -> bool:
        """Implements ObjectStore."""
        created = super().create(key, body)
        self._answer("create")
        return created

    def delete(self, key: str) -> None:
        """Implements ObjectStore."""
        super().delete(key)
        self._answer("delete")


def test_a_stores_calls_are_repeated_and_a_create_finds_its_own_object() -> None:
    """Its answer was lost, so the second attempt says that the object is there: with the bytes that were to be."""
    store = RetryingObjectStore(_LosesAnswers(), _retrier(STORE, ManualClock()))
    assert store.create("key", b"body") is False
    assert store.get("key") == b"body"
    store.delete("key")
    assert store.get("key") is None


def test_a_registrys_overload_is_waited_for_and_its_refusal_is_not() -> None:
    """Registering twice is harmless."""
    answers: list[Callable[[], None]] = [_raiser(RetryableError("429")), lambda: None]

    class Busy(MemorySchemaRegistry):
        def register(self, subject: str, schema: str) -> int:
            answers.pop(0)()
            return super().register(subject, schema)

    clock = ManualClock()
    registry = RetryingSchemaRegistry(Busy(), _retrier(REGISTRY, clock))
    assert registry.register("a", '"int"') == MemorySchemaRegistry().register("a", '"int"')
    assert len(clock.waits_s) == 1
    answers.append(_raiser(MisconfiguredError("not let in")))
    with pytest.raises(MisconfiguredError):
        registry.register("b", '"int"')
    assert len(clock.waits_s) == 1


def _raiser(error: FarsideError) -> Callable[[], None]:
    def answer() -> None:
        raise error

    return answer
