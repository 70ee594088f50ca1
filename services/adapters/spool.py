"""The agent's view of a node directory: the Spool port over `farside._spool`."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farside import _spool
from pipelines.core.resume_mode import StartRequest
from pipelines.errors import CorruptError, RetryableError
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, Journal, SpoolRecord
from schemas.codec import digest

UNREADABLE = "unreadable"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_TEXTS = ("lane", "kind", "run")
_NUMBERS = ("seq", "epoch", "attempt", "step", "time_ms")


class NodeSpool:
    """Implements Spool; positions lie in `<node_dir>/agent/positions/<run>/<producer>`.

    Args:
        node_dir: the node's directory, shared with the trainer.
        journal: is told of torn bytes, once for each place, and of a full disk, once until there is room again.
        replace: puts a JSON file in place of another.
        keep_s: how long the log of a writer that is gone is kept after its last record, published or not.
    """

    def __init__(
        self,
        node_dir: Path,
        journal: Journal | None = None,
        replace: Callable[..., None] = _spool.write_json_atomically,
        keep_s: float = 0.0,
    ) -> None:
        self._keep_s = keep_s
        self._node_dir = node_dir
        self._replace = replace
        self._journal = journal
        self._reported: set[tuple[Path, int]] = set()
        self._full = False  # the disk was when we last wrote
        self._grants: dict[Path, dict[str, Any]] = {}

    def runs(self) -> tuple[str, ...]:
        """The runs that have a folder here."""
        return _folders(self._node_dir / "runs")

    def producers(self, run: str) -> tuple[str, ...]:
        """The incarnations that have a log."""
        folder = _spool.producers_folder(self._node_dir, run)
        return tuple(name for name in _folders(folder) if _spool.segments(folder / name))

    def read(self, run: str, producer: str, offset: int, most: int = 500) -> tuple[SpoolRecord, ...]:
        """Complete records from a log offset on; torn bytes are kept aside and reported once."""
        folder = _spool.producer_folder(self._node_dir, run, producer)
        records: list[SpoolRecord] = []
        while len(records) < most:
            found = _spool.scan_producer(folder, offset, most - len(records))
            ends = [start for start, _ in found.entries[1:]] + [found.next_offset]
            pairs = zip(found.entries, ends, strict=False)
            records.extend(_record(run, producer, entry, end) for (_, entry), end in pairs)
            if found.ending is not _spool.Ending.TORN:
                break
            self._set_aside(_spool.log_path(folder), found, run, producer)
            offset = found.resume_offset
        return tuple(records)

    def end(self, run: str, producer: str) -> int:
        """Where the log ends now."""
        return _spool.end_of(_spool.producer_folder(self._node_dir, run, producer))

    def position(self, run: str, producer: str) -> int:
        """The log offset up to which everything is published; 0 at first."""
        value = _spool.read_json(self._position_path(run, producer))
        return 0 if value is None else int(value["offset"])

    def advance(self, run: str, producer: str, offset: int) -> None:
        """Remember a position durably; whole segments before it are cleared away.

        They go first: on a full disk that makes the room which the position needs. Should we die in between, the log
        is read from its oldest segment, which is past what the old position says and not past what is published.
        """
        _spool.clear_published(_spool.producer_folder(self._node_dir, run, producer), offset)
        self._write(self._position_path(run, producer), {"offset": offset})

    def retire(self, run: str, producer: str, offset: int) -> bool:
        """Remove the log of a writer that is gone and left nothing past `offset`; damaged bytes that were kept stay."""
        folder = _spool.producer_folder(self._node_dir, run, producer)
        if _spool.is_writer_alive(_spool.log_path(folder)):  # before the log is read: see _spool
            return False
        listed = _spool.segments(folder)
        newest_s = max((one.path.stat().st_mtime for one in listed), default=0.0)
        if abs(time.time() - newest_s) < self._keep_s or self.read(run, producer, offset, 1):
            return False
        for segment in listed:
            segment.path.unlink()
        _spool.beat_path(folder).unlink(missing_ok=True)
        self._position_path(run, producer).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        return True

    def beats(self, run: str) -> tuple[Beat, ...]:
        """The newest beat of each producer whose process lives."""
        beats = []
        for producer in self.producers(run):
            folder = _spool.producer_folder(self._node_dir, run, producer)
            beat = _spool.read_json(_spool.beat_path(folder))
            if beat is not None and _spool.is_writer_alive(_spool.log_path(folder)):
                beats.append(Beat(producer=producer, **beat))
        return tuple(beats)

    def launches(self, run: str) -> tuple[str, ...]:
        """Launches that asked for a start, have no grant yet, and live."""
        folder = _spool.launches_folder(self._node_dir, run)
        return tuple(
            name
            for name in _folders(folder)
            if not _spool.grant_path(folder / name).exists() and self._waits(run, folder / name)
        )

    def request(self, run: str, launch: str) -> StartRequest:
        """The start that a launch asked for; RetryableError while its request cannot be read."""
        path = _spool.request_path(_spool.launch_folder(self._node_dir, run, launch))
        found = _spool.read_json(path)
        if found is None:
            raise RetryableError(f"{path} is not readable")
        mode = str(found.get("mode", "exact"))
        fingerprint = {str(name): str(value) for name, value in found.get("fingerprint", {}).items()}
        return StartRequest(mode, int(found.get("world_size", 1)), fingerprint, str(found.get("guard", "")))

    def grant(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write grant.json."""
        self._write(_spool.grant_path(_spool.launch_folder(self._node_dir, run, launch)), body)

    def grants(self, run: str) -> tuple[dict[str, Any], ...]:
        """Every grant.json, each read once: a launch that was granted is never granted again."""
        folder = _spool.launches_folder(self._node_dir, run)
        paths = [_spool.grant_path(folder / name) for name in _folders(folder)]
        for path in paths:
            found = None if path in self._grants else _spool.read_json(path)
            if found is not None:
                self._grants[path] = found
        return tuple(self._grants[path] for path in paths if path in self._grants)

    def validity(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write validity.json; not fsynced, since no guard outlives the machine."""
        path = _spool.validity_path(_spool.launch_folder(self._node_dir, run, launch))
        self._write(path, body, durable=False)

    def standing(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write standing.json."""
        self._write(_spool.standing_path(_spool.launch_folder(self._node_dir, run, launch)), body)

    def chunk(self, checkpoint: CheckpointId, rank: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard; CorruptError if the file is gone or short."""
        path = self._checkpoint(checkpoint) / _spool.shard_name(rank)
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                body = stream.read(size)
        except FileNotFoundError as error:
            raise CorruptError(f"{path} is gone") from error
        if len(body) != size:
            raise CorruptError(f"{path} has {len(body)} of {size} bytes at {offset}")
        return body

    def rank_state(self, checkpoint: CheckpointId, rank: int) -> bytes | None:
        """A rank's state; None while it is not there (its descriptor is written after it).

        Raises:
            CorruptError: its bytes are not those that the client digested.
        """
        folder = self._checkpoint(checkpoint)
        described, path = folder / _spool.state_descriptor_name(rank), folder / _spool.state_name(rank)
        before = _bytes_of(described)
        body = None if before is None else _bytes_of(path)
        if body is None or before is None or _bytes_of(described) != before:
            return None  # not there yet, or being given again
        try:
            expected = json.loads(before)
            size, sha256 = int(expected["size"]), str(expected["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{described} is no descriptor: {error!r}") from error
        if (len(body), digest(body)) != (size, sha256):
            raise CorruptError(
                f"{path} has {len(body)} bytes of SHA-256 {digest(body)}; the trainer wrote {size} of {sha256}"
            )
        return body

    def release(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is safe in the region's store: its files may go."""
        folder = self._checkpoint(checkpoint)
        if folder.exists():
            shutil.rmtree(folder)

    def _waits(self, run: str, launch: Path) -> bool:
        """Whether the rank that asked is still there; an older client does not say which one that is."""
        path = _spool.request_path(launch)
        asked = _spool.read_json(path)
        if asked is None or "producer" not in asked:
            return path.exists()
        return _spool.is_writer_alive(
            _spool.log_path(_spool.producer_folder(self._node_dir, run, str(asked["producer"])))
        )

    def _checkpoint(self, checkpoint: CheckpointId) -> Path:
        place = (checkpoint.run, checkpoint.epoch, checkpoint.attempt, checkpoint.step)
        return _spool.checkpoint_folder(self._node_dir, *place)

    def _position_path(self, run: str, producer: str) -> Path:
        names = (_spool.safe_name(run, "run"), _spool.safe_name(producer, "incarnation"))
        return self._node_dir.joinpath("agent", "positions", *names)

    def _set_aside(self, log: Path, found: _spool.Scan, run: str, producer: str) -> None:
        place = (log, found.next_offset)
        if place in self._reported:
            return
        try:
            kept = str(_spool.set_aside_torn(log, found))
        except OSError as error:
            kept = f"not kept: {error}"  # the log still has them, and the records behind them go on
        self._reported.add(place)
        if self._journal is not None:
            self._journal.say(
                "spool.torn",
                run=run,
                producer=producer,
                kept=kept,
                begin=found.next_offset,
                end=found.resume_offset,
                reason=found.reason,
            )

    def _write(self, path: Path, body: dict[str, Any], *, durable: bool = True) -> None:
        """Replace a small file; on a full disk RetryableError, and one alarm with the figures until it is over."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(path, body, durable=durable)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._alarm(path, error)
            raise RetryableError(f"{path}: {error}") from error
        if self._full:
            self._full = False
            if self._journal is not None:
                self._journal.say("spool.has_room", node_dir=str(self._node_dir))

    def _alarm(self, path: Path, error: OSError) -> None:
        if self._full or self._journal is None:
            return
        self._full = True
        disk = shutil.disk_usage(self._node_dir)
        logs = self._node_dir.glob("runs/*/producers/*/log*")
        self._journal.say(
            "spool.full",
            path=str(path),
            error=str(error),
            free_bytes=disk.free,
            disk_bytes=disk.total,
            log_bytes=sum(one.stat().st_size for one in logs),
        )


def _folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))


def _record(run: str, producer: str, entry: dict[str, Any], end: int) -> SpoolRecord:
    """The record; one with other fields than ours goes on as `unreadable`, to end as a dead letter with its content."""
    why = _unlike_ours(run, entry)
    if not why:
        return SpoolRecord(producer=producer, end=end, **entry)
    return SpoolRecord(
        producer=producer,
        lane=UNREADABLE,
        seq=0,
        kind=UNREADABLE,
        run=run,
        epoch=0,
        attempt=0,
        step=0,
        time_ms=0,
        body={"record": entry, "why": why},
        end=end,
    )


def _unlike_ours(run: str, entry: dict[str, Any]) -> str:
    """Why a record's fields are unlike ours, "" if they are not; numbers have to fit the events' 64 bits."""
    odd = set(entry) ^ {*_TEXTS, *_NUMBERS, "body"}
    if odd:
        return f"fields that are missing or unknown: {', '.join(sorted(ascii(one) for one in odd))}"
    for name in _TEXTS:
        if not isinstance(entry[name], str) or not entry[name].isascii():
            return f"{name} is no plain text"
    for name in _NUMBERS:
        value = entry[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            return f"{name} is no number of 63 bits"
    if not isinstance(entry["body"], dict):
        return "body is no object"
    return "" if entry["run"] == run else "it is of another run"


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
