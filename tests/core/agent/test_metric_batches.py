"""Many metrics in one event: what goes in comes out, under numbers that are counted like any event's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.ledger import Arrival, Ledger, stream
from pipelines.core.metric_batches import BatchPolicy, batch_of, metrics_of, parted, runs_of_rows
from pipelines.errors import CorruptError
from schemas.codec import Codec
from schemas.records import Metric, MetricBatch

POLICY = BatchPolicy(rows_max=4, bytes_max=1_000, age_s=5.0)


def _metric(seq: int, step: int | None = None, **values: float) -> Metric:
    return Metric(
        event_id=f"gpt/1/r0/metrics/{seq}",
        run="gpt",
        region="east",
        epoch=1,
        attempt=1,
        producer="r0",
        seq=seq,
        step=seq if step is None else step,
        time_ms=1_000 + seq,
        values=values,
    )


@given(
    st.integers(1, 2**40),
    st.lists(st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False), max_size=4), min_size=1, max_size=9),
)
def test_what_is_put_into_columns_comes_out_as_it_was(first: int, rows: list[dict[str, float]]) -> None:
    """Also through the codec, with names that only some steps have, and with none at all."""
    metrics = [dataclasses.replace(_metric(first + at), values=values) for at, values in enumerate(rows)]
    batch = Codec().decode_as(MetricBatch, Codec().encode(batch_of(metrics)))
    assert list(metrics_of(batch)) == metrics
    assert (batch.first_seq, batch.seq, batch.step) == (first, metrics[-1].seq, metrics[-1].step)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 600)), min_size=1, max_size=30))
def test_batches_keep_every_metric_in_order_within_their_bounds_and_span_no_hole(jumps: list[tuple[int, int]]) -> None:
    """A hole in the numbers ends a batch, so it still shows between two events."""
    metrics, seq = [], 0
    for jump, _ in jumps:
        seq += jump
        metrics.append(_metric(seq))
    sizes = [size for _, size in jumps]
    runs = list(runs_of_rows(metrics, sizes, POLICY))
    assert [one for rows in runs for one in rows] == metrics
    at = 0
    for rows in runs:
        assert len(rows) <= POLICY.rows_max
        assert len(rows) == 1 or sum(sizes[at : at + len(rows)]) <= POLICY.bytes_max
        assert [one.seq for one in rows] == list(range(rows[0].seq, rows[0].seq + len(rows)))
        at += len(rows)


def test_another_attempt_or_producer_begins_another_batch() -> None:
    """An event has one identity."""
    first = _metric(1)
    for change in ({"attempt": 2}, {"producer": "r1"}, {"epoch": 2}, {"run": "other"}):
        changed: dict[str, Any] = {"seq": 2, **change}
        assert len(list(runs_of_rows([first, dataclasses.replace(first, **changed)], [1, 1], POLICY))) == 2


def test_a_lone_metric_goes_at_once_and_those_that_follow_soon_gather() -> None:
    """By number, by bytes, or when the oldest has waited long enough."""
    assert not POLICY.due(0, 0, float("-inf"), 0.0)
    assert POLICY.due(1, 10, float("-inf"), 0.0)
    assert not POLICY.due(3, 10, 0.0, 4.9)
    assert POLICY.due(1, 10, 0.0, 5.0)
    assert POLICY.due(4, 10, 0.0, 0.1)
    assert POLICY.due(1, 1_000, 0.0, 0.1)


def test_a_batch_is_counted_by_all_its_numbers() -> None:
    """Next, a duplicate, a gap before it, or one that begins within what is known."""
    batch = batch_of([_metric(seq) for seq in (4, 5, 6)])
    for seen, expected in [(3, Arrival.NEXT), (5, Arrival.NEXT), (6, Arrival.DUPLICATE), (2, Arrival.GAP)]:
        assert Ledger({stream(batch): seen}).arrival(batch) is expected


def test_a_batch_is_parted_at_what_is_known_and_at_the_fork() -> None:
    """Row by row; whole where nothing is to be left out, None where nothing is left."""
    batch = batch_of([_metric(seq, loss=float(seq)) for seq in range(1, 7)])
    assert parted(batch, lambda seq: seq > 0, lambda _step: True) == (batch, 0)
    visible, branch = parted(batch, lambda seq: seq > 2, lambda step: step <= 4)
    assert visible is not None
    assert [(one.seq, one.values["loss"]) for one in metrics_of(visible)] == [(3, 3.0), (4, 4.0)]
    assert (visible.first_seq, visible.seq, visible.step, branch) == (3, 4, 4, 2)
    assert visible.event_id != batch.event_id
    assert parted(batch, lambda seq: seq > 2, lambda step: step <= 2) == (None, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"first_seq": 2},
        {"seq": 9},
        {"steps": (1,)},
        {"times_ms": ()},
        {"columns": (dataclasses.replace(batch_of([_metric(1, loss=1.0)]).columns[0], rows=(7,)),)},
        {"columns": (dataclasses.replace(batch_of([_metric(1, loss=1.0)]).columns[0], values=(1.0, 2.0, 3.0)),)},
    ],
)
def test_columns_that_do_not_fit_their_numbers_are_corrupt(change: dict[str, Any]) -> None:
    """A batch that was damaged before it was encoded is no reason to invent rows."""
    batch = batch_of([_metric(1, loss=1.0), _metric(2, loss=2.0)])
    with pytest.raises(CorruptError, match="batch gpt"):
        metrics_of(dataclasses.replace(batch, **change))
