"""A primary simulated for a drill: it renews a lease and beats, and then falls silent, as a lost primary does.

It writes under the drill's own key and topics only; nothing of it reaches the real ones (I10).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipelines import paths
from pipelines.core import lease as core
from pipelines.core.lease import NEVER_S, Author, Held
from pipelines.core.lease_profiles import LeaseProfile
from pipelines.core.lineage import LineageView
from pipelines.errors import CorruptError, UnknownOutcomeError
from pipelines.ports import Clock, Entropy, EventLog, LeaseStore, Message
from schemas.codec import Codec
from schemas.records import GENESIS, EpochEntry, Heartbeat, Lease

BEAT_S = 1.0  # as an agent beats
TURN_S = 0.1
NODE = "simulated-primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class LostPrimary:
    """The primary whose loss a drill rehearses.

    Attributes:
        region: the region that really holds the run.
        run: which run.
        view: the run's lineage as it is known here.
        step: the step of the newest checkpoint here.
    """

    region: str
    run: str
    view: LineageView
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillPorts:
    """The drill's own lease records and log, beside the real ones.

    Attributes:
        leases: lease records under the drill's prefix.
        log: the drill's topics.
        codec: of heartbeats.
        clock: the machine's own.
        entropy: names writes and events.
    """

    leases: LeaseStore
    log: EventLog
    codec: Codec
    clock: Clock
    entropy: Entropy


class SimulatedPrimary:
    """Holds a run's drill lease and beats until `die`.

    Args:
        lost: the primary that is simulated.
        ports: the drill's own lease records and log.
        profile: the lease's times.
    """

    def __init__(self, *, lost: LostPrimary, ports: DrillPorts, profile: LeaseProfile) -> None:
        self._region, self._run, self._view, self._step = lost.region, lost.run, lost.view, lost.step
        self._leases, self._log, self._codec = ports.leases, ports.log, ports.codec
        self._clock, self._entropy, self._profile = ports.clock, ports.entropy, profile
        self._held: Held | None = None
        self._wrote_at_s = NEVER_S
        self._seq = 0
        self._dead = False
        self.beat_at_s = NEVER_S

    def die(self) -> None:
        """Stop renewing and beating for good; may be called from another thread."""
        self._dead = True

    def turn(self) -> float:
        """Beat and renew; seconds until the next turn. RetryableError: the drill's own dependency is away."""
        now_s = self._clock.boottime_s()
        if not self._dead and now_s - self.beat_at_s >= BEAT_S:
            self._beat()
        if not self._dead and now_s - self._wrote_at_s >= self._profile.renew_s:
            self._write(now_s)
        return TURN_S

    def _write(self, now_s: float) -> None:
        author = Author(self._region, NODE, self._entropy.new_id(), "drill", "drill", self._clock.wall_ms())
        if self._held is None:
            lease, expected = self._first(author), None
        else:
            lease, expected = core.renewal(self._held.lease, author, self._step), self._held.etag
        try:
            etag = self._leases.write(lease, expected)
        except UnknownOutcomeError:
            self._held = self._leases.read(self._run)
            raise
        if etag is None:
            raise CorruptError("somebody else writes the drill's lease")
        self._held, self._wrote_at_s = Held(lease, etag), now_s

    def _first(self, author: Author) -> Lease:
        """The first record: the epochs, forks and holder of the real one."""
        holders = dict(self._view.holders)
        entries = tuple(
            EpochEntry(
                epoch=epoch,
                parent_epoch=parent,
                fork_step=step,
                fork_manifest_digest=GENESIS,
                fork_lineage_seq=0,
                region=holders.get(epoch, self._region),
                reason="drill",
                actor="drill",
                time_ms=0,
            )
            for epoch, parent, step in self._view.forks
        )
        return dataclasses.replace(
            core.first(self._run, author, self._profile),
            epoch=self._view.epoch,
            attempt=1,
            launch=NODE,
            committed_step=self._step,
            lineage=entries,
        )

    def _beat(self) -> None:
        self._seq += 1
        event = Heartbeat(
            event_id=self._entropy.new_id(),
            run=self._run,
            region=self._region,
            epoch=self._view.epoch,
            attempt=1,
            producer=NODE,
            seq=self._seq,
            step=self._step,
            time_ms=self._clock.wall_ms(),
            node=NODE,
            phase="train",
            budget_s=60.0,
            last_seqs=(),
        )
        sent_at_s = self._clock.boottime_s()
        self._log.publish([Message(paths.HEARTBEATS, self._run.encode(), self._codec.encode(event))])
        self.beat_at_s = sent_at_s
