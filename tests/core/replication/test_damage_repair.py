"""Damaged objects are repaired from a region whose copy is whole, and nothing else is ever overwritten."""

from __future__ import annotations

import pytest

from pipelines import paths
from pipelines.flows.replication.damage_repair import GONE, REPAIRED, SOUND, DamageRepair, RepairPorts
from pipelines.flows.standby.damage_notes import Damage, leave_note, open_notes
from pipelines.paths import CheckpointId
from schemas.codec import Codec
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.signer import Ed25519Signer
from tests.manifests import put_checkpoint

TEN = CheckpointId("gpt", 1, 1, 10)


class Pair:
    """Step 10 in west and in east; west's object at `key` goes bad and is noted."""

    def __init__(self, signer: Ed25519Signer) -> None:
        self.west, self.east = MemoryObjectStore(), MemoryObjectStore()
        self.said: list[tuple[str, dict[str, object]]] = []
        for store in (self.west, self.east):
            put_checkpoint(store, signer, TEN, seq=1, chunks=(b"a" * 100, b"b" * 50))
        forks = '{"run": "gpt", "epoch": 1, "region": "east", "forks": [[1, 0, -1]]}'
        self.west.create(paths.epoch_seen("gpt", 1), forks.encode())
        self.repair = DamageRepair(
            "west",
            RepairPorts(
                store=self.west,
                peers={"east": self.east},
                peer_pieces={"east": self.east},
                signer=signer,
                codec=Codec(),
                journal=self,
            ),
        )

    def say(self, event: str, **fields: object) -> None:
        """Implements Journal."""
        self.said.append((event, fields))

    def damage(self, key: str, body: bytes = b"bad") -> None:
        """It is bad, and there is a note."""
        self.west.put(key, body)
        leave_note(self.west, Damage(key, "is bad", 7))

    def outcome(self) -> object:
        """One turn's last word on the note."""
        self.repair.turn()
        return self.said[-1][1].get("how", self.said[-1][1].get("why"))


@pytest.fixture
def pair(signer: Ed25519Signer) -> Pair:
    """Both regions are whole."""
    return Pair(signer)


@pytest.mark.parametrize("key", [TEN.chunk(0, 0), TEN.chunk(0, 1), TEN.rank_state(0), TEN.manifest])
def test_each_kind_of_object_is_repaired_from_the_peer_and_its_note_is_closed(pair: Pair, key: str) -> None:
    """Byte for byte; a second turn finds nothing to do."""
    pair.damage(key)
    assert pair.outcome() == REPAIRED
    assert pair.west.objects[key] == pair.east.objects[key]
    assert not open_notes(pair.west)
    assert len(pair.west.list(paths.DAMAGE)) == 2, "the note stays for the history"
    pair.repair.turn()
    assert [event for event, _ in pair.said] == ["checkpoint.repaired"]


def test_I17_a_manifest_is_not_repaired_by_one_that_the_peer_made_of_anothers_epoch(
    pair: Pair, signer: Ed25519Signer
) -> None:
    """Epoch 1 is west's here: what east signed in its own name has the right key, step and digests, and no say."""
    view = '{"run": "gpt", "epoch": 1, "region": "west", "forks": [[1, 0, -1]]}'
    pair.west.put(paths.epoch_seen("gpt", 1), view.encode())
    pair.damage(TEN.manifest)
    assert "west holds epoch 1, its manifest names east" in str(pair.outcome())
    assert pair.west.objects[TEN.manifest] == b"bad"
    del signer


def test_a_peer_whose_copy_is_bad_or_away_repairs_nothing_and_says_why_once(pair: Pair) -> None:
    """The bytes that are here stay; the note stays open, and is tried again."""
    key = TEN.chunk(0, 0)
    pair.damage(key)
    pair.east.put(key, b"worse")
    assert "east's copy has 5 bytes" in str(pair.outcome())
    pair.east.delete(key)
    assert "east does not have it" in str(pair.outcome())
    pair.repair.turn()
    assert pair.west.objects[key] == b"bad"
    assert [event for event, _ in pair.said] == ["repair.waits", "repair.waits"]
    assert list(pair.repair.waits()) == [note.place for note in open_notes(pair.west)]
    pair.east.put(key, b"a" * 100)
    assert pair.outcome() == REPAIRED


def test_I19_why_a_runs_damage_is_not_repaired_is_told_in_one_line(pair: Pair) -> None:
    """However many of its objects wait; nothing is told once they are whole."""
    keys = (TEN.chunk(0, 0), TEN.chunk(0, 1))
    for key in keys:
        pair.damage(key)
    whole = {key: pair.east.objects.pop(key) for key in keys}
    pair.repair.turn()
    told = pair.repair.troubles()
    assert list(told) == ["gpt"]
    assert told["gpt"].startswith("2 damaged objects wait; the first: ")
    assert "east does not have it" in told["gpt"]
    pair.east.objects.update(whole)
    pair.repair.turn()
    assert pair.repair.troubles() == {}


def test_a_manifest_is_repaired_by_a_signed_one_of_the_same_checkpoint_only(pair: Pair) -> None:
    """A peer whose own manifest is unreadable has nothing to give."""
    pair.damage(TEN.manifest)
    pair.east.put(TEN.manifest, b"worse")
    assert "east has no readable manifest" in str(pair.outcome())
    assert pair.west.objects[TEN.manifest] == b"bad"


def test_a_note_about_a_sound_object_or_one_that_is_gone_changes_nothing(pair: Pair) -> None:
    """A note is a hint: the bytes decide, and the signed manifest says what they must be."""
    leave_note(pair.west, Damage(TEN.chunk(0, 0), "is bad", 7))
    assert pair.outcome() == SOUND
    leave_note(pair.west, Damage(TEN.chunk(0, 9), "is no object of it", 7))
    assert pair.outcome() == GONE
    leave_note(pair.west, Damage(CheckpointId("gpt", 1, 1, 90).chunk(0, 0), "is gone", 7))
    assert pair.outcome() == GONE
    assert TEN.chunk(0, 9) not in pair.west.objects


def test_a_note_that_cannot_be_read_stays_for_a_person_and_holds_up_no_other(pair: Pair) -> None:
    """Junk under the notes' prefix is named, and the next note is worked off."""
    junk = f"{paths.damage_of(TEN.chunk(0, 0))}000000000000001"
    pair.west.put(junk, b"\xff{")
    pair.damage(TEN.chunk(0, 1))
    pair.repair.turn()
    assert {event for event, _ in pair.said} == {"repair.waits", "checkpoint.repaired"}
    assert list(pair.repair.waits()) == [junk]
    assert pair.west.objects[TEN.chunk(0, 1)] == b"b" * 50
