"""The event checker sees an order that was broken, and lets pass what says that it stands out of it."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.flows.log.envelope import wrap
from schemas.codec import Codec
from schemas.records import EpochEntry
from tests.core.replication.test_lane_replicator import _metric
from tests.core.replication.test_metric_batch_replication import _batch
from tests.simulation.authority_checker import AuthorityChecker
from tests.simulation.event_checker import SAYS_SO, EventChecker
from tests.simulation.simulated_ports import KeyedSigner

CODEC = Codec()


@pytest.fixture
def found() -> list[str]:
    """The checker's objections."""
    return []


@pytest.fixture
def checker(found: list[str]) -> EventChecker:
    """Of two regions, with one epoch."""
    authority = AuthorityChecker(lambda: 0.0, found.append)
    entry = EpochEntry(
        epoch=1,
        parent_epoch=0,
        fork_step=-1,
        fork_manifest_digest="",
        fork_lineage_seq=0,
        region="east",
        reason="creates_run",
        actor="controller",
        time_ms=0,
    )
    authority.chains["gpt"] = {1: entry}
    return EventChecker(("east", "west"), authority, KeyedSigner(), found.append)


def _see(checker: EventChecker, region: str, *seqs: int, header: str = "") -> None:
    for seq in seqs:
        message = wrap(_metric(seq, seq), "metric", CODEC)
        if header:
            message = dataclasses.replace(message, headers=(*message.headers, (header, b"1")))
        checker.appended(region, message, {"gpt": 1})


@pytest.mark.parametrize("region", ["east", "west"])
def test_an_event_before_an_earlier_one_of_its_producer_is_seen(
    checker: EventChecker, found: list[str], region: str
) -> None:
    """In its own region and in any other."""
    _see(checker, region, 1, 3)
    assert found == []
    _see(checker, region, 2)
    assert found == [f"order: metrics 2 of r0 in {region} came after 3"]


@pytest.mark.parametrize("header", sorted(SAYS_SO))
def test_what_says_that_it_stands_out_of_order_may(checker: EventChecker, found: list[str], header: str) -> None:
    """Filled, rebuilt or redriven; the next one is in order again."""
    _see(checker, "west", 1, 3)
    _see(checker, "west", 2, header=header)
    _see(checker, "west", 4)
    assert found == []


def test_twice_is_no_order_in_its_own_region_and_rows_of_a_batch_count_as_events(
    checker: EventChecker, found: list[str]
) -> None:
    """An agent that died publishes again; what is new in it follows."""
    _see(checker, "east", 1, 2, 3)
    _see(checker, "east", 2, 3, 4)
    assert found == []
    checker.appended("east", wrap(_batch(6, 8), "metric_batch", CODEC), {"gpt": 1})
    _see(checker, "east", 5)
    assert found == ["order: metrics 5 of r0 in east came after 8"]
