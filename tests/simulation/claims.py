"""How long a region believed that it held the run, in true time; the checkers see nothing else of its belief."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A region believed itself valid from one true instant to another."""

    region: str
    begin_s: float
    end_s: float
