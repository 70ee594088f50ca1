"""Signs that a controller's own region works: a Kafka acknowledgement and a store write, a second apart (6.7).

The probes are made once for all runs: log and store are the region's; only a run's progress is its own. They run on a
thread of their own: a broker that does not answer must not hold up the leases. The controllers' changes of authority
are published here too; they stand in the lease record already, and stay in the outbox until Kafka acknowledges them.
"""

from __future__ import annotations

from collections import deque

from pipelines import paths
from pipelines.core.alarms import ALARMS_MAX, key_of
from pipelines.core.heartbeats import CONTROLLER_NODE
from pipelines.core.lease import NEVER_S
from pipelines.errors import RetryableError
from pipelines.flows.log.envelope import headers_of
from pipelines.ports import Clock, Entropy, EventLog, Message, ObjectStore
from schemas.codec import Codec
from schemas.records import Alarm, EpochChange, Heartbeat, Lease

PROBE_S = 1.0


class SelfEvidence:
    """Probes one region's own log and store. The times are replaced whole, so another thread may read them.

    Args:
        region: the controller's own region.
        log: its Kafka.
        store: its bucket.
        codec: of events.
        clock: the machine's own.
        entropy: names this producer.
    """

    def __init__(
        self, *, region: str, log: EventLog, store: ObjectStore, codec: Codec, clock: Clock, entropy: Entropy
    ) -> None:
        self._region = region
        self._log, self._store, self._codec, self._clock = log, store, codec, clock
        self.producer = f"controller-{region}-{entropy.new_id()[:16]}"
        self._seq = 0
        self.log_ack_at_s = NEVER_S
        self.store_put_at_s = NEVER_S
        self.trouble = ""
        self.outbox: deque[EpochChange] = deque()
        self.alarms: deque[Alarm] = deque(maxlen=ALARMS_MAX)  # that were raised or ended

    def turn(self) -> float:
        """Probe the log and the store; seconds until the next turn."""
        troubles = []
        try:
            self._store.put(paths.health("controller", self._region), str(self._clock.wall_ms()).encode())
            self.store_put_at_s = self._clock.boottime_s()
        except RetryableError as error:
            troubles.append(str(error))
        try:
            self._publish()
            self.log_ack_at_s = self._clock.boottime_s()
        except RetryableError as error:
            troubles.append(str(error))
        self.trouble = "; ".join(troubles)
        return PROBE_S

    def _publish(self) -> None:
        beat = self._heartbeat()
        changes = list(self.outbox)
        messages = [
            Message(paths.topic(event.lane), event.run.encode(), self._codec.encode(event), headers_of(event, kind))
            for event, kind in [(beat, "heartbeat"), *((change, "epoch_change") for change in changes)]
        ]
        alarms = list(self.alarms)
        messages += [Message(paths.ALARMS, key_of(one), self._codec.encode(one)) for one in alarms]
        self._log.publish(messages)
        for _ in changes:
            self.outbox.popleft()
        for _ in alarms:
            self.alarms.popleft()

    def change(self, lease: Lease, before: str, gates: tuple[str, ...]) -> EpochChange:
        """The event of a change of authority (I12): who, why, and which gates; `before` held the run until then."""
        entry = lease.lineage[-1]
        return EpochChange(
            event_id=f"{lease.run}/{lease.epoch}/{self.producer}/control/1",
            run=lease.run,
            region=self._region,
            epoch=lease.epoch,
            attempt=0,
            producer=self.producer,
            seq=1,
            step=max(0, entry.fork_step),
            time_ms=lease.time_ms,
            parent_epoch=entry.parent_epoch,
            fork_step=entry.fork_step,
            fork_manifest_digest=entry.fork_manifest_digest,
            holder=self._region,
            holder_before=before,
            reason=entry.reason,
            actor=entry.actor,
            gates=gates,
        )

    def _heartbeat(self) -> Heartbeat:
        self._seq += 1
        return Heartbeat(
            event_id=f"{paths.EVERY_RUN}/0/{self.producer}/heartbeats/{self._seq}",
            run=paths.EVERY_RUN,
            region=self._region,
            epoch=0,
            attempt=0,
            producer=self.producer,
            seq=self._seq,
            step=0,
            time_ms=self._clock.wall_ms(),
            node=CONTROLLER_NODE,
            phase="idle",
            budget_s=0.0,
            last_seqs=(),
        )
