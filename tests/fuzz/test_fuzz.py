"""The short form of `make fuzz`: ten thousand mutated inputs, the same ones each time."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecordsBuilder

from services.adapters.kafka.batches import SafeBatch
from tests.fuzz.__main__ import memory, run_target
from tests.fuzz.targets import BATCH_HEAD_BYTES, TARGETS, codec, headers

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


@pytest.mark.parametrize("count", [2, 3])
def test_no_record_of_a_batch_takes_a_place_behind_it(count: int) -> None:
    """The first of two claims the second's offset, or the header more records than places.

    Found by seed 3489 of `batches`: the second record was given the offset of the next batch's first one.
    """
    builder = MemoryRecordsBuilder(2, 0, 1 << 20)
    for _ in range(2):
        builder.append(5, b"gpt", b"value", [])
    builder.close()
    batch = bytearray(builder.buffer())
    delta = BATCH_HEAD_BYTES + 3  # behind the record's length, attributes and time
    assert batch[delta] == 0
    batch[delta] = 2 if count == 2 else 0  # a zigzag 1
    batch[BATCH_HEAD_BYTES - 4 : BATCH_HEAD_BYTES] = count.to_bytes(4)
    read = list(SafeBatch(bytes(batch)))
    damage = [getattr(one.value, "damage", None) for one in read]
    assert [one.offset for one in read] == ([0, 1] if count == 2 else [0])
    assert damage[0] is not None
    assert max(one.last_offset for one in damage if one) <= 1
    assert SafeBatch(bytes(batch)).next_offset == 2


@given(st.integers(0, 2**64))
def test_the_inputs_that_hypothesis_chooses_break_nothing_either(seed: int) -> None:
    """Its search is another one than counting up."""
    for target in (codec, headers):
        target(random.Random(seed), Path())
