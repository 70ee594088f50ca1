"""I17: a checkpoint counts only if the region that made it holds its epoch, as this region's own store knows it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.core import lease as core
from pipelines.core.authorship import EVENT, MANIFEST, SIGNATURE, disagreement, foreign
from pipelines.core.lease import Author, Fork
from pipelines.core.lease_profiles import FAST
from pipelines.core.lineage import LineageView, may_become_known, view_of
from pipelines.errors import RetryableError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.paths import CheckpointId
from schemas.codec import Codec, digest
from schemas.records import Lease, Manifest
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer, generate_keypair
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of

CODEC = Codec()
FAR = 999_999_999
VIEW = lineage_of((1, 0, -1), (2, 1, 20), west=2)


@pytest.mark.parametrize(
    ("epoch", "claims", "why"),
    [
        (1, {EVENT: "east", MANIFEST: "east", SIGNATURE: "east"}, ""),
        (2, {EVENT: "west"}, ""),
        (2, {EVENT: "east"}, "west holds epoch 2, its event names east"),
        (2, {MANIFEST: "west", SIGNATURE: "east"}, "west holds epoch 2, its signature names east"),
        (1, {}, "east holds epoch 1, nobody is named"),
        (3, {EVENT: "west"}, "who holds epoch 3 is not known here"),
        (0, {EVENT: "east"}, "nobody ever held epoch 0"),
    ],
)
def test_I17_all_that_is_named_has_to_hold_the_epoch(epoch: int, claims: dict[str, str], why: str) -> None:
    """One table for all who ask."""
    assert foreign(VIEW, epoch, claims) == why


def test_I17_claims_have_to_agree_before_anybody_knows_who_holds_what() -> None:
    """A contradiction is wrong whatever the lineage is."""
    assert disagreement({MANIFEST: "east", SIGNATURE: "east"}) == ""
    assert disagreement({MANIFEST: "west", SIGNATURE: "east"}) == "its manifest names west and its signature names east"


def _chain(*holders: str) -> Lease:
    """The record after these regions won one epoch after the other, each 10 steps further."""
    authors = [Author(region, "i", f"w{number}", "test", "test", 0) for number, region in enumerate(holders)]
    lease = core.first("gpt", authors[0], FAST)
    for number, author in enumerate(authors[1:], 1):
        lease = core.takeover(lease, author, Fork(10 * number), FAST)
    return lease


def test_I17_the_holders_are_read_from_each_epochs_own_object() -> None:
    """Three releases back each of them named its region, too: nothing is converted."""
    store = MemoryObjectStore()
    for length in (1, 2, 3):
        lease = _chain("east", "west", "east")
        lease = dataclasses.replace(lease, epoch=length, lineage=lease.lineage[:length])
        region, forks = lease.lineage[-1].region, view_of(lease.lineage).forks
        plain = {"run": "gpt", "epoch": length, "region": region, "forks": forks}
        store.create(paths.epoch_seen("gpt", length), json.dumps(plain).encode())
        view = EpochStore(store)("gpt")
        assert view is not None
        assert view.holders == ((1, "east"), (2, "west"), (3, "east"))[:length]
        assert view == view_of(lease.lineage)


def test_I17_an_epoch_that_a_region_missed_has_no_holder_there_until_a_controller_writes_it_down() -> None:
    """It heard of epochs 1 and 3 only. What is there already is never replaced."""
    store, lease = MemoryObjectStore(), _chain("east", "west", "east")
    store.create(paths.epoch_seen("gpt", 1), b'{"run": "gpt", "epoch": 1, "region": "east", "forks": [[1, 0, -1]]}')
    newest = {"run": "gpt", "epoch": 3, "region": "east", "forks": view_of(lease.lineage).forks}
    store.create(paths.epoch_seen("gpt", 3), json.dumps(newest).encode())
    reader = EpochStore(store)
    view = reader("gpt")
    assert view is not None
    assert (view.epoch, [may_become_known(view, epoch) for epoch in (1, 2, 3, 4)]) == (3, [False, True, False, True])
    before = dict(store.objects)
    EpochStore(store).remember(lease)
    assert reader("gpt") == view_of(lease.lineage), "also where it was read before"
    assert {key: store.objects[key] for key in before} == before


class _Region:
    """A region's store with the fleet's keys."""

    def __init__(self, folder: Path) -> None:
        keys = {name: generate_keypair(folder, name) for name in ("east", "west")}
        trusted = {name: public for name, (_, public) in keys.items()}
        self.signers = {
            name: Ed25519Signer(key_id=name, private_key_path=private, trusted=trusted)
            for name, (private, _) in keys.items()
        }
        self.store = MemoryObjectStore()
        self.finder = RecoverableFinder(self.store, self.signers["west"], CODEC)

    def put(self, epoch: int, step: int, region: str, signer: str, seq: int = 1) -> CheckpointId:
        """A manifest that names a region, signed by one."""
        own = CheckpointId("gpt", epoch, 1, step)
        self.store.create(own.manifest, self.signers[signer].sign(self.payload(own, region, seq)))
        return own

    def payload(self, own: CheckpointId, region: str, seq: int = 1) -> bytes:
        """The manifest's bytes."""
        made: Manifest = manifest_of(
            own, lineage_seq=seq, shards=(shard_of(0, b"chunk"),), rank_states=(state_of(0, b"rng"),)
        )
        return CODEC.encode(dataclasses.replace(made, region=region))


@pytest.fixture
def region(tmp_path: Path) -> _Region:
    """West's."""
    return _Region(tmp_path)


@pytest.mark.parametrize(("named", "signer"), [("east", "east"), ("west", "east"), ("east", "west")])
def test_I17_a_forged_step_of_west_epoch_is_chosen_by_nobody(region: _Region, named: str, signer: str) -> None:
    """An older release copied it here: neither the recoverable step nor a launch, a named step nor a pin finds it."""
    region.put(1, 20, "east", "east")
    true = region.put(2, 30, "west", "west", seq=2)
    region.put(2, FAR, named, signer, seq=3)
    newest = region.finder.newest("gpt", VIEW)
    assert newest is not None
    assert newest.key == true.manifest
    assert [one.manifest.step for one in region.finder.newest_first("gpt", VIEW, 3)] == [30, 20]
    assert region.finder.at("gpt", VIEW, FAR) is None
    assert region.finder.at("gpt", VIEW, FAR, epoch=2) is None
    start = region.finder.start(_chain("east", "west"))
    assert start is not None
    assert start.key == true.manifest


def test_I17_a_forged_branch_is_not_adopted(region: _Region) -> None:
    """Past the fork of epoch 1, which is east's: what west made under that name is no branch of it."""
    region.put(1, 40, "west", "west")
    assert region.finder.branch("gpt", VIEW, 1, 40) is None
    region.put(1, 50, "east", "east")
    assert region.finder.branch("gpt", VIEW, 1, 50) is not None


def test_I17_a_fork_is_started_from_only_if_its_epochs_holder_made_it(region: _Region) -> None:
    """The digest in the record fits; the signature is that of another region."""
    own = CheckpointId("gpt", 1, 1, 10)
    named = digest(region.payload(own, "west"))
    lease = _chain("east", "west")
    entry = dataclasses.replace(lease.lineage[-1], fork_manifest_digest=named)
    lease = dataclasses.replace(lease, lineage=(lease.lineage[0], entry))
    region.put(1, 10, "west", "west")
    with pytest.raises(RetryableError, match="not in this store"):
        region.finder.start(lease)


def test_I17_of_an_epoch_without_a_known_holder_nothing_is_chosen(region: _Region) -> None:
    """Until it becomes known: then it counts."""
    region.put(1, 20, "east", "east")
    assert region.finder.newest("gpt", LineageView(1, ((1, 0, -1),))) is None
    assert region.finder.newest("gpt", lineage_of((1, 0, -1))) is not None
