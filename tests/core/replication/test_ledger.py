"""The ledger makes effects happen once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.ledger import Arrival, Ledger, key_of
from schemas.records import Chunk, Position, Record, Watermark

KEY = ("gpt", 1, "p", "metrics")


def _mark(seq: int) -> Watermark:
    return Watermark(run="gpt", epoch=1, producer="p", lane="metrics", seq=seq)


def _position(offset: int) -> Position:
    return Position(cluster="c", topic_id="t", topic="farside.metrics", partition=0, offset=offset)


@given(st.lists(st.integers(1, 30), max_size=40))
def test_I15_a_watermark_never_falls_whatever_is_replayed(seqs: list[int]) -> None:
    """Everything at or below the highest number is a duplicate, in any order of arrival."""
    ledger = Ledger()
    for seq in seqs:
        ledger.learn(_mark(seq))
    highest = max(seqs, default=0)
    assert all(ledger.arrival_of(KEY, seq) is Arrival.DUPLICATE for seq in range(1, highest + 1))
    assert ledger.arrival_of(KEY, highest + 1) is Arrival.NEXT
    assert ledger.arrival_of(KEY, highest + 2) is Arrival.GAP


def test_what_changed_rebuilds_the_same_ledger_from_its_topic() -> None:
    """The records of the publishing transaction are all that a restart needs; an unchanged ledger writes none."""
    before = Ledger()
    after = before.copy()
    after.learn(_mark(3))
    after.learn(_position(7))
    records: tuple[Record, ...] = after.changes_since(before)
    rebuilt = Ledger()
    for record in records:
        rebuilt.learn(record)
    assert rebuilt == after
    assert before == Ledger()
    assert after.changes_since(rebuilt) == ()


def test_compaction_keeps_one_record_a_stream_and_a_source() -> None:
    """Keys tell streams and sources apart and nothing else gets one."""
    assert key_of(_mark(1)) == key_of(_mark(2)) != key_of(_position(1))
    assert key_of(_position(1)) == key_of(_position(2))
    with pytest.raises(TypeError, match="Chunk"):
        key_of(Chunk(size=1, sha256=""))
