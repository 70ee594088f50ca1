"""Whether a topic, as the brokers have it, keeps what is promised of events. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.core.message_size import MESSAGE_BYTES_MAX

MESSAGE_BYTES_LEAST = MESSAGE_BYTES_MAX  # a topic must take whatever producers send
PRODUCTION_REPLICATION, PRODUCTION_ISR = 3, 2
COMPACT, DELETE = "compact", "delete"
# A broker that compresses anew may choose a kind that some reader lacks the library for.
READABLE = frozenset({"producer", "uncompressed", "gzip"})


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic as its brokers describe it.

    Attributes:
        name: the topic's.
        replicas: of the partition that has fewest.
        isr_least: `min.insync.replicas`.
        cleanup: `cleanup.policy`.
        compression: `compression.type`.
        message_bytes_max: `max.message.bytes`.
    """

    name: str
    replicas: int
    isr_least: int
    cleanup: str
    compression: str
    message_bytes_max: int


def faults_of(facts: TopicFacts, *, replication: int, compacted: bool) -> tuple[str, ...]:
    """The faults of a topic, a sentence each with what to do; none if it keeps its promises.

    Args:
        facts: as the brokers have it.
        replication: the factor that the settings name.
        compacted: whether it is one of those that keep the newest record of each key only.
    """
    wanted = COMPACT if compacted else DELETE
    promises = {
        f"{facts.replicas} replicas, and the settings say replication = {replication}: reassign its partitions": (
            facts.replicas >= replication
        ),
        f"min.insync.replicas={facts.isr_least} of {facts.replicas} replicas: an acknowledged event may be lost with "
        f"one broker: set {PRODUCTION_ISR}": facts.replicas < PRODUCTION_REPLICATION
        or facts.isr_least >= PRODUCTION_ISR,
        f"min.insync.replicas={facts.isr_least} of {facts.replicas} replicas: one broker away stops all writing: lower "
        "it": facts.isr_least < facts.replicas or facts.replicas == facts.isr_least == 1,
        f"cleanup.policy={facts.cleanup}: it must be {wanted}, or events are lost": facts.cleanup == wanted,
        f"compression.type={facts.compression}: the broker compresses anew in a way that a reader may not know: set "
        "producer": facts.compression in READABLE,
        f"max.message.bytes={facts.message_bytes_max}: an event of up to {MESSAGE_BYTES_LEAST} bytes would be refused: "
        "set so many": facts.message_bytes_max >= MESSAGE_BYTES_LEAST,
    }
    return tuple(wrong for wrong, kept in promises.items() if not kept)


def summary_of(every: tuple[TopicFacts, ...]) -> str:
    """A sentence about all topics together, and whether that is for development only."""
    replicas = min(facts.replicas for facts in every)
    isr, size = min(facts.isr_least for facts in every), min(facts.message_bytes_max for facts in every)
    below = f" (below {PRODUCTION_REPLICATION}: for development only)" if replicas < PRODUCTION_REPLICATION else ""
    return f"{len(every)} topics: replication factor {replicas}{below}, min ISR {isr}, records up to {size} bytes"
