"""A node's spool in memory: the fake of the Spool port, with what a trainer would do to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.resume_mode import StartRequest
from pipelines.errors import CorruptError, RetryableError
from pipelines.paths import CheckpointId
from pipelines.ports import Beat, SpoolRecord

RECORD_BYTES = 50  # what each record takes in the log: any number above 0 will do


class MemorySpool:
    """Implements Spool for one run. An agent that is made anew over the same one goes on where the last one stood."""

    def __init__(self, run: str = "gpt") -> None:
        self.run = run
        self.granted: dict[str, dict[str, Any]] = {}
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.validities: dict[str, list[dict[str, Any]]] = {}
        self.released: list[CheckpointId] = []
        self._records: dict[str, list[SpoolRecord]] = {}
        self._last: dict[tuple[str, str], int] = {}  # the newest number of a producer's lane
        self._positions: dict[tuple[str, str], int] = {}
        self._requests: dict[str, StartRequest] = {}
        self._askers: dict[str, str] = {}
        self._gone: set[str] = set()
        self._beats: dict[str, Beat] = {}
        self._shards: dict[tuple[CheckpointId, int], bytes] = {}
        self._states: dict[tuple[CheckpointId, int], bytes] = {}
        self._damaged: set[tuple[CheckpointId, int]] = set()

    # --- what a trainer does ---

    def accept(
        self,
        producer: str,
        lane: str,
        kind: str,
        step: int,
        body: Mapping[str, Any],
        *,
        of: tuple[int, int] = (1, 1),
        time_ms: int = 5,
    ) -> SpoolRecord:
        """Append a record; `of` is its epoch and attempt."""
        log = self._records.setdefault(producer, [])
        seq = self._last[producer, lane] = self._last.get((producer, lane), 0) + 1
        end = (len(log) + 1) * RECORD_BYTES
        log.append(SpoolRecord(producer, lane, seq, kind, self.run, *of, step, time_ms, dict(body), end))
        return log[-1]

    def wants(self, launch: str, request: StartRequest, producer: str = "") -> None:
        """Ask for a start."""
        self._requests[launch], self._askers[launch] = request, producer

    def beat(self, beat: Beat) -> None:
        """Leave the newest sign of life, beside a log that may still be empty."""
        self._records.setdefault(beat.producer, [])
        self._beats[beat.producer] = beat

    def ends(self, producer: str) -> None:
        """Its process is gone; what it accepted stays."""
        self._beats.pop(producer, None)
        self._gone.add(producer)

    def save(self, checkpoint: CheckpointId, rank: int, shard: bytes, state: bytes | None) -> None:
        """Write one rank's shard, and its state if there is one yet."""
        self._shards[checkpoint, rank] = shard
        if state is not None:
            self._states[checkpoint, rank] = state

    # --- the port ---

    def runs(self) -> tuple[str, ...]:
        """The runs that have a folder here."""
        return (self.run,)

    def producers(self, run: str) -> tuple[str, ...]:
        """The incarnations that have a log."""
        return tuple(sorted(self._records)) if run == self.run else ()

    def read(self, run: str, producer: str, offset: int, most: int = 500) -> tuple[SpoolRecord, ...]:
        """Complete records from a log offset on."""
        log = self._records.get(producer, []) if run == self.run else []
        first = offset // RECORD_BYTES
        return tuple(log[first : first + most])

    def position(self, run: str, producer: str) -> int:
        """The log offset up to which everything is published."""
        return self._positions.get((run, producer), 0)

    def advance(self, run: str, producer: str, offset: int) -> None:
        """Remember a position."""
        self._positions[run, producer] = offset

    def end(self, run: str, producer: str) -> int:
        """Where the log ends now."""
        log = self._records.get(producer, []) if run == self.run else []
        return log[-1].end if log else 0

    def retire(self, run: str, producer: str, offset: int) -> bool:
        """Forget a log whose process ended, once all of it is published."""
        if run != self.run or producer not in self._gone or offset < self.end(run, producer):
            return False
        self._records.pop(producer, None)
        self._positions.pop((run, producer), None)
        return True

    def beats(self, run: str) -> tuple[Beat, ...]:
        """The newest beat of each producer whose process lives."""
        return tuple(self._beats[name] for name in sorted(self._beats)) if run == self.run else ()

    def launches(self, run: str) -> tuple[str, ...]:
        """Launches that asked for a start, have no grant yet, and live."""
        asked = (name for name in self._requests if self._askers[name] not in self._gone)
        waiting = sorted(name for name in asked if name not in self.granted)
        return tuple(waiting) if run == self.run else ()

    def request(self, run: str, launch: str) -> StartRequest:
        """The start that a launch asked for; RetryableError while its request cannot be read."""
        if run != self.run or launch not in self._requests:
            raise RetryableError(f"the request of {launch} is not readable")
        return self._requests[launch]

    def grant(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Answer a launch."""
        del run
        self.granted[launch] = dict(body)

    def grants(self, run: str) -> tuple[dict[str, Any], ...]:
        """Every grant that was written."""
        return tuple(self.granted[name] for name in sorted(self.granted)) if run == self.run else ()

    def validity(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Say until when a launch may compute."""
        del run
        self.validities.setdefault(launch, []).append(dict(body))

    def standing(self, run: str, launch: str, body: dict[str, object]) -> None:
        """Tell a launch how it stands."""
        del run
        self.told.setdefault(launch, []).append(dict(body))

    def chunk(self, checkpoint: CheckpointId, rank: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard; CorruptError if it is gone or short."""
        body = self._shards.get((checkpoint, rank), b"")[offset : offset + size]
        if len(body) != size:
            raise CorruptError(f"{checkpoint.prefix} rank {rank} has {len(body)} of {size} bytes at {offset}")
        return body

    def rank_state(self, checkpoint: CheckpointId, rank: int) -> bytes | None:
        """A rank's state; None while it is not there; CorruptError if it is not what the trainer gave."""
        if (checkpoint, rank) in self._damaged:
            raise CorruptError(f"{checkpoint.prefix}: the state of rank {rank} is not what the trainer wrote")
        return self._states.get((checkpoint, rank))

    def damage_state(self, checkpoint: CheckpointId, rank: int) -> None:
        """Change a rank's state behind its digest, as a bad disk does."""
        self._damaged.add((checkpoint, rank))

    def release(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is safe in the region's store: its files may go."""
        self.released.append(checkpoint)
        self._shards = {key: body for key, body in self._shards.items() if key[0] != checkpoint}
        self._states = {key: body for key, body in self._states.items() if key[0] != checkpoint}
