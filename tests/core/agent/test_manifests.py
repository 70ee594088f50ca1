"""Manifests: one intent and its receipts give one manifest, and what does not fit is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from pipelines.core import manifests
from pipelines.errors import CorruptError
from pipelines.paths import CheckpointId
from schemas.codec import Codec
from schemas.records import Checkpoint, Intent, Manifest, RankState, Receipt

ID = CheckpointId("gpt", 1, 2, 40)
BODY: dict[str, Any] = {
    "mode": "exact",
    "world_size": 2,
    "fingerprint": {"torch": "2.15"},
    "previous_step": None,
    "health": {"loss": "nan"},
    "data_version": "d",
    "ranks": [
        {
            "rank": rank,
            "size": 8,
            "sha256": f"s{rank}",
            "chunks": [{"size": 5, "sha256": "a"}, {"size": 3, "sha256": "b"}],
        }
        for rank in range(2)
    ],
    "items": [
        {
            "fqn": "w",
            "kind": "tensor",
            "rank": 1,
            "offset": 0,
            "length": 8,
            "sha256": "i",
            "dtype": "float32",
            "shape": [2],
            "chunk_offsets": [0],
            "chunk_sizes": [2],
        }
    ],
    "planner": {"w": ["w"]},
}


def _intent(body: dict[str, Any]) -> Intent:
    return manifests.intent_of(
        ID, producer="p", seq=1, time_ms=5, body=body, start_manifest_digest="", start_lineage_seq=0
    )


def _receipts(intent: Intent) -> list[Receipt]:
    return [
        Receipt(
            run="gpt",
            epoch=1,
            attempt=2,
            step=40,
            shard=shard,
            rank_state=RankState(rank=shard.rank, size=2, sha256="r"),
        )
        for shard in intent.shards
    ]


def _manifest() -> Manifest:
    intent = _intent(BODY)
    return manifests.build(intent, _receipts(intent), "east", "parent", 4)


def test_two_agents_build_the_same_bytes_in_whatever_order_they_saw_the_receipts() -> None:
    """Deterministic: a commit that is tried twice creates one manifest."""
    intent = _intent(BODY)
    receipts = _receipts(intent)
    manifest = manifests.build(intent, receipts, "east", "parent", 4)
    again = manifests.build(_intent(copy.deepcopy(BODY)), receipts[::-1], "east", "parent", 4)
    assert Codec().encode(manifest) == Codec().encode(again)
    assert json.loads(manifest.planner) == {"w": ["w"]}
    assert manifests.size_bytes(manifest) == 2 * 8 + 2 * 2
    assert {named.key for named in manifests.objects(manifest)} == {
        *(ID.chunk(rank, index) for rank in range(2) for index in range(2)),
        *(ID.rank_state(rank) for rank in range(2)),
    }


@pytest.mark.parametrize("field", ["mode", "world_size", "ranks", "items", "planner", "previous_step"])
def test_an_intent_that_lacks_a_field_is_corrupt_and_names_it(field: str) -> None:
    """The error says which checkpoint and which field."""
    body = {name: value for name, value in BODY.items() if name != field}
    with pytest.raises(CorruptError, match=f"s0000000040.*{field}"):
        _intent(body)


def test_I7_a_manifest_joins_all_ranks_and_only_what_the_intent_named() -> None:
    """A missing rank, and a shard of other bytes, are refused."""
    intent = _intent(BODY)
    receipts = _receipts(intent)
    with pytest.raises(CorruptError, match="receipts"):
        manifests.build(intent, receipts[:1], "east", "", 1)
    other = dataclasses.replace(receipts[1], shard=dataclasses.replace(receipts[1].shard, sha256="else"))
    with pytest.raises(CorruptError, match="receipts"):
        manifests.build(intent, [receipts[0], other], "east", "", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prefix": "runs/other/e000001/a0002/s0000000040"}, "outside its prefix"),
        ({"step": 50}, "outside its prefix"),
        ({"world_size": 3}, "not those of ranks"),
        ({"rank_states": ()}, "not those of ranks"),
    ],
)
def test_a_manifest_that_names_what_is_not_its_own_is_refused(change: dict[str, Any], reason: str) -> None:
    """Paths are computed, never believed."""
    with pytest.raises(CorruptError, match=reason):
        manifests.check(dataclasses.replace(_manifest(), **change), ID)


def test_chunks_that_do_not_add_up_and_items_outside_their_shard_are_refused() -> None:
    """A reader would run past the end."""
    manifest = _manifest()
    short = dataclasses.replace(manifest.shards[0], chunks=manifest.shards[0].chunks[:1])
    with pytest.raises(CorruptError, match="do not add up"):
        manifests.check(dataclasses.replace(manifest, shards=(short, manifest.shards[1])), ID)
    beyond = dataclasses.replace(manifest.items[0], offset=1)
    with pytest.raises(CorruptError, match="outside its shard"):
        manifests.check(dataclasses.replace(manifest, items=(beyond,)), ID)


def test_an_event_may_name_its_own_manifest_only() -> None:
    """A key of another checkpoint, or of none, is refused."""
    event = Checkpoint(
        event_id="e",
        run="gpt",
        region="east",
        epoch=1,
        attempt=2,
        producer="p",
        seq=1,
        step=40,
        time_ms=0,
        state="committed",
        manifest_key=ID.manifest,
        manifest_digest="",
        lineage_seq=4,
        size_bytes=0,
        reason="",
    )
    assert manifests.check_event(event) == ID
    for key in ("leases/gpt", CheckpointId("gpt", 1, 2, 50).manifest, ID.intent):
        with pytest.raises(CorruptError):
            manifests.check_event(dataclasses.replace(event, manifest_key=key))
