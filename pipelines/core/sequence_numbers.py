"""The place in its sequence that a record takes by its headers, when its value cannot be decoded. Pure.

Headers are bytes from a wire, so nothing is believed that would do harm: a number that is no number is none, and one
that leaps would raise the watermark over events that have not come yet, which would then be lost as duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.core.ledger import Arrival, Ledger, Stream

DIGITS_MAX = 18  # fits a signed 64-bit number, which is what the ledger's records hold
SPAN_MAX = 100_000  # numbers that one record may take
_NAMES = ("farside_run", "farside_epoch", "farside_producer", "farside_lane", "farside_seq")


@dataclass(frozen=True, slots=True)
class Numbered:
    """The numbers of a record in its stream."""

    stream: Stream
    first_seq: int
    seq: int


def number_of(headers: Iterable[tuple[str, bytes]]) -> Numbered | None:
    """The identity in some headers; None if it is missing, or is not one."""
    values = dict(headers)
    if any(name not in values for name in _NAMES):
        return None
    epoch, seq = _whole(values["farside_epoch"]), _whole(values["farside_seq"])
    first = _whole(values.get("farside_first_seq", values["farside_seq"]))
    if epoch is None or seq is None or first is None or not 1 <= first <= seq < first + SPAN_MAX:
        return None
    run, producer, lane = (values[f"farside_{name}"].decode(errors="replace") for name in ("run", "producer", "lane"))
    return Numbered((run, epoch, producer, lane), first, seq)


def place_of(headers: Iterable[tuple[str, bytes]], ledger: Ledger) -> tuple[Arrival, Numbered | None]:
    """Whether an undecodable record was seen before, and the numbers it takes: only those that are due next."""
    numbered = number_of(headers)
    if numbered is None:
        return Arrival.GAP, None
    arrival = ledger.arrival_of(numbered.stream, numbered.seq, numbered.first_seq)
    return arrival, numbered if arrival is Arrival.NEXT else None


def _whole(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= DIGITS_MAX else None
