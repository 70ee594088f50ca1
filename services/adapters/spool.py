"""The agent's view of a node directory: the Spool port over `farside._spool`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from farside import _spool
from pipelines.core.resume import StartRequest
from pipelines.errors import CorruptError, RetryableError
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, Journal, SpoolRecord

UNREADABLE = "unreadable"


class NodeSpool:
    """Implements Spool; positions lie in `<node_dir>/agent/positions/<run>/<producer>`.

    Args:
        node_dir: the node's directory, shared with the trainer.
        journal: is told of torn bytes, once for each place.
    """

    def __init__(self, node_dir: Path, journal: Journal | None = None) -> None:
        self._node_dir = node_dir
        self._journal = journal
        self._reported: set[Path] = set()
        self._grants: dict[Path, dict[str, Any]] = {}

    def runs(self) -> tuple[str, ...]:
        """The runs that have a folder here."""
        return _folders(self._node_dir / "runs")

    def producers(self, run: str) -> tuple[str, ...]:
        """The incarnations that have a log."""
        folder = _spool.producers_folder(self._node_dir, run)
        return tuple(name for name in _folders(folder) if _spool.log_path(folder / name).exists())

    def read(self, run: str, producer: str, offset: int, most: int = 500) -> tuple[SpoolRecord, ...]:
        """Complete records from a log offset on; torn bytes are kept aside and reported once."""
        log = _spool.log_path(_spool.producer_folder(self._node_dir, run, producer))
        records: list[SpoolRecord] = []
        while True:
            found = _spool.scan(log, offset, most - len(records))
            ends = [start for start, _ in found.entries[1:]] + [found.next_offset]
            pairs = zip(found.entries, ends, strict=False)
            records.extend(_record(producer, entry, end) for (_, entry), end in pairs)
            if found.ending is not _spool.Ending.TORN:
                return tuple(records)
            self._set_aside(log, found, run, producer)
            offset = found.resume_offset

    def position(self, run: str, producer: str) -> int:
        """The log offset up to which everything is published; 0 at first."""
        value = _spool.read_json(self._position_path(run, producer))
        return 0 if value is None else int(value["offset"])

    def advance(self, run: str, producer: str, offset: int) -> None:
        """Remember a position durably."""
        path = self._position_path(run, producer)
        path.parent.mkdir(parents=True, exist_ok=True)
        _spool.write_json_atomically(path, {"offset": offset})

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
        """What a launch asked for; RetryableError while its request cannot be read."""
        path = _spool.request_path(_spool.launch_folder(self._node_dir, run, launch))
        found = _spool.read_json(path)
        if found is None:
            raise RetryableError(f"{path} is not readable")
        mode = str(found.get("mode", "exact"))
        fingerprint = {str(name): str(value) for name, value in found.get("fingerprint", {}).items()}
        return StartRequest(mode, int(found.get("world_size", 1)), fingerprint, str(found.get("guard", "")))

    def grant(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write grant.json."""
        _spool.write_json_atomically(_spool.grant_path(_spool.launch_folder(self._node_dir, run, launch)), body)

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
        _spool.write_json_atomically(path, body, durable=False)

    def standing(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Write standing.json."""
        _spool.write_json_atomically(_spool.standing_path(_spool.launch_folder(self._node_dir, run, launch)), body)

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
        """A rank's state; None while it is not there (its descriptor is written after it)."""
        folder = self._checkpoint(checkpoint)
        if not (folder / _spool.state_descriptor_name(rank)).exists():
            return None
        try:
            return (folder / _spool.state_name(rank)).read_bytes()
        except FileNotFoundError:
            return None

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
        aside = _spool.set_aside_torn(log, found)
        if aside in self._reported:
            return
        self._reported.add(aside)
        if self._journal is not None:
            self._journal.say("spool.torn", run=run, producer=producer, kept=str(aside), reason=found.reason)


def _folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))


def _record(producer: str, entry: dict[str, Any], end: int) -> SpoolRecord:
    """The record; one with other fields than ours goes on as `unreadable`, to end as a dead letter with its content."""
    try:
        return SpoolRecord(producer=producer, end=end, **entry)
    except TypeError as error:
        return SpoolRecord(
            producer=producer,
            lane=UNREADABLE,
            seq=0,
            kind=UNREADABLE,
            run=str(entry.get("run", "")),
            epoch=0,
            attempt=0,
            step=0,
            time_ms=0,
            body={"record": entry, "why": str(error)},
            end=end,
        )
