"""The ledger makes effects happen once; newest-wins never makes a copy wait for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.ledger import Arrival, Ledger, key_of
from pipelines.core.newest_wins import Candidate, giving_way_to
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


HEAD = Candidate("gpt", 1, 4, missing_bytes=100, moved_bytes=10)


@pytest.mark.parametrize(
    ("queued", "winner"),
    [
        ([], None),
        ([Candidate("gpt", 1, 5, 99)], 5),
        ([Candidate("gpt", 1, 5, 100)], None),
        ([Candidate("gpt", 1, 5, 101)], None),
        ([Candidate("gpt", 1, 3, 1)], None),
        ([Candidate("other", 1, 9, 1)], None),
        ([Candidate("gpt", 1, 5, 50), Candidate("gpt", 1, 6, 60)], 6),
        ([Candidate("gpt", 2, 1, 50), Candidate("gpt", 1, 6, 10)], 1),
    ],
)
def test_an_older_copy_gives_way_only_to_a_newer_one_that_is_complete_sooner(
    queued: list[Candidate], winner: int | None
) -> None:
    """Of the same run, newer, and with fewer missing bytes; the newest of several."""
    found = giving_way_to(HEAD, queued)
    assert (None if found is None else found.lineage_seq) == winner


def test_two_checkpoints_of_one_size_do_not_take_turns() -> None:
    """With equal bytes the newer one wins only while nothing of the older was moved."""
    fresh = Candidate("gpt", 1, 4, missing_bytes=100)
    assert giving_way_to(fresh, [Candidate("gpt", 1, 5, 100)]) is not None
    assert giving_way_to(HEAD, [Candidate("gpt", 1, 5, 100)]) is None
