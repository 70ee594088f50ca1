"""The verifier: which checkpoint it reads when, and how it reports damage and its end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pipelines import paths
from pipelines.core.fork_choice import ROUNDS
from pipelines.core.lease import NEVER_S
from pipelines.errors import RetryableError
from pipelines.flows.standby.damage_notes import open_notes
from pipelines.flows.standby.recoverable import RecoverableCheckpoint, RecoverableFinder
from pipelines.flows.standby.verifier import CheckpointVerifier, VerifierPorts
from pipelines.paths import CheckpointId
from schemas.codec import Codec
from schemas.records import Abandoned
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer
from tests.lineages import lineage_of
from tests.manifests import put_checkpoint
from tests.manual_clock import ManualClock

ONE_EPOCH = lineage_of((1, 0, -1))
TEN, TWENTY = (CheckpointId("gpt", 1, 1, step) for step in (10, 20))


class CountingStore(MemoryObjectStore):
    """Counts what is read in pieces; may stop to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.away = False

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        """Implements PieceStore."""
        if self.away:
            raise RetryableError("the store does not answer")
        self.read.append(key)
        return super().pieces(key)


class Bench:
    """A verifier over a store with steps 10 and 20."""

    def __init__(self, signer: Ed25519Signer) -> None:
        self.signer, self.clock, self.store = signer, ManualClock(1000.0), CountingStore()
        self.said: list[tuple[str, dict[str, object]]] = []
        self.told = 0
        own: Any = self
        for seq, checkpoint in enumerate((TEN, TWENTY), 1):
            put_checkpoint(self.store, signer, checkpoint, seq=seq, chunks=(b"a" * 100, bytes([seq]) * 50))
        self.finder = RecoverableFinder(self.store, signer, Codec())
        self.verifier = CheckpointVerifier(
            run="gpt",
            ports=VerifierPorts(
                store=self.store, pieces=self.store, signer=signer, codec=Codec(), clock=self.clock, journal=own
            ),
            tell=self._told,
        )
        self.follow()

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.said.append((event, fields))

    def _told(self) -> None:
        self.told += 1

    def follow(self) -> tuple[RecoverableCheckpoint, ...]:
        """The newest checkpoints, handed to the verifier."""
        newest = self.finder.newest_first("gpt", ONE_EPOCH, 3)
        self.verifier.follow(newest, self.finder.distrusted)
        return newest

    def rest(self) -> float:
        """Turn until nothing is due."""
        while (rests_s := self.verifier.turn()) == 0.0:
            self.clock.now_s += 0.001
        return rests_s

    def flip(self, key: str) -> None:
        """One bit of an object goes bad."""
        body = self.store.objects[key]
        self.store.objects[key] = bytes([body[0] ^ 1]) + body[1:]


@pytest.fixture
def bench(signer: Ed25519Signer) -> Bench:
    """Steps 10 and 20 are there, and nothing was read yet."""
    return Bench(signer)


def test_the_newest_is_read_whole_and_first(bench: Bench) -> None:
    """Chunks and rank states, once; what counts is when the reading began."""
    newest, older = bench.follow()
    assert bench.verifier.verified_at_s(newest) == NEVER_S
    bench.rest()
    assert bench.store.read[:3] == [TWENTY.chunk(0, 0), TWENTY.chunk(0, 1), TWENTY.rank_state(0)]
    assert len(bench.store.read) == 6
    assert bench.verifier.verified_at_s(newest) == 1000.0
    assert bench.verifier.verified_at_s(older) > 1000.0
    assert bench.told
    assert bench.rest()
    assert len(bench.store.read) == 6, "nothing is due again yet"


@pytest.mark.parametrize("key", [TWENTY.chunk(0, 1), TWENTY.rank_state(0)])
def test_a_flipped_bit_is_damage_noted_once_and_mended_by_a_later_reading(bench: Bench, key: str) -> None:
    """A note in the store for who repairs it, one line for people; the older checkpoint stays good."""
    bench.flip(key)
    newest, older = bench.follow()
    bench.rest()
    assert bench.verifier.damaged == {TWENTY.manifest}
    assert [damage.key for damage in bench.verifier.damages()] == [key]
    assert bench.verifier.verified_at_s(newest) == NEVER_S < bench.verifier.verified_at_s(older)
    (note,) = open_notes(bench.store)
    assert note.damage.key == key
    assert "SHA-256" in note.damage.why
    bench.clock.now_s += ROUNDS.damaged_s
    bench.rest()
    assert [event for event, _ in bench.said] == ["checkpoint.damaged"]
    assert len(bench.store.list(paths.DAMAGE)) == 1
    bench.flip(key)
    bench.clock.now_s += ROUNDS.damaged_s
    bench.rest()
    assert not bench.verifier.damaged
    assert bench.verifier.verified_at_s(newest) > 1000.0
    assert bench.said[-1][0] == "checkpoint.sound"


def test_missing_and_longer_objects_are_damage_and_no_more_is_read_than_the_manifest_names(bench: Bench) -> None:
    """A huge object in a chunk's place costs its first pieces."""
    del bench.store.objects[TWENTY.chunk(0, 0)]
    bench.store.objects[TWENTY.chunk(0, 1)] = b"x" * 10_000_000
    bench.rest()
    whys = {damage.key: damage.why for damage in bench.verifier.damages()}
    assert whys[TWENTY.chunk(0, 0)] == "is not there"
    assert "its manifest names 50" in whys[TWENTY.chunk(0, 1)]
    assert "10000000" not in whys[TWENTY.chunk(0, 1)]


def test_a_checkpoint_that_was_swept_while_it_was_read_is_not_damaged(bench: Bench) -> None:
    """Its manifest has given way to the record of the sweep."""
    bench.verifier.turn()
    gone = Abandoned(run="gpt", epoch=1, attempt=1, step=20, reason="swept: x", parent_digest="", lineage_seq=2)
    bench.store.put(TWENTY.manifest, bench.signer.sign(Codec().encode(gone)))
    del bench.store.objects[TWENTY.chunk(0, 1)]
    bench.rest()
    assert not bench.verifier.damages()
    assert not open_notes(bench.store)


def test_a_manifest_that_cannot_be_read_is_damage(bench: Bench) -> None:
    """The finder leaves it out; the verifier says so, and sees it mended."""
    bench.flip(TWENTY.manifest)
    finder = bench.finder = RecoverableFinder(bench.store, bench.signer, Codec())
    assert [found.manifest.step for found in bench.follow()] == [10]
    assert list(finder.distrusted) == [TWENTY.manifest]
    bench.rest()
    assert bench.verifier.damaged == {TWENTY.manifest}
    bench.flip(TWENTY.manifest)
    bench.clock.now_s += ROUNDS.damaged_s
    bench.rest()
    assert not bench.verifier.damaged
    assert [found.manifest.step for found in bench.follow()] == [20, 10]


def test_a_manifest_that_goes_bad_after_it_was_read_is_found_in_the_next_round(bench: Bench) -> None:
    """Found by the simulator, seeds 119 and 132: who keeps a manifest in memory does not see it go bad."""
    bench.rest()
    assert not bench.verifier.damaged
    bench.flip(TEN.manifest)
    bench.clock.now_s += ROUNDS.newest_s
    bench.rest()
    assert bench.verifier.damaged == {TEN.manifest}
    assert [note.damage.key for note in open_notes(bench.store)] == [TEN.manifest]


def test_what_somebody_waits_for_is_read_at_once_and_anew(bench: Bench) -> None:
    """A reading that began before the asking does not count; one of another checkpoint gives way."""
    newest, older = bench.follow()
    bench.rest()
    bench.clock.now_s = 1100.0
    bench.verifier.ask(older, 1100.0)
    bench.verifier.turn()
    bench.clock.now_s = 1101.0
    bench.verifier.ask(newest, 1101.0)
    bench.rest()
    assert bench.verifier.verified_at_s(newest) == 1101.0
    assert bench.verifier.verified_at_s(older) > 1101.0, "its first reading gave way; this is another"
    reads = len(bench.store.read)
    bench.verifier.ask(newest, 1050.0)
    bench.rest()
    assert len(bench.store.read) == reads, "it was read since"


def test_a_store_that_does_not_answer_is_said_once_and_the_reading_goes_on_where_it_was(bench: Bench) -> None:
    """No turn raises."""
    bench.verifier.turn()
    bench.store.away = True
    for _ in range(3):
        assert bench.verifier.turn() > 0.0
    assert bench.verifier.trouble == "the store does not answer"
    assert [event for event, _ in bench.said] == ["verifier.waits"]
    bench.store.away = False
    bench.rest()
    assert not bench.verifier.trouble
    assert len(bench.store.read) == 6
