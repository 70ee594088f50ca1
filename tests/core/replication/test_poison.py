"""Poison in a peer's log or store, on fakes: a lane goes on behind it, and says why where it cannot (I18)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.dead_letters import LETTER_MAX_BYTES, VALUE_KEPT_BYTES, whole_of
from pipelines.core.lineage import LineageView
from pipelines.core.message_size import MESSAGE_BYTES_MAX, size_bytes
from pipelines.core.patience import REST_MOST_S, UNKNOWN_WAIT_S
from pipelines.errors import FarsideError, MisconfiguredError, RetryableError
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import LaneReplicator
from pipelines.flows.replication.redrive_requests import RedriveRequest
from pipelines.paths import CheckpointId
from pipelines.ports import Damage, EventSource, Fetched, Message, ObjectStore
from schemas.codec import MARKER, Codec, digest
from schemas.records import Alarm, Checkpoint, DeadLetter, Metric
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.memory.transfers import MemoryTransfers
from services.adapters.signer import Ed25519Signer
from tests.lineages import lineage_of
from tests.manifests import manifest_of, shard_of, state_of
from tests.manual_clock import ManualClock

CODEC = Codec()
ONE_EPOCH = lineage_of((1, 0, -1))


class _Refusing(MemoryObjectStore):
    """A store that denies the keys with a word in them."""

    def __init__(self) -> None:
        super().__init__()
        self.denied, self.error = "", MisconfiguredError

    def get(self, key: str) -> bytes | None:
        if self.denied and self.denied in key:
            raise self.error(f"user west: denied {key}")
        return super().get(key)


class _Raising(MemorySource):
    """A reader whose next poll raises what it is told."""

    def __init__(self, kafka: MemoryKafka) -> None:
        super().__init__(kafka)
        self.raises: Exception | None = None

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        if self.raises is not None:
            raise self.raises
        return super().poll(timeout_s, most)


class _Damaging(MemorySource):
    """A reader to which every record that begins with `bad` is damaged."""

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        return tuple(_damaged(one) if one.value.startswith(b"bad") else one for one in super().poll(timeout_s, most))


def _damaged(one: Fetched) -> Fetched:
    damage = Damage("gzip would unpack it to more than 5 bytes", 700_000, "e" * 64, one.offset)
    return dataclasses.replace(one, key=b"", headers=(), damage=damage)


class _West:
    """West's replicator of one lane of east."""

    def __init__(self, signer: Ed25519Signer, lane: str = "metrics") -> None:
        self.signer, self.lane, self.clock = signer, lane, ManualClock()
        self.east, self.west = MemoryKafka("east"), MemoryKafka("west")
        self.east_store, self.west_store = _Refusing(), MemoryObjectStore()
        self.source = _Raising(self.east)
        self.view: LineageView | None = ONE_EPOCH
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.flow = self.start()

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.said.append((event, fields))

    def start(self, source: EventSource | None = None, peers: ObjectStore | None = None) -> LaneReplicator:
        self.flow = LaneReplicator(
            PeerLane("east", self.lane),
            LanePorts(
                peer_source=source or self.source,
                own_source=MemorySource(self.west),
                log=MemoryLog(self.west, f"farside-replicator-west-east-{self.lane}"),
                store=self.west_store,
                peer_store=self.east_store,
                transfers=MemoryTransfers({"east": peers or self.east_store}, self.west_store),
                lineage=lambda _run: self.view,
                signer=self.signer,
                codec=Codec(),
                clock=self.clock,
                journal=self,
                visible_source=MemorySource(self.west),
                replay_source=MemorySource(self.east),
            ),
        )
        return self.flow

    def turn(self, turns: int = 8) -> None:
        for _ in range(turns):
            self.clock.now_s += self.flow.turn()

    def wait_out(self) -> None:
        """Turn for as long as what is unknown is waited for."""
        for _ in range(10):
            self.clock.now_s += UNKNOWN_WAIT_S / 10
            self.turn(1)
        self.turn()

    def send(self, value: bytes, run: str = "gpt", headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        MemoryLog(self.east).publish([Message(paths.topic(self.lane), run.encode(), value, headers)])

    def metric(self, seq: int, epoch: int = 1, run: str = "gpt") -> Metric:
        place = {"event_id": f"{run}/{epoch}/{seq}", "run": run, "region": "east", "epoch": epoch, "attempt": 1}
        event = Metric(**place, producer="r0", seq=seq, step=seq, time_ms=0, values={"loss": 1.0})  # type: ignore[arg-type] # the table's values fit their fields
        self.send(CODEC.encode(event), run, headers_of(event, "metric"))
        return event

    def commit(self, run: str, step: int, seq: int) -> None:
        own = CheckpointId(run, 1, 1, step)
        chunk = f"chunk {step}".encode()
        manifest = manifest_of(own, lineage_seq=seq, shards=(shard_of(0, chunk),), rank_states=(state_of(0, b"rng"),))
        payload = CODEC.encode(manifest)
        for key, body in {own.chunk(0, 0): chunk, own.rank_state(0): b"rng", own.manifest: payload}.items():
            self.east_store.create(key, self.signer.sign(body) if key == own.manifest else body)
        event = Checkpoint(
            event_id=f"{run}/{seq}",
            run=run,
            region="east",
            epoch=1,
            attempt=1,
            producer="r0",
            seq=seq,
            step=step,
            time_ms=0,
            state="committed",
            manifest_key=own.manifest,
            manifest_digest=digest(payload),
            lineage_seq=seq,
            size_bytes=len(chunk) + 3,
            reason="",
        )
        self.send(CODEC.encode(event), run, headers_of(event, "checkpoint"))

    def visible(self) -> list[Any]:
        return [CODEC.decode(item.value) for item in self.west.topic(paths.topic(self.lane)) if item is not None]

    def dead(self) -> list[DeadLetter]:
        topic = self.west.topic(paths.DEAD_LETTERS)
        found = [CODEC.decode(item.value) for item in topic if item is not None]
        return [one for one in found if isinstance(one, DeadLetter)]

    def alarms(self) -> list[Alarm]:
        return [CODEC.decode_as(Alarm, item.value) for item in self.west.topic(paths.ALARMS) if item is not None]


@pytest.fixture
def west(signer: Ed25519Signer) -> _West:
    """Follows east's metrics."""
    return _West(signer)


@pytest.mark.parametrize(
    "error", [MisconfiguredError("user west: refused"), ZeroDivisionError("planted"), RetryableError("no answer")]
)
def test_I18_whatever_a_lane_meets_it_rests_says_why_and_since_when_and_goes_on(west: _West, error: Exception) -> None:
    """One peer's refusal used to end the process, and with it the following of every other peer."""
    west.turn()
    west.source.raises = error
    west.clock.now_s = 1_000.0
    west.metric(1)
    rests = [west.flow.turn() for _ in range(1)]
    west.turn(12)
    assert west.flow.stands is not None
    assert str(error) in west.flow.stands.reason
    assert west.flow.stands.since_ms == 1_000_000
    (standing,) = west.flow.status().standing
    assert str(error) in standing.reason
    assert standing.since_s > 1.0
    assert rests[0] <= 1.0
    assert len([1 for event, _ in west.said if event == "replicate.waits"]) == 1, "said once"
    west.source.raises = None
    west.clock.now_s += REST_MOST_S
    west.turn(60)
    assert west.flow.status().standing == (), "it is well for a while"
    assert [event.seq for event in west.visible()] == [1]


def test_a_refused_lane_asks_less_and_less_often(west: _West) -> None:
    """A permanent refusal is not asked again at once; it costs nobody anything."""
    west.source.raises = MisconfiguredError("user west: refused")
    west.turn(1)
    rests = []
    for _ in range(9):
        rests.append(west.flow.turn())
        west.clock.now_s += rests[-1]
    west.metric(1)
    assert [round(rest) for rest in (west.flow.turn(),)] == [round(REST_MOST_S)]


@pytest.mark.parametrize("error", [MisconfiguredError, RetryableError, ValueError])
def test_I18_one_run_whose_manifest_cannot_be_had_holds_up_no_other_run(
    signer: Ed25519Signer, error: type[Exception]
) -> None:
    """Caught at the boundary of one run of one peer, whatever it is."""
    west = _West(signer, "checkpoints")
    west.east_store.denied, west.east_store.error = "runs/bad/", error  # type: ignore[assignment] # also what is none of ours
    west.commit("bad", 10, 1)
    west.commit("gpt", 10, 1)
    west.turn()
    assert [event.run for event in west.visible()] == ["gpt"]
    assert "denied" in west.flow.status().waits["bad"]
    assert west.flow.stands is None
    assert len([1 for event, _ in west.said if event == "replicate.run_waits"]) == 1, "said once"
    west.east_store.denied = ""
    west.clock.now_s += REST_MOST_S
    west.turn()
    assert [event.run for event in west.visible()] == ["gpt", "bad"]


def test_a_copy_that_is_denied_says_so_and_tries_less_and_less_often(signer: Ed25519Signer) -> None:
    """It went on for ever without a word: now in the journal, in what the run waits for, and in the copy's status."""
    west = _West(signer, "checkpoints")
    west.east_store.denied = "rank-00000"
    west.commit("gpt", 10, 1)
    denied = [key for key in west.east_store.objects if "manifest" not in key]
    west.east_store.denied = denied[0]
    for _ in range(300):
        west.turn(1)
    assert f"denied {denied[0]}" in west.flow.status().waits["gpt"]
    (copy,) = west.flow.status().copies
    assert f"denied {denied[0]}" in copy.error
    assert copy.error_since_ms < west.clock.wall_ms()
    said = [fields for event, fields in west.said if event == "replicate.copy_fails"]
    assert [(one["run"], one["step"], one["key"]) for one in said] == [("gpt", 10, denied[0])], "said once"
    west.east_store.denied = ""
    west.clock.now_s += REST_MOST_S
    west.turn()
    assert [event.step for event in west.visible()] == [10]


def test_I18_an_epoch_that_nobody_wins_holds_its_run_for_a_bounded_time_only(west: _West) -> None:
    """Then it is set aside with an alarm; those like it are not waited for again, and what follows goes on."""
    west.metric(1)
    west.metric(5, epoch=99)
    west.metric(2)
    west.turn()
    assert [event.seq for event in west.visible()] == [1]
    assert west.flow.status().waits == {"gpt": "epoch 99 is not known here yet"}
    west.wait_out()
    assert [event.seq for event in west.visible()] == [1, 2]
    (letter,) = west.dead()
    assert (letter.reason, letter.detail) == ("unknown_epoch", "epoch 99 is not known here yet, after 3600 s")
    kinds = {alarm.kind: [(one.first, one.last) for one in alarm.ranges] for alarm in west.alarms()}
    assert kinds == {"set_aside": [(5, 5)], "hole": [(1, 4)]}
    west.metric(6, epoch=100)
    west.metric(3)
    west.turn()
    assert [event.seq for event in west.visible()] == [1, 2, 3], "one wait for all of them"
    west.start()
    west.turn()
    assert len(west.dead()) == 2, "once, also over a restart"


def test_a_region_that_slept_through_the_wait_does_not_wait_again(west: _West) -> None:
    """Its clock went on; and what is unknown after it has become known, hours later, has a wait of its own."""
    west.metric(1, epoch=2)
    west.send(MARKER + b"8 random", run="other")
    west.turn()
    west.clock.now_s += 2 * UNKNOWN_WAIT_S
    west.turn()
    assert {letter.reason for letter in west.dead()} == {"unknown_epoch", "undecodable"}
    west.view = lineage_of((1, 0, -1), (2, 1, 0))
    west.metric(2, epoch=3)
    west.turn()
    west.view = lineage_of((1, 0, -1), (2, 1, 0), (3, 2, 0))
    west.turn()
    assert [event.epoch for event in west.visible()] == [3]
    west.clock.now_s += 5 * UNKNOWN_WAIT_S
    west.metric(1, epoch=4)
    west.turn()
    assert len(west.dead()) == 2


def test_what_was_set_aside_is_redriven_once_its_epoch_is_known(west: _West) -> None:
    """And its alarm ends: nothing was lost."""
    west.metric(1, epoch=2)
    west.turn(1)
    west.wait_out()
    assert west.visible() == []
    west.view = lineage_of((1, 0, -1), (2, 1, 0))
    west.flow.redrive(RedriveRequest("ask", 0, 0, force=False, actor="ada"))
    west.turn()
    answer = west.flow.redrive(RedriveRequest("ask", 0, 0, force=False, actor="ada"))
    assert (answer.state, answer.why) == ("done", "published")
    assert [(event.epoch, event.seq) for event in west.visible()] == [(2, 1)]
    assert [alarm.state for alarm in west.alarms() if alarm.kind == "set_aside"] == ["open", "healed"]


def test_the_next_epoch_is_waited_for_although_one_far_ahead_was_given_up(west: _West) -> None:
    """A region may hear of a failover a little later than of its first events."""
    west.metric(5, epoch=99)
    west.turn(1)
    west.wait_out()
    west.metric(1, epoch=2)
    west.turn()
    assert len(west.dead()) == 1
    west.view = lineage_of((1, 0, -1), (2, 1, 0))
    west.turn()
    assert [(event.epoch, event.seq) for event in west.visible()] == [(2, 1)]


def test_I18_a_schema_that_nobody_has_holds_its_run_for_a_bounded_time_only(west: _West) -> None:
    """Ten random bytes behind the marker look like one."""
    west.send(MARKER + b"8 random" + b"bytes")
    west.metric(1)
    west.turn()
    assert west.visible() == []
    west.wait_out()
    assert [event.seq for event in west.visible()] == [1]
    assert "nobody had it for 3600 s" in west.dead()[0].detail


def test_a_peers_schema_that_is_refused_is_not_kept_here(west: _West) -> None:
    """Under its name lies another one, or one that is harmful: it could never be replaced."""
    key = paths.schema(b"8 random".hex())
    west.east_store.create(key, CODEC.text_of(CODEC.encode(west.metric(1))[2:10].hex()).encode())
    west.send(MARKER + b"8 random" + b"bytes")
    west.metric(2)
    west.turn()
    assert [event.seq for event in west.visible()] == [1, 2]
    assert "lies another one" in west.dead()[0].detail
    assert west.west_store.get(key) is None


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"x" * 1_047_900, ()),
        (b"x", (("h", b"y" * 1_047_800),)),
        (b"x" * 500_000, tuple((f"h{number}", b"y" * 500) for number in range(1_000))),
    ],
)
def test_I18_a_dead_letter_fits_into_its_topic_however_large_its_record_is(
    west: _West, value: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    """It names the whole by place, size and digest; its identity's headers are kept."""
    identity = headers_of(west.metric(1), "metric")
    west.send(value, headers=(("farside_seq", b"2"), *(one for one in identity if one[0] != "farside_seq"), *headers))
    west.metric(3)
    west.turn()
    assert [event.seq for event in west.visible()] == [1, 3]
    (letter,) = west.dead()
    sizes = [len(item.key) + len(item.value) for item in west.west.topic(paths.DEAD_LETTERS) if item is not None]
    assert max(sizes) <= LETTER_MAX_BYTES
    assert letter.value == value[:VALUE_KEPT_BYTES]
    assert whole_of(letter) == (len(value), digest(value))
    assert f"(SHA-256 {digest(value)}) are at farside.metrics/0/1" in letter.detail
    assert west.alarms() == [], "the record's number is accounted for"


def test_I18_an_event_that_would_be_too_large_here_is_set_aside(west: _West) -> None:
    """Each region adds a header that says where it came from: what just fitted there does not fit here."""
    event = dataclasses.replace(west.metric(1), seq=2, step=2, event_id="gpt/1/2")
    headers = (*headers_of(event, "metric"), ("padding", b""))
    room = MESSAGE_BYTES_MAX - size_bytes(b"gpt", CODEC.encode(event), headers)
    west.send(CODEC.encode(event), headers=(*headers[:-1], ("padding", b"x" * room)))
    west.metric(3)
    west.turn()
    assert [event.seq for event in west.visible()] == [1, 3]
    (letter,) = west.dead()
    assert (letter.reason, letter.offset) == ("too_large", 1)


def test_I18_an_event_that_this_regions_log_refuses_is_set_aside_and_the_others_go_on(west: _West) -> None:
    """Somebody made the topic smaller here: the permanent refusal is not met again and again."""
    west.west.bytes_max[paths.METRICS] = 2_000
    west.metric(1)
    event = dataclasses.replace(west.metric(1), seq=2, step=2, event_id="gpt/1/2")
    west.send(CODEC.encode(event), headers=(*headers_of(event, "metric"), ("padding", b"x" * 2_000)))
    west.metric(3)
    west.turn(20)
    assert [event.seq for event in west.visible()] == [1, 3]
    (letter,) = west.dead()
    assert (letter.reason, letter.offset) == ("refused", 2)


def test_a_letter_that_is_cut_is_redriven_from_the_place_that_it_names(west: _West) -> None:
    """And refused if something else lies there by now."""
    place = {"run": "gpt", "region": "east", "epoch": 2, "attempt": 1, "producer": "r0"}
    values = {f"{number:0300}": 1.0 for number in range(3_300)}
    event = Metric(**place, event_id="e", seq=1, step=1, time_ms=0, values=values)  # type: ignore[arg-type] # as above
    value = CODEC.encode(event)
    assert len(value) > LETTER_MAX_BYTES
    west.send(value, headers=headers_of(event, "metric"))
    west.turn(1)
    west.wait_out()
    assert len(west.dead()[0].value) == VALUE_KEPT_BYTES
    west.view = lineage_of((1, 0, -1), (2, 1, 0))
    whole, west.east.topic(paths.METRICS)[0] = west.east.topic(paths.METRICS)[0], Message(paths.METRICS, b"gpt", b"?")
    assert "another record" in _redriven(west, "first")
    west.east.topic(paths.METRICS)[0] = whole
    assert _redriven(west, "second") == "published"
    assert west.visible() == [event]


def _redriven(west: _West, ask_id: str) -> str:
    request = RedriveRequest(ask_id, 0, 0, force=False, actor="ada")
    west.flow.redrive(request)
    west.turn()
    return west.flow.redrive(request).why


def test_I18_what_nobody_can_read_is_a_dead_letter_by_its_place(signer: Ed25519Signer) -> None:
    """Of a bomb the beginning is kept, with the size and digest of all of it; the lane goes on."""
    west = _West(signer)
    west.start(source=_Damaging(west.east))
    west.metric(1)
    west.send(b"bad batch", run="")
    west.metric(2)
    west.turn()
    assert [event.seq for event in west.visible()] == [1, 2]
    (letter,) = west.dead()
    assert (letter.topic, letter.offset, letter.reason) == ("farside.metrics", 1, "undecodable")
    assert whole_of(letter) == (700_000, "e" * 64)
    assert letter.detail.startswith("gzip would unpack it to more than 5 bytes; 9 of its 700000 bytes are kept here")


def test_I18_garbage_in_this_regions_own_ledger_ends_nothing(west: _West) -> None:
    """It is passed over, and said."""
    MemoryLog(west.west).publish([Message(paths.LEDGER, b"k", b"garbage"), Message(paths.ALARMS, b"k", b"")])
    west.metric(1)
    west.turn()
    assert [event.seq for event in west.visible()] == [1]
    said = [fields["place"] for event, fields in west.said if event == "replicate.ledger_unreadable"]
    assert said == ["farside.ledger/0/0", "farside.alarms/0/0"]


def test_keys_without_number_or_end_leave_nothing_behind(west: _West) -> None:
    """A stranger may send ever new ones, as long as a record may be."""
    for number in range(50):
        west.send(b"garbage", run=f"{number}" * 1_000)
    west.turn()
    assert len(west.dead()) == 50
    assert west.flow._queues == {}
    assert all(len(str(fields.get("run", ""))) <= 200 for _, fields in west.said)


def test_every_error_of_the_tree_is_caught_but_the_one_that_another_writer_is_there() -> None:
    """So that a new kind is thought about here."""
    assert {one.__name__ for one in FarsideError.__subclasses__()} == {
        "RetryableError",
        "FencedError",
        "CorruptError",
        "MisconfiguredError",
    }
