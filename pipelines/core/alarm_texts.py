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
    LANE = "lane_stands"  # the kinds from here on are troubles of a run: `core.troubles` finds them
    BACKLOG = "backlog_grows"
    UPLOADS = "uploads_wait"
    NO_PROGRESS = "granted_without_progress"
    ABANDONED = "checkpoints_abandoned"  # several in a row
    DAMAGE = "replica_damaged"
    REFUSED = "part_refused"  # a store, Kafka or the witness refuses, or does not answer, again and again
    INCOMPLETE = "no_checkpoint_completes"
    LAG = "lag_exceeded"
    LAG_UNKNOWN = "lag_unknown"
    UNSEEN = "service_unseen"


TEXTS = {
    Kind.RETENTION: "unread records are gone",
    Kind.ANEW: "the topic was deleted and made anew",
    Kind.SHORTER: "the log is shorter than before",
    Kind.HOLE: "numbers were jumped over",
    Kind.EPOCH: "the epoch went backwards",
    Kind.ASIDE: "events of an epoch that is not known here were set aside",
    Kind.LEDGER: "the ledger was lost",
    Kind.LANE: "a lane stands below the end of its source",
    Kind.BACKLOG: "a backlog grows",
    Kind.UPLOADS: "uploads wait",
    Kind.NO_PROGRESS: "granted, and without progress",
    Kind.ABANDONED: "checkpoints are abandoned one after the other",
    Kind.DAMAGE: "checkpoints are damaged in this region's store",
    Kind.REFUSED: "a part is refused again and again",
    Kind.INCOMPLETE: "no checkpoint completes within the bound",
    Kind.LAG: "the lag exceeds its limit",
    Kind.LAG_UNKNOWN: "the lag is unknown",
    Kind.UNSEEN: "a service does not answer",
}
OF_RUN = frozenset(list(Kind)[list(Kind).index(Kind.LANE) :])
"""The kinds that the controller raises, for as long as the trouble lasts; the others are the replicator's."""
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
