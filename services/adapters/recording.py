"""Records of a log in a file, and a file as a log: `.avro` (an object container) or `.jsonl`, one record a line.

Every record keeps its bytes, its headers and its place in the log that it came from, so a file can be replayed as that
log could; a `.jsonl` also says what each record means, for people. Source of the container: Apache Avro 1.12
specification, "Object container files".
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import fastavro

from pipelines.errors import CorruptError, MisconfiguredError
from pipelines.ports import Fetched, Partition
from schemas.codec import all_schemas

AVRO, JSONL = ".avro", ".jsonl"
_HEADER = {
    "name": "RecordedHeader",
    "type": "record",
    "fields": [{"name": "key", "type": "string"}, {"name": "value", "type": "bytes"}],
}
_SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "namespace": "farside",
        "name": "Recorded",
        "fields": [
            {"name": "cluster", "type": "string"},
            {"name": "topic_id", "type": "string"},
            {"name": "topic", "type": "string"},
            {"name": "partition", "type": "int"},
            {"name": "offset", "type": "long"},
            {"name": "time_ms", "type": "long"},
            {"name": "key", "type": "bytes"},
            {"name": "value", "type": "bytes"},
            {"name": "headers", "type": {"type": "array", "items": _HEADER}},
        ],
    }
)
Meaning = Callable[[Fetched], Mapping[str, object]]


def format_of(path: Path) -> str:
    """The format that a file's name says; MisconfiguredError if it says none."""
    if path.suffix not in {AVRO, JSONL}:
        raise MisconfiguredError(f"file {path}: its name ends in {AVRO} or {JSONL}, which says what to write")
    return path.suffix


class RecordingTarget:
    """Implements ReplayTarget: appends to a file.

    Args:
        path: its name says the format.
        length: so much of the file is durable; what lies beyond is cut off.
        meaning: puts a record's meaning into words; they go into a `.jsonl`.
    """

    def __init__(self, path: Path, length: int, meaning: Meaning) -> None:
        self._format = format_of(path)
        self._meaning = meaning
        try:
            self._file: IO[bytes] = path.open("r+b" if length and path.exists() else "w+b")
            self._file.truncate(length)
            self._file.seek(length)
        except OSError as error:
            raise MisconfiguredError(f"file {path}: {error.strerror}") from error
        self._path = path
        self._writer: Any = None
        if self._format == AVRO:
            metadata = {"farside.schemas": json.dumps(all_schemas())}
            self._writer = fastavro.write.Writer(self._file, _SCHEMA, codec="deflate", metadata=metadata)

    def deliver(self, records: Sequence[Fetched]) -> Counter[str] | None:
        """Append records; of a damaged one only its beginning is known, so it is left out, and counted."""
        whole = [item for item in records if item.damage is None]
        try:
            for item in whole:
                if self._writer is not None:
                    self._writer.write(_plain(item))
                else:
                    line = _readable(item) | dict(self._meaning(item))
                    self._file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise MisconfiguredError(f"file {self._path}: {error.strerror}; the same command goes on there") from error
        counts = Counter(recorded=len(whole))
        if len(whole) < len(records):
            counts["left_out"] = len(records) - len(whole)
        return counts

    def mark(self) -> int:
        """The file's length, all of it durable."""
        try:
            if self._writer is not None:
                self._writer.flush()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise MisconfiguredError(f"file {self._path}: {error.strerror}; the same command goes on there") from error
        return self._file.tell()

    def waits(self) -> str:
        """A file is never waited for."""
        return ""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RecordingSource:
    """Implements EventSource over a file. It is looked through once at first; memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bounds: dict[Partition, tuple[int, int]] = {}
        for item in self._records():
            first, _ = self._bounds.get(item.partition, (item.offset, 0))
            self._bounds[item.partition] = (first, item.offset + 1)
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._open: Iterator[Fetched] | None = None
        self._ahead: Fetched | None = None

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """The partitions of these topics that the file holds something of."""
        return tuple(partition for partition in self._bounds if partition.topic in topics)

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """(first offset, the one after the last)."""
        if partition not in self._bounds:
            raise CorruptError(f"{self._path} holds nothing of {partition.topic}/{partition.number}")
        return self._bounds[partition]

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The first offset whose record was put there at a time or later; the end if there is none."""
        later = (item.offset for item in self._records() if item.partition == partition and item.time_ms >= time_ms)
        return next(later, self.bounds(partition)[1])

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from an offset; CorruptError if it is out of range."""
        first, end = self.bounds(partition)
        if not first <= offset <= end:
            raise CorruptError(f"{partition.topic}/{partition.number}: offset {offset} is outside {first}..{end}")
        self._positions[partition] = offset
        self._open = self._ahead = None  # from the file's beginning

    def position(self, partition: Partition) -> int:
        """The offset at which a partition is read next."""
        return self._positions[partition]

    def poll(self, timeout_s: float, most: int = 500) -> tuple[Fetched, ...]:
        """The next records, in the order of the file; one that is paused holds back what comes after it."""
        del timeout_s
        if self._open is None:
            self._open = self._records()
        records: list[Fetched] = []
        while len(records) < most:
            item = self._ahead or next(self._open, None)
            self._ahead = None
            if item is None:
                for partition in self._positions:
                    if partition not in self._paused:
                        self._positions[partition] = self._bounds[partition][1]
                break
            if item.offset < self._positions.get(item.partition, item.offset + 1):
                continue
            if item.partition in self._paused:
                self._ahead = item
                break
            records.append(item)
            self._positions[item.partition] = item.offset + 1
        return tuple(records)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing of these until `resume`."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`."""
        self._paused.difference_update(partitions)

    def _records(self) -> Iterator[Fetched]:
        try:
            with self._path.open("rb") as stream:
                yield from (
                    _container(self._path, stream) if format_of(self._path) == AVRO else _lines(self._path, stream)
                )
        except OSError as error:
            raise MisconfiguredError(f"file {self._path}: {error.strerror}") from error


def _container(path: Path, stream: IO[bytes]) -> Iterator[Fetched]:
    count = 0
    try:
        for plain in fastavro.reader(stream, reader_schema=_SCHEMA):
            count += 1
            yield _fetched(plain)  # type: ignore[arg-type] # a record's schema gives dictionaries
    except OSError:
        raise
    except Exception as error:  # fastavro raises many kinds on torn bytes; all mean the same here
        raise MisconfiguredError(
            f"file {path}: after {count} records it is no recording ({type(error).__name__}: {error}); record it again"
        ) from error


def _lines(path: Path, stream: IO[bytes]) -> Iterator[Fetched]:
    for number, line in enumerate(stream, 1):
        try:
            yield _parsed(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise MisconfiguredError(
                f"file {path}: line {number} is no record ({type(error).__name__}: {error}); "
                f"what is before it can be used: head -n {number - 1}"
            ) from error


def _plain(item: Fetched) -> dict[str, object]:
    place = item.partition
    return {
        "cluster": place.cluster,
        "topic_id": place.topic_id,
        "topic": place.topic,
        "partition": place.number,
        "offset": item.offset,
        "time_ms": item.time_ms,
        "key": item.key,
        "value": item.value,
        "headers": [{"key": key, "value": value} for key, value in item.headers],
    }


def _fetched(plain: Mapping[str, Any]) -> Fetched:
    partition = Partition(plain["cluster"], plain["topic_id"], plain["topic"], plain["partition"])
    headers = tuple((header["key"], header["value"]) for header in plain["headers"])
    return Fetched(partition, plain["offset"], plain["key"], plain["value"], headers, plain["time_ms"])


def _readable(item: Fetched) -> dict[str, object]:
    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    plain = _plain(item) | {"key": text(item.key), "value": text(item.value)}
    return plain | {"headers": [[key, text(value)] for key, value in item.headers]}


def _parsed(plain: Mapping[str, Any]) -> Fetched:
    def back(value: str) -> bytes:
        return base64.b64decode(value, validate=True)

    headers = tuple((str(key), back(value)) for key, value in plain["headers"])
    partition = Partition(str(plain["cluster"]), str(plain["topic_id"]), str(plain["topic"]), int(plain["partition"]))
    key, value = back(plain["key"]), back(plain["value"])
    return Fetched(partition, int(plain["offset"]), key, value, headers, int(plain["time_ms"]))
