"""I2, I11: a lease record that was deleted or restored from a backup moves nobody, whoever is started then."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.core.failover_decision import Action, Decision, Reason
from pipelines.core.lease import Held
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.authority.peer_epochs import EVERY_S, PeerEpochs
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer
from tests.manual_clock import ManualClock
from tests.manual_world import ManualRegion, ManualWorld, signer_in, world_with_step_10


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """Of both regions."""
    return signer_in(tmp_path)


@pytest.fixture
def backup(signer: Ed25519Signer) -> tuple[ManualWorld, Held]:
    """East held epoch 1, and the record was copied; then east stood still, and west won epoch 2."""
    world = world_with_step_10(signer)
    copy = world.west.witness.records["gpt"]
    world.link = False
    _stopped(world.east)
    world.until(lambda: world.lease.epoch == 2, "west takes over")
    for _ in range(20):
        world.turn()
    assert world.lease.holder == "west"
    return world, copy


def _stopped(region: ManualRegion) -> None:
    region.controls, region.self_evidences, region.verifiers = [], [], []


def _started(world: ManualWorld, region: ManualRegion) -> None:
    """A controller process of a region that knows nothing but what is durable, and its evidence."""
    _stopped(region)
    region.witness, region.control = region.start()
    world.link = True


def _turns(world: ManualWorld, seconds: float = 30.0) -> None:
    for _ in range(int(seconds * 10)):
        world.turn()


@pytest.mark.parametrize("audit", [True, False])
def test_I1_I2_I11_a_restored_record_is_taken_by_nobody(backup: tuple[ManualWorld, Held], audit: bool) -> None:
    """East begins anew under the copy of epoch 1; the winner's audit copy, or west's own epochs, tell better."""
    world, copy = backup
    if not audit:
        world.west.witness.claims.clear()
    world.west.witness.records["gpt"] = copy
    world.east.peer_epochs = PeerEpochs({"west": world.west.store}, ["gpt"], world.clock)
    if not audit:
        world.east.peer_epochs.turn()
    else:
        world.east.peer_epochs = None
    _started(world, world.east)
    before = len(world.history)
    _turns(world)
    assert len(world.history) == before, "nobody wrote anything"
    for region in (world.east, world.west):
        status = region.control.status()
        assert (status.reason, status.is_holder) == (Reason.RECORD_WENT_BACK.value, False)
        assert region.control._decision.action is Action.ALARM
    where = "the witness's audit copies" if audit else "the store of west"
    assert f"it is of epoch 1, and {where} has epoch 2" in world.east.control.status().troubles["record"]
    assert world.west.control.grant("launch-1", -1).state == "wait", "no trainer is superseded by such a record"


def test_I2_I11_a_deleted_record_is_not_created_again(backup: tuple[ManualWorld, Held]) -> None:
    """East, in which the run began, has lost its own store too; the audit copies are left."""
    world, _ = backup
    del world.west.witness.records["gpt"]
    for key in list(world.east.store.objects):
        del world.east.store.objects[key]
    _started(world, world.east)
    before = len(world.history)
    _turns(world)
    assert len(world.history) == before
    assert world.east.control.status().reason == Reason.RECORD_MISSING.value
    assert "it is gone" in world.east.control.status().troubles["record"]


def test_what_a_person_does_puts_the_run_back_on_its_way(backup: tuple[ManualWorld, Held]) -> None:
    """The newest noted record is put in the record's place, and the holder's controller started anew."""
    world, copy = backup
    newest = world.west.witness.records["gpt"]
    world.west.witness.records["gpt"] = copy
    _started(world, world.east)
    _turns(world, 5.0)
    noted = world.west.witness.noted("gpt")[-1]
    world.west.witness.records["gpt"] = Held(noted, f'"{noted.write_id}"')
    for region in (world.west, world.east):
        _started(world, region)
    world.until(lambda: world.west.control.status().is_holder, "west goes on")
    assert (world.lease.epoch, world.lease.holder) == (2, "west")
    assert world.lease.renew_seq < newest.lease.renew_seq + 1_000
    assert "record" not in world.east.control.status().troubles


def test_I4_an_epoch_that_was_won_after_the_record_was_read_is_no_evidence(signer: Ed25519Signer) -> None:
    """The record is read again first: it is as new as the evidence, so nothing went back."""
    world = world_with_step_10(signer)
    world.east.peer_epochs = PeerEpochs({"west": world.west.store}, ["gpt"], world.clock)
    EpochStore(world.west.store).remember(world.lease)
    world.east.peer_epochs.turn()
    _started(world, world.east)
    world.until(lambda: world.east.control.status().is_holder, "east goes on as a new incarnation")
    assert world.lease.epoch == 1


def test_a_new_incarnation_waits_until_every_peer_was_asked(signer: Ed25519Signer) -> None:
    """Whether it answers or not: a region that is lost does not hold the others back."""
    world = world_with_step_10(signer)
    peers = world.east.peer_epochs = PeerEpochs({"west": world.west.store}, ["gpt"], world.clock)
    _started(world, world.east)
    _turns(world, 5.0)
    assert not world.east.control.status().is_holder
    peers.turn()
    world.until(lambda: world.east.control.status().is_holder, "it goes on")


class _Away(MemoryObjectStore):
    """It does not answer, or refuses."""

    error: Exception = RetryableError("away")

    def list(self, prefix: str) -> tuple[str, ...]:
        assert prefix
        raise self.error


def test_I10_peers_that_are_away_or_write_nonsense_are_no_evidence_and_end_nothing() -> None:
    """Each is asked once a minute; a number that no epoch can have is passed over."""
    clock, west, north = ManualClock(1000.0), MemoryObjectStore(), _Away()
    for name in ("000002", "x", "9" * 30, "²"):
        west.create(f"{paths.epochs_prefix('gpt')}{name}", b"{}")
    peers = PeerEpochs({"north": north, "west": west}, ["gpt"], clock)
    before = peers.is_complete
    while peers.turn() == 0.0:
        pass
    assert (before, peers.is_complete) == (False, True)
    assert (peers.highest("gpt").epoch, peers.highest("gpt").where) == (2, "the store of west")
    assert peers.highest("other").epoch == 0
    north.error = MisconfiguredError("denied")
    west.create(f"{paths.epochs_prefix('gpt')}000003", b"{}")
    clock.now_s += EVERY_S
    while peers.turn() == 0.0:
        pass
    assert peers.highest("gpt").epoch == 3


def test_a_decision_that_begins_is_told_from_one_that_goes_on() -> None:
    """The evidence is consulted before these, and not before a holder's renewal."""
    begins = [Decision(Action.CREATE, Reason.CREATES_RUN), Decision(Action.TAKE_OVER, Reason.OPERATOR)]
    begins += [Decision(Action.RENEW, Reason.NEW_INCARNATION)]
    assert all(one.begins for one in begins)
    assert not dataclasses.replace(begins[2], reason=Reason.RENEWAL_DUE).begins
