"""Redriving dead letters on fakes: handled once more, as they are, at most once, and within what holds for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.audit import Log
from pipelines.core.record_filter import RecordFilter, parse
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.errors import RetryableError, UnknownOutcomeError
from pipelines.flows.agent.publisher import headers_of
from pipelines.flows.inspection import audit_reader
from pipelines.flows.inspection.dead_letters import Letter, letters
from pipelines.flows.log.log_reader import Decoding
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.replication.redrive_requests import RedriveRequest
from pipelines.paths import CheckpointId
from pipelines.ports import EventLog, Message, ObjectStore
from schemas.codec import Codec, digest
from schemas.http_bodies import RedriveAnswer
from schemas.records import Checkpoint, DeadLetter, Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer, generate_keypair
from services.adapters.system_clock import SystemClock
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of
from tests.replaying import places

CODEC = Codec()
ONE_EPOCH = lineage_of((1, 0, -1))
FORKED_AT_20 = lineage_of((1, 0, -1), (2, 1, 20))


class _West:
    """West's replicator of one lane, and what it reads and writes."""

    def __init__(self, folder: Path, lane: str) -> None:
        private, public = generate_keypair(folder, "east")
        self.signer = Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
        self.lane = lane
        self.east, self.west = MemoryKafka("east"), MemoryKafka("west")
        self.east_store, self.west_store = MemoryObjectStore(), MemoryObjectStore()
        self.view = ONE_EPOCH
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.requests = 0
        self.flow = self.start()

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.said.append((event, fields))

    def start(self, *, log: EventLog | None = None, peer_store: ObjectStore | None = None) -> LaneReplicator:
        """A fresh process, with ports of the test's own where it gives any; it fences the one before it."""
        self.flow = LaneReplicator(
            PeerLane("east", self.lane),
            LanePorts(
                peer_source=MemorySource(self.east),
                own_source=MemorySource(self.west),
                log=log or MemoryLog(self.west, f"farside-replicator-west-east-{self.lane}"),
                store=self.west_store,
                peer_store=peer_store or self.east_store,
                transfers=MemoryTransfers({"east": self.east_store}, self.west_store),
                lineage=lambda _run: self.view,
                signer=self.signer,
                codec=Codec(),
                clock=SystemClock(),
                journal=self,
                visible_source=MemorySource(self.west),
                replay_source=MemorySource(self.east),
            ),
        )
        return self.flow

    def turn(self, turns: int = 6) -> None:
        """A few turns."""
        for _ in range(turns):
            self.flow.turn()

    def send(self, event: Checkpoint | Metric, value: bytes | None = None, *, headers: bool = True) -> None:
        """Publish in east."""
        body = CODEC.encode(event) if value is None else value
        beside = headers_of(event, event.lane) if headers else ()
        MemoryLog(self.east).publish([Message(paths.topic(event.lane), b"gpt", body, beside)])

    def visible(self) -> list[int]:
        """The numbers of the events in west's lane."""
        topic = self.west.topic(paths.topic(self.lane))
        records = [CODEC.decode(item.value) for item in topic if item is not None]
        return [event.seq for event in records if isinstance(event, Checkpoint | Metric)]

    def letters(self) -> list[Letter]:
        """West's dead letters."""
        return letters(MemorySource(self.west), RecordFilter(), Decoding(Codec(), SystemClock()))

    def ask(self, letter: Letter, *, force: bool = False, ask_id: str = "") -> RedriveAnswer:
        """Redrive a letter, and turn until it is settled; what has become of it."""
        self.requests += 1
        request = RedriveRequest(ask_id or f"ask-{self.requests}", *letter.place, force, "ada")
        self.flow.redrive(request)
        self.turn()
        return self.flow.redrive(request)

    def audited(self) -> Log:
        """The log of west as an audit reads it."""
        reading = audit_reader.Reading("gpt", "west", self.view, Decoding(Codec(), SystemClock()))
        return reading.read(MemorySource(self.west))


@pytest.fixture
def metrics(tmp_path: Path) -> _West:
    """Of the lane metrics."""
    return _West(tmp_path, "metrics")


@pytest.fixture
def checkpoints(tmp_path: Path) -> _West:
    """Of the lane checkpoints."""
    return _West(tmp_path, "checkpoints")


def _metric(seq: int, step: int = 0) -> Metric:
    return Metric(
        event_id=f"gpt/1/r0/metrics/{seq}",
        run="gpt",
        region="east",
        epoch=1,
        attempt=1,
        producer="r0",
        seq=seq,
        step=step or seq,
        time_ms=0,
        values={"loss": 1.0},
    )


def _commit(world: _West, step: int, seq: int, spoil: Callable[[str, bytes], bytes | None]) -> dict[str, bytes]:
    """A checkpoint as east's agent leaves it, its objects spoilt; the objects as they should be."""
    own = CheckpointId("gpt", 1, 1, step)
    chunk, state = f"chunk {step}".encode(), f"rng {step}".encode()
    manifest = manifest_of(own, lineage_seq=seq, shards=(shard_of(0, chunk),), rank_states=(state_of(0, state),))
    payload = CODEC.encode(manifest)
    good = {own.chunk(0, 0): chunk, own.rank_state(0): state, own.manifest: world.signer.sign(payload)}
    for key, body in good.items():
        kept = spoil(key, body)
        if kept is not None:
            world.east_store.create(key, kept)
    common = {one.name: getattr(_metric(seq, step), one.name) for one in dataclasses.fields(_metric(seq))}
    del common["values"]
    event = Checkpoint(
        **common | {"event_id": f"gpt/1/r0/checkpoints/{seq}"},
        state="committed",
        manifest_key=own.manifest,
        manifest_digest=digest(payload),
        lineage_seq=seq,
        size_bytes=len(chunk) + len(state),
        reason="",
    )
    world.send(event)
    return good


def _without_chunks(key: str, body: bytes) -> bytes | None:
    return None if "chunk-" in key else body


def test_I13_a_checkpoint_is_redriven_once_its_bytes_are_there_and_not_before(checkpoints: _West) -> None:
    """While the cause holds it is refused and nothing changes; repaired, it is copied, verified, and then visible."""
    good = _commit(checkpoints, 10, 1, _without_chunks)
    checkpoints.turn()
    (letter,) = checkpoints.letters()
    assert letter.letter is not None
    assert (letter.letter.reason, checkpoints.visible()) == ("corrupt", [])
    assert "CorruptError" in letter.letter.stack
    before = checkpoints.ask(letter)
    assert before.state == "refused"
    assert "the cause still holds: corrupt" in str(before.why)
    assert (len(checkpoints.letters()), checkpoints.letters()[0].mark) == (1, None)
    for key, body in good.items():
        checkpoints.east_store.create(key, body)
    assert checkpoints.ask(letter).state == "done"
    assert checkpoints.visible() == [1]
    assert set(good) <= set(checkpoints.west_store.objects)
    (letter,) = checkpoints.letters()
    assert letter.mark is not None
    assert (letter.mark.outcome, letter.mark.actor) == ("published", "ada")


def test_I15_a_letter_is_redriven_at_most_once_by_whomever_it_is_asked(metrics: _West) -> None:
    """Again, by somebody else, after a restart, and after a replay of the whole lane: it stays visible once."""
    metrics.view = FORKED_AT_20
    metrics.send(_metric(1, step=30))
    metrics.turn()
    (letter,) = metrics.letters()
    metrics.view = lineage_of((1, 0, -1), (2, 1, 20), (3, 1, 40))  # somebody adopted the branch
    assert metrics.ask(letter, ask_id="first").state == "done"
    assert "published by ada" in str(metrics.ask(letter).why)
    metrics.start()
    metrics.turn()
    assert metrics.ask(letter).state == "refused"
    assert metrics.ask(letter, ask_id="first").state == "done", "its own answer, from the log"
    (everything,) = places(metrics.east, "metrics")
    metrics.flow.replay(everything)
    metrics.turn()
    assert metrics.visible() == [1]
    (message,) = [item for item in metrics.west.topic(paths.METRICS) if item is not None]
    assert ("farside_redriven", b"0:0") in message.headers
    assert metrics.audited().doubled == {}


def test_I5_a_branch_stays_a_branch_also_by_force(metrics: _West) -> None:
    """Forced, it is handled again and is a letter anew; the old one says so, and the new one can be redriven later."""
    metrics.view = FORKED_AT_20
    metrics.send(_metric(1, step=30))
    metrics.turn()
    (letter,) = metrics.letters()
    assert "the cause still holds: branch" in str(metrics.ask(letter).why)
    assert metrics.ask(letter, force=True) == RedriveAnswer(state="done", why="dead_again")
    old, new = metrics.letters()
    assert (metrics.visible(), old.mark and old.mark.outcome, new.mark) == ([], "dead_again", None)
    assert old.letter is not None
    assert new.letter is not None
    assert (new.letter.value, new.letter.offset) == (old.letter.value, old.letter.offset), "the origin is the first one"
    metrics.view = ONE_EPOCH
    assert metrics.ask(new).state == "done"
    assert metrics.visible() == [1]


def test_an_event_that_is_visible_from_another_copy_is_refused(metrics: _West) -> None:
    """An agent published twice; the first copy was torn on its way: the second is visible, and once is enough."""
    west = MemoryLog(metrics.west)
    metrics.send(_metric(1))
    metrics.turn()
    letter = DeadLetter(
        cluster="east",
        topic=paths.METRICS,
        partition=0,
        offset=7,
        key=b"gpt",
        value=CODEC.encode(_metric(1)),
        headers=(),
        reason="undecodable",
        detail="",
        time_ms=0,
    )
    west.publish([Message(paths.DEAD_LETTERS, b"gpt", CODEC.encode(letter))])
    (copy,) = metrics.letters()
    for force in (False, True):
        answer = metrics.ask(copy, force=force)
        assert answer == RedriveAnswer(state="refused", why="number 1 of r0 is visible here already")
    ahead = dataclasses.replace(letter, value=CODEC.encode(_metric(5)), offset=8)
    west.publish([Message(paths.DEAD_LETTERS, b"gpt", CODEC.encode(ahead))])
    assert "is ahead of its lane" in str(metrics.ask(metrics.letters()[1]).why)
    due = dataclasses.replace(letter, value=CODEC.encode(_metric(2)), offset=9)
    west.publish([Message(paths.DEAD_LETTERS, b"gpt", CODEC.encode(due))])
    assert metrics.ask(metrics.letters()[2]).state == "done"
    metrics.send(_metric(2))
    metrics.send(_metric(3))
    metrics.turn()
    assert metrics.visible() == [1, 2, 3], "its number was taken when it was redriven"


def test_two_letters_of_one_event_that_are_asked_for_at_once_are_handled_once(metrics: _West) -> None:
    """The second sees what the first one did in the same turn."""
    metrics.view = FORKED_AT_20
    metrics.send(_metric(1, step=30))
    metrics.turn()
    (letter,) = metrics.letters()
    assert letter.letter is not None
    twin = Message(paths.DEAD_LETTERS, b"gpt", CODEC.encode(letter.letter))
    MemoryLog(metrics.west).publish([twin])
    metrics.view = ONE_EPOCH
    requests = [RedriveRequest(f"ask-{at}", *one.place, False, "ada") for at, one in enumerate(metrics.letters())]
    for request in requests:
        metrics.flow.redrive(request)
    metrics.turn()
    assert [metrics.flow.redrive(request).state for request in requests] == ["done", "refused"]
    assert metrics.visible() == [1]


def test_bytes_that_nobody_can_read_stay_a_letter_with_its_stack_and_its_number(metrics: _West) -> None:
    """They wait as they are, for a version that can; the event behind them went on long ago."""
    metrics.send(_metric(1), CODEC.encode(_metric(1))[:-1])
    metrics.send(_metric(2))
    metrics.turn()
    (letter,) = metrics.letters()
    assert letter.letter is not None
    assert "DecodeError" in letter.letter.stack
    assert "the cause still holds: undecodable" in str(metrics.ask(letter).why)
    assert metrics.visible() == [2]
    assert letter.facts.seq == 1


def test_what_is_no_letter_of_the_lane_is_refused_with_the_reason(metrics: _West) -> None:
    """Another lane's, a record that never became an event, a place without a letter, an event of another region."""
    common = {"cluster": "c", "partition": 0, "offset": 0, "key": b"gpt", "headers": (), "detail": "", "time_ms": 0}
    elsewhere = dataclasses.replace(_metric(1), region="north")
    sent = [
        DeadLetter(topic=paths.CHECKPOINTS, reason="corrupt", value=b"", **common),  # type: ignore[arg-type] # as built
        DeadLetter(topic="metrics", reason="spool_record", value=b"{}", **common),  # type: ignore[arg-type] # as built
        DeadLetter(topic=paths.METRICS, reason="x", value=CODEC.encode(elsewhere), **common),  # type: ignore[arg-type] # as built
    ]
    metrics.turn()
    MemoryLog(metrics.west).publish([Message(paths.DEAD_LETTERS, b"gpt", CODEC.encode(one)) for one in sent])
    MemoryLog(metrics.west).publish([Message(paths.DEAD_LETTERS, b"gpt", b"\x00")])
    kept = metrics.letters()
    assert [str(metrics.ask(one).why) for one in kept] == [
        "it came from farside.checkpoints, this is the lane metrics",
        "it is a record of c that never became an event: only its agent could make one of it",
        "it was not first published in east",
        "dead-letters/0/3: not Avro single-object encoding: it does not begin with c3 01",
    ]
    assert metrics.visible() == []


@pytest.mark.parametrize("happened", [True, False])
def test_I4_an_unanswered_redrive_is_settled_by_reading_the_log(metrics: _West, happened: bool) -> None:
    """Whether it had happened or not: in the end it is visible once, and whoever asked is told that it is done."""
    lost: list[bool] = []

    class Unanswered(MemoryLog):
        def transaction(self, messages: Sequence[Message]) -> None:
            first = any(one.topic == paths.METRICS for one in messages) and not lost
            if not first or happened:
                super().transaction(messages)
            if first:
                lost.append(True)
                raise UnknownOutcomeError("no answer")

    metrics.start(log=Unanswered(metrics.west, "farside-replicator-west-east-metrics"))
    metrics.view = FORKED_AT_20
    metrics.send(_metric(1, step=30))
    metrics.turn()
    (letter,) = metrics.letters()
    metrics.view = ONE_EPOCH
    assert metrics.ask(letter).state == "done"
    assert (metrics.visible(), lost) == ([1], [True])


def test_a_peer_that_does_not_answer_makes_a_redrive_wait_and_not_the_lane(checkpoints: _West) -> None:
    """It says why, and the events that come meanwhile go on."""
    away = [False]
    inner = checkpoints.east_store

    class Flaky(MemoryObjectStore):
        def get(self, key: str) -> bytes | None:
            if away[0] and "s0000000010" in key:
                raise RetryableError("the link is down")
            return inner.get(key)

    checkpoints.start(peer_store=Flaky())
    good = _commit(checkpoints, 10, 1, _without_chunks)
    checkpoints.turn()
    (letter,) = checkpoints.letters()
    away[0] = True
    answer = checkpoints.ask(letter, ask_id="one")
    assert answer == RedriveAnswer(state="waits", why="the link is down")
    _commit(checkpoints, 20, 2, lambda _key, body: body)
    checkpoints.turn()
    assert checkpoints.visible() == [2]
    away[0] = False
    for key, body in good.items():
        inner.create(key, body)
    assert checkpoints.ask(letter, ask_id="one").state == "done"
    assert checkpoints.visible() == [2, 1]


def test_a_redriven_number_is_accounted_for_as_visible(metrics: _West) -> None:
    """The audit counts it once, and not as dead."""
    metrics.view = FORKED_AT_20
    metrics.send(_metric(1, step=30))
    metrics.send(_metric(2, step=5))
    metrics.turn()
    stream = ("gpt", 1, "r0", "metrics")
    assert metrics.audited().branch == {stream: SequenceRanges([(1, 1)])}
    metrics.view = ONE_EPOCH
    metrics.ask(metrics.letters()[0])
    assert metrics.audited().seen == {stream: SequenceRanges([(1, 2)])}


def test_letters_are_selected_by_the_event_in_them(metrics: _West) -> None:
    """By step and lane as any event; one without headers is hidden by no filter that it does not contradict."""
    metrics.view = FORKED_AT_20
    for seq, step in ((1, 30), (2, 31)):
        metrics.send(_metric(seq, step=step))
    metrics.send(_metric(3), b"\x00", headers=False)
    metrics.turn()

    def steps(**chosen: Any) -> list[int | None]:  # noqa: ANN401 - parse's own
        selection = parse(**chosen, now_ms=0)
        found = letters(MemorySource(metrics.west), selection, Decoding(Codec(), SystemClock()))
        return [one.facts.step for one in found]

    assert steps(steps="31", lanes=["metrics"]) == [31, None]
    assert steps(lanes=["checkpoints"]) == []
    one = letters(MemorySource(metrics.west), RecordFilter(), Decoding(Codec(), SystemClock()), [(0, 1)])
    assert [each.place for each in one] == [(0, 1)]
