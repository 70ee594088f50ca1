"""The short form of `make fuzz`: ten thousand mutated inputs, the same ones each time."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.__main__ import memory, run_target
from tests.fuzz.targets import TARGETS, codec, headers

COUNTS = {
    "codec": 4_000,
    "headers": 4_000,
    "segments": 600,
    "batches": 1_200,
    "schemas": 200,
    "leases": 700,
    "bodies": 300,
    "intents": 900,
    "node-files": 40,
}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_I14_mutated_input_crashes_nothing_hangs_nothing_and_loses_nothing_whole(name: str) -> None:
    """Each refusal has its reason; what is whole in a damaged log is read, in order."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        assert run_target(TARGETS[name], name, range(COUNTS[name]), Path(folder)) == []


def test_a_target_that_breaks_its_promise_or_hangs_is_found(tmp_path: Path) -> None:
    """The fuzzer can fail, and says which seed repeats it."""

    def breaks(generator: random.Random, _folder: Path) -> None:
        assert generator.random() < 0.9, "planted"

    found = run_target(breaks, "planted", range(100), tmp_path)
    assert 1 < len(found) < 40
    assert found[0].startswith("planted --seed ")


@given(st.integers(0, 2**64))
def test_the_inputs_that_hypothesis_chooses_break_nothing_either(seed: int) -> None:
    """Its search is another one than counting up."""
    for target in (codec, headers):
        target(random.Random(seed), Path())
