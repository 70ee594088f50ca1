"""A hostile case: what is done to a live stack, and the one answer of the product that is right.

The functions judge from outside only: processes, topics, buckets, spools, `/status`, the `farside` command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.hostile.live import Live


class Stage(Enum):
    """The stack on which a case plays: with whom at work."""

    LOG = "log"  # west's replicator follows east's Kafka, into which the case writes as an agent would, or worse
    RUNS = "runs"  # agents, controllers and replicators of both regions, and trainers


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        name: of the case.
        right: the right answer, in words.
        look: does it, and returns what was seen; AssertionError says what differs.
        stage: where it plays.
        short: whether it takes a few seconds, so that `make test` has it too.
        shares: the run that it shares with others of its kind; "" for one of its own.
    """

    name: str
    right: str
    look: Callable[[Live, str], str]
    stage: Stage = Stage.LOG
    short: bool = False
    shares: str = ""

    @property
    def run(self) -> str:
        """The run to which it does things."""
        return self.shares or self.name


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sight of one case, and whether that is the right answer."""

    case: str
    right: str
    seen: str
    ok: bool
    took_s: float
