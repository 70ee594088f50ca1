"""How a rank's session handles files for which there was no room."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from farside import _spool
from farside._background import Background
from farside._session import Grant, Session, identity
from tests.waiting import wait_until

SAFE_S = 10.0


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Of one rank, granted."""
    who = identity("gpt", tmp_path, "l1", 0, 1)
    assert who is not None
    found = Session(who)
    found.grant = Grant(1, 1, 0, "exact", exact=True, folder=None)
    return found


def test_I14_a_rank_state_that_found_no_room_is_written_once_there_is_some(session: Session) -> None:
    """Its checkpoint was saved and told of: the agent waits for the state, and all later checkpoints with it."""
    folder = session.checkpoint_folder(7)
    assert folder is not None
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way", encoding="utf-8")  # as a full disk: nothing can be put there
    session.rank_state(7, b"state")
    assert session.background.flush(SAFE_S)
    folder.unlink()
    folder.mkdir()  # the save found room
    session.intent(7, {})
    session.beat(8, "train", 60.0)
    wait_until((folder / _spool.state_descriptor_name(0)).exists, SAFE_S, "the state")
    assert (folder / _spool.state_name(0)).read_bytes() == b"state"
    session.close()


def test_the_state_of_a_checkpoint_that_was_given_up_is_not_written_later(session: Session) -> None:
    """Nothing is left of it in the spool."""
    folder = session.checkpoint_folder(7)
    assert folder is not None
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way", encoding="utf-8")
    session.rank_state(7, b"state")
    assert session.background.flush(SAFE_S)
    folder.unlink()
    session.skipped(7, "no room")
    session.beat(8, "train", 60.0)
    assert session.background.flush(SAFE_S)
    assert not folder.exists()
    session.close()


def test_a_disk_that_stays_full_is_told_once_a_minute_and_not_at_every_step(caplog: pytest.LogCaptureFixture) -> None:
    """The log may lie on the same disk."""
    now = [0.0]
    background = Background(lambda: now[0])

    def fails() -> None:
        raise OSError(28, "no room")

    with caplog.at_level(logging.WARNING, "farside"):
        for second in range(130):
            now[0] = float(second)
            background.submit(fails)
            assert background.flush(SAFE_S)
    told = [one.getMessage() for one in caplog.records]
    assert told == [f"farside could not write to its spool ({count} times more before)" for count in (0, 59, 59)]
