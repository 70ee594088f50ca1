"""A failing seed is told with the few faults that it needs."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.fault_minimizer import Budget, fewest, shortest


def test_only_what_is_needed_is_left_in_its_order() -> None:
    """Two of twenty faults, far apart, are needed together."""
    ran: list[Sequence[int]] = []

    def fails(faults: Sequence[int]) -> bool:
        ran.append(faults)
        return {3, 17} <= set(faults)

    assert fewest(range(20), fails) == (3, 17)
    assert len(ran) < 60


def test_a_world_that_fails_without_any_fault_needs_none() -> None:
    """Then it is the code alone."""
    assert fewest(range(9), lambda _faults: True) == ()


def test_the_search_ends_when_it_may_run_no_more() -> None:
    """All are needed: nothing is left out, however long that is tried."""
    ran: list[int] = []

    def fails(faults: Sequence[int]) -> bool:
        ran.append(1)
        return len(faults) == 30

    assert fewest(range(30), fails, Budget(10)) == tuple(range(30))
    assert len(ran) <= 10


def test_the_length_shrinks_to_just_after_what_is_needed() -> None:
    """Within a second of the moment."""
    assert 61.5 <= shortest(200.0, lambda length_s: length_s > 61.5) <= 62.5
