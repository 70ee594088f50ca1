"""Newest wins, and never starves: the rules one by one, and their bound on the shipped flow in virtual time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import paths
from pipelines.core.link_rate import HALF_LIFE_S, LinkRate
from pipelines.core.newest_wins import START_S, Candidate, giving_way_to, lag_s_max
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.replication.lane_ports import LanePorts, PeerLane
from pipelines.flows.replication.lane_replicator import TURN_S, LaneReplicator
from pipelines.paths import CheckpointId
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Checkpoint
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer, generate_keypair
from tests.lineages import lineage_of
from tests.manifests import put_checkpoint
from tests.manual_clock import ManualClock
from tests.paced_transfers import PacedTransfers

CODEC = Codec()
UNBEGUN = Candidate("gpt", 1, 4, missing_bytes=100)
BEGUN = dataclasses.replace(UNBEGUN, has_begun=True)
RATE = 10.0  # so that a start costs START_S * RATE bytes


def _winner(head: Candidate, *queued: Candidate, rate: float | None = RATE, has_given_way: bool = False) -> int | None:
    best = giving_way_to(head, queued, rate_bytes_s=rate, has_given_way=has_given_way)
    return None if best is None else best.lineage_seq


@pytest.mark.parametrize(
    ("missing_bytes", "wins"), [(99, True), (100, True), (101, False)], ids=["smaller", "as large", "larger"]
)
def test_a_copy_that_has_not_begun_gives_way_to_a_newer_one_that_is_not_larger(
    missing_bytes: int, *, wins: bool
) -> None:
    """Nothing is lost by it, so also while no rate is known and whatever gave way before."""
    newer = Candidate("gpt", 1, 5, missing_bytes)
    assert _winner(UNBEGUN, newer) == (5 if wins else None)
    assert _winner(UNBEGUN, newer, rate=None, has_given_way=True) == (5 if wins else None)


@pytest.mark.parametrize(("missing_bytes", "wins"), [(94, True), (95, False), (100, False)])
def test_I21_a_copy_that_has_begun_gives_way_only_to_one_that_is_complete_sooner(
    missing_bytes: int, *, wins: bool
) -> None:
    """By the measured rate, the start included."""
    assert START_S * RATE == 5.0
    assert _winner(BEGUN, Candidate("gpt", 1, 5, missing_bytes)) == (5 if wins else None)


def test_I21_a_copy_that_has_begun_goes_on_while_no_rate_is_known() -> None:
    """Nothing says that anything would be sooner."""
    assert _winner(BEGUN, Candidate("gpt", 1, 5, 1), rate=None) is None


def test_I21_a_run_gives_way_never_twice_without_a_completion() -> None:
    """However much sooner the next one promises to be."""
    assert _winner(BEGUN, Candidate("gpt", 1, 5, 1), has_given_way=True) is None


def test_only_newer_checkpoints_of_the_same_run_win_and_the_newest_of_several() -> None:
    """By (epoch, lineage sequence)."""
    assert _winner(UNBEGUN, Candidate("gpt", 1, 3, 1), Candidate("other", 1, 9, 1)) is None
    assert _winner(UNBEGUN, Candidate("gpt", 1, 5, 50), Candidate("gpt", 1, 6, 60)) == 6
    assert _winner(UNBEGUN, Candidate("gpt", 2, 1, 50), Candidate("gpt", 1, 6, 10)) == 1


def test_the_rate_of_a_link_counts_busy_time_only_and_forgets() -> None:
    """An idle hour is no slow hour; after some half-lives the old rate weighs nothing."""
    rate = LinkRate()
    assert rate.bytes_s is None
    for second in range(11):
        rate.observe(float(second), second * 100, is_busy=True)
    assert rate.bytes_s == pytest.approx(100.0)
    rate.observe(3_600.0, 1_000, is_busy=False)
    assert rate.bytes_s == pytest.approx(100.0)
    for second in range(int(HALF_LIFE_S * 10)):
        rate.observe(3_601.0 + second, 1_000 + second * 10, is_busy=True)
    assert rate.bytes_s == pytest.approx(10.0, rel=0.1)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Ed25519Signer:
    """East's own."""
    folder: Path = tmp_path_factory.mktemp("keys")
    private, public = generate_keypair(folder, "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


class _Link:
    """East commits one checkpoint after the other, and west's shipped replicator copies them over a paced link."""

    def __init__(self, signer: Ed25519Signer, rate_bytes_s: float) -> None:
        self.clock = ManualClock()
        self.committed: list[tuple[float, Checkpoint]] = []
        self._signer = signer
        self._east, self._west = MemoryKafka("east"), MemoryKafka("west")
        self._east_store, west_store = MemoryObjectStore(), MemoryObjectStore()
        self.transfers = PacedTransfers({"east": self._east_store}, west_store, self.clock, rate_bytes_s)
        self.flow = LaneReplicator(
            PeerLane(peer="east", name="checkpoints"),
            LanePorts(
                peer_source=MemorySource(self._east),
                own_source=MemorySource(self._west),
                log=MemoryLog(self._west, "farside-replicator-west-east-checkpoints"),
                store=west_store,
                peer_store=self._east_store,
                transfers=self.transfers,
                lineage=lambda _run: lineage_of((1, 0, -1)),
                signer=signer,
                codec=Codec(),
                clock=self.clock,
                journal=self,
            ),
        )

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal: nobody reads it here."""

    def commit(self, size_bytes: int, chunks: int) -> None:
        """The next checkpoint, as east's agent leaves it."""
        seq = len(self.committed) + 1
        own = CheckpointId("gpt", 1, 1, seq)
        each = max(1, size_bytes // chunks)
        bodies = [seq.to_bytes(4, "big") + bytes([number % 256]) * each for number in range(chunks)]
        event = put_checkpoint(self._east_store, self._signer, own, seq=seq, chunks=bodies)
        message = Message(paths.topic("checkpoints"), b"gpt", CODEC.encode(event), headers_of(event, "test"))
        MemoryLog(self._east).publish([message])
        self.committed.append((self.clock.now_s, event))

    def visible_steps(self) -> list[int]:
        """The committed checkpoints in west's log."""
        records = [CODEC.decode_as(Checkpoint, item.value) for item in self._topic() if item is not None]
        return [record.step for record in records if record.state == "committed"]

    def visible_step(self) -> int:
        """The newest of them; 0 if there is none."""
        return max(self.visible_steps(), default=0)

    def turns(self, count: int) -> None:
        """So many turns of the flow, each of its usual length."""
        for _ in range(count):
            self.flow.turn()
            self.clock.now_s += TURN_S

    def _topic(self) -> list[Message | None]:
        return self._west.topic(paths.topic("checkpoints"))


def _worst_lag_s(link: _Link, sizes: list[int], chunks: list[int], cadence_s: float, length_s: float) -> float:
    """Drive the flow for some virtual time; for how long, at worst, a checkpoint newer than what is visible had waited.

    That is the time since the commit of the first checkpoint after the visible one: what a standby would lose.
    """
    worst_s, shapes = 0.0, itertools.cycle(zip(itertools.cycle(sizes), chunks, strict=False))
    while link.clock.now_s < length_s:
        if link.clock.now_s >= len(link.committed) * cadence_s:
            link.commit(*next(shapes))
        link.flow.turn()
        behind = link.committed[link.visible_step() :]
        worst_s = max([worst_s, *(link.clock.now_s - at_s for at_s, _ in behind[:1])])
        link.clock.now_s += TURN_S
    return worst_s


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(500, 20_000), min_size=1, max_size=3),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    need=st.floats(0.2, 5.0),
    cadence_s=st.floats(0.5, 8.0),
)
def test_I21_lag_is_bounded_for_every_mix_of_sizes_chunks_rates_and_cadences(
    signer: Ed25519Signer, sizes: list[int], chunks: list[int], need: float, cadence_s: float
) -> None:
    """The shipped flow over a link from a fifth of the need to five times it: T + 2 S / R, turns and starts on top."""
    rate_bytes_s = need * max(sizes) / cadence_s
    link = _Link(signer, rate_bytes_s)
    largest = max(sizes) + 200  # the rank's state and each chunk's own number
    bound_s = lag_s_max(largest, rate_bytes_s, cadence_s) + 2 * START_S + 8 * TURN_S
    length_s = min(400 * TURN_S, 4 * bound_s)
    assert _worst_lag_s(link, sizes, chunks, cadence_s, length_s) <= bound_s


def test_I21_a_link_at_a_third_of_the_need_completes_checkpoints(signer: Ed25519Signer) -> None:
    """Seen: 1 MB each 3 s in two chunks over 65 KB/s a connection: in 11 minutes none of 363 became visible."""
    link = _Link(signer, rate_bytes_s=130_000)
    worst_s = _worst_lag_s(link, [1_000_000], [2], cadence_s=3.0, length_s=120.0)
    completed = link.visible_step()
    assert worst_s <= lag_s_max(1_000_100, 130_000, 3.0) + 2 * START_S + 8 * TURN_S
    assert completed >= math.floor((120.0 - worst_s) / 3.0)
    assert link.transfers.crossed_bytes <= 130_000 * 120.0


def test_I21_a_large_checkpoint_gives_way_to_a_small_newer_one_once(signer: Ed25519Signer) -> None:
    """The large one has hardly begun; the small one is visible after its own time, and the next one is not skipped."""
    link = _Link(signer, rate_bytes_s=10_000)
    link.commit(1_000_000, 4)
    link.turns(20)
    link.commit(5_000, 2)
    link.turns(20)
    assert link.visible_step() == 2


def test_I21_a_copy_that_has_begun_is_not_given_up_before_its_first_byte(signer: Ed25519Signer) -> None:
    """Where the first byte takes longer than the next commit, giving way would begin anew for ever."""
    link = _Link(signer, rate_bytes_s=0.0)
    for _ in range(3):
        link.commit(5_000, 2)
        link.turns(3)
    link.transfers.rate_bytes_s = 1_000_000.0
    link.turns(10)
    assert link.visible_steps() == [1, 3]
