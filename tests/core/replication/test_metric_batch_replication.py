"""The replicator and batches of metrics: row by row what happens to any event."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.core.metric_batches import batch_of, metrics_of
from pipelines.core.sequence_numbers import number_of
from pipelines.flows.log.envelope import headers_of
from pipelines.ports import Message
from schemas.records import MetricBatch
from services.adapters.memory.kafka import MemoryLog
from services.adapters.signer import Ed25519Signer, generate_keypair
from tests.core.replication.test_lane_replicator import CODEC, _metric, _turn, _World
from tests.lineages import lineage_of
from tests.replaying import places


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path, "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


def _batch(first: int, last: int) -> MetricBatch:
    return batch_of([_metric(seq, seq) for seq in range(first, last + 1)])


def _rows(world: _World) -> list[int]:
    return [one.seq for event in world.visible("metrics") for one in metrics_of(event)]


def test_I15_every_row_of_overlapping_batches_is_visible_once(signer: Ed25519Signer) -> None:
    """An agent died between publishing and noting it, and gathered anew: what is known is left out of the next."""
    world = _World(signer)
    replicator = world.replicator(lane="metrics")
    for event in (_metric(1, 1), _batch(2, 5), _batch(4, 9), _batch(2, 5), _batch(10, 11)):
        world.send(event)
        _turn(world, replicator, 2)
    world.send(_batch(9, 13))
    _turn(world, world.replicator(lane="metrics"))
    assert _rows(world) == list(range(1, 14))
    assert not any(name == "replicate.alarm" for name, _ in world.said)
    visible = [event for event in world.visible("metrics") if isinstance(event, MetricBatch)]
    assert [(one.first_seq, one.seq) for one in visible] == [(2, 5), (6, 9), (10, 11), (12, 13)]
    topic = [item for item in world.west.topic(paths.METRICS) if item is not None]
    numbered = [number_of(item.headers) for item in topic]
    assert [(one.first_seq, one.seq) for one in numbered if one is not None][1:] == [(2, 5), (6, 9), (10, 11), (12, 13)]


def test_I14_a_hole_before_a_batch_is_noticed(signer: Ed25519Signer) -> None:
    """By its first number."""
    world = _World(signer)
    for event in (_batch(1, 3), _batch(5, 6)):
        world.send(event)
    _turn(world, world.replicator(lane="metrics"))
    assert _rows(world) == [1, 2, 3, 5, 6]
    assert [name for name, _ in world.said].count("replicate.alarm") == 1


def test_I5_a_batch_that_reaches_past_the_fork_is_parted_there(signer: Ed25519Signer) -> None:
    """Its rows up to the fork are visible, those past it are set aside with the batch as it came."""
    world = _World(signer)
    world.view = lineage_of((1, 0, -1), (2, 1, 4))
    for event in (_batch(1, 6), _batch(7, 9)):
        world.send(event)
    replicator = world.replicator(lane="metrics")
    _turn(world, replicator)
    assert _rows(world) == [1, 2, 3, 4]
    assert [(letter.reason, CODEC.decode(letter.value)) for letter in world.dead()] == [
        ("branch", _batch(1, 6)),
        ("branch", _batch(7, 9)),
    ]
    for chosen in places(world.east, "metrics"):
        replicator.replay(chosen)
    _turn(world, replicator)
    assert (_rows(world), len(world.dead())) == ([1, 2, 3, 4], 2)


def test_a_batch_whose_columns_do_not_fit_is_a_dead_letter_in_its_place(signer: Ed25519Signer) -> None:
    """It decodes, and still says nothing: no row of it is made up, and no hole is reported after it."""
    world = _World(signer)
    world.send(dataclasses.replace(_batch(1, 3), steps=(1,)))
    world.send(_batch(4, 5))
    _turn(world, world.replicator(lane="metrics"))
    assert _rows(world) == [4, 5]
    assert "1 steps for the numbers 1 to 3" in world.dead()[0].detail
    assert not any(name == "replicate.alarm" for name, _ in world.said)


def test_I15_an_undecodable_value_is_a_dead_letter_once_however_often_it_is_read(signer: Ed25519Signer) -> None:
    """Its headers say that it was seen."""
    world = _World(signer)
    torn = CODEC.encode(_batch(1, 3))[:-2]
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", torn, headers_of(_batch(1, 3), "metric_batch"))])
    world.send(_batch(4, 5))
    replicator = world.replicator(lane="metrics")
    _turn(world, replicator)
    for chosen in places(world.east, "metrics"):
        replicator.replay(chosen)
    _turn(world, replicator)
    assert _rows(world) == [4, 5]
    assert [letter.value for letter in world.dead()] == [torn]
    assert not any(name == "replicate.alarm" for name, _ in world.said)


@pytest.mark.parametrize("seq", [b"9" * 5_000, b"9" * 19, b"900000"])
def test_I14_a_number_in_the_headers_of_garbage_makes_no_duplicate_of_what_follows(
    signer: Ed25519Signer, seq: bytes
) -> None:
    """Neither an error that ends the replicator, nor a watermark that leaps over the events to come."""
    world = _World(signer)
    headers = dict(headers_of(_metric(1, 1), "metric")) | {"farside_seq": seq}
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", b"\xff", tuple(headers.items()))])
    world.send(_metric(1, 1))
    _turn(world, world.replicator(lane="metrics"))
    assert _rows(world) == [1]
    assert len(world.dead()) == 1


def test_metrics_that_become_visible_together_are_told_in_one_line(signer: Ed25519Signer) -> None:
    """They come by the thousand: a line says the last of them and how many; what went wrong keeps its own."""
    world = _World(signer)
    for seq in range(1, 6):
        world.send(_metric(seq, seq))
    torn = CODEC.encode(_metric(6, 6))[:-1]
    MemoryLog(world.east).publish([Message(paths.METRICS, b"gpt", torn, headers_of(_metric(6, 6), "metric"))])
    world.send(_metric(7, 7))
    replicator = world.replicator(lane="metrics")
    _turn(world, replicator)
    reported = [
        (name, fields) for name, fields in world.said if name in {"replicate.published", "replicate.dead_letter"}
    ]
    assert [name for name, _ in reported] == ["replicate.published", "replicate.dead_letter"]
    assert (reported[0][1]["records"], reported[0][1]["seq"], reported[0][1]["step"]) == (6, 7, 7)
    assert replicator.status().counts == {"published": 6, "dead_letter": 1}
