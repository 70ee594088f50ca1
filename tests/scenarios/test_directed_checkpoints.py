"""Stories of one checkpoint: its agent is stopped just before it commits, or dies half-way through the upload."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.heartbeats import DRAINED
from pipelines.core.lineage import view_of
from pipelines.core.resume_mode import StartRequest
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.authority.planned_moves import SWITCHOVER, MoveRequest
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, DeadLetter, Manifest, Readiness
from services.adapters.memory.kafka import MemoryLog, MemorySource
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of
from tests.manual_world import SHARD, ManualRegion, ManualWorld, signer_in, world_with_step_10
from tests.stop_at_call import Death, Moments, Stoppable, stop

CODEC = Codec()
OTHER_SHARD = SHARD[::-1]


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """One for both regions."""
    return signer_in(tmp_path)


# --- the orphan ---


class _Story:
    """East's agent is stopped at one moment of committing step 20, and its region is lost meanwhile."""

    def __init__(self, signer: Ed25519Signer, at: int) -> None:
        self.world = world_with_step_10(signer)
        self.moments = Moments(at, stop, armed=False)
        self.world.agent = self.world.agent_over(self.moments.of)
        self.agent = Stoppable(self.world.agent.turn)
        self.world.turns_agent = self.agent.turn
        grants = len(self.world.spool.told["launch-1"])
        self.world.until(lambda: len(self.world.spool.told["launch-1"]) > grants, "the new agent has its grant")
        self.moments.armed = True
        self.orphan = self.world.save(20, chunk=40)
        self.world.until(lambda: self.agent.is_stopped or 20 in self.world.outcomes(), "step 20")
        self.moments.armed = False

    def west_takes_over_and_trains(self) -> None:
        """From step 10; it commits steps 20 and 30 of its own."""
        world = self.world
        world.east.witness.away, world.link = True, False
        world.until(lambda: (world.lease.epoch, world.lease.holder) == (2, "west"), "west takes over")
        world.until(
            lambda: world.west.ask("gpt", "launch-w", "n1", -1, begins=True).state == "granted", "west's launch"
        )
        for step in (20, 30):
            own = CheckpointId("gpt", 2, 1, step)
            chunk, state = f"west's {step}".encode(), b"rng"
            shards, states = (shard_of(0, chunk),), (state_of(0, state),)
            made = manifest_of(own, lineage_seq=step // 10, region="west", shards=shards, rank_states=states)
            envelope = world.signer.sign(CODEC.encode(made))
            for key, body in ((own.chunk(0, 0), chunk), (own.rank_state(0), state), (own.manifest, envelope)):
                world.west.store.create(key, body)

    def the_agent_goes_on(self) -> None:
        """It writes what it was about to write, and only then is the region back."""
        self.agent.thaw()
        self.world.east.witness.away, self.world.link = False, True
        self.world.until(lambda: 20 in self.world.outcomes(), "the outcome of step 20")
        self.world.until(lambda: self.world.trainer_state == "superseded", "the trainer is told")

    def east_takes_back(self) -> GrantReply:
        """A failback; east has all that west committed. What east's next launch is granted."""
        world = self.world
        for key in world.west.store.list("runs/gpt/e000002"):
            world.east.store.create(key, world.west.store.get(key) or b"")
        world.step, world.phases["west"] = 30, DRAINED
        world.west.peer_states["east"].readiness = _ready("east", 30)
        world.west.ask("gpt", "launch-w", "n1", 30)
        assert world.west.control.ask(MoveRequest(SWITCHOVER, "ann", "back", "east")) == ""
        world.until(lambda: (world.lease.epoch, world.lease.holder) == (3, "east"), "the failback")
        world.until(
            lambda: world.east.ask("gpt", "launch-2", "n0", -1, begins=True).state == "granted", "the next launch"
        )
        return world.east.ask("gpt", "launch-2", "n0", -1, begins=True)


def _ready(region: str, step: int) -> Readiness:
    return Readiness(
        event_id="",
        run="gpt",
        region=region,
        epoch=2,
        attempt=1,
        producer="warmer",
        seq=1,
        step=step,
        time_ms=0,
        manifest_digest="",
        grade="W3",
        proof="loaded",
        staged_s=0.0,
        predicted_rto_s=1.0,
        waiting_ranks=2,
    )


def _replicate(world: ManualWorld, to: ManualRegion, peer: ManualRegion) -> tuple[list[Checkpoint], list[DeadLetter]]:
    """A region's replicator, turned over its peer's log of checkpoints."""
    fake: object = to
    flow = LaneReplicator(
        PeerLane(peer.name, "checkpoints"),
        LanePorts(
            peer_source=MemorySource(peer.kafka),
            own_source=MemorySource(to.kafka),
            log=MemoryLog(to.kafka, "replicator"),
            store=to.store,
            peer_store=peer.store,
            transfers=MemoryTransfers({peer.name: peer.store}, to.store),
            lineage=EpochStore(to.store),
            signer=world.signer,
            codec=Codec(),
            clock=world.clock,
            journal=fake,  # type: ignore[arg-type] # a region keeps its own journal
        ),
    )
    for _ in range(6):
        flow.turn()
    dead = [CODEC.decode(one.value) for one in to.kafka.topic(paths.DEAD_LETTERS) if one is not None]
    return to.checkpoints(), [one for one in dead if isinstance(one, DeadLetter)]


def _never_chosen(story: _Story, reply: GrantReply) -> None:
    """By nobody, not even where all of it lies; and as a branch it can be read, whole."""
    world, orphan = story.world, story.orphan
    right = CheckpointId("gpt", 2, 1, 30)
    chain = world.lease.lineage
    assert [(one.region, one.fork_step) for one in chain] == [("east", -1), ("west", 10), ("east", 30)], (
        story.moments.hit
    )
    assert reply.start_manifest_key == right.manifest, story.moments.hit
    visible, dead = _replicate(world, world.west, world.east)
    assert [(one.epoch, one.step) for one in visible] == [(1, 10)], story.moments.hit
    assert [one.reason for one in dead] == ["branch"], story.moments.hit
    for key in world.east.store.list(orphan.prefix):
        world.west.store.create(key, world.east.store.get(key) or b"")
    for region in (world.east, world.west):
        recoverable = RecoverableFinder(region.store, world.signer, Codec())
        for view in (view_of(chain[:2]), view_of(chain)):
            newest, branch = recoverable.newest("gpt", view), recoverable.branch("gpt", view, 1, 20)
            assert newest is not None, story.moments.hit
            assert newest.key == right.manifest, f"{region.name}: {story.moments.hit}"
            assert branch is not None, story.moments.hit
            assert branch.key == orphan.manifest, story.moments.hit
            for named in manifests.objects(branch.manifest):
                assert digest(region.store.objects[named.key]) == named.sha256, story.moments.hit


def test_I5_an_agent_that_is_stopped_before_its_manifest_and_thawed_after_the_failover_leaves_a_branch_only(
    signer: Ed25519Signer,
) -> None:
    """At every moment of a commit: no region, replicator, takeover or launch chooses it, and it can be read."""
    moments = _Story(signer, 0).moments.seen
    published = set()
    for at in range(1, len(moments) + 1):
        story = _Story(signer, at)
        assert story.moments.hit == moments[at - 1], "each moment is really reached"
        story.west_takes_over_and_trains()
        story.the_agent_goes_on()
        _never_chosen(story, story.east_takes_back())
        published.add(story.world.outcomes()[20])
    assert f"before create {story.orphan.manifest}" in moments, "between the check and the write"
    assert published == {"branch", "committed"}, "some were stopped after the last check, and no reader believed them"
    assert len(moments) > 25, f"every call is two moments: {moments}"


# --- the half-uploaded attempt ---


def _dies_half_way(signer: Ed25519Signer, at: int, keep_spool: bool) -> tuple[ManualWorld, Moments, CheckpointId]:
    """The agent and the trainer die at one moment of uploading step 20; both are started again."""
    world = world_with_step_10(signer)
    moments = Moments(at, armed=False)
    world.agent = world.agent_over(moments.of)
    grants = len(world.spool.told["launch-1"])
    world.until(lambda: len(world.spool.told["launch-1"]) > grants, "the new agent has its grant")
    moments.armed = True
    first = world.save(20, chunk=20)
    with contextlib.suppress(Death):
        world.until(lambda: 20 in world.outcomes(), "step 20")
    moments.armed = False
    if not keep_spool:
        world.spool.release(first)  # the node's disk is lost
    world.agent = world.agent_over(lambda port: port)
    return world, moments, first


def _of_one_attempt(world: ManualWorld, objects: dict[str, bytes], what: str) -> list[Manifest]:
    """I6, I7: nothing that was there has changed, and each manifest names its own attempt's bytes; all manifests."""
    store = world.east.store
    assert {key: store.objects[key] for key in objects} == objects, what
    found = []
    for one in paths.committed(store.list(paths.checkpoints_prefix("gpt"))):
        record = CODEC.decode(world.signer.verify(store.objects[one.manifest]))
        if isinstance(record, Manifest):
            found.append(record)
            assert (record.attempt, record.prefix) == (one.attempt, one.prefix), what
            for named in manifests.objects(record):
                assert named.key.startswith(f"{one.prefix}/"), what
                assert digest(store.objects[named.key]) == named.sha256, what
    return found


def _the_next_attempt(world: ManualWorld, first: CheckpointId, what: str) -> tuple[CheckpointId, int]:
    """The trainer, started again, saves its next checkpoint; it, and the step from which it started."""
    world.spool.wants("launch-2", StartRequest())
    world.until(lambda: "launch-2" in world.spool.granted, f"{what}: the next attempt")
    granted = world.spool.granted["launch-2"]
    assert granted["attempt"] == 2, what
    second = world.save(int(granted["step"]) + 10, attempt=2, shard=OTHER_SHARD, chunk=20)

    def settled() -> bool:
        published = {(event.attempt, event.step, event.state) for event in world.east.checkpoints()}
        of_first = {state for attempt, step, state in published if (attempt, step) == (1, first.step)}
        return (2, second.step, "committed") in published and bool(of_first & {"committed", "abandoned"})

    world.until(settled, f"{what}: both have an outcome")
    return second, int(granted["step"])


@pytest.mark.parametrize("keep_spool", [True, False])
def test_I6_I7_a_half_uploaded_attempt_and_the_same_step_by_the_next_one_are_never_joined(
    signer: Ed25519Signer, keep_spool: bool
) -> None:
    """At every moment of the upload: each manifest names its own attempt's bytes, and the later attempt is the newer.

    The first one is abandoned, unless it was whole, or its node still has the files and, for a moment, its grant.
    """
    counted = _dies_half_way(signer, 0, keep_spool)[1].seen
    halves = 0
    for at in range(1, len(counted) + 1):
        world, moments, first = _dies_half_way(signer, at, keep_spool)
        what = f"died {moments.hit}"
        assert moments.hit == counted[at - 1], "each moment is really reached"
        before = {key: world.east.store.objects[key] for key in world.east.store.list(first.prefix)}
        whole = first.manifest in before
        halves += not whole and any("chunk" in key for key in before)
        second, start = _the_next_attempt(world, first, what)
        found = {(one.attempt, one.step): one for one in _of_one_attempt(world, before, what)}
        assert set(found) - {(1, 20)} == {(1, 10), (2, start + 10)}, what
        assert ((1, 20) in found) >= (whole or start == 20), what
        assert keep_spool or (1, 20) not in found or first.receipt(0) in before, what
        assert [one.sha256 for one in found[2, second.step].shards] == [digest(OTHER_SHARD)], what
        newest = RecoverableFinder(world.east.store, signer, Codec()).newest("gpt", lineage_of((1, 0, -1)))
        assert newest is not None, what
        assert newest.key == second.manifest, what
    assert halves > 10, f"it must die half-way: {counted}"
    assert len(counted) > 30, f"every call is two moments: {counted}"
