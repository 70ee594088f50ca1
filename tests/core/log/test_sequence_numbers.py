"""The numbers that are taken from the headers of a record that cannot be decoded."""

from __future__ import annotations

import pytest

from pipelines.core.ledger import Arrival, Ledger
from pipelines.core.sequence_numbers import SPAN_MAX, Numbered, number_of, place_of

STREAM = ("gpt", 1, "r0", "metrics")


def _headers(**change: bytes) -> list[tuple[str, bytes]]:
    plain = {"run": b"gpt", "epoch": b"1", "producer": b"r0", "lane": b"metrics", "seq": b"6"} | change
    return [(f"farside_{name}", value) for name, value in plain.items()]


def test_a_record_takes_the_numbers_that_its_headers_say() -> None:
    """One, or those of a batch."""
    assert number_of(_headers()) == Numbered(STREAM, 6, 6)
    assert number_of(_headers(first_seq=b"4")) == Numbered(STREAM, 4, 6)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": b"9" * 5_000},  # Python refuses to read so many digits
        {"seq": b"9" * 19},  # more than the ledger's record holds
        {"seq": "٣".encode()},
        {"seq": b"\xff"},
        {"seq": b""},
        {"seq": b"0"},
        {"seq": b"-3"},
        {"epoch": b"one"},
        {"first_seq": b"7"},
        {"first_seq": b"x"},
        {"seq": str(SPAN_MAX + 1).encode(), "first_seq": b"1"},
    ],
)
def test_a_number_that_is_none_is_not_believed_and_is_no_error(change: dict[str, bytes]) -> None:
    """Headers are bytes from a wire."""
    assert number_of(_headers(**change)) is None
    assert place_of(_headers(**change), Ledger()) == (Arrival.GAP, None)


def test_I14_an_undecodable_record_fills_its_own_place_and_never_leaps() -> None:
    """One that claimed a far number would make duplicates of all events that are still to come."""
    ledger = Ledger({STREAM: 5})
    assert place_of(_headers(), ledger) == (Arrival.NEXT, Numbered(STREAM, 6, 6))
    assert place_of(_headers(seq=b"5"), ledger) == (Arrival.DUPLICATE, None)
    assert place_of(_headers(seq=b"900000"), ledger) == (Arrival.GAP, None)
    assert place_of(_headers(first_seq=b"3"), ledger) == (Arrival.NEXT, Numbered(STREAM, 3, 6))


def test_headers_without_an_identity_take_no_place() -> None:
    """Foreign records happen; they are dead letters without a number."""
    assert number_of([]) is None
    assert number_of(_headers()[1:]) is None
