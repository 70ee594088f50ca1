"""Reads a producer's log: its segments in order, and tells a torn frame from one that is still being written."""

from __future__ import annotations

import enum
import fcntl
import itertools
import os
import re
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Final

from farside._files import open_regular, write_atomically
from farside._frames import (
    HEADER_BYTES,
    LENGTH,
    MAGIC,
    PAYLOAD_BYTES_MAX,
    Frame,
    Record,
    Verdict,
    decode_frame,
    next_whole_frame,
)

if TYPE_CHECKING:
    from pathlib import Path

FIRST_SEGMENT: Final = "log"
_LATER_SEGMENT = re.compile(r"log-(\d{16})\Z")


class Ending(enum.Enum):
    """Why a scan stopped."""

    COMPLETE = "complete"  # every byte up to the log's end was a whole frame
    MORE = "more"  # the asked number of records is reached; go on from next_offset
    UNFINISHED = "unfinished"  # the writer lives and is in the middle of a frame: come again
    TORN = "torn"  # damaged, or cut off by the writer's death: set it aside, go on from resume_offset


@dataclass(frozen=True, slots=True)
class Scan:
    """The records from one offset of a log, and how it ended.

    Attributes:
        entries: (offset, record) of each whole frame, in order.
        next_offset: where the first byte that was not returned as a record lies; ask from here next time.
        ending: why the scan stopped.
        reason: what is wrong at ``next_offset``, for UNFINISHED and TORN.
        resume_offset: for TORN, the first byte after the damage; else equal to ``next_offset``.
        writer_alive: whether the log's writer held its lock when the scan began.
    """

    entries: tuple[tuple[int, Record], ...]
    next_offset: int
    ending: Ending
    reason: str
    resume_offset: int
    writer_alive: bool


# --- one segment ---------------------------------------------------------------------------------------


def scan(log: Path, offset: int = 0, records_max: int = 10_000, *, final: bool = False) -> Scan:
    """Read the whole records of one segment from ``offset`` on. Changes nothing.

    Args:
        log: the file; a missing one reads as an empty one whose writer is gone.
        offset: a value that an earlier scan gave as ``next_offset`` or ``resume_offset``; 0 at first.
        records_max: stop with ``Ending.MORE`` after so many.
        final: a later segment was seen before this call: nothing will be appended to this one, whoever lives.
    """
    entries: list[tuple[int, Record]] = []
    try:
        stream = open_regular(log)
    except FileNotFoundError:
        return Scan((), offset, Ending.COMPLETE, "", offset, writer_alive=False)
    with stream:
        alive = not final and _is_locked(stream)  # before the first byte is read: see the docstring of _spool
        size = os.fstat(stream.fileno()).st_size
        stream.seek(offset)
        while True:
            frame = _read_frame(stream, size, offset)
            if frame.verdict is Verdict.WHOLE and frame.end is not None and frame.record is not None:
                entries.append((offset, frame.record))
                offset = frame.end
                if len(entries) < records_max:
                    continue
                return Scan(tuple(entries), offset, Ending.MORE, "", offset, alive)
            if frame.verdict is Verdict.END:
                return Scan(tuple(entries), offset, Ending.COMPLETE, "", offset, alive)
            ending, resume = _judge(stream, frame, offset, writer_alive=alive)
            return Scan(tuple(entries), offset, ending, frame.reason, resume, alive)


def _read_frame(stream: IO[bytes], size: int, offset: int) -> Frame:
    """Decode the frame at the stream's position; bytes past ``size`` do not count."""
    data = stream.read(min(HEADER_BYTES, max(0, size - offset)))
    if len(data) == HEADER_BYTES:
        _, length = LENGTH.unpack_from(data)
        data += stream.read(min(length, PAYLOAD_BYTES_MAX, size - offset - HEADER_BYTES))
    frame = decode_frame(data)
    end = None if frame.end is None else frame.end + offset
    return Frame(frame.verdict, end, frame.record, frame.reason)


def _judge(stream: IO[bytes], frame: Frame, offset: int, *, writer_alive: bool) -> tuple[Ending, int]:
    """Torn or not finished yet, and where to go on."""
    if frame.end is not None:
        return Ending.TORN, _within(stream, offset, frame.end)
    if frame.verdict is Verdict.SHORT and writer_alive:
        return Ending.UNFINISHED, offset
    stream.seek(offset)
    rest = stream.read()
    found = next_whole_frame(rest, 0)
    if found is not None:
        return Ending.TORN, offset + found
    if writer_alive:  # its next whole frame will show where the damage ends; the log's end now might be inside it
        return Ending.UNFINISHED, offset
    return Ending.TORN, offset + len(rest)


def _within(stream: IO[bytes], offset: int, end: int) -> int:
    """Where to go on behind a payload that does not check: at ``end``, or at a whole frame that lies before it.

    The header is good, so the frame was so long when it was written. Where bytes are missing now, the frames that
    followed have moved up into its place.
    """
    stream.seek(offset)
    place = stream.read(end - offset)
    if place.find(MAGIC, 1) < 0 and not place.endswith((MAGIC[:1], MAGIC[:2])):
        return end
    found = next_whole_frame(place + stream.read(), 0, end - offset)
    return end if found is None else offset + found


# --- a producer's log, which is its segments one after another -----------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a log; ``base`` is the offset in the log of its first byte."""

    base: int
    path: Path


def segment_name(base: int) -> str:
    """The file that begins at this offset of a log."""
    return FIRST_SEGMENT if base == 0 else f"{FIRST_SEGMENT}-{base:016d}"


def segments(producer: Path) -> tuple[Segment, ...]:
    """The segments that are there, oldest first; those that were published are cleared away."""
    try:
        names = os.listdir(producer)  # noqa: PTH208 - only the names are wanted
    except (FileNotFoundError, NotADirectoryError):
        return ()
    found = []
    for name in names:
        later = _LATER_SEGMENT.match(name)
        if later is not None or name == FIRST_SEGMENT:
            found.append(Segment(int(later[1]) if later else 0, producer / name))
    return tuple(sorted(found, key=lambda one: one.base))


def end_of(producer: Path) -> int:
    """The offset at which a log ends now; 0 where there is none."""
    listed = segments(producer)
    try:
        return listed[-1].base + listed[-1].path.stat().st_size if listed else 0
    except FileNotFoundError:
        return listed[-1].base


def scan_producer(producer: Path, offset: int = 0, records_max: int = 10_000) -> Scan:
    """As ``scan``, over all segments of a producer; offsets are those of the log.

    An offset before the oldest segment reads from there: what lay before it was published and cleared away.
    """
    entries: list[tuple[int, Record]] = []
    # Listed before a byte is read: a segment that another one follows was complete by then.
    listed = segments(producer)
    alive = False
    for at, segment in enumerate(listed):
        following = listed[at + 1].base if at + 1 < len(listed) else None
        if following is not None and following <= offset:
            continue
        offset = max(offset, segment.base)
        found = scan(segment.path, offset - segment.base, records_max - len(entries), final=following is not None)
        entries += [(start + segment.base, record) for start, record in found.entries]
        alive = found.writer_alive
        there = _in_log(found, segment.base, following, tuple(entries))
        if there.ending is not Ending.COMPLETE or following is None:
            return there
        offset = following
    return Scan(tuple(entries), offset, Ending.COMPLETE, "", offset, alive)


def _in_log(found: Scan, base: int, following: int | None, entries: tuple[tuple[int, Record], ...]) -> Scan:
    """One segment's scan in the log's offsets; one that ends before the next begins has lost its end."""
    at, resume = found.next_offset + base, found.resume_offset + base
    there = replace(found, entries=entries, next_offset=at, resume_offset=resume)
    if following is None or found.ending is Ending.MORE:
        return there
    if found.ending is Ending.COMPLETE and at < following:
        return replace(there, ending=Ending.TORN, reason="the segment stops early", resume_offset=following)
    return replace(there, resume_offset=min(resume, following))


def is_writer_alive(log: Path) -> bool:
    """Whether a process holds the lock of this log's newest segment; ``log`` is its first one, there or not."""
    while True:
        listed = segments(log.parent) if log.name == FIRST_SEGMENT else (Segment(0, log),)
        if not listed:
            return False
        try:
            with open_regular(listed[-1].path) as stream:
                if _is_locked(stream):
                    return True
        except FileNotFoundError:
            if log.name != FIRST_SEGMENT:
                return False
        if log.name != FIRST_SEGMENT or segments(log.parent)[-1:] == listed[-1:]:
            return False  # else its writer has gone on to another segment meanwhile


def _is_locked(stream: IO[bytes]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(stream, fcntl.LOCK_UN)
    return False


def set_aside_torn(log: Path, found: Scan) -> Path:
    """Keep the damaged bytes of a TORN scan in ``torn-<offset>`` beside the log, and return that file.

    The log itself is left as it is (its writer may live, and evidence is not edited): go on from
    ``found.resume_offset``. Doing it twice gives the same file.

    Args:
        log: the log's first segment, there or not.
        found: what was found, in the log's offsets.
    """
    if found.ending is not Ending.TORN:
        raise ValueError(f"nothing is torn in {log} at {found.next_offset}: {found.ending.value}")
    aside = log.parent / f"torn-{found.next_offset:012d}"
    held = [one for one in segments(log.parent) if one.base <= found.next_offset]
    damaged = b""
    if held:
        with open_regular(held[-1].path) as stream:
            stream.seek(found.next_offset - held[-1].base)
            damaged = stream.read(found.resume_offset - found.next_offset)
    write_atomically(aside, damaged)
    return aside


def clear_published(producer: Path, offset: int) -> int:
    """Remove the segments that lie wholly before ``offset`` and are followed by another; the bytes freed.

    The log's offsets stay what they are. Only the agent does this, and only with what is published.
    """
    listed = segments(producer)
    freed = 0
    for segment, following in itertools.pairwise(listed):
        if following.base > offset:
            break
        freed += segment.path.stat().st_size
        segment.path.unlink()
    return freed
