"""The warmer: keeps the newest proven checkpoint resident in the standby pool, and publishes how ready the pool is.

It reads the region's own store only: a checkpoint that is not recoverable here cannot be staged. Readiness carries a
*predicted* recovery time, the sum of: the time in which the lease's profile detects and fences; the polling between a
won epoch and the release of a waiting trainer; the load, as measured here; and a step, from the time between two of the
primary's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.lineage import LineageView
from pipelines.flows.standby.recoverable import RecoverableCheckpoint, RecoverableFinder
from pipelines.ports import Clock, Entropy, EventLog, Journal, Message, ObjectStore, PoolHealth, StandbyPool, Verifier
from schemas.codec import Codec
from schemas.http_bodies import WarmerStatus
from schemas.records import Manifest, Readiness

TURN_S = 0.3
PUBLISH_S = 5.0
GRADE = "W3"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmerPorts:
    """The world outside, as one warmer reaches it.

    Attributes:
        store: the region's own bucket.
        pool: the memory of the standby nodes.
        log: the region's Kafka, in which readiness is published.
        signer: verifies the manifests in the bucket.
        codec: of manifests and readiness.
        clock: the machine's own.
        entropy: names this incarnation and its events.
        journal: hears of each checkpoint that was staged.
    """

    store: ObjectStore
    pool: StandbyPool
    log: EventLog
    signer: Verifier
    codec: Codec
    clock: Clock
    entropy: Entropy
    journal: Journal


class Warmer:
    """Keeps one run's pool in one region warm.

    Args:
        region: this region.
        run: which run.
        ports: the world outside.
        lineage: returns a run's lineage as this region knows it; None while it knows none.
        standby: whether this region is a standby for the run now: a primary's pool trains and does not wait.
        authority_s: the longest that detecting and fencing takes under the lease's profile.
        release_s: the longest that a grant needs from the won epoch to the waiting trainer.
    """

    def __init__(
        self,
        *,
        region: str,
        run: str,
        ports: WarmerPorts,
        lineage: Callable[[str], LineageView | None],
        standby: Callable[[], bool] = lambda: True,
        authority_s: float = 0.0,
        release_s: float = 0.0,
    ) -> None:
        self._region, self._run = region, run
        self._pool, self._log, self._codec = ports.pool, ports.log, ports.codec
        self._clock, self._entropy, self._journal = ports.clock, ports.entropy, ports.journal
        self._lineage, self._standby = lineage, standby
        self._authority_s, self._release_s = authority_s, release_s
        self._first_step_s = 0.0
        self._recoverable = RecoverableFinder(ports.store, ports.signer, ports.codec)
        self._producer = f"warmer-{ports.entropy.new_id()[:16]}"
        self._seq = 0
        self._staged: RecoverableCheckpoint | None = None
        self._staged_s = 0.0
        self._health: PoolHealth | None = None
        self._published_at_s = float("-inf")
        self._published_ranks = -1
        self._epoch = 0

    def turn(self) -> float:
        """Stage the newest checkpoint, look at the pool, publish readiness; seconds until the next turn."""
        view = self._lineage(self._run)
        if view is None or not self._standby():
            return TURN_S
        self._epoch = view.epoch
        newest = self._recoverable.newest(self._run, view)
        staged = newest is not None and (self._staged is None or newest.digest != self._staged.digest)
        if newest is not None and staged:
            self._stage(newest)
        self._health = self._pool.health()
        changed = self._health.waiting_ranks != self._published_ranks
        if staged or changed or self._clock.boottime_s() - self._published_at_s >= PUBLISH_S:
            self._publish(self._health)
        return TURN_S

    def predicted_rto_s(self) -> float | None:
        """The sum of its parts; None while nothing is staged."""
        parts = self.predicted_parts_s()
        return sum(parts.values()) if parts else None

    def predicted_parts_s(self) -> dict[str, float]:
        """Detect and fence at their longest, then releasing, loading and one step; empty while nothing is staged."""
        if self._health is None or self._staged is None:
            return {}
        return {
            "detect_and_fence": self._authority_s,
            "restore": self._release_s + self._health.load_s,
            "first_step": self._first_step_s,
        }

    def status(self) -> WarmerStatus:
        """The resident checkpoint, how far it is proven, and the predicted recovery time."""
        health, staged = self._health, self._staged
        return WarmerStatus(
            run=self._run,
            grade=GRADE,
            ready=health is not None and health.ready,
            waiting_ranks=0 if health is None else health.waiting_ranks,
            staged_step=None if staged is None else staged.manifest.step,
            staged_epoch=None if staged is None else staged.manifest.epoch,
            manifest_digest="" if staged is None else staged.digest,
            proof="" if health is None else health.proof,
            staged_s=self._staged_s,
            load_s=None if health is None else health.load_s,
            predicted_rto_s=self.predicted_rto_s(),
            predicted_parts_s=self.predicted_parts_s(),
        )

    def _stage(self, newest: RecoverableCheckpoint) -> None:
        self._staged_s = self._pool.stage(newest.manifest, newest.digest)
        if self._staged is not None:
            self._first_step_s = step_s(self._staged.manifest, newest.manifest) or self._first_step_s
        self._staged = newest
        self._journal.say(
            "warmer.staged",
            run=self._run,
            step=newest.manifest.step,
            epoch=newest.manifest.epoch,
            manifest_digest=newest.digest,
            staged_s=round(self._staged_s, 3),
        )

    def _publish(self, health: PoolHealth) -> None:
        if self._staged is None:
            return
        self._seq += 1
        event = Readiness(
            event_id=self._entropy.new_id(),
            run=self._run,
            region=self._region,
            epoch=self._epoch,
            attempt=self._staged.manifest.attempt,
            producer=self._producer,
            seq=self._seq,
            step=self._staged.manifest.step,
            time_ms=self._clock.wall_ms(),
            manifest_digest=self._staged.digest,
            grade=GRADE,
            proof=health.proof,
            staged_s=self._staged_s,
            predicted_rto_s=self.predicted_rto_s() or 0.0,
            waiting_ranks=health.waiting_ranks,
        )
        self._log.publish([Message(paths.CONTROL, self._run.encode(), self._codec.encode(event))])
        self._published_at_s, self._published_ranks = self._clock.boottime_s(), health.waiting_ranks


def step_s(before: Manifest, after: Manifest) -> float | None:
    """Seconds a step, from two checkpoints of one attempt; None if they are of two, or no time passed."""
    same = (before.epoch, before.attempt) == (after.epoch, after.attempt)
    steps, took_ms = after.step - before.step, after.time_ms - before.time_ms
    return took_ms / 1000 / steps if same and steps > 0 and took_ms > 0 else None
