r"""The node directory: what the trainer and its node's agent share, on local disk.

Its format is defined here, once: the client (inside each training rank) and the agent import this
module, and nothing else knows the layout. It uses the standard library only, since the agent runs where
torch is not installed.

A rank appends records to a log of its own. A record is a frame::

    b"FS", version u8 = 1, length of the payload u32, CRC-32 of these 7 bytes u32,
    CRC-32 of the payload u32, the payload: one JSON object in UTF-8      (integers are little-endian)

The log is the concatenation of its *segments*: ``log``, then ``log-<offset of its first byte>``, each begun when
the one before it was full; a frame lies in one segment as a whole. A record is named by its offset in the log. Segments
that are published are cleared away from the front, by the agent; offsets stay what they are.

The header has a checksum of its own, so that a damaged length is never taken for a frame that is still
being written. JSON escapes control characters, so the bytes ``FS\x01`` occur at the start of a frame
only: past a damaged frame the reader finds the next whole one.

What a reader may conclude. The writer holds an exclusive ``flock`` on the newest segment while it lives (a segment
has its lock before its name), and no process ever continues another's log. So a frame that ends early is *not
finished yet* while the lock is held, and *torn* once the lock was seen free **before** the bytes were read (the
other order would call a frame torn that its writer finished in between), or once another segment follows. A frame
whose checksum is wrong is torn at once: bytes become visible in order, so a whole frame that does not check is
damage, whoever holds the lock.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from farside._files import fsync_folder, open_regular, read_json, write_atomically, write_json_atomically
from farside._frames import (
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    Frame,
    Record,
    Verdict,
    decode_frame,
    encode_frame,
    next_whole_frame,
)
from farside._log_writer import (
    DURABLE_LANES,
    GROUP_SYNC_S,
    LANE_CHECKPOINTS,
    LANE_DATA_VERSIONS,
    LANE_METRICS,
    SEGMENT_BYTES,
    SpoolError,
    SpoolWriter,
)
from farside._segments import (
    Ending,
    Scan,
    Segment,
    clear_published,
    end_of,
    is_writer_alive,
    scan,
    scan_producer,
    segment_name,
    segments,
    set_aside_torn,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DURABLE_LANES",
    "GROUP_SYNC_S",
    "HEADER_BYTES",
    "LANE_CHECKPOINTS",
    "LANE_DATA_VERSIONS",
    "LANE_METRICS",
    "PAYLOAD_BYTES_MAX",
    "SEGMENT_BYTES",
    "Ending",
    "Frame",
    "Record",
    "Scan",
    "Segment",
    "SpoolError",
    "SpoolWriter",
    "Verdict",
    "beat_path",
    "checkpoint_folder",
    "clear_published",
    "decode_frame",
    "descriptor_name",
    "encode_frame",
    "end_of",
    "fsync_folder",
    "grant_path",
    "incarnation_name",
    "index_path",
    "is_writer_alive",
    "launch_folder",
    "launches_folder",
    "log_path",
    "next_whole_frame",
    "open_regular",
    "producer_folder",
    "producers_folder",
    "read_json",
    "request_path",
    "run_folder",
    "safe_name",
    "scan",
    "scan_producer",
    "segment_name",
    "segments",
    "set_aside_torn",
    "shard_name",
    "standing_path",
    "state_descriptor_name",
    "state_name",
    "validity_path",
    "write_atomically",
    "write_json_atomically",
]

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def safe_name(name: str, what: str) -> str:
    """``name`` itself, if it can be one part of a path here and of an object key elsewhere.

    Raises:
        ValueError: it cannot; the text says what is allowed.
    """
    if not _SAFE_NAME.match(name):
        raise ValueError(f"{what} {name!r} is not usable: 1 to 128 letters, digits, '.', '_', '-', no mark first")
    return name


def run_folder(node_dir: Path, run: str) -> Path:
    """Everything of one run on this node."""
    return node_dir / "runs" / safe_name(run, "run")


def producers_folder(node_dir: Path, run: str) -> Path:
    """Holds one folder for each rank of each launch."""
    return run_folder(node_dir, run) / "producers"


def producer_folder(node_dir: Path, run: str, incarnation: str) -> Path:
    """One rank's log and beat."""
    return producers_folder(node_dir, run) / safe_name(incarnation, "incarnation")


def log_path(producer: Path) -> Path:
    """The log in a producer's folder."""
    return producer / "log"


def beat_path(producer: Path) -> Path:
    """The newest beat in a producer's folder."""
    return producer / "beat.json"


def launches_folder(node_dir: Path, run: str) -> Path:
    """Holds one folder for each launch of the trainer."""
    return run_folder(node_dir, run) / "launches"


def launch_folder(node_dir: Path, run: str, launch: str) -> Path:
    """The conversation of one launch and the agent."""
    return launches_folder(node_dir, run) / safe_name(launch, "launch")


def request_path(launch: Path) -> Path:
    """The trainer asks for its start."""
    return launch / "request.json"


def grant_path(launch: Path) -> Path:
    """The agent's answer."""
    return launch / "grant.json"


def standing_path(launch: Path) -> Path:
    """The agent's running news."""
    return launch / "standing.json"


def validity_path(launch: Path) -> Path:
    """Until when the launch may compute, renewed by the agent; under the policy *hard* only."""
    return launch / "validity.json"


def checkpoint_folder(node_dir: Path, run: str, epoch: int, attempt: int, step: int) -> Path:
    """One checkpoint's files on this node; the name of its parent is fresh for every attempt."""
    return run_folder(node_dir, run) / "checkpoints" / f"e{epoch:06d}-a{attempt:04d}" / f"s{step:010d}"


def shard_name(rank: int) -> str:
    """A rank's shard, in a checkpoint folder and in an index folder."""
    return f"rank-{rank:05d}.shard"


def descriptor_name(rank: int) -> str:
    """A shard's descriptor, written after it."""
    return f"rank-{rank:05d}.json"


def state_name(rank: int) -> str:
    """A rank's state: opaque bytes."""
    return f"rank-{rank:05d}.state"


def state_descriptor_name(rank: int) -> str:
    """Size and digest of a rank's state, written after it."""
    return f"rank-{rank:05d}.state.json"


def incarnation_name(rank: int) -> str:
    """A fresh name for one rank of one launch."""
    return f"r{rank:05d}-{os.urandom(8).hex()}"


def index_path(folder: Path) -> Path:
    """The description of an index folder: a checkpoint laid out for loading."""
    return folder / "index.json"
