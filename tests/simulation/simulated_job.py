"""A training job in a simulated region: it asks for its grant, steps, commits, drains and holds as the real ones do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipelines.core.heartbeats import DRAINED
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply
from schemas.codec import Codec, digest
from schemas.records import Readiness
from tests.manifests import manifest_of

if TYPE_CHECKING:
    from tests.simulation.failover_world import Region

RUN = "gpt"
EVERY = 10
STEP_S = 0.7
LINK_S = 1.5
CODEC = Codec()


class SimulatedJob:
    """One launch at a time; a superseded one is followed by another that waits."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.launches = 1
        self.step, self.phase = 0, "waiting"
        self.readiness: Readiness | None = None
        self.arrivals: list[str] = []  # the other region's checkpoints
        self.commits: list[tuple[float, int, int]] = []  # true time, epoch, step
        self._grant: GrantReply | None = None
        self._turned_s = self._owed_s = 0.0
        self._committed = -1

    def turn(self) -> None:
        """Ask, and do what the answer allows."""
        assert self.region.control is not None
        reply = self.region.control.grant(f"{self.region.name}-{self.launches}", self._committed)
        now_s = self.region.world.now_s
        passed, self._turned_s = now_s - self._turned_s, now_s
        if reply.state == "superseded":
            self.launches += 1
            self._grant, self.phase, self._committed = None, "waiting", -1
        elif reply.state == "granted" and self._grant is None:
            self._grant, self.step, self.phase = reply, reply.start_step, "train"
        elif self._grant is not None:
            self._train(reply, passed)

    def _train(self, reply: GrantReply, passed_s: float) -> None:
        assert self._grant is not None
        valid = reply.state == "granted" and reply.valid_s > 0
        at_checkpoint = self.step % EVERY == 0 and self.step > self._grant.start_step
        if at_checkpoint and self._committed < self.step:
            if valid:
                self._commit(self.step)
            return  # provisional: it waits for a valid grant
        if reply.draining and at_checkpoint:
            self.phase = DRAINED
            return
        self.phase = "train"
        self._owed_s += passed_s
        if self._owed_s >= STEP_S:
            self._owed_s = 0.0
            self.step += 1

    def _commit(self, step: int) -> None:
        assert self._grant is not None
        grant, region = self._grant, self.region
        own = CheckpointId(RUN, grant.epoch, grant.attempt, step)
        seq = grant.start_lineage_seq + 1 + (step - grant.start_step) // EVERY
        manifest = manifest_of(own, lineage_seq=seq, shards=(), rank_states=(), region=region.name)
        payload = CODEC.encode(manifest)
        envelope = region.world.signer.sign(payload)
        region.store.create(own.manifest, envelope)
        self._committed = step
        self.commits.append((region.world.now_s, grant.epoch, step))
        region.world.say(f"{region.name} committed epoch {grant.epoch} step {step}")
        for other in region.world.regions.values():
            if other is not region:
                region.world.at(LINK_S, partial(other.job.arrived, own, envelope, digest(payload)))

    def arrived(self, own: CheckpointId, envelope: bytes, manifest_digest: str) -> None:
        """The other region's checkpoint is verified and staged here."""
        if self.region.dead:
            return
        self.region.store.create(own.manifest, envelope)
        self.arrivals.append(own.manifest)
        self.readiness = Readiness(
            event_id="",
            run=RUN,
            region=self.region.name,
            epoch=own.epoch,
            attempt=own.attempt,
            producer="warmer",
            seq=1,
            step=own.step,
            time_ms=0,
            manifest_digest=manifest_digest,
            grade="W3",
            proof="loaded",
            staged_s=0.0,
            predicted_rto_s=1.0,
            waiting_ranks=0 if self.phase == "train" else 2,
        )
