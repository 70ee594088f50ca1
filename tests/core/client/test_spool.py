"""The spool's format: what is written is read back, what is damaged is never half read."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farside import _spool
from farside._spool import Ending, SpoolError, SpoolWriter, Verdict

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_records = st.dictionaries(st.text(max_size=8), _values, max_size=4)


def _write(log: Path, data: bytes) -> Path:
    log.write_bytes(data)
    return log


def _append(writer: SpoolWriter, lane: str = "metrics", step: int = 1, **body: object) -> int:
    return writer.append(lane, "metric", epoch=1, attempt=1, step=step, body=body)


@given(st.lists(_records, max_size=5))
def test_frames_put_after_one_another_are_read_back(records: list[dict[str, Any]]) -> None:
    """Encoding is undone by decoding, for any JSON object and any sequence of them."""
    data, offset, read = b"".join(_spool.encode_frame(record) for record in records), 0, []
    while (frame := _spool.decode_frame(data, offset)).verdict is Verdict.WHOLE:
        read.append(frame.record)
        assert frame.end is not None
        offset = frame.end
    assert frame.verdict is Verdict.END
    assert read == records


@given(_records)
def test_a_frame_cut_at_any_byte_is_short(record: dict[str, Any]) -> None:
    """No proper beginning of a frame decodes, and none is called damaged: it may still be growing."""
    data = _spool.encode_frame(record)
    for cut in range(1, len(data)):
        assert _spool.decode_frame(data[:cut]).verdict is Verdict.SHORT


@given(_records, st.integers(1, 255))
def test_a_frame_flipped_at_any_byte_is_damaged(record: dict[str, Any], mask: int) -> None:
    """A change of any single byte is noticed, also in the length, and also when another frame follows."""
    frame, after = _spool.encode_frame(record), _spool.encode_frame({"next": 1})
    for at in range(len(frame)):
        flipped = frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :] + after
        assert _spool.decode_frame(flipped).verdict is Verdict.DAMAGED
        assert _spool.next_whole_frame(flipped, 0) == len(frame)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    """Whatever is on the disk, decoding answers with a verdict."""
    assert isinstance(_spool.decode_frame(data).verdict, Verdict)


def test_a_log_cut_at_any_byte_gives_its_whole_records_and_a_torn_tail(tmp_path: Path) -> None:
    """With the writer gone, a cut inside a frame is torn there; every record before it is read."""
    frames = [_spool.encode_frame({"seq": number}) for number in range(3)]
    whole, starts = b"".join(frames), [0, len(frames[0]), len(frames[0]) + len(frames[1])]
    for cut in range(len(whole) + 1):
        found = _spool.scan(_write(tmp_path / "log", whole[:cut]))
        complete = [start for start in starts if cut >= start + len(frames[0])]
        assert [offset for offset, _ in found.entries] == complete
        on_boundary = cut in {*starts, len(whole)}
        assert found.ending is (Ending.COMPLETE if on_boundary else Ending.TORN)
        assert found.resume_offset == cut


def test_a_log_flipped_at_any_byte_loses_that_record_only(tmp_path: Path) -> None:
    """Past the damage the reader goes on with the next whole record: a seq is missing, which shows."""
    frames = [_spool.encode_frame({"seq": number}) for number in range(3)]
    whole = b"".join(frames)
    for at in range(len(frames[0]), len(frames[0]) + len(frames[1])):
        log = _write(tmp_path / "log", whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        first = _spool.scan(log)
        assert (first.ending, [record["seq"] for _, record in first.entries]) == (Ending.TORN, [0])
        rest = _spool.scan(log, first.resume_offset)
        assert (rest.ending, [record["seq"] for _, record in rest.entries]) == (Ending.COMPLETE, [2])


def test_a_torn_tail_is_kept_aside_and_the_log_is_left_alone(tmp_path: Path) -> None:
    """The damaged bytes stay readable under a name that carries their offset; doing it again changes nothing."""
    frame = _spool.encode_frame({"seq": 1})
    log = _write(tmp_path / "log", frame + frame[:9])
    found = _spool.scan(log)
    kept = _spool.set_aside_torn(log, found)
    assert kept == tmp_path / f"torn-{len(frame):012d}"
    assert kept.read_bytes() == frame[:9]
    assert _spool.set_aside_torn(log, _spool.scan(log)) == kept
    assert log.read_bytes() == frame + frame[:9]
    assert found.reason


def test_nothing_is_set_aside_from_a_sound_log(tmp_path: Path) -> None:
    """Setting aside needs a scan that found something torn."""
    log = _write(tmp_path / "log", _spool.encode_frame({"seq": 1}))
    with pytest.raises(ValueError, match="nothing is torn"):
        _spool.set_aside_torn(log, _spool.scan(log))


def test_a_short_frame_is_not_finished_yet_while_its_writer_lives(tmp_path: Path) -> None:
    """The lock tells a slow writer from a dead one."""
    frame = _spool.encode_frame({"seq": 1})
    log = _write(tmp_path / "log", frame[:-1])
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = _spool.scan(log)
        assert (found.ending, found.next_offset, found.writer_alive) == (Ending.UNFINISHED, 0, True)
        held.write(frame[-1:])
        held.flush()
        assert _spool.scan(log).ending is Ending.COMPLETE
    assert not _spool.is_writer_alive(log)


def test_damage_under_a_living_writer_waits_until_its_extent_is_known(tmp_path: Path) -> None:
    """A damaged header hides where its frame ends; the log's end now might be in the middle of the next one."""
    bad, good = bytearray(_spool.encode_frame({"seq": 1})), _spool.encode_frame({"seq": 2})
    bad[0] ^= 1
    log = _write(tmp_path / "log", bytes(bad) + good[:5])
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert _spool.scan(log).ending is Ending.UNFINISHED
        held.write(good[5:])
        held.flush()
        found = _spool.scan(log)
        assert (found.ending, found.resume_offset) == (Ending.TORN, len(bad))


def test_a_log_is_read_in_pieces_without_gap_or_repetition(tmp_path: Path) -> None:
    """A bounded scan says where to go on."""
    log = _write(tmp_path / "log", b"".join(_spool.encode_frame({"seq": number}) for number in range(7)))
    offset, seen, ending = 0, [], Ending.MORE
    while ending is Ending.MORE:
        found = _spool.scan(log, offset, records_max=3)
        seen += [record["seq"] for _, record in found.entries]
        offset, ending = found.next_offset, found.ending
    assert seen == list(range(7))


def test_a_missing_log_reads_as_empty(tmp_path: Path) -> None:
    """The agent may look before the writer has made its file."""
    assert _spool.scan(tmp_path / "none").entries == ()


def test_each_lane_counts_for_itself_and_carries_its_identity(tmp_path: Path) -> None:
    """Numbers start at 1 and have no holes per lane; every record says under which epoch and attempt it was made."""
    writer = SpoolWriter(tmp_path / "producer", "gpt")
    assert [_append(writer), _append(writer), _append(writer, "checkpoints"), _append(writer)] == [1, 2, 1, 3]
    assert writer.last_seq == {"metrics": 3, "checkpoints": 1}
    assert _spool.scan(writer.path).writer_alive
    writer.close()
    found = _spool.scan(writer.path)
    assert not found.writer_alive
    assert {"run", "epoch", "attempt", "step", "time_ms", "kind", "body"} <= found.entries[0][1].keys()


def test_a_metric_is_on_disk_soon_and_a_checkpoint_record_at_once(tmp_path: Path) -> None:
    """The group sync catches up by itself; the durable lanes do not wait for it."""
    writer = SpoolWriter(tmp_path / "producer", "gpt", group_sync_s=0.05)
    _append(writer)
    deadline = time.monotonic() + 10
    while writer.accepted_size < writer.path.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.005)
    assert writer.accepted_size == writer.path.stat().st_size
    _append(writer, "data-versions")
    assert writer.accepted_size == writer.path.stat().st_size
    writer.close()


def test_a_producers_log_is_never_continued(tmp_path: Path) -> None:
    """Two processes under one incarnation would mix their numbers."""
    SpoolWriter(tmp_path / "producer", "gpt").close()
    with pytest.raises(FileExistsError):
        SpoolWriter(tmp_path / "producer", "gpt")


def test_a_record_that_does_not_fit_leaves_no_trace_and_no_hole(tmp_path: Path) -> None:
    """On a full disk (here: the limit on file size) the partial frame is cut off and its number is used again."""
    script = """
import resource, signal, sys
from pathlib import Path
from farside._spool import SpoolError, SpoolWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = SpoolWriter(Path(sys.argv[1]), "gpt")
def append(text):
    return writer.append("metrics", "metric", epoch=1, attempt=1, step=1, body={"text": text})
append("a")
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
try:
    append("b" * 1000)
except SpoolError:
    print("refused", append("c"))
"""
    done = _python(script, str(tmp_path / "producer"))
    assert done.stdout.split() == ["refused", "2"]
    found = _spool.scan(tmp_path / "producer" / "log")
    assert [record["body"]["text"] for _, record in found.entries] == ["a", "c"]
    assert found.ending is Ending.COMPLETE


def test_a_closed_log_refuses_records(tmp_path: Path) -> None:
    """Nothing is silently dropped after the end."""
    writer = SpoolWriter(tmp_path / "producer", "gpt")
    writer.close()
    with pytest.raises(SpoolError):
        _append(writer)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A data loader's worker that outlives the trainer must not make a dead writer look alive."""
    writer = SpoolWriter(tmp_path / "producer", "gpt")
    (ready, tell_ready), (go, tell_go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell_ready, b"x")
        os.read(go, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        writer.close()
        assert not _spool.is_writer_alive(writer.path)
    finally:
        os.write(tell_go, b"x")
        os.waitpid(child, 0)
        for descriptor in (ready, tell_ready, go, tell_go):
            os.close(descriptor)


_KILLED_WRITER = """
import sys
from pathlib import Path
from farside._spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), "gpt")
number = 0
while True:
    number += 1
    durable = number % 5 == 0
    lane = "checkpoints" if durable else "metrics"
    seq = writer.append(lane, "x", epoch=1, attempt=1, step=number, body={"pad": "p" * (number * 37 % 900)})
    if durable:  # a durable record also makes all before it durable
        print(lane, seq, number, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    """Ten writers, SIGKILLed at random moments: all that append had accepted is there, without a hole."""
    moments = random.Random(20)
    for turn in range(10):
        folder = tmp_path / f"producer-{turn}"
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED_WRITER, str(folder)], stdout=subprocess.PIPE, text=True, env=_environment()
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            until = time.monotonic() + moments.uniform(0.0, 0.03)
            while time.monotonic() < until:
                lines.append(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        reported = [line.split() for line in lines if line.endswith("\n")]
        found = _spool.scan(folder / "log")
        assert not found.writer_alive
        steps = [record["step"] for _, record in found.entries]
        assert steps == list(range(1, len(steps) + 1))
        assert steps[-1] >= int(reported[-1][2])
        for lane in ("metrics", "checkpoints"):
            numbers = [record["seq"] for _, record in found.entries if record["lane"] == lane]
            assert numbers == list(range(1, len(numbers) + 1))


def test_a_json_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Old or new, and no leftover; what is not a JSON object reads as absent."""
    path = tmp_path / "grant.json"
    _spool.write_json_atomically(path, {"step": 1})
    _spool.write_json_atomically(path, {"step": 2}, durable=False)
    assert _spool.read_json(path) == {"step": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["grant.json"]
    path.write_text(json.dumps([1]))
    assert _spool.read_json(path) is None
    path.write_bytes(b'{"step": ')
    assert _spool.read_json(path) is None
    assert _spool.read_json(tmp_path / "missing") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a\n", "a" * 129, "\u00e9"])
def test_a_name_that_could_leave_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    """Run, launch and incarnation become parts of paths and of object keys."""
    with pytest.raises(ValueError, match="is not usable"):
        _spool.launch_folder(tmp_path, "gpt", name)


def test_paths_sort_by_time(tmp_path: Path) -> None:
    """Numbers in names are padded, so a listing is in order."""
    names = [
        _spool.checkpoint_folder(tmp_path, "gpt", epoch, attempt, step)
        for epoch, attempt, step in [(1, 1, 9), (1, 1, 10), (1, 2, 5), (2, 1, 1)]
    ]
    assert sorted(names) == names


def test_the_spool_needs_neither_torch_nor_numpy() -> None:
    """The agent imports it where torch is not installed."""
    done = _python("import sys, farside, farside._spool; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert done.stdout.split() == ["False", "False"]


def _environment() -> dict[str, str]:
    client = Path(_spool.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(client)}


def _python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, env=_environment()
    )
