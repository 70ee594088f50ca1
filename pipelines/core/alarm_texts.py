"""The kinds of alarm and their words: the text of each kind, and the likely causes that are not found out. Pure."""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """The kinds of gap and reset that are noticed."""

    RETENTION = "records_gone"  # retention took records that were not read
    ANEW = "topic_anew"  # the topic was deleted and made anew
    SHORTER = "log_shorter"
    HOLE = "hole"  # numbers of a stream were jumped over
    EPOCH = "epoch_backwards"  # written under an epoch that its own region had left
    ASIDE = "set_aside"  # events of an epoch that this region did not come to know in time
    LEDGER = "ledger_lost"  # of this region's own: what was done is read from the lanes


TEXTS = {
    Kind.RETENTION: "unread records are gone",
    Kind.ANEW: "the topic was deleted and made anew",
    Kind.SHORTER: "the log is shorter than before",
    Kind.HOLE: "numbers were jumped over",
    Kind.EPOCH: "the epoch went backwards",
    Kind.ASIDE: "events of an epoch that is not known here were set aside",
    Kind.LEDGER: "the ledger was lost",
}
OF_LOG = frozenset({Kind.RETENTION.value, Kind.ANEW.value, Kind.SHORTER.value})
"""The kinds of which only the log's offsets are known, and not whose records these were."""

UNKNOWN_EPOCH = (
    "this region's controller cannot read the witness, or the events were never of an epoch that was won; redrive them "
    "if it becomes known"
)
LOST = (
    "the peer's log lost them, or its node's disk did before they were published; or they lie among the dead letters, "
    "without a number that can be read"
)
ZOMBIE = "a trainer or agent that was not told of the newer epoch goes on, or an old spool or log was restored"


def text_of(kind: str) -> str:
    """The text of a kind; one that this version does not know is its own."""
    return TEXTS[Kind(kind)] if kind in {one.value for one in Kind} else kind
