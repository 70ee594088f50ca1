"""What a region believed of its authority, in true time: all that the checkers see of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A region believed itself valid from one true instant to another."""

    region: str
    begin_s: float
    end_s: float
