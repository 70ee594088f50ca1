"""I1 as the demo measures it: from what the controllers wrote down."""

from __future__ import annotations

from typing import Any

import pytest

from services.demo.figures import overlap_s


def _written(region: str, from_s: float, until_s: float | None) -> dict[str, Any]:
    return {"event": "lease.written", "at": region, "from_s": from_s, "until_s": until_s}


@pytest.mark.parametrize(
    ("entries", "seconds"),
    [
        ([_written("east", 0, 10), _written("west", 10, 20)], 0),
        ([_written("east", 0, 10), _written("west", 8, 20)], 2),
        ([_written("east", 0, 10), _written("east", 5, 15)], 0),
        ([_written("east", 0, 10), _written("east", 6, None), _written("west", 7, 20)], 0),
        ([_written("east", 0, 10), _written("east", 8, None), _written("west", 7, 20)], 1),
        ([_written("east", 0, 10), _written("west", 3, None), _written("west", 4, 6)], 2),
    ],
)
def test_I1_an_overlap_is_what_two_regions_held_at_once(entries: list[dict[str, Any]], seconds: float) -> None:
    """A release ends what its region held before it, and nothing else."""
    assert overlap_s(entries) == seconds
