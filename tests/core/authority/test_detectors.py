"""Sightings: a probe's result is published, heard by the other regions, and weighed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest

from pipelines import paths
from pipelines.core import lease as core
from pipelines.core.diagnosis import Trouble
from pipelines.core.failover_decision import RunView, policy_of
from pipelines.core.failure_detector import Rhythm
from pipelines.core.heartbeats import NodeHeartbeats, RegionHeartbeats
from pipelines.core.lease import NEVER_S, Author, Belief, Held
from pipelines.core.lease_profiles import FAST
from pipelines.errors import FarsideError, MisconfiguredError, RetryableError
from pipelines.flows.authority.detectors import Detectors
from pipelines.flows.authority.heartbeat_reader import HeartbeatReader, PeerState
from pipelines.flows.authority.reachability import KAFKA, STORE, Reachability
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Sighting
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from tests.manual_clock import ManualClock

POLICY = policy_of(FAST)


class _Log(MemoryLog):
    """One that may be away."""

    away = False

    def publish(self, messages: Sequence[Message]) -> None:
        if self.away:
            raise RetryableError("our Kafka does not answer")
        super().publish(messages)


class Observer:
    """One region's probes and detectors, and readers of every region's Kafka, on one clock."""

    def __init__(self, region: str, kafkas: dict[str, MemoryKafka], clock: ManualClock) -> None:
        self.reaches = {KAFKA: True, STORE: True}
        self.failure: FarsideError = RetryableError("no answer")
        self.nodes_at_s = NEVER_S
        probes = {"east": {part: (lambda part=part: self.probe(part)) for part in (KAFKA, STORE)}}
        self.log = _Log(kafkas[region])
        self.reachability = Reachability(
            region=region,
            observer="controller",
            probes=probes,
            log=self.log,
            codec=Codec(),
            clock=clock,
            every_s=2.0,
            nodes_at_s=lambda _region: self.nodes_at_s,
        )
        self.peer_states = {name: PeerState(region=name, run="gpt", clock=clock) for name in kafkas}
        self.heartbeat_readers = [
            HeartbeatReader(
                region=name,
                source=MemorySource(kafka),
                codec=Codec(),
                clock=clock,
                peer_states=[self.peer_states[name]],
            )
            for name, kafka in kafkas.items()
        ]
        self.detectors = Detectors(region, POLICY, self.peer_states, self.reachability)

    def probe(self, part: str) -> None:
        """Ask east's Kafka or store: it answers, or fails as the test says."""
        if not self.reaches[part]:
            raise self.failure

    def listen(self) -> None:
        """Take in what came from everywhere."""
        for heartbeats in self.heartbeat_readers:
            heartbeats.turn()


def kafkas_of(*regions: str) -> dict[str, MemoryKafka]:
    """A Kafka each, with its control and heartbeat topics."""
    kafkas = {}
    for name in regions:
        kafkas[name] = MemoryKafka(name)
        for topic in (paths.CONTROL, paths.HEARTBEATS):
            kafkas[name].topic(topic)
    return kafkas


def view_of(now_s: float) -> RunView:
    """East holds the run and renewed it long ago; west looks."""
    lease = core.first("gpt", Author("east", "e1", "w0", "created", "controller", 0), FAST)
    seen = core.was_read(Belief(region="west", incarnation="w1"), Held(lease, "etag"), now_s - 20)
    return RunView(
        belief=dataclasses.replace(seen, read_at_s=now_s),
        heard_at_s=now_s - 20,
        log_ack_at_s=now_s,
        store_put_at_s=now_s,
    )


def test_what_another_region_still_hears_holds_a_takeover_back() -> None:
    """West hears nothing of east; north does, and says so: for west it is a link, not a region (I10)."""
    clock, kafkas = ManualClock(), kafkas_of("east", "west", "north")
    west, north = (Observer(name, kafkas, clock) for name in ("west", "north"))
    west.listen()
    west.reaches = {KAFKA: False, STORE: False}
    west.peer_states["east"].pulse = RegionHeartbeats(
        {"n0": NodeHeartbeats(5, "train", 5.0, 0.0, Rhythm(clock.boottime_s() - 20))}
    )
    west.reachability.turn()
    alone = west.detectors.diagnosis(view_of(clock.boottime_s()), clock.boottime_s())
    assert alone is not None
    assert alone.trouble is Trouble.REGION
    north.nodes_at_s = clock.boottime_s() - 0.5
    north.reachability.turn()
    west.listen()
    clock.now_s += 1.0
    now_s = clock.boottime_s()
    assert now_s - west.detectors.elsewhere_at_s("east", now_s) == 1.5
    diagnosis = west.detectors.diagnosis(view_of(now_s), now_s)
    assert diagnosis is not None
    assert diagnosis.trouble is Trouble.LINK
    assert "north's controller: Kafka answers" in diagnosis.text
    heard = west.detectors.heard(view_of(now_s), now_s)
    assert heard.elsewhere_at_s == now_s - 1.5
    clock.now_s += 10.0
    assert west.detectors.elsewhere_at_s("east", clock.boottime_s()) == NEVER_S, "an old sighting is no sighting"


@pytest.mark.parametrize("failure", [RetryableError("no answer"), MisconfiguredError("access denied")])
def test_a_part_whose_probe_fails_grows_older_and_one_that_never_answered_is_published_as_never(
    failure: FarsideError,
) -> None:
    """A probe that times out or is refused is no answer, for us and for the other regions that read the sighting."""
    clock, kafkas = ManualClock(), kafkas_of("east", "west")
    west = Observer("west", kafkas, clock)
    west.failure = failure
    west.reaches = {KAFKA: True, STORE: False}
    west.reachability.turn()
    clock.now_s += 7.0
    west.reaches = {KAFKA: False, STORE: False}
    west.reachability.turn()
    vantage = west.reachability.vantage("east", clock.boottime_s())
    assert (vantage.kafka_age_s, vantage.store_age_s) == (7.0, math.inf)
    sightings = [
        Codec().decode_as(Sighting, record.value)
        for record in kafkas["west"].topic(paths.CONTROL)
        if record is not None
    ]
    assert [(sighting.kafka_age_s, sighting.store_age_s) for sighting in sightings] == [(0.0, -1.0), (7.0, -1.0)]
    west.reaches = {KAFKA: True, STORE: True}
    west.reachability.turn()
    vantage = west.reachability.vantage("east", clock.boottime_s())
    assert (vantage.kafka_age_s, vantage.store_age_s) == (0.0, 0.0)


def test_a_sighting_that_cannot_be_published_is_a_trouble() -> None:
    """Our own Kafka is away: what we see is kept to ourselves, and status says so until it is back."""
    clock, kafkas = ManualClock(), kafkas_of("east", "west")
    west = Observer("west", kafkas, clock)
    west.log.away = True
    west.reachability.turn()
    assert west.reachability.trouble == "our Kafka does not answer"
    west.log.away = False
    west.reachability.turn()
    assert west.reachability.trouble == ""


def test_what_the_holder_says_of_itself_is_no_vantage_point() -> None:
    """Nor are our own words, which come back to us through our own Kafka, another pair of eyes."""
    clock, kafkas = ManualClock(), kafkas_of("east", "west")
    west = Observer("west", kafkas, clock)
    west.nodes_at_s = clock.boottime_s()
    west.listen()
    west.reachability.turn()
    west.listen()
    now_s = clock.boottime_s()
    assert [one.name for one in west.detectors.vantages("east", now_s)] == ["west's controller"]
    assert west.detectors.elsewhere_at_s("east", now_s) == NEVER_S
    assert west.detectors.vantages("west", now_s) == ()


def test_a_controller_that_stood_still_is_patient_and_says_so() -> None:
    """Lifeguard: its own trouble explains the silence better than another region's death."""
    clock, kafkas = ManualClock(), kafkas_of("east", "west")
    west = Observer("west", kafkas, clock)
    view = view_of(clock.boottime_s())
    assert west.detectors.heard(view, clock.boottime_s()).patience == 1.0
    west.detectors.turned(clock.boottime_s(), well=False)
    heard = west.detectors.heard(view, clock.boottime_s())
    assert heard.patience == 2.0
    diagnosis = west.detectors.diagnosis(heard, clock.boottime_s())
    assert diagnosis is not None
    assert (diagnosis.trouble, diagnosis.where) == (Trouble.OBSERVER, "west")


def test_a_run_that_commits_nothing_any_more_is_diagnosed_as_its_job() -> None:
    """Nodes beat, authority is renewed, and no checkpoint comes: a person should look, nobody is promoted."""
    clock, kafkas = ManualClock(), kafkas_of("east", "west")
    west = Observer("west", kafkas, clock)
    for step in range(0, 60, 10):
        lease = dataclasses.replace(view_of(0.0).belief.held.lease, committed_step=step)  # type: ignore[union-attr]
        west.detectors.saw(lease, -1, clock.boottime_s())
        clock.now_s += 10.0
    for age_s, trouble in ((0.0, Trouble.NONE), (60.0, Trouble.JOB)):
        clock.now_s += age_s
        now_s = clock.boottime_s()
        west.peer_states["east"].pulse = RegionHeartbeats({"n0": NodeHeartbeats(5, "train", 5.0, now_s, Rhythm(now_s))})
        seen = view_of(now_s)
        seen = dataclasses.replace(
            seen, belief=dataclasses.replace(seen.belief, seen_at_s=now_s - 0.5), controller_at_s=now_s
        )
        west.reachability.turn()
        diagnosis = west.detectors.diagnosis(seen, now_s)
        assert diagnosis is not None
        assert diagnosis.trouble is trouble, diagnosis.text
