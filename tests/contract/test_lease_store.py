"""The contract of LeaseStore: compare-and-set, and an unknown outcome that is reported as one."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.local.stack import Stack
from pipelines.errors import RetryableError, UnknownOutcomeError
from pipelines.ports import LeaseStore
from schemas.codec import Codec
from schemas.records import GENESIS, EpochEntry, Lease
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.s3.object_store import ensure_bucket
from tests.contract.conftest import witness_client

FIRST = Lease(
    run="gpt",
    epoch=1,
    holder="east",
    incarnation="c1",
    mode="active",
    renew_seq=0,
    write_id="w0",
    predecessor=GENESIS,
    lease_s=4.0,
    attempt=0,
    launch="",
    committed_step=0,
    reason="created",
    actor="test",
    profile="fast",
    time_ms=0,
    lineage=(
        EpochEntry(
            epoch=1,
            parent_epoch=0,
            fork_step=-1,
            fork_manifest_digest=GENESIS,
            fork_lineage_seq=0,
            region="east",
            reason="created",
            actor="test",
            time_ms=0,
        ),
    ),
)


def test_the_history_keeps_each_noted_record_once_and_in_order(lease_store: LeaseStore) -> None:
    """Of one run only, whatever the order in which they were noted."""
    first = FIRST
    later = dataclasses.replace(FIRST, renew_seq=11, reason="pause", note="maintenance")
    for lease in (later, first, dataclasses.replace(later, note="another"), dataclasses.replace(first, run="other")):
        lease_store.note(lease)
    assert lease_store.noted(first.run) == (first, later)
    assert lease_store.noted("none") == ()


def _next(lease: Lease, write_id: str) -> Lease:
    return dataclasses.replace(lease, renew_seq=lease.renew_seq + 1, predecessor=lease.write_id, write_id=write_id)


def test_a_record_is_created_once_and_then_replaced_version_by_version(lease_store: LeaseStore) -> None:
    """A write names the version that it replaces; a stale one changes nothing."""
    assert lease_store.read("gpt") is None
    etag = lease_store.write(FIRST, None)
    assert etag is not None
    assert lease_store.write(FIRST, None) is None
    held = lease_store.read("gpt")
    assert held is not None
    assert (held.lease, held.etag) == (FIRST, etag)
    second = lease_store.write(_next(FIRST, "w1"), etag)
    assert second not in {None, etag}
    assert lease_store.write(_next(FIRST, "w2"), etag) is None
    after = lease_store.read("gpt")
    assert after is not None
    assert after.lease.write_id == "w1"


def test_I3_of_many_writers_that_name_the_same_version_exactly_one_wins(lease_store: LeaseStore) -> None:
    """Eight writers race for each of ten versions; every winner's predecessor is the record before it."""
    etag = lease_store.write(FIRST, None)
    lease = FIRST
    for number in range(10):
        racers = [_next(lease, f"w{number}-{racer}") for racer in range(8)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda racer, etag=etag: lease_store.write(racer, etag), racers))
        winners = [racer for racer, answer in zip(racers, answers, strict=True) if answer is not None]
        assert len(winners) == 1
        held = lease_store.read("gpt")
        assert held is not None
        assert held.lease == winners[0]
        assert held.lease.predecessor == lease.write_id
        lease, etag = held.lease, held.etag


def test_a_write_to_a_missing_record_is_refused_when_it_names_a_version(lease_store: LeaseStore) -> None:
    """Replacing what does not exist never creates it (6.6: a missing record is a broken witness)."""
    assert lease_store.write(FIRST, '"0123456789abcdef0123456789abcdef"') is None
    assert lease_store.read("gpt") is None


def test_I2_the_highest_claim_is_found_also_where_the_record_is_gone(lease_store: LeaseStore) -> None:
    """Of this run only; nothing was claimed of another."""
    assert lease_store.claimed("gpt") == 0
    for epoch in (1, 3, 2):
        assert lease_store.claim("gpt", epoch, b"x")
    assert lease_store.claim("gpt2", 9, b"x")
    assert (lease_store.claimed("gpt"), lease_store.claimed("gpt2"), lease_store.claimed("other")) == (3, 9, 0)


def test_an_epoch_is_claimed_once(lease_store: LeaseStore) -> None:
    """The audit copy of an epoch is create-only."""
    assert lease_store.claim("gpt", 2, b"west") is True
    assert lease_store.claim("gpt", 2, b"east") is False
    assert lease_store.claim("gpt", 3, b"east") is True


@pytest.mark.servers
def test_I4_a_write_without_an_answer_is_unknown_and_a_read_settles_it(stack: Stack) -> None:
    """The link to the witness is cut: neither won nor lost is claimed; after it heals, the record tells."""
    direct = witness_client(stack)
    ensure_bucket(direct, "leases-cut")
    etag = S3LeaseStore(direct, "leases-cut", Codec()).write(FIRST, None)
    linked = witness_client(stack, stack.endpoints().regions["east"].witness_endpoint, timeout_s=1.0)
    far = S3LeaseStore(linked, "leases-cut", Codec())
    stack.cut("east", "witness")
    try:
        with pytest.raises(UnknownOutcomeError):
            far.write(_next(FIRST, "w1"), etag)
        with pytest.raises(RetryableError):
            far.read("gpt")
    finally:
        stack.heal("east", "witness")
    held = far.read("gpt")
    assert held is not None
    assert held.lease == FIRST
