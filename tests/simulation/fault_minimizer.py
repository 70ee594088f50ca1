"""Leaves out of a failing world whatever it fails without, until nothing more can be left out.

Zeller and Hildebrandt's ddmin (2002): halves, then quarters, then single faults, each time anew from what is left. How
often the world is run is bounded; the fewest faults found until then are given back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

RUNS_MOST = 200

F = TypeVar("F")


@dataclass
class Budget:
    """How often the world may still be run."""

    left: int = RUNS_MOST

    def take(self) -> bool:
        """One more run, if there is one left."""
        self.left -= 1
        return self.left >= 0


def fewest(faults: Sequence[F], fails: Callable[[Sequence[F]], bool], budget: Budget | None = None) -> tuple[F, ...]:
    """A part of the faults, in their order, with which the world still fails, and with no single one of it left out."""
    budget = budget or Budget()
    left, parts = tuple(faults), 2
    if budget.take() and fails(()):
        return ()
    while len(left) >= 2:
        size = max(1, len(left) // parts)
        pieces = [left[begin : begin + size] for begin in range(0, len(left), size)]
        smaller = _without_one(pieces, fails, budget)
        if smaller is not None:
            left, parts = smaller, max(2, parts - 1)
        elif size == 1 or budget.left <= 0:
            break
        else:
            parts = min(len(left), parts * 2)
    return left


def _without_one(
    pieces: Sequence[tuple[F, ...]], fails: Callable[[Sequence[F]], bool], budget: Budget
) -> tuple[F, ...] | None:
    """The faults left without the first piece that is not needed; None if all are, or no more may be run."""
    for number in range(len(pieces)):
        rest = tuple(one for at, piece in enumerate(pieces) if at != number for one in piece)
        if not budget.take():
            return None
        if fails(rest):
            return rest
    return None


def shortest(
    length_s: float, fails: Callable[[float], bool], budget: Budget | None = None, least_s: float = 1.0
) -> float:
    """How soon the world may end and still fail, found by halving; what fails early is taken to fail late, too."""
    budget = budget or Budget(12)
    low_s, high_s = 0.0, length_s
    while high_s - low_s > least_s and budget.take():
        middle_s = (low_s + high_s) / 2
        if fails(middle_s):
            high_s = middle_s
        else:
            low_s = middle_s
    return high_s
