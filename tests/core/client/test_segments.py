"""The log in segments: it reads as one, whatever of it is published, full, torn or cleared away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farside import _spool
from farside._spool import Ending, SpoolWriter
from services.adapters.spool import UNREADABLE, NodeSpool
from tests.waiting import wait_until

RUN, PRODUCER = "gpt", "r00000-0123456789abcdef"


class _Rank:
    """A rank's writer with small segments, and its node's agent."""

    def __init__(self, folder: Path) -> None:
        self.node_dir = folder
        self.folder = _spool.producer_folder(folder, RUN, PRODUCER)
        self.writer = SpoolWriter(self.folder, RUN, group_sync_s=0.01, segment_bytes=1_000)
        self.spool = NodeSpool(folder)
        self.step = 0

    def append(self, count: int, lane: str = "metrics") -> None:
        for _ in range(count):
            self.step += 1
            self.writer.append(lane, "metric", epoch=1, attempt=1, step=self.step, body={"values": {"loss": 0.5}})

    def fill(self, segments: int) -> None:
        """Append until so many segments are there."""
        deadline = time.monotonic() + 20
        while len(_spool.segments(self.folder)) < segments and time.monotonic() < deadline:
            self.append(1)
            wait_until(lambda: self.writer.accepted_size == _spool.end_of(self.folder), 10, "the sync")

    def steps(self, offset: int = 0) -> list[int]:
        return [one.step for one in self.spool.read(RUN, PRODUCER, offset, 10_000)]


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[_Rank]:
    """One rank on a node."""
    made = _Rank(tmp_path)
    yield made
    made.writer.close()


def test_I14_a_log_in_segments_reads_as_one_from_any_offset(rank: _Rank) -> None:
    """Every record once and in order, its offset naming the same place however many segments lie before it."""
    rank.fill(4)
    records = rank.spool.read(RUN, PRODUCER, 0, 10_000)
    assert [one.seq for one in records] == list(range(1, rank.step + 1))
    size = sum(one.path.stat().st_size for one in _spool.segments(rank.folder))
    assert records[-1].end == rank.spool.end(RUN, PRODUCER) == size
    for at in range(len(records)):
        (following,) = rank.spool.read(RUN, PRODUCER, records[at - 1].end if at else 0, most=1)
        assert following == records[at]


def test_a_record_is_accepted_when_append_returns_also_at_the_turn_of_a_segment(rank: _Rank) -> None:
    """Of the durable lanes: whatever the syncing thread is doing, nothing appended is left out of what is on disk."""
    for _ in range(200):
        rank.append(1, "checkpoints")
        assert rank.writer.accepted_size >= rank.spool.read(RUN, PRODUCER, 0, 10_000)[-1].end
    wait_until(lambda: len(_spool.segments(rank.folder)) > 1, 10, "a second segment")


def test_what_is_published_goes_by_whole_segments_and_an_older_position_reads_from_the_oldest(rank: _Rank) -> None:
    """The bound on the disk is kept by clearing away; a position that was lost costs repetition, never a record."""
    rank.fill(4)
    listed = _spool.segments(rank.folder)
    middle = rank.spool.read(RUN, PRODUCER, listed[2].base, most=1)[0]
    rank.spool.advance(RUN, PRODUCER, middle.end)
    assert _spool.segments(rank.folder) == listed[2:]
    assert rank.spool.producers(RUN) == (PRODUCER,)
    assert rank.steps(0) == list(range(middle.step, rank.step + 1))
    assert NodeSpool(rank.node_dir).position(RUN, PRODUCER) == middle.end


def test_the_writer_is_known_to_live_through_every_change_of_segment(rank: _Rank) -> None:
    """The newest segment is never seen without its lock; and a producer whose first segment is gone is still one."""
    log = _spool.log_path(rank.folder)
    for count in range(2, 8):
        rank.append(1)
        while len(_spool.segments(rank.folder)) < count:
            rank.append(1)
            assert _spool.is_writer_alive(log)
    rank.spool.advance(RUN, PRODUCER, rank.spool.end(RUN, PRODUCER))
    assert not log.exists()
    assert _spool.is_writer_alive(log)
    rank.writer.close()
    assert not _spool.is_writer_alive(log)


def test_a_segment_that_lost_its_end_is_torn_there_and_the_next_one_is_read(rank: _Rank) -> None:
    """Nothing is appended to a segment that another one follows, so nobody waits for the rest."""
    rank.fill(3)
    rank.writer.close()
    first, second, *_ = _spool.segments(rank.folder)
    os.truncate(first.path, second.base - 5)
    found = _spool.scan_producer(rank.folder)
    assert (found.ending, found.resume_offset) == (Ending.TORN, second.base - 5)
    torn = found.next_offset
    os.truncate(first.path, torn)
    whole = _spool.scan_producer(rank.folder)
    assert (whole.ending, whole.next_offset, whole.resume_offset) == (Ending.TORN, torn, second.base)
    assert "stops early" in whole.reason
    expected = list(range(1, rank.step + 1))
    lost = expected.pop(len(whole.entries))
    assert rank.steps() == expected
    assert lost not in rank.steps()


def test_a_log_is_removed_once_its_writer_is_gone_and_all_of_it_is_published(rank: _Rank) -> None:
    """Not before, not while a record is left; the position goes with it, damaged bytes that were kept stay."""
    rank.append(3)
    end = rank.spool.read(RUN, PRODUCER, 0)[-1].end
    rank.spool.advance(RUN, PRODUCER, end)
    assert not rank.spool.retire(RUN, PRODUCER, end), "its writer lives"
    rank.append(1)
    rank.writer.close()
    assert not rank.spool.retire(RUN, PRODUCER, end), "a record is left"
    with _spool.segments(rank.folder)[-1].path.open("ab") as log:
        log.write(b"FS\x01 torn")
    assert len(rank.spool.read(RUN, PRODUCER, end)) == 1
    assert rank.spool.retire(RUN, PRODUCER, rank.spool.read(RUN, PRODUCER, end)[-1].end)
    assert rank.spool.producers(RUN) == ()
    assert rank.spool.position(RUN, PRODUCER) == 0
    assert [one.name.startswith("torn-") for one in rank.folder.iterdir()] == [True]


def test_the_log_of_a_writer_that_is_gone_is_kept_for_a_time_as_evidence(rank: _Rank) -> None:
    """Accepted records stay comparable with visible ones until they are old, or their clock is far off."""
    rank.append(2)
    rank.writer.close()
    end = rank.spool.end(RUN, PRODUCER)
    keeping = NodeSpool(rank.node_dir, keep_s=3_600.0)
    keeping.advance(RUN, PRODUCER, end)
    assert not keeping.retire(RUN, PRODUCER, end)
    assert len(keeping.read(RUN, PRODUCER, 0)) == 2
    long_ago = time.time() - 4_000
    os.utime(_spool.log_path(rank.folder), (long_ago, long_ago))
    assert keeping.retire(RUN, PRODUCER, end)


def test_bytes_that_are_missing_cost_their_own_record_and_no_other(tmp_path: Path) -> None:
    """A payload that lost bytes pulls the next frame up into its place: that one is found there."""
    frames = [_spool.encode_frame({"seq": number, "pad": "p" * 40}) for number in range(4)]
    whole = b"".join(frames)
    begin = len(frames[0])
    for missing in (1, 7, 30, 60):
        at = begin + _spool.HEADER_BYTES + 2
        log = tmp_path / "log"
        log.write_bytes(whole[:at] + whole[at + missing :])
        seen: list[Any] = []
        offset, ending = 0, Ending.TORN
        while ending is Ending.TORN:
            found = _spool.scan(log, offset)
            seen += [record["seq"] for _, record in found.entries]
            offset, ending = found.resume_offset, found.ending
        assert seen == ([0, 2, 3] if missing < len(frames[1]) - _spool.HEADER_BYTES - 2 else [0, 3]), missing


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"run": "other"}, "of another run"),
        ({"run": 5}, "run is no plain text"),
        ({"step": 2**70}, "step is no number"),
        ({"seq": -1}, "seq is no number"),
        ({"epoch": True}, "epoch is no number"),
        ({"body": []}, "body is no object"),
        ({"lane": "\ud800"}, "lane is no plain text"),
        ({"more": 1}, "missing or unknown: 'more'"),
    ],
)
def test_a_record_whose_fields_could_make_no_event_is_unreadable_and_says_why(
    rank: _Rank, change: dict[str, Any], why: str
) -> None:
    """It checks, so it was written so; it becomes a dead letter, not an error that ends the agent."""
    rank.append(1)
    (record,) = _spool.scan_producer(rank.folder).entries
    rank.writer.close()
    _spool.segments(rank.folder)[0].path.write_bytes(_spool.encode_frame(record[1] | change))
    (found,) = rank.spool.read(RUN, PRODUCER, 0)
    assert (found.lane, found.run) == (UNREADABLE, RUN)
    assert why in str(found.body["why"])


_KILLED = """
import sys
from pathlib import Path
from farside._spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), "gpt", group_sync_s=0.002, segment_bytes=600)
number = 0
while True:
    number += 1
    durable = number % 3 == 0
    lane = "checkpoints" if durable else "metrics"
    writer.append(lane, "x", epoch=1, attempt=1, step=number, body={"pad": "p" * (number * 37 % 400)})
    if durable:
        print(number, flush=True)
"""


def test_I14_a_writer_killed_between_segments_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    """SIGKILL at moments all over the making of segments: what append had accepted is there, without a hole."""
    client = str(Path(_spool.__file__).parents[1])
    segments = 0
    for turn in range(8):
        folder = tmp_path / f"producer-{turn}"
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": client},
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(10 + 7 * turn)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        reported = int([line for line in lines if line.endswith("\n")][-1])
        found = _spool.scan_producer(folder)
        steps = [record["step"] for _, record in found.entries]
        assert steps == list(range(1, len(steps) + 1))
        assert steps[-1] >= reported
        segments += len(_spool.segments(folder))
    assert segments > 16, "every run went through several segments"
