"""A sweep, and somebody else at each of its moments: an agent, a replicator, a controller, a person."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from pipelines.core.resume_mode import StartRequest
from pipelines.flows.replication.checkpoint_copies import CheckpointCopies
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.paths import CheckpointId
from schemas.codec import Codec, digest
from schemas.records import Checkpoint
from services.adapters.memory.spool import MemorySpool
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer, generate_keypair
from tests.lineages import lineage_of
from tests.manifests import OWN, committed
from tests.sweep_world import DAY_S, SweepWorld, steps
from tests.tripwire import Crash, Tripwire


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path_factory.mktemp("keys"), "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


@pytest.mark.parametrize("dies", [True, False])
def test_a_half_uploaded_attempt_is_swept_in_between_and_what_is_committed_is_whole(
    signer: Ed25519Signer, *, dies: bool
) -> None:
    """At each moment of the upload: the agent dies there and is started again, or stands still there for two days.

    The worst case: another attempt has gone on meanwhile, so nothing protects the half. It ends whole, or as given up.
    """
    outcomes, at = set(), 0
    while True:
        at += 1
        world = SweepWorld(signer)
        world.launch(1)
        for step in (20, 30):
            world.commit(step, attempt=2)
        wire = Tripwire(at, None if dies else partial(world.sweep, 3))
        agent = world.agent(wire)
        try:
            world.turn(agent)
        except Crash:
            world.sweep(3)
            agent = world.agent()
        world.turn(agent, 12)
        assert world.published, f"at {at}: no outcome"
        assert (world.published[-1].state == "committed") == (OWN in world.whole()), f"at {at}"
        outcomes.add(world.published[-1].state)
        if wire.calls < at:
            break
    assert outcomes == {"committed", "abandoned"}
    assert at > 25


def test_the_same_step_again_under_a_new_attempt_is_whole_and_the_half_of_the_old_one_goes(
    signer: Ed25519Signer,
) -> None:
    """Half-uploaded attempt, restart, same step again, sweeps in between: at each moment of the first upload."""
    at = 0
    while True:
        at += 1
        world = SweepWorld(signer)
        world.launch(1)
        wire = Tripwire(at)
        try:
            world.turn(world.agent(wire))
            break
        except Crash:
            world.sweep(2)
        world.spool = MemorySpool("gpt")  # the node was replaced
        world.launch(2)
        agent = world.agent()
        agent.turn()
        world.sweep(2)
        world.turn(agent)
        again = dataclasses.replace(OWN, attempt=2)
        assert again in world.whole(), f"at {at}"
        world.sweep(4)
        assert again in world.whole()
        left = [key for key in world.store.list(f"{OWN.prefix}/") if key != OWN.manifest]
        assert left == [] or OWN in world.whole(), f"at {at}"
    assert at > 25


@pytest.mark.parametrize("died_at", [12, 22])
def test_an_upload_that_goes_on_while_it_is_being_swept_is_whole_or_given_up(
    signer: Ed25519Signer, died_at: int
) -> None:
    """The other way round: at each call of the sweep the agent comes back and does all that it can."""
    outcomes, at = set(), 0
    while True:
        at += 1
        world = SweepWorld(signer)
        world.launch(1)
        with pytest.raises(Crash):
            world.turn(world.agent(Tripwire(died_at)))
        assert world.store.list(f"{OWN.prefix}/"), "half of it is there"
        for step in (20, 30):
            world.commit(step, attempt=2)
        world.now_s += 2 * DAY_S
        world.sweep(1)
        world.now_s += 2 * DAY_S
        agent = world.agent()
        wire = Tripwire(at, partial(world.turn, agent))
        world.sweeper(wire).execute()
        world.turn(agent, 12)
        assert (world.published[-1].state == "committed") == (OWN in world.whole()), f"at {at}"
        outcomes.add(world.published[-1].state)
        if wire.calls < at:
            break
    assert outcomes == {"committed", "abandoned"}


def test_a_manifest_is_not_committed_over_a_chunk_that_is_gone_it_is_put_again(signer: Ed25519Signer) -> None:
    """6.10: the agent remembers that it put everything and has a receipt; the store is asked, and is right."""
    for lost in (OWN.chunk(0, 0), OWN.chunk(0, 1), OWN.rank_state(0), OWN.receipt(0)):
        world = SweepWorld(signer)
        world.spool.wants("launch-1", StartRequest())
        agent = world.agent()
        agent.turn()
        world.state = "wait"
        world.turn(agent, 12)
        world.save(1)
        world.turn(agent, 2)
        assert OWN.receipt(0) in world.store.objects
        assert OWN.manifest not in world.store.objects
        world.store.delete(lost)
        world.state = "granted"
        world.turn(agent, 12)
        assert OWN in world.whole()
        assert [event.state for event in world.published] == ["committed"]


def _copies(world: SweepWorld, wire: Tripwire) -> CheckpointCopies:
    return CheckpointCopies(
        peer="west",
        store=wire.before(world.store),
        peer_store=world.peer,
        transfers=wire.before(MemoryTransfers({"west": world.peer}, world.store, per_turn=1)),
        signer=world.signer,
        codec=Codec(),
        clock=world,
        journal=world,
    )


def _event(world: SweepWorld, own: CheckpointId) -> Checkpoint:
    payload = world.signer.verify(world.peer.objects[own.manifest])
    return committed(own, digest(payload), seq=1, lineage_seq=11, size_bytes=100)


def _copied(copies: CheckpointCopies, event: Checkpoint, turns: int = 12) -> bool:
    for _ in range(turns):
        copies.collect()
        if copies.done(event):
            return True
        if copies.swept(event):
            return False
    raise AssertionError("the copy comes to no end")


def test_a_copy_is_swept_at_any_moment_and_what_becomes_visible_is_whole(signer: Ed25519Signer) -> None:
    """The replicator stands still for days at each of its calls, while a newer checkpoint is whole here."""
    outcomes, at = set(), 0
    while True:
        at += 1
        world = SweepWorld(signer)
        own = world.commit(10, stores=(world.peer,))
        for step in (20, 30):
            world.commit(step)
        wire = Tripwire(at, partial(world.sweep, 3))
        visible = _copied(_copies(world, wire), _event(world, own))
        assert visible == (own in world.whole()) or wire.calls == at, f"at {at}"
        outcomes.add(visible)
        if wire.calls < at:
            break
    assert outcomes == {True, False}


def test_a_copy_that_begins_again_while_its_half_is_being_swept_is_whole_or_given_up(signer: Ed25519Signer) -> None:
    """At each call of the sweep the replicator comes back: it verifies what is here, and looks once more at the end."""
    outcomes, at = set(), 0
    while True:
        at += 1
        world = SweepWorld(signer)
        own = world.commit(10, stores=(world.peer,))
        world.store.create(own.chunk(0, 0), world.peer.objects[own.chunk(0, 0)])
        for step in (20, 30):
            world.commit(step)
        world.now_s += 2 * DAY_S
        world.sweep(1)
        world.now_s += 2 * DAY_S
        seen: list[bool] = []
        copies, late = _copies(world, Tripwire()), _event(world, own)

        def comes_back(seen: list[bool] = seen, copies: CheckpointCopies = copies, event: Checkpoint = late) -> None:
            seen.append(_copied(copies, event))

        wire = Tripwire(at, comes_back)
        world.sweeper(wire).execute()
        if wire.calls < at:
            break
        assert seen == [own in world.whole()], f"at {at}"
        outcomes.update(seen)
    assert outcomes == {True, False}


def test_I9_a_promotion_during_a_sweep_never_forks_at_what_is_being_swept(signer: Ed25519Signer) -> None:
    """At each call a controller, whose cache knows every manifest, chooses; its choice is whole when all is over."""
    at, early = 0, lineage_of((1, 0, -1), (2, 1, 30))
    while True:
        at += 1
        world = SweepWorld(signer)
        for step in (10, 20, 30, 40, 50):
            world.commit(step, stores=(world.store, world.peer) if step <= 30 else (world.store,))
        controller = RecoverableFinder(world.store, signer, Codec())
        chosen: list[int] = []

        def promotes(
            world: SweepWorld = world, controller: RecoverableFinder = controller, chosen: list[int] = chosen
        ) -> None:
            for view in (lineage_of((1, 0, -1)), early):
                newest = controller.newest("gpt", view)
                chosen.append(-1 if newest is None else newest.manifest.step)
            world.knows(early, world.peer)

        controller.newest("gpt", early)
        world.sweeper(peers=True).execute()
        world.now_s += 1.5 * DAY_S
        wire = Tripwire(at, promotes)
        world.sweeper(wire, peers=True).execute()
        if wire.calls < at:
            break
        whole = world.whole()
        assert chosen == [50, 30], f"at {at}"
        assert {30, 50} <= set(steps(whole)), f"at {at}"
    assert steps(world.whole()) == [30, 40, 50], "the older ones did go"
