"""Catching up: how fast, and what is said of it."""

from __future__ import annotations

from pipelines.core.pace import RECORD_BYTES, WINDOW_S, Pace, Progress


def test_over_any_time_no_more_is_read_than_the_pace_allows() -> None:
    """One second's worth is saved up, and a large read is paid off before the next one."""
    pace, read, now_s = Pace(1_000.0), 0, 50.0
    for _ in range(1_000):
        if pace.allowance(now_s):
            pace.spend(1_500)
            read += 1_500
        now_s += 0.05
    assert 1_000 * 50 <= read <= 1_000 * 51 + 1_500


def test_a_long_rest_saves_one_second_and_no_more() -> None:
    """After an outage of hours the first turn is no flood."""
    pace = Pace(1_000.0)
    pace.allowance(0.0)
    assert pace.allowance(1e6) == 1_000.0


def test_the_remaining_time_is_what_the_backlog_takes_at_the_rate_at_which_it_shrinks() -> None:
    """New records arrive meanwhile: what counts is the difference."""
    progress = Progress()
    for second in range(11):
        progress.published(10, 4_000)
        progress.note(float(second), 100_000 - second * 3_000)
    backlog = progress.backlog()
    assert (backlog.size_bytes, backlog.records) == (70_000, 175)
    assert backlog.records_s == 10.0
    assert backlog.bytes_s == 4_000.0
    assert backlog.remaining_s is not None
    assert abs(backlog.remaining_s - 70_000 / 3_000) < 1e-6


def test_a_backlog_that_does_not_shrink_has_no_end_and_an_empty_one_no_time() -> None:
    """Neither infinity nor a division by zero; before anything was seen a mean size is assumed."""
    progress = Progress()
    assert progress.backlog().status().records == 0
    progress.note(0.0, 1_000)
    progress.note(1.0, 2_000)
    assert progress.backlog().remaining_s is None
    assert progress.backlog().records == round(2_000 / RECORD_BYTES)
    progress.note(WINDOW_S * 2, 0)
    assert progress.backlog().remaining_s == 0.0
    assert progress.backlog().records_s == 0.0
