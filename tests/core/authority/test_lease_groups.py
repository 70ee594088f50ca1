"""Lease groups: one object at the witness, and each member's record in it is still a register of its own."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.failover_decision import policy_of
from pipelines.core.lease import Author, first, renewal
from pipelines.core.lease_groups import Change, applied, etag_of, member_of
from pipelines.core.lease_profiles import DEFAULT, FAST
from pipelines.errors import RetryableError, UnknownOutcomeError
from schemas.codec import Codec
from schemas.records import Lease, LeaseGroup, LeaseMember
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.wrappers.grouped_leases import TRIES, GroupedLeases
from tests.simulation.lease_checker import faults_of_history
from tests.simulation.register_checker import READ, REFUSED, UNKNOWN, WROTE, Operation, faults_of_register
from tests.waiting import wait_until

RUNS = ("a", "b", "c", "d")
ENTROPY = SystemEntropy()


class _Store(MemoryLeaseStore):
    """Counts what is asked of it, and does what a test wants in between."""

    def __init__(self, before_write: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.before_write = before_write
        self.reads = self.writes = 0
        self.gate = threading.Event()
        self.gate.set()

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        self.reads += 1
        group_and_etag = super().read_group(group)
        self.gate.wait(10)
        return group_and_etag

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        self.writes += 1
        self.gate.wait(10)
        self.before_write()
        return super().write_group(group, expected_etag)


class _Faulty(MemoryLeaseStore):
    """Loses requests and answers, and lets some writes land late."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._late: list[tuple[LeaseGroup, str | None]] = []

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        if self._random.random() < 0.05:
            raise RetryableError("no answer")
        return super().read_group(group)

    def write_group(self, group: LeaseGroup, expected_etag: str | None) -> str | None:
        while self._late and self._random.random() < 0.5:
            super().write_group(*self._late.pop())
        fate = self._random.random()
        if fate < 0.1:
            self._late.append((group, expected_etag))
            raise UnknownOutcomeError("arrives late")
        etag = super().write_group(group, expected_etag)
        if fate < 0.2:
            raise UnknownOutcomeError("the answer was lost")
        return etag


def _grouped(store: MemoryLeaseStore, gathers_s: float = 0.0, runs: tuple[str, ...] = RUNS) -> GroupedLeases:
    return GroupedLeases(
        store,
        store,
        group_of=dict.fromkeys(runs, "g"),
        codec=Codec(),
        clock=SystemClock(),
        entropy=ENTROPY,
        gathers_s=gathers_s,
    )


def _author(region: str) -> Author:
    return Author(region, f"{region}-1", ENTROPY.new_id(), "renewal_due", "controller", 0)


def _first(run: str) -> Lease:
    return first(run, _author("east"), FAST)


def _member(run: str, write_id: str) -> LeaseMember:
    return LeaseMember(run=run, write_id=write_id, lease=write_id.encode())


def _at_once(acts: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


@given(st.lists(st.tuples(st.sampled_from(RUNS), st.integers(0, 3), st.booleans()), max_size=12))
def test_of_the_changes_of_a_group_those_that_name_their_members_version_are_applied(
    drawn: list[tuple[str, int, bool]],
) -> None:
    """Each member as if it were alone, in order; a member that nobody changed keeps its very bytes."""
    before = LeaseGroup(group="g", write_id="w", members=tuple(_member(run, f"{run}0") for run in RUNS[:2]))
    alone: dict[str, str | None] = {"a": "a0", "b": "b0", "c": None, "d": None}
    changes, expected = [], []
    for number, (run, version, current) in enumerate(drawn):
        named = alone[run] if current else f"{run}{version}"
        change = Change(_member(run, f"new{number}"), None if named is None else f'"{named}"')
        changes.append(change)
        if named == alone[run]:
            expected.append(change)
            alone[run] = f"new{number}"
    after, allowed = applied(before, changes, "g", "w2")
    assert list(allowed) == expected
    assert {run: None if (one := member_of(after, run)) is None else one.write_id for run in RUNS} == alone
    touched = {one.member.run for one in expected}
    assert all(one in after.members for one in before.members if one.run not in touched)
    assert after.write_id == "w2"


def test_members_that_ask_at_the_same_time_cost_one_request_for_all() -> None:
    """32 runs are created, renewed and read by one write or read each time, or two when one came late."""
    runs = tuple(f"r{number}" for number in range(32))
    store = _Store()
    grouped = _grouped(store, 0.2, runs)
    leases = {run: _first(run) for run in runs}
    _at_once([lambda lease=lease: grouped.write(lease, None) for lease in leases.values()])  # type: ignore[misc]
    assert store.writes <= 2
    renewed = {run: renewal(lease, _author("east"), 5) for run, lease in leases.items()}
    won: list[str | None] = []
    _at_once(
        [lambda run=run: won.append(grouped.write(renewed[run], f'"{leases[run].write_id}"')) for run in runs]  # type: ignore[misc]
    )
    assert store.writes <= 4
    assert set(won) == {f'"{one.write_id}"' for one in renewed.values()}
    store.reads = 0
    seen: list[Lease] = []
    _at_once([lambda run=run: seen.append(grouped.read(run).lease) for run in runs])  # type: ignore[misc,union-attr]
    assert store.reads <= 2
    assert {one.run: one for one in seen} == renewed


def test_an_answer_is_never_older_than_its_question() -> None:
    """Who asks while a read is under way is answered by the next one: that one may have looked before."""
    store = _Store()
    grouped = _grouped(store)
    lease = _first("a")
    etag = grouped.write(lease, None)
    store.gate.clear()
    early, late = list[Lease](), list[Lease]()
    asks = [
        threading.Thread(target=lambda to=to: to.append(grouped.read("a").lease))  # type: ignore[union-attr]
        for to in (early, late)
    ]
    reads = store.reads
    asks[0].start()
    wait_until(lambda: store.reads == reads + 1, 10, "the first read to have looked")
    after = renewal(lease, _author("east"), 7)
    member = LeaseMember(run="a", write_id=after.write_id, lease=Codec().encode(after))
    held = store.groups["g"]
    store.groups["g"] = (dataclasses.replace(held[0], write_id="w9", members=(member,)), '"w9"')
    asks[1].start()
    store.gate.set()
    for one in asks:
        one.join(10)
    assert (early, late) == ([lease], [after])
    assert etag is not None


def test_only_what_was_read_after_the_question_refuses() -> None:
    """Our region remembers the object as it wrote it; another one has moved a member since, and ours named that."""
    store = _Store()
    east, west = _grouped(store), _grouped(store)
    lease = _first("a")
    etag = east.write(lease, None)
    moved = renewal(lease, _author("west"), 3)
    newer = west.write(moved, etag)
    assert newer is not None
    assert east.read("a") is not None
    after = renewal(moved, _author("east"), 4)
    assert east.write(after, newer) == f'"{after.write_id}"'
    assert west.write(renewal(moved, _author("west"), 5), newer) is None, "the version that it names is gone"


def test_another_regions_writes_to_its_own_members_do_not_refuse_ours() -> None:
    """The object has moved, our member has not: the write goes out again; for ever is too long."""
    store = _Store()
    ours, theirs = _grouped(store), _grouped(store)
    mine, other = _first("a"), _first("b")
    etag = ours.write(mine, None)
    after_b = theirs.write(other, None)
    moves = [0]

    def move() -> None:
        nonlocal other, after_b
        if moves[0] > 0:
            moves[0] -= 1
            held = store.groups["g"]
            other = renewal(other, _author("west"), 0)
            member = LeaseMember(run="b", write_id=other.write_id, lease=Codec().encode(other))
            after, _ = applied(held[0], [Change(member, after_b)], "g", ENTROPY.new_id())
            after_b = etag_of(member)
            store.groups["g"] = (after, f'"{after.write_id}"')

    store.before_write = move
    moves[0] = TRIES - 1
    renewed = renewal(mine, _author("east"), 1)
    won = ours.write(renewed, etag)
    assert won is not None
    moves[0] = TRIES
    with pytest.raises(RetryableError, match="others wrote it") as raised:
        ours.write(renewal(renewed, _author("east"), 2), won)
    assert not isinstance(raised.value, UnknownOutcomeError), "each was refused: nothing of ours is under way"
    held = theirs.read("b")
    assert held is not None
    assert held.lease == other, "and nothing of theirs was lost"


def test_I4_a_group_write_without_an_answer_is_unknown_for_each_member() -> None:
    """Neither won nor lost, for all that went with it; a read settles it."""
    store = _Store()
    grouped = _grouped(store, 0.1)
    leases = {run: _first(run) for run in RUNS}

    def lose() -> None:
        raise UnknownOutcomeError("no answer")

    store.before_write = lose
    unknown: list[str] = []

    def create(run: str) -> None:
        with pytest.raises(UnknownOutcomeError):
            grouped.write(leases[run], None)
        unknown.append(run)

    _at_once([lambda run=run: create(run) for run in RUNS])  # type: ignore[misc]
    assert sorted(unknown) == list(RUNS)
    assert grouped.read("a") is None
    store.before_write = lambda: None
    assert grouped.write(leases["a"], None) is not None, "the same decision may be taken again (decision 0002)"


@pytest.mark.parametrize("seed", range(6))
def test_I3_I4_each_member_is_one_register_whatever_the_witness_loses(seed: int) -> None:
    """Two regions, each with a thread for each run, write and read; requests and answers get lost, writes come late."""
    store = _Faulty(seed)
    regions = {name: _grouped(store) for name in ("east", "west")}
    operations: dict[str, list[Operation]] = {run: [] for run in RUNS}

    def work(region: str, run: str) -> None:
        for _ in range(40):
            began_s = time.perf_counter()

            def saw(kind: str, version: str | None, began_s: float = began_s) -> None:
                operations[run].append(Operation(region, kind, version, began_s, time.perf_counter()))

            try:
                held = regions[region].read(run)
            except RetryableError:
                continue
            saw(READ, None if held is None else held.lease.write_id)
            lease = _first(run) if held is None else renewal(held.lease, _author("east"), 0)
            began_s = time.perf_counter()
            try:
                won = regions[region].write(lease, None if held is None else held.etag)
            except UnknownOutcomeError:
                saw(UNKNOWN, lease.write_id, began_s)
            except RetryableError:
                continue
            else:
                named = None if held is None else held.lease.write_id
                saw(*((REFUSED, named) if won is None else (WROTE, lease.write_id)), began_s)

    _at_once([lambda one=one, run=run: work(one, run) for one in regions for run in RUNS])  # type: ignore[misc]
    for run in RUNS:
        history = [one for one in store.history if one.run == run]
        assert len(history) > 10
        assert faults_of_history(history) == []
        assert faults_of_register(operations[run], [one.write_id for one in history]) == []


@given(st.floats(0, 1e7), st.floats(0, 100))
def test_runs_in_step_renew_together_and_never_later(won_at_s: float, later_s: float) -> None:
    """Whenever two leases were won, both are due at multiples of the period; none is due later than without a group."""
    alone, in_step = policy_of(DEFAULT), policy_of(DEFAULT, in_step=True)
    due_s = in_step.due_at_s(won_at_s, 10.0)
    assert won_at_s < due_s <= alone.due_at_s(won_at_s, 10.0)
    assert due_s % 10.0 == 0
    assert in_step.due_at_s(won_at_s + later_s, 10.0) % 10.0 == 0
    assert in_step.due_at_s(float("-inf"), 10.0) == float("-inf"), "what never happened is due"
