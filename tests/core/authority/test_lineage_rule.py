"""The rule of lineage (I5), by table and by properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.lineage import LineageView, Standing, standing

# Epoch 2 forked from 1 at step 30, 3 from 2 at step 50; epoch 4 went back to 2 at step 40, so 3 is a branch.
VIEW = LineageView(epoch=4, forks=((1, 0, -1), (2, 1, 30), (3, 2, 50), (4, 2, 40)))


@pytest.mark.parametrize(
    ("epoch", "step", "expected"),
    [
        (1, 30, Standing.CURRENT),
        (1, 31, Standing.BRANCH),
        (2, 40, Standing.CURRENT),
        (2, 41, Standing.BRANCH),
        (3, 45, Standing.BRANCH),
        (3, 1, Standing.BRANCH),
        (4, 10**9, Standing.CURRENT),
        (5, 1, Standing.UNKNOWN),
    ],
)
def test_I5_only_what_lies_on_the_path_back_from_the_newest_epoch_counts(
    epoch: int, step: int, expected: Standing
) -> None:
    """Past a fork and off the path is a branch; an epoch not heard of is to be waited for."""
    assert standing(VIEW, epoch, step) is expected


@given(st.permutations(VIEW.forks), st.integers(1, 5), st.integers(0, 60))
def test_I5_the_rule_does_not_depend_on_the_order_in_which_epochs_are_known(
    forks: list[tuple[int, int, int]], epoch: int, step: int
) -> None:
    """The chain is a set of links."""
    assert standing(LineageView(4, tuple(forks)), epoch, step) is standing(VIEW, epoch, step)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_I5_a_fork_before_an_older_fork_closes_the_older_epochs_too(first: int, second: int, step: int) -> None:
    """Epoch 3 rewinds behind epoch 2's own fork: nothing of epoch 1 past the rewind counts any more."""
    view = LineageView(3, ((1, 0, -1), (2, 1, first), (3, 2, second)))
    current = standing(view, 1, step) is Standing.CURRENT
    assert current == (step <= min(first, second))
