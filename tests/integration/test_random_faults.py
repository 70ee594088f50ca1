"""Ten random faults on real processes, one after the other; `make faults ROUNDS=200` is the long run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.fault_rounds import running

ROUNDS, SEED = 10, 3


@pytest.mark.servers
def test_I1_I2_I7_I9_one_holder_and_one_chain_after_every_random_fault(tmp_path: Path) -> None:
    """Kills, stops, cuts, the witness away, a whole region asleep: after each, one region holds the run again."""
    die = random.Random(SEED)
    with running(tmp_path / "stack") as rounds:
        done = [rounds.play(die) for _ in range(ROUNDS)]
        assert len(done) == ROUNDS
        assert rounds.broken() == []
