"""The table of faults does not rot: each one can still be planted, in the one place that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
LEAST = 25


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_fault_can_be_planted_and_its_tests_are_there(mutant: Mutant) -> None:
    """Exactly once in its file, and it changes it."""
    text = (ROOT / mutant.path).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert all((ROOT / path).exists() for path in mutant.tests)


def test_there_are_enough_faults_and_none_twice() -> None:
    """Names are what the table is read by."""
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) >= LEAST
