"""Tables that strangers fill, and that are bounded therefore. Pure."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def forget_oldest(kept: dict[K, V], most: int) -> list[K]:
    """Take out of a table what was put in first, beyond so many entries.

    Args:
        kept: in the order in which its entries were put in.
        most: so many stay.

    Returns:
        The keys that were taken out.
    """
    gone = list(kept)[:-most]
    for key in gone:
        kept.pop(key, None)  # another thread may have been quicker
    return gone
