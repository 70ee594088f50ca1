"""A training job of a region, as small as it can be: it takes steps, and leaves in the spool what a real one leaves.

What it writes goes through the shipped agent. It may be told that it is superseded and go on for a while: a zombie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.heartbeats import DRAINED
from pipelines.core.resume_mode import StartRequest
from pipelines.paths import CheckpointId
from pipelines.ports import Beat
from schemas.codec import digest
from services.adapters.memory.spool import MemorySpool
from tests.simulation.kernel import Process, Strand
from tests.simulation.simulated_ports import Watcher

RANKS = 2


class NodeSpools:
    """Implements Spool over one memory spool a run, for one process: every writing is a moment to die at."""

    def __init__(self, process: Process, of_run: Mapping[str, MemorySpool]) -> None:
        self._process, self._of_run = process, of_run

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - every method of the port but `runs` begins with the run
        def asked(run: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - see above
            spool = self._of_run[run.run if isinstance(run, CheckpointId) else run]
            if name in {"advance", "grant", "standing", "release"}:
                self._process.point(f"spool.{name}")
                self._process.pause(0.001)
            return getattr(spool, name)(run, *rest, **more)

        return asked

    def runs(self) -> tuple[str, ...]:
        """The runs that have a folder here."""
        return tuple(sorted(self._of_run))


class SimulatedTrainer:
    """One region's trainer of one run; every launch of it is a new incarnation.

    Attributes:
        ends_at_s: after that it takes no step more.
        waits: whether a launch waits for its grant now.
        rots: whether the next rank state that it saves changes on the disk.
    """

    def __init__(
        self, process: Process, region: str, spool: MemorySpool, watcher: Watcher, launch: str, luck: Mapping[str, int]
    ) -> None:
        self.process, self.region, self.spool = process, region, spool
        self._watcher, self._launch, self._luck = watcher, launch, luck
        self.ends_at_s = float("inf")
        self.waits = self.rots = False
        self.number = 0
        self.step = 0
        self._producer = ""
        self._of = (0, 0)
        self._last: dict[str, int] = {}

    def leaves(self) -> None:
        """Its process is gone; what it accepted stays."""
        self.spool.ends(self._producer)

    def live(self, strand: Strand) -> None:
        """Launch after launch, until the end."""
        while True:
            self.number += 1
            self._work(strand, f"{self._launch}-{self.number}")
            self.spool.ends(self._producer)
            self._rest(strand, 2.0)

    def _work(self, strand: Strand, launch: str) -> None:
        self._producer, self._of, self._last, self.step = f"r00000-{self.process.new_id()[:16]}", (0, 0), {}, 0
        self.spool.wants(launch, StartRequest(world_size=RANKS))
        self.waits = True
        while launch not in self.spool.granted:
            self._beat("waiting")
            self._rest(strand, 1.0)
        self.waits = False
        granted = self.spool.granted[launch]
        self._of, self.step = (granted["epoch"], granted["attempt"]), granted["step"]
        begin, previous, left = self.step, -1, self._luck["stubborn_steps"]
        self._accept("data-versions", "data_version", _data_version(self.step))
        while True:
            answer = self.spool.told[launch][-1] if launch in self.spool.told else {}
            if answer.get("state") == "superseded":
                left -= 1
                if left < 0:
                    return
            saved = self.step > begin and self.step == previous
            if saved and answer.get("draining"):
                self._beat(DRAINED)
            elif self.process.kernel.now_s >= self.ends_at_s:
                self._beat("finished")
            else:
                previous = self._train(previous)
            self._rest(strand, self._luck["step_ms"] / 1000)

    def _train(self, previous: int) -> int:
        """One step, and what has to be written after it; the newest saved step."""
        self.step += 1
        self._beat("train")
        if self.step % 2 == 0:
            self._accept("metrics", "metric", {"values": {"loss": 1.0 / self.step}})
        if self.step % self._luck["save_every"]:
            return previous
        own = CheckpointId(self.spool.run, *self._of, self.step)
        shards = [f"{own.prefix} {rank} of {self._producer}".encode() * 2 for rank in range(RANKS)]
        for rank, shard in enumerate(shards):
            self.spool.save(own, rank, shard, f"rng {rank} {own.prefix}".encode())
            self.process.pause(0.01)
        if self.rots:
            self.rots = False
            self.spool.damage_state(own, 0)
            self._watcher.rotten(own)
        self._accept("checkpoints", "intent", _intent(shards, previous))
        return self.step

    def _accept(self, lane: str, kind: str, body: Mapping[str, Any]) -> None:
        now_ms = self.process.wall_ms()
        record = self.spool.accept(self._producer, lane, kind, self.step, body, of=self._of, time_ms=now_ms)
        self._last[lane] = record.seq
        self._watcher.accepted(self.region, record)

    def _beat(self, phase: str) -> None:
        now_ms = self.process.wall_ms()
        self.spool.beat(Beat(self._producer, self.step, phase, 30.0, now_ms, *self._of, dict(self._last)))

    def _rest(self, strand: Strand, seconds: float) -> None:
        strand.rest(seconds * self.process.random.uniform(0.8, 1.2))


def _data_version(step: int) -> dict[str, Any]:
    return {"name": "corpus", "digest": digest(b"corpus"), "shards": [], "sampler": f"from {step}", "seed": 1}


def _intent(shards: list[bytes], previous: int) -> dict[str, Any]:
    """As the client's coordinator writes it: one shard a rank, in two chunks."""
    ranks = []
    for rank, shard in enumerate(shards):
        half = len(shard) // 2
        chunks = [{"size": len(part), "sha256": digest(part)} for part in (shard[:half], shard[half:])]
        ranks.append({"rank": rank, "size": len(shard), "sha256": digest(shard), "chunks": chunks})
    return {
        "mode": "exact",
        "world_size": RANKS,
        "fingerprint": {},
        "previous_step": None if previous < 0 else previous,
        "health": {},
        "data_version": "",
        "ranks": ranks,
        "items": [],
        "planner": {},
    }
