"""Reads a region's ledger and alarms from its own log."""

from __future__ import annotations

from collections.abc import Callable

from pipelines import paths
from pipelines.core.ledger import Ledger
from pipelines.flows.log.log_reader import Decoding, scan
from pipelines.ports import Clock, EventSource, Fetched
from schemas.codec import Codec


def read_ledger(
    own: EventSource, codec: Codec, clock: Clock, unreadable: Callable[[Fetched, str], None] = lambda _item, _why: None
) -> Ledger:
    """The ledger of a region, read from its own log to the end.

    Args:
        own: reads the region's log.
        codec: decodes it.
        clock: this process's.
        unreadable: is told each record that is none of the ledger's, and why; it is passed over.

    Raises:
        RetryableError: nothing came for too long.
    """
    ledger = Ledger()
    decoding = Decoding(codec, clock)
    for item in scan(own, [paths.LEDGER, paths.ALARMS], clock):
        seen = decoding.see(item)
        if seen.record is None:
            unreadable(item, seen.problem)
        else:
            ledger.learn(seen.record)
    return ledger
