"""The witness is away from the primary only: the shipped controllers and agent, over a witness that can be cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.decide import Action, policy_of
from pipelines.core.lease import FAST, Held
from pipelines.core.pulse import NodePulse, Pulse
from pipelines.core.resume import StartRequest
from pipelines.core.suspicion import Rhythm
from pipelines.errors import RetryableError
from pipelines.flows.attest import Attest
from pipelines.flows.failover import Control
from pipelines.flows.listen import Listen
from pipelines.flows.publish import Publish
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, GrantReply, Message
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Lease
from services.adapters.memory import MemoryLeaseStore, MemoryObjectStore
from services.adapters.memory_spool import MemorySpool
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemEntropy
from tests.manual_clock import ManualClock

SHARD = b"0123456789" * 10
REGIONS = ("east", "west")
TURN_S = 0.1
PATIENCE_S = 60.0


class _Witness(MemoryLeaseStore):
    """One region's way to the witness."""

    def __init__(self, shared: MemoryLeaseStore) -> None:
        super().__init__(**{one.name: getattr(shared, one.name) for one in dataclasses.fields(shared)})
        self.away = False

    def read(self, run: str) -> Held | None:
        self._reach()
        return super().read(run)

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        self._reach()
        return super().write(lease, expected_etag)

    def note(self, lease: Lease) -> None:
        self._reach()
        super().note(lease)

    def _reach(self) -> None:
        if self.away:
            raise RetryableError("the witness does not answer")


class _Region:
    """A controller with its store; implements EventLog, Grants and Journal."""

    def __init__(self, name: str, clock: ManualClock, witness: MemoryLeaseStore, signer: Ed25519Signer) -> None:
        self.name, self.clock = name, clock
        self.witness, self.store = _Witness(witness), MemoryObjectStore()
        self.messages: list[Message] = []
        own: Any = self
        self.listeners = {other: Listen(region=other, run="gpt", clock=clock) for other in REGIONS}
        common: Any = {"codec": Codec(), "clock": clock, "entropy": SystemEntropy()}
        self.attest = Attest(region=name, log=own, store=self.store, **common)
        self.control = Control(
            region=name,
            run="gpt",
            first_region="east",
            candidate=True,
            leases=self.witness,
            listeners=self.listeners,
            attest=self.attest,
            store=self.store,
            signer=signer,
            journal=own,
            policy=policy_of(FAST),
            **common,
        )

    def say(self, event: str, **fields: object) -> None:
        del event, fields

    def publish(self, messages: list[Message]) -> None:
        self.messages += messages

    def ask(self, run: str, launch: str, node: str, committed_step: int) -> GrantReply:
        del run, node
        return self.control.grant(launch, committed_step)

    def hears(self, region: str, step: int) -> None:
        now_s = self.clock.now_s
        node = NodePulse(step, "train", 60.0, now_s, Rhythm(now_s))
        self.listeners[region].pulse = Pulse({"n0": node}, now_s, now_s)

    def turn(self) -> None:
        self.attest.log_ack_at_s = self.attest.store_put_at_s = self.clock.now_s
        self.control.step()


class _World:
    """East trains under the fast profile, west stands by and has everything that east committed before the cut."""

    def __init__(self, signer: Ed25519Signer) -> None:
        self.clock, self.spool = ManualClock(1000.0), MemorySpool("gpt")
        witness = MemoryLeaseStore()
        self.east, self.west = (_Region(name, self.clock, witness, signer) for name in REGIONS)
        self.link, self.step = True, 0
        east: Any = self.east
        self.agent = Publish(
            region="east",
            node="n0",
            spool=self.spool,
            store=self.east.store,
            log=east,
            grants=east,
            signer=signer,
            codec=Codec(),
            clock=self.clock,
            entropy=SystemEntropy(),
            journal=east,
        )
        self.spool.wants("launch-1", StartRequest())

    def turn(self) -> None:
        """A tenth of a second of everybody."""
        self.clock.now_s += TURN_S
        self.spool.beat(Beat("gpt-r0", self.step, "train", 60.0, 0, 1, 1))
        for region in (self.east, self.west):
            for other in REGIONS:
                if self.link or region.name == other:
                    region.hears(other, self.step)
            region.turn()
        self.agent.step()

    def until(self, condition: Any, what: str) -> float:  # noqa: ANN401 - any callable
        """Turn until it holds; the seconds that it took."""
        begun_s = self.clock.now_s
        while not condition():
            assert self.clock.now_s < begun_s + PATIENCE_S, what
            self.turn()
        return self.clock.now_s - begun_s

    def save(self, step: int) -> CheckpointId:
        """The trainer saves a checkpoint."""
        self.step, own = step, CheckpointId("gpt", 1, 1, step)
        self.spool.save(own, 0, SHARD, b"rng")
        rank = {"rank": 0, "size": 100, "sha256": digest(SHARD), "chunks": [{"size": 100, "sha256": digest(SHARD)}]}
        body = {"mode": "exact", "world_size": 1, "fingerprint": {}, "health": {}, "data_version": "", "items": []}
        body |= {"previous_step": step - 10 if step > 10 else None, "ranks": [rank], "planner": {}}
        self.spool.accept("gpt-r0", "checkpoints", "intent", step, body)
        return own

    def outcomes(self) -> dict[int, str]:
        """What was published of each checkpoint."""
        found = [Codec().decode(message.value) for message in self.east.messages]
        return {one.step: one.state for one in found if isinstance(one, Checkpoint)}

    def replicate(self) -> None:
        """West has all that east has committed."""
        for key in self.east.store.list("runs/gpt/e0"):
            self.west.store.create(key, self.east.store.get(key) or b"")

    @property
    def told(self) -> str:
        """The trainer's standing."""
        return str(self.spool.told["launch-1"][-1]["state"])

    @property
    def lease(self) -> Lease:
        """The record at the witness."""
        return self.west.witness.records["gpt"].lease


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """Step 10 is committed in east and verified in west."""
    private, public = generate_keypair(tmp_path, "sim")
    found = _World(Ed25519Signer(key_id="sim", private_key_path=private, trusted={"sim": public}))
    found.until(lambda: "launch-1" in found.spool.granted, "the launch is granted")
    found.save(10)
    found.until(lambda: found.outcomes() == {10: "committed"}, "step 10")
    found.replicate()
    found.until(lambda: found.told == "granted", "the trainer knows")
    return found


@pytest.mark.parametrize("lengths", [0.5, 1, 2, 4])
def test_I8_what_was_saved_without_the_witness_is_ratified_when_the_lease_comes_back_unchanged(
    world: _World, lengths: float
) -> None:
    """Nothing moves while the other region hears the primary, however long it lasts; no commit without validity."""
    world.east.witness.away = True
    cut_s = world.clock.now_s
    if lengths >= 1:
        world.until(lambda: world.told == "provisional", "the validity ends")
        assert world.clock.now_s - cut_s <= FAST.holder_validity_s + 2 * TURN_S
    own = world.save(20)
    world.until(lambda: world.clock.now_s >= cut_s + lengths * FAST.lease_s, "the outage lasts")
    assert world.east.store.size(own.receipt(0)) is not None, "uploads go on"
    assert (20 in world.outcomes()) == (lengths < 1)
    assert (world.east.store.get(own.manifest) is None) == (lengths >= 1)
    assert world.west.control.status()["is_holder"] is False
    world.east.witness.away = False
    late_s = world.until(lambda: world.outcomes().get(20) == "committed", "ratified")
    assert late_s <= FAST.poll_s + FAST.renew_s
    assert (world.lease.epoch, world.lease.attempt, world.lease.holder) == (1, 1, "east")
    world.until(lambda: world.told == "granted", "the trainer is told")


def test_I5_what_was_saved_without_the_witness_is_a_branch_when_the_other_region_has_taken_over(
    world: _World,
) -> None:
    """The primary is cut from the witness and from the other region: it trains on, and reports nothing committed."""
    world.east.witness.away, world.link = True, False
    world.until(lambda: world.told == "provisional", "the validity ends")
    own = world.save(20)
    taken_s = world.until(lambda: world.west.control.status()["is_holder"], "west takes over")
    assert taken_s > 0, "after the validity's end, never before"
    assert (world.lease.epoch, world.lease.holder, world.lease.lineage[-1].fork_step) == (2, "west", 10)
    assert world.east.store.size(own.receipt(0)) is not None, "uploads go on"
    assert world.outcomes() == {10: "committed"}
    assert world.told == "provisional", "it cannot know yet"
    world.east.witness.away, world.link = False, True
    world.until(lambda: world.told == "superseded", "the trainer is told")
    world.until(lambda: 20 in world.outcomes(), "the outcome of step 20")
    assert world.outcomes() == {10: "committed", 20: "branch"}


def test_a_standby_that_reaches_the_witness_and_hears_the_primary_raises_an_alarm_and_takes_nothing(
    world: _World,
) -> None:
    """The lease has run out, the nodes beat: a person may ask for a failover, no detector does."""
    world.east.witness.away = True
    asked_s = world.clock.now_s
    world.until(lambda: world.clock.now_s > asked_s + 3 * FAST.lease_s, "three leases")
    status = world.west.control.status()
    assert (status["action"], status["reason"]) == (Action.ALARM.value, "holder_not_renewing")
    assert world.lease.epoch == 1
