"""Reads a region's ledger and alarms from its own log."""

from __future__ import annotations

from pipelines import paths
from pipelines.core.ledger import Ledger
from pipelines.flows.log.log_reader import scan
from pipelines.ports import Clock, EventSource
from schemas.codec import Codec


def read_ledger(own: EventSource, codec: Codec, clock: Clock) -> Ledger:
    """The ledger of a region, read from its own log to the end.

    Raises:
        RetryableError: nothing came for too long.
    """
    ledger = Ledger()
    for item in scan(own, [paths.LEDGER, paths.ALARMS], clock):
        ledger.learn(codec.decode(item.value))
    return ledger
