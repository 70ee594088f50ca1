"""The sweep's flow on fakes: what is gone in the end, wherever it dies and whoever acts in between."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.lineage import LineageView
from pipelines.core.manifests import objects
from pipelines.core.resume import StartRequest
from pipelines.core.retention import Go, Hold, Keep, SweepPolicy
from pipelines.errors import RetryableError
from pipelines.flows.copying import Copying
from pipelines.flows.pins import pin, pinned, unpin
from pipelines.flows.publish import Publish
from pipelines.flows.recoverable import Recoverable
from pipelines.flows.sweep import Sweep, Swept
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply
from schemas.codec import Codec, digest
from schemas.records import Abandoned, Checkpoint, Manifest
from services.adapters.memory import MemoryObjectStore, MemoryTransfers
from services.adapters.memory_spool import MemorySpool
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemEntropy
from tests.manifests import manifest_of, shard_of, state_of
from tests.manual_clock import ManualClock
from tests.tripwire import Crash, Tripwire

CODEC = Codec()
DAY_S = 86_400.0
POLICY = SweepPolicy(generations=2, grace_s=DAY_S)
SHARD = b"0123456789" * 10
OWN = CheckpointId("gpt", 1, 1, 10)
INTENT: dict[str, Any] = {
    "mode": "exact",
    "world_size": 1,
    "fingerprint": {},
    "previous_step": None,
    "health": {},
    "data_version": "",
    "ranks": [
        {
            "rank": 0,
            "size": 100,
            "sha256": digest(SHARD),
            "chunks": [{"size": 60, "sha256": digest(SHARD[:60])}, {"size": 40, "sha256": digest(SHARD[60:])}],
        }
    ],
    "items": [],
    "planner": {},
}


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path_factory.mktemp("keys"), "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


class _Far(MemoryObjectStore):
    """Another region's store, which may be out of sight."""

    away = False

    def list(self, prefix: str) -> tuple[str, ...]:
        if self.away:
            raise RetryableError("the link is cut")
        return super().list(prefix)


class _World(ManualClock):
    """A region's store, sweeper and agent, and another region; implements EventLog, Grants, Journal and Clock."""

    def __init__(self, signer: Ed25519Signer) -> None:
        super().__init__(100 * DAY_S)
        self.signer = signer
        self.store, self.peer = MemoryObjectStore(self.wall_ms), _Far(self.wall_ms)
        self.spool = MemorySpool("gpt")
        self.state = "granted"
        self.published: list[Checkpoint] = []
        self.knows(LineageView(1, ((1, 0, -1),)))

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        del event, fields

    def ask(self, run: str, launch: str, node: str, committed_step: int) -> GrantReply:
        """Implements Grants: a launch is the attempt of its number."""
        del run, node, committed_step
        return GrantReply(self.state, epoch=1, attempt=int(launch[-1]), valid_s=3.0, forks=((1, 0, -1),))

    def publish(self, messages: list[Any]) -> None:
        """Implements EventLog."""
        found = [CODEC.decode(message.value) for message in messages]
        self.published += [event for event in found if isinstance(event, Checkpoint)]

    def knows(self, view: LineageView, store: MemoryObjectStore | None = None) -> None:
        """A controller wrote an epoch down."""
        plain = {"run": "gpt", "epoch": view.epoch, "region": "east", "forks": view.forks}
        (store or self.store).create(paths.epoch_seen("gpt", view.epoch), json.dumps(plain).encode())

    def commit(
        self, step: int, *, epoch: int = 1, attempt: int = 1, stores: tuple[MemoryObjectStore, ...] = ()
    ) -> CheckpointId:
        """A whole checkpoint."""
        own = CheckpointId("gpt", epoch, attempt, step)
        chunks, state = (f"{own.prefix} a".encode(), b"b"), b"rng"
        manifest = manifest_of(
            own, lineage_seq=step + attempt, shards=(shard_of(0, *chunks),), rank_states=(state_of(0, state),)
        )
        body = self.signer.sign(CODEC.encode(manifest))
        for store in stores or (self.store,):
            for key, value in zip((own.chunk(0, 0), own.chunk(0, 1)), chunks, strict=True):
                store.create(key, value)
            store.create(own.rank_state(0), state)
            store.create(own.manifest, body)
        return own

    def sweeper(self, wire: Tripwire | None = None, *, peers: bool = False) -> Sweep:
        """A fresh process."""
        wire = wire or Tripwire()
        return Sweep(
            run="gpt",
            store=wire.before(self.store),
            peers={"west": wire.before(self.peer)} if peers else {},
            signer=self.signer,
            codec=Codec(),
            clock=self,
            entropy=SystemEntropy(),
            journal=self,
            policy=POLICY,
        )

    def sweep(self, times: int = 2) -> Swept:
        """Sweep, and again after each grace; the last one's answer."""
        self.now_s += 1
        found = self.sweeper().execute()
        for _ in range(times - 1):
            self.now_s += 1.5 * DAY_S
            found = self.sweeper().execute()
        return found

    def launch(self, attempt: int) -> None:
        """The trainer is started (again), and saves step 10 under the attempt."""
        self.spool.wants(f"launch-{attempt}", StartRequest())
        self.save(attempt)

    def save(self, attempt: int) -> None:
        """The trainer saves step 10."""
        own = dataclasses.replace(OWN, attempt=attempt)
        self.spool.save(own, 0, SHARD, b"rng")
        producer = f"gpt-r{attempt}"
        record = self.spool.accept(producer, "checkpoints", "intent", 10, INTENT)
        self.spool._records[producer] = [dataclasses.replace(record, attempt=attempt)]

    def agent(self, wire: Tripwire | None = None) -> Publish:
        """A fresh process."""
        fake: Any = self
        return Publish(
            region="east",
            node="n0",
            spool=self.spool,
            store=(wire or Tripwire()).before(self.store),
            log=fake,
            grants=fake,
            signer=self.signer,
            codec=Codec(),
            clock=fake,
            entropy=SystemEntropy(),
            journal=fake,
        )

    def turn(self, agent: Publish, turns: int = 6) -> None:
        """Let the agent work."""
        for _ in range(turns):
            agent.step()
            self.now_s += 0.5

    def whole(self, store: MemoryObjectStore | None = None) -> set[CheckpointId]:
        """The checkpoints that a manifest claims; every byte that it names must be there."""
        store = store or self.store
        found = set()
        for own in paths.committed(store.list(paths.checkpoints_prefix("gpt"))):
            record = CODEC.decode(self.signer.verify(store.objects[own.manifest]))
            if isinstance(record, Manifest):
                found.add(own)
                for named in objects(record):
                    assert digest(store.objects[named.key]) == named.sha256, f"{named.key} is named and gone"
        return found


def _steps(ids: set[CheckpointId]) -> list[int]:
    return sorted(own.step for own in ids)


def test_a_sweep_notes_first_and_removes_after_the_grace(signer: Ed25519Signer) -> None:
    """Nothing at the first; then all but the newest; in the end of the older ones not even a record is left."""
    world = _World(signer)
    for step in range(10, 70, 10):
        world.commit(step)
    assert world.sweep(1).gone == ()
    assert _steps(world.whole()) == [10, 20, 30, 40, 50, 60]
    world.now_s += 0.9 * DAY_S
    assert world.sweep(1).gone == ()
    world.now_s += 0.2 * DAY_S
    done = world.sweep(1)
    assert [(one.own.step, one.reason) for one in done.gone] == [(step, Go.OLDER) for step in (10, 20, 30, 40)]
    assert done.size_bytes > 0
    assert _steps(world.whole()) == [50, 60]
    left = [key for key in world.store.objects if key.startswith("runs/gpt/e0")]
    assert len([key for key in left if not key.endswith("/manifest")]) == 6
    world.sweep(3)
    assert {paths.parse_checkpoint(k).step for k in world.store.objects if k.startswith("runs/gpt/e0")} == {50, 60}


def test_what_is_no_checkpoint_is_never_touched_and_neither_is_a_key_that_is_not_ours(signer: Ed25519Signer) -> None:
    """Epochs, launches, starts, pins, health, schemas, drills, records of leases, and strangers below a checkpoint."""
    world = _World(signer)
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
    assert _steps(world.whole()) == [30, 40]
    assert {key: world.store.objects.get(key) for key in before} == before


def test_a_plan_changes_nothing(signer: Ed25519Signer) -> None:
    """Not even a note is made."""
    world = _World(signer)
    for step in (10, 20, 30):
        world.commit(step)
    before = dict(world.store.objects)
    planned = world.sweeper().plan()
    assert [(one.own.step, one.reason, one.due) for one in planned.candidates] == [(10, Go.OLDER, False)]
    assert world.store.objects == before


def test_a_pinned_checkpoint_stays_and_after_its_pin_is_over_a_whole_grace_begins(signer: Ed25519Signer) -> None:
    """Pins are numbered objects: saying the same twice changes nothing, and a pin may come again."""
    world = _World(signer)
    old = world.commit(10)
    for step in (20, 30):
        world.commit(step)
    said: dict[str, object] = {"actor": "ops"}
    assert pin(world.store, old, said)
    assert not pin(world.store, old, said)
    world.sweep(3)
    assert old in world.whole()
    assert unpin(world.store, old, said)
    assert not unpin(world.store, old, said)
    assert world.sweep(1).gone == ()
    assert pin(world.store, old, said)
    assert pinned(world.store, "gpt") == {old}
    world.sweep(3)
    assert old in world.whole()
    unpin(world.store, old, said)
    world.sweep(2)
    assert old not in world.whole()


def test_a_pin_between_two_looks_of_one_sweep_is_seen(signer: Ed25519Signer) -> None:
    """At every call of the sweep: what is pinned before the last look at it stays."""
    at, saved = 0, 0
    while True:
        at += 1
        world = _World(signer)
        old = world.commit(10)
        for step in (20, 30):
            world.commit(step)
        world.sweep(1)
        world.now_s += 1.5 * DAY_S
        wire = Tripwire(at, partial(pin, world.store, old, {}))
        world.sweeper(wire).execute()
        saved += old in world.whole()
        if wire.calls < at:
            break
    assert saved > 20


def test_wherever_a_sweep_dies_no_manifest_stands_over_what_is_gone_and_the_next_ones_end_it(
    signer: Ed25519Signer,
) -> None:
    """Before and after every port call: older generations, a discarded branch, a half upload and old records."""

    def prepared() -> _World:
        world = _World(signer)
        for step in (10, 20, 30, 40, 50):
            world.commit(step)
        world.knows(LineageView(2, ((1, 0, -1), (2, 1, 30))))
        world.store.create(paths.discarded("gpt", 1), b"{}")
        world.store.create(CheckpointId("gpt", 2, 1, 35).chunk(0, 0), b"half")
        for step in (40, 50):
            world.commit(step, epoch=2)
        world.sweep(1)
        world.now_s += 1.5 * DAY_S
        return world

    def kept(world: _World) -> set[str]:
        return {key for key in world.store.objects if not key.startswith(paths.SWEEPS)}

    straight = prepared()
    straight.sweep(4)
    assert _steps(straight.whole()) == [30, 40, 50]
    at = 0
    while True:
        at += 1
        world = prepared()
        try:
            world.sweeper(Tripwire(at)).execute()
        except Crash:
            assert {30, 40, 50} <= set(_steps(world.whole()))
            world.sweep(5)
            assert kept(world) == kept(straight), f"died at {at}"
        else:
            break
    assert at > 100, "every port call is a moment to die at"


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
        world = _World(signer)
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
        world = _World(signer)
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
        agent.step()
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
        world = _World(signer)
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
        world = _World(signer)
        world.spool.wants("launch-1", StartRequest())
        agent = world.agent()
        agent.step()
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


def _copying(world: _World, wire: Tripwire) -> Copying:
    return Copying(
        peer="west",
        store=wire.before(world.store),
        peer_store=world.peer,
        transfers=wire.before(MemoryTransfers({"west": world.peer}, world.store, per_turn=1)),
        signer=world.signer,
        codec=Codec(),
        clock=world,
        journal=world,
    )


def _event(world: _World, own: CheckpointId) -> Checkpoint:
    payload = world.signer.verify(world.peer.objects[own.manifest])
    return Checkpoint(
        event_id="e",
        run="gpt",
        region="west",
        epoch=own.epoch,
        attempt=own.attempt,
        producer="r0",
        seq=1,
        step=own.step,
        time_ms=0,
        state="committed",
        manifest_key=own.manifest,
        manifest_digest=digest(payload),
        lineage_seq=11,
        size_bytes=100,
        reason="",
    )


def _copied(copying: Copying, event: Checkpoint, turns: int = 12) -> bool:
    for _ in range(turns):
        copying.collect()
        if copying.done(event):
            return True
        if copying.swept(event):
            return False
    raise AssertionError("the copy comes to no end")


def test_a_copy_is_swept_at_any_moment_and_what_becomes_visible_is_whole(signer: Ed25519Signer) -> None:
    """The replicator stands still for days at each of its calls, while a newer checkpoint is whole here."""
    outcomes, at = set(), 0
    while True:
        at += 1
        world = _World(signer)
        own = world.commit(10, stores=(world.peer,))
        for step in (20, 30):
            world.commit(step)
        wire = Tripwire(at, partial(world.sweep, 3))
        visible = _copied(_copying(world, wire), _event(world, own))
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
        world = _World(signer)
        own = world.commit(10, stores=(world.peer,))
        world.store.create(own.chunk(0, 0), world.peer.objects[own.chunk(0, 0)])
        for step in (20, 30):
            world.commit(step)
        world.now_s += 2 * DAY_S
        world.sweep(1)
        world.now_s += 2 * DAY_S
        seen: list[bool] = []
        copying, late = _copying(world, Tripwire()), _event(world, own)

        def comes_back(seen: list[bool] = seen, copying: Copying = copying, event: Checkpoint = late) -> None:
            seen.append(_copied(copying, event))

        wire = Tripwire(at, comes_back)
        world.sweeper(wire).execute()
        if wire.calls < at:
            break
        assert seen == [own in world.whole()], f"at {at}"
        outcomes.update(seen)
    assert outcomes == {True, False}


def test_I9_a_promotion_during_a_sweep_never_forks_at_what_is_being_swept(signer: Ed25519Signer) -> None:
    """At each call a controller, whose cache knows every manifest, chooses; its choice is whole when all is over."""
    at, early = 0, LineageView(2, ((1, 0, -1), (2, 1, 30)))
    while True:
        at += 1
        world = _World(signer)
        for step in (10, 20, 30, 40, 50):
            world.commit(step, stores=(world.store, world.peer) if step <= 30 else (world.store,))
        controller = Recoverable(world.store, signer, Codec())
        chosen: list[int] = []

        def promotes(world: _World = world, controller: Recoverable = controller, chosen: list[int] = chosen) -> None:
            for view in (LineageView(1, ((1, 0, -1),)), early):
                found = controller.newest("gpt", view)
                chosen.append(-1 if found is None else found.manifest.step)
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
        assert {30, 50} <= set(_steps(whole)), f"at {at}"
    assert _steps(world.whole()) == [30, 40, 50], "the older ones did go"


def test_a_controllers_cache_does_not_believe_in_a_manifest_that_was_swept(signer: Ed25519Signer) -> None:
    """The bytes of a manifest are cached; the one that is chosen is read again."""
    world = _World(signer)
    for step in (10, 20, 30, 40):
        world.commit(step)
    controller = Recoverable(world.store, signer, Codec())
    early = LineageView(2, ((1, 0, -1), (2, 1, 20)))
    found = controller.newest("gpt", early)
    assert found is not None
    assert found.manifest.step == 20
    world.sweep(2)
    assert controller.newest("gpt", early) is None


def test_with_another_region_out_of_sight_nothing_goes(signer: Ed25519Signer) -> None:
    """What it still needs is not known; when it answers again, what was noted before counts."""
    world = _World(signer)
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
    world = _World(signer)
    old = world.commit(10)
    payload = signer.verify(world.store.objects[old.manifest])
    for step in (20, 30):
        world.commit(step)
    world.sweep(2)
    record = CODEC.decode_as(Abandoned, signer.verify(world.store.objects[old.manifest]))
    assert (record.parent_digest, record.lineage_seq) == (digest(payload), 11)
    assert record.reason == "swept: an older generation"
