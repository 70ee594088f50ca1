"""The sweep's flow on fakes: what is gone in the end, and what never is."""

from __future__ import annotations

import json

import pytest

from pipelines import paths
from pipelines.core.retention import Go, Hold, Keep
from pipelines.flows.retention.pins import pin, pinned, unpin
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.paths import CheckpointId
from schemas.codec import Codec, digest
from schemas.records import Abandoned
from services.adapters.signer import Ed25519Signer, generate_keypair
from tests.lineages import lineage_of
from tests.sweep_world import CODEC, DAY_S, SweepWorld, steps
from tests.tripwire import Crash, Tripwire


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path_factory.mktemp("keys"), "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


def test_a_sweep_notes_first_and_removes_after_the_grace(signer: Ed25519Signer) -> None:
    """Nothing at the first; then all but the newest; in the end of the older ones not even a record is left."""
    world = SweepWorld(signer)
    for step in range(10, 70, 10):
        world.commit(step)
    assert world.sweep(1).gone == ()
    assert steps(world.whole()) == [10, 20, 30, 40, 50, 60]
    world.now_s += 0.9 * DAY_S
    assert world.sweep(1).gone == ()
    world.now_s += 0.2 * DAY_S
    done = world.sweep(1)
    assert [(one.own.step, one.reason) for one in done.gone] == [(step, Go.OLDER) for step in (10, 20, 30, 40)]
    assert done.size_bytes > 0
    assert steps(world.whole()) == [50, 60]
    left = [key for key in world.store.objects if key.startswith("runs/gpt/e0")]
    assert len([key for key in left if not key.endswith("/manifest")]) == 6
    world.sweep(3)
    assert {paths.parse_checkpoint(k).step for k in world.store.objects if k.startswith("runs/gpt/e0")} == {50, 60}


def test_I17_forged_checkpoints_of_anothers_epoch_push_no_generation_out(signer: Ed25519Signer) -> None:
    """West holds epoch 2; what east made in its name is newer than all, and counts for nothing."""
    world = SweepWorld(signer)
    for step in (10, 20, 30, 40):
        world.commit(step)
    west = {"run": "gpt", "epoch": 2, "region": "west", "forks": [[1, 0, -1], [2, 1, 40]]}
    world.store.create(paths.epoch_seen("gpt", 2), json.dumps(west).encode())
    for step in (50, 60):
        world.commit(step, epoch=2)
    world.sweep(4)
    assert {30, 40} <= set(steps(world.whole()))


def test_what_is_no_checkpoint_is_never_touched_and_neither_is_a_key_that_is_not_ours(signer: Ed25519Signer) -> None:
    """Epochs, launches, starts, pins, health, schemas, drills, records of leases, and strangers below a checkpoint."""
    world = SweepWorld(signer)
    old = world.commit(10)
    for step in (20, 30, 40):
        world.commit(step)
    launch = json.dumps({"epoch": 1, "attempt": 1, "start_manifest_key": ""}).encode()
    others = {
        paths.launched("gpt", "l1"): launch,
        **dict.fromkeys(
            (
                paths.start("gpt", "n0", "l1"),
                paths.notified("gpt", 1),
                paths.health("controller", "east"),
                paths.schema("abc"),
                paths.lease("gpt"),
                paths.audit("gpt", 1),
                paths.drilled("gpt", 1, "d"),
                f"{paths.drill_prefix('d')}{old.chunk(0, 0)}",
                f"{old.prefix}/notes.txt",
                "runs/gpt/e1/a1/s10/rank-00000/chunk-000000",
                "runs/gpt/extra",
                "runs/other/e000001/a0001/s0000000010/rank-00000/chunk-000000",
            ),
            b"x",
        ),
    }
    before = others | {key: world.store.objects[key] for key in world.store.list(paths.epochs_prefix("gpt"))}
    for key, body in others.items():
        world.store.put(key, body)
    world.sweep(4)
    assert steps(world.whole()) == [30, 40]
    assert {key: world.store.objects.get(key) for key in before} == before


def test_a_plan_changes_nothing(signer: Ed25519Signer) -> None:
    """Not even a note is made."""
    world = SweepWorld(signer)
    for step in (10, 20, 30):
        world.commit(step)
    before = dict(world.store.objects)
    planned = world.sweeper().plan()
    assert [(one.own.step, one.reason, one.due) for one in planned.candidates] == [(10, Go.OLDER, False)]
    assert world.store.objects == before


def test_a_pinned_checkpoint_stays_and_after_its_pin_is_over_a_whole_grace_begins(signer: Ed25519Signer) -> None:
    """Pins are numbered objects: saying the same twice changes nothing, and a pin may come again."""
    world = SweepWorld(signer)
    old = world.commit(10)
    for step in (20, 30):
        world.commit(step)
    entry: dict[str, object] = {"actor": "ops"}
    assert pin(world.store, old, entry)
    assert not pin(world.store, old, entry)
    world.sweep(3)
    assert old in world.whole()
    assert unpin(world.store, old, entry)
    assert not unpin(world.store, old, entry)
    assert world.sweep(1).gone == ()
    assert pin(world.store, old, entry)
    assert pinned(world.store, "gpt") == {old}
    world.sweep(3)
    assert old in world.whole()
    unpin(world.store, old, entry)
    world.sweep(2)
    assert old not in world.whole()


def test_a_pin_between_two_looks_of_one_sweep_is_seen(signer: Ed25519Signer) -> None:
    """At every call of the sweep: what is pinned before the last look at it stays."""
    at, saved_late = 0, 0
    while True:
        at += 1
        world = SweepWorld(signer)
        old = world.commit(10)
        for step in (20, 30):
            world.commit(step)
        world.sweep(1)
        world.now_s += 1.5 * DAY_S
        planned: list[bool] = []

        def pins(world: SweepWorld = world, old: CheckpointId = old, planned: list[bool] = planned) -> None:
            planned.append(len(world.store.list(paths.sweeps_prefix("gpt"))) == 2)  # its note is made: that is the plan
            pin(world.store, old, {})

        wire = Tripwire(at, pins)
        world.sweeper(wire).execute()
        saved_late += planned == [True] and old in world.whole()
        if wire.calls < at:
            break
    assert saved_late > 4, "also after it was planned"


def test_wherever_a_sweep_dies_no_manifest_stands_over_what_is_gone_and_the_next_ones_end_it(
    signer: Ed25519Signer,
) -> None:
    """Before and after every port call: older generations, a discarded branch, a half upload and old records."""

    def prepared() -> SweepWorld:
        world = SweepWorld(signer)
        for step in (10, 20, 30, 40, 50):
            world.commit(step)
        world.knows(lineage_of((1, 0, -1), (2, 1, 30)))
        world.store.create(paths.discarded("gpt", 1), b"{}")
        world.store.create(CheckpointId("gpt", 2, 1, 35).chunk(0, 0), b"half")
        for step in (40, 50):
            world.commit(step, epoch=2)
        world.sweep(1)
        world.now_s += 1.5 * DAY_S
        return world

    def kept(world: SweepWorld) -> set[str]:
        return {key for key in world.store.objects if not key.startswith(paths.SWEEPS)}

    straight = prepared()
    straight.sweep(4)
    assert steps(straight.whole()) == [30, 40, 50]
    at = 0
    while True:
        at += 1
        world = prepared()
        try:
            world.sweeper(Tripwire(at)).execute()
        except Crash:
            assert {30, 40, 50} <= set(steps(world.whole()))
            world.sweep(5)
            assert kept(world) == kept(straight), f"died at {at}"
        else:
            break
    assert at > 100, "every port call is a moment to die at"


def test_a_controllers_cache_does_not_believe_in_a_manifest_that_was_swept(signer: Ed25519Signer) -> None:
    """The bytes of a manifest are cached; the one that is chosen is read again."""
    world = SweepWorld(signer)
    for step in (10, 20, 30, 40):
        world.commit(step)
    controller = RecoverableFinder(world.store, signer, Codec())
    early = lineage_of((1, 0, -1), (2, 1, 20))
    newest = controller.newest("gpt", early)
    assert newest is not None
    assert newest.manifest.step == 20
    world.sweep(2)
    assert controller.newest("gpt", early) is None


def test_with_another_region_out_of_sight_nothing_goes(signer: Ed25519Signer) -> None:
    """Nobody knows what that region still needs; when it answers again, the earlier notes count."""
    world = SweepWorld(signer)
    for step in (10, 20, 30):
        world.commit(step)
    world.sweeper(peers=True).execute()
    world.now_s += 2 * DAY_S

    sweeper = world.sweeper(peers=True)
    world.peer.away = True
    done = sweeper.execute()
    assert (done.plan.held, done.plan.unseen, done.gone) == (Hold.UNSEEN, ("west",), ())
    assert {one.reason for one in done.plan.kept} == {Keep.HELD}
    world.peer.away = False
    assert [one.own.step for one in sweeper.execute().gone] == [10]


def test_what_takes_the_place_of_a_swept_manifest_is_signed_and_carries_the_chain_on(signer: Ed25519Signer) -> None:
    """The next step of that attempt hangs on the digest that was there."""
    world = SweepWorld(signer)
    old = world.commit(10)
    payload = signer.verify(world.store.objects[old.manifest])
    for step in (20, 30):
        world.commit(step)
    world.sweep(2)
    record = CODEC.decode_as(Abandoned, signer.verify(world.store.objects[old.manifest]))
    assert (record.parent_digest, record.lineage_seq) == (digest(payload), 11)
    assert record.reason == "swept: an older generation"
