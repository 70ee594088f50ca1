"""A guard's conclusions from the agent's files, on a clock that the test turns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from farside import _spool
from farside._validity import FINISH_S, Watch, Word, ending, grace_s, next_look_s

WORD = Word("l1", 1, 1, hard=True, valid_until_s=103.0, margin_s=0.5, reason="west holds epoch 2")


def test_a_validity_that_was_not_renewed_ends_the_launch_at_its_end_and_not_before() -> None:
    """Also the time of the next look is that end, so that the kill is not a whole poll late."""
    assert ending(WORD, 102.999) is None
    assert "was not renewed" in str(ending(WORD, 103.0))
    assert next_look_s(WORD, 102.96, 0.1) == pytest.approx(0.04)
    assert next_look_s(WORD, 100.0, 0.1) == 0.1


def test_I16_without_a_grant_and_under_soft_nothing_is_killed() -> None:
    """A standby waits for hours, and a fault of a dependency stops no trainer."""
    assert ending(None, 1e9) is None
    assert ending(dataclasses.replace(WORD, hard=False), 1e9) is None


def test_a_superseded_launch_ends_at_once_though_its_validity_has_time_left() -> None:
    """Another region has the run: there is nothing to wait for."""
    assert ending(dataclasses.replace(WORD, superseded_at_s=101.0), 101.0) == "superseded: west holds epoch 2"


def test_a_trainer_that_holds_for_a_planned_move_leaves_by_itself_or_is_killed_after_a_while() -> None:
    """It computes nothing, and a move that is called off must not cost the job."""
    held = dataclasses.replace(WORD, held=True)
    assert ending(held, 1e9) is None
    gone = dataclasses.replace(held, superseded_at_s=110.0)
    assert ending(gone, 110.0 + FINISH_S - 1) is None
    assert ending(gone, 110.0 + FINISH_S) is not None


@pytest.mark.parametrize(("asked", "margin", "found"), [(None, 5.0, 2.5), (1.0, 5.0, 1.0), (60.0, 5.0, 4.0)])
def test_the_grace_always_fits_into_the_margin(asked: float | None, margin: float, found: float) -> None:
    """However long a grace is asked for: behind the margin another region may begin."""
    assert grace_s(asked, margin) == found


class _Files:
    """A run's launches folder, with a test in the agent's and the trainer's place."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.watch = folder, Watch(folder, "guard-1")

    def write(self, launch: str, name: str, body: dict[str, Any]) -> None:
        (self.folder / launch).mkdir(exist_ok=True)
        _spool.write_json_atomically(self.folder / launch / name, {"launch": launch, "epoch": 1, **body}, durable=False)

    def asks(self, launch: str, guard: str = "guard-1") -> None:
        self.write(launch, "request.json", {"guard": guard})

    def grant(self, launch: str, attempt: int = 1, **more: object) -> None:
        times = {"valid_s": 3.0, "valid_until_s": 103.0, "margin_s": 0.5}
        self.write(launch, "grant.json", {"attempt": attempt, "fencing": "hard", **times, **more})

    def renew(self, launch: str, until_s: float, attempt: int = 1, **more: object) -> None:
        body = {"attempt": attempt, "state": "granted", "valid_s": 3.0, "valid_until_s": until_s, "held": False}
        self.write(launch, "validity.json", {**body, **more})


@pytest.fixture
def files(tmp_path: Path) -> _Files:
    """An empty folder."""
    return _Files(tmp_path)


def test_a_grant_counts_by_itself_and_each_renewal_lengthens_it(files: _Files) -> None:
    """So an agent that dies right after its first word has still said when it ends."""
    assert files.watch.look(100.0) is None
    files.asks("l1")
    assert files.watch.look(100.0) is None
    files.grant("l1")
    word = files.watch.look(100.1)
    assert word is not None
    assert (word.hard, word.valid_until_s, word.margin_s) == (True, 103.0, 0.5)
    files.renew("l1", 105.0)
    assert (files.watch.look(102.1) or WORD).valid_until_s == 105.0


def test_another_guards_launch_and_a_soft_one_are_left_alone(files: _Files) -> None:
    """Two guards of one node each see their own."""
    files.asks("l0", "guard-2")
    files.grant("l0")
    assert files.watch.look(100.0) is None
    files.asks("l1")
    files.grant("l1", fencing="soft")
    assert ending(files.watch.look(100.0), 1e9) is None


def test_a_restarted_launch_replaces_the_one_before_it(files: _Files) -> None:
    """Torchrun restarts its ranks under a new launch: while that one waits, the old one's end kills nobody."""
    files.asks("l1")
    files.grant("l1")
    assert files.watch.look(100.0) is not None
    files.asks("l1-1")
    assert files.watch.look(200.0) is None
    files.grant("l1-1", attempt=2, valid_until_s=203.0)
    assert (files.watch.look(200.0) or WORD).attempt == 2


def test_a_validity_of_another_boots_clock_lasts_no_longer_than_it_was_given_for(files: _Files) -> None:
    """CLOCK_BOOTTIME begins anew: a name that is used again must not look valid for days."""
    files.asks("l1")
    files.grant("l1", valid_until_s=900_000.0)
    assert (files.watch.look(10.0) or WORD).valid_until_s == 13.0
    assert (files.watch.look(12.0) or WORD).valid_until_s == 13.0, "counted from when it was seen first"


def test_what_is_unreadable_or_gone_or_another_attempts_leaves_the_last_word_standing(files: _Files) -> None:
    """And that word ends by itself."""
    files.asks("l1")
    files.grant("l1")
    files.renew("l1", 104.0)
    files.watch.look(101.5)
    _spool.validity_path(files.folder / "l1").write_bytes(b"{")
    assert (files.watch.look(102.0) or WORD).valid_until_s == 104.0
    _spool.validity_path(files.folder / "l1").unlink()
    assert (files.watch.look(102.0) or WORD).valid_until_s == 104.0
    files.renew("l1", 109.0, attempt=7)
    assert (files.watch.look(102.0) or WORD).valid_until_s == 103.0, "the grant's own"


def test_superseded_is_remembered_from_when_it_was_seen(files: _Files) -> None:
    """The time to leave counts from then."""
    files.asks("l1")
    files.grant("l1")
    files.renew("l1", 100.0, state="superseded", held=True, reason="west holds epoch 2")
    assert (files.watch.look(101.0) or WORD).superseded_at_s == 101.0
    assert (files.watch.look(105.0) or WORD).superseded_at_s == 101.0
