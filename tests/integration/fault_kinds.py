"""Each kind of fault of a running pair: how it is drawn, begun and undone. Judges nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from farside import _spool
from infra.local.layout import WITNESS
from pipelines.core.lease_profiles import FAST
from tests.integration.fault_pair import ACTORS, REGIONS, RUN, TRAINER, Pair

HOLDER_SHARE = 0.6  # faults of the holder are the ones that move a run
LASTS_S = 2 * FAST.challenger_wait_s  # long enough for a takeover, if there is a reason for one
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that is being done.

    Attributes:
        words: what was done, for people.
        undo: ends it.
        lasts_s: how long it is left.
        over: or until this holds, if there is something to wait for.
        trains: whether the trainer itself is left alone.
    """

    words: str
    undo: Callable[[], None]
    lasts_s: float
    over: Callable[[], bool] | None = None
    trains: bool = True


class Faults:
    """Does faults to a pair; everything that is left open is drawn."""

    def __init__(self, pair: Pair, die: random.Random) -> None:
        self._pair, self._die = pair, die
        self.kinds: dict[str, Callable[[], Fault]] = {
            "kill": self._kill,
            "stop": self._stop_one,
            "both": self._both,
            "region": self._region_asleep,
            "server": self._server,
            "cut": self._cut,
            "one_way": self._one_way,
            "slow_link": self._slow_link,
            "witness": self._witness_away,
            "witness_one_way": self._witness_one_way,
            "slow_witness": self._slow_witness,
            "clock": self._clock,
            "zombie": self._zombie,
        }

    def draw(self) -> str:
        """A kind."""
        return self._die.choice(list(self.kinds))

    def do(self, kind: str) -> Fault:
        """Begin a fault of a kind."""
        return self.kinds[kind]()

    # --- where ---

    def _where(self) -> str:
        holder, _ = self._pair.holder()
        return holder if self._die.random() < HOLDER_SHARE else self._die.choice(REGIONS)

    def _lasts_s(self) -> float:
        return self._die.uniform(0.5, LASTS_S)

    def _way(self) -> tuple[str, str]:
        return self._die.choice((("east", "west"), ("west", "east")))

    def _witness_ends(self) -> list[tuple[str, str]]:
        region = self._where()
        regions = REGIONS if self._die.random() < 1 / 3 else (region,)
        return [(one, WITNESS) for one in regions]

    # --- processes ---

    def _kill(self) -> Fault:
        name, region = self._die.choice(ACTORS), self._where()
        self._pair.kill(f"{name}-{region}")
        return Fault(
            f"kill -9 of {region}'s {name}",
            lambda: self._pair.start(name, region),
            self._lasts_s(),
            trains=name != TRAINER,
        )

    def _both(self) -> Fault:
        self._pair.kill(*(f"controller-{region}" for region in REGIONS))

        def undo() -> None:
            for region in REGIONS:
                self._pair.start("controller", region)

        return Fault("kill -9 of both controllers", undo, self._lasts_s())

    def _stop_one(self) -> Fault:
        name, region = self._die.choice(ACTORS), self._where()
        undo = self._freeze([f"{name}-{region}"], [])
        return Fault(f"SIGSTOP of {region}'s {name}", undo, self._lasts_s(), trains=name != TRAINER)

    def _region_asleep(self) -> Fault:
        region = self._where()
        return Fault(f"SIGSTOP of all of {region}", self._freeze_region(region), self._lasts_s(), trains=False)

    def _server(self) -> Fault:
        name = f"{self._die.choice(('kafka', 's3'))}-{self._where()}"
        self._pair.stack.kill(name)
        return Fault(f"kill -9 of {name}", lambda: self._pair.stack.restart(name), self._lasts_s())

    def _zombie(self) -> Fault:
        """The holder's region sleeps from the middle of a checkpoint's way until the other region has taken over."""
        region, epoch = self._pair.holder()
        folder = _spool.run_folder(self._pair.settings.region(region).node_dir, RUN) / "checkpoints"
        shards = f"e{epoch:06d}-a*/s*/rank-*.shard"
        before = set(folder.glob(shards))
        self._pair.wait(lambda: bool(set(folder.glob(shards)) - before), "a checkpoint on its way")
        undo = self._freeze_region(region)
        left = sorted(f"{one.parent.parent.name}/{one.parent.name}" for one in set(folder.glob(shards)) - before)
        other = next(one for one in REGIONS if one != region)
        return Fault(
            f"SIGSTOP of all of {region} while it uploads {', '.join(left) or 'nothing'}, until {other} takes over",
            undo,
            60.0,
            over=lambda: self._pair.status(other).get("is_holder") is True,
            trains=False,
        )

    def _freeze_region(self, region: str) -> Callable[[], None]:
        return self._freeze([f"{name}-{region}" for name in ACTORS], [f"kafka-{region}", f"s3-{region}"])

    def _freeze(self, names: list[str], servers: list[str]) -> Callable[[], None]:
        self._pair.keep()
        pids = [pid for name in names for pid in self._pair.actors.pids(name)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a trainer may leave at any moment
                os.kill(pid, signal.SIGSTOP)
        for name in servers:
            self._pair.stack.freeze(name)

        def undo() -> None:
            for name in servers:
                self._pair.stack.thaw(name)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return undo

    # --- links ---

    def _cut(self) -> Fault:
        return self._cut_of([self._way()])

    def _witness_away(self) -> Fault:
        return self._cut_of(self._witness_ends())

    def _cut_of(self, ends: list[tuple[str, str]]) -> Fault:
        for end in ends:
            self._pair.stack.cut(*end)
        return Fault(f"cut of {_named(ends)}", lambda: self._heal(ends), self._lasts_s())

    def _one_way(self) -> Fault:
        return self.half_cut([self._way()], answers=self._die.random() < 1 / 2)

    def _witness_one_way(self) -> Fault:
        return self.half_cut(self._witness_ends(), answers=self._die.random() < 2 / 3)

    def half_cut(self, ends: list[tuple[str, str]], *, answers: bool) -> Fault:
        """Requests or answers are lost on some paths."""
        for end in ends:
            self._pair.stack.half_cut(*end, answers=answers)
        lost = "answers" if answers else "requests"
        return Fault(f"one-way cut of {_named(ends)}: {lost} are lost", lambda: self._heal(ends), self._lasts_s())

    def _slow_link(self) -> Fault:
        return self.slow([self._way()])

    def _slow_witness(self) -> Fault:
        return self.slow(self._witness_ends())

    def slow(self, ends: list[tuple[str, str]]) -> Fault:
        """Answers come 0.5 to 3 s late, give or take up to half of that."""
        latency_ms = self._die.randint(500, 3000)
        jitter_ms = self._die.randint(0, latency_ms // 2)
        for end in ends:
            self._pair.stack.slow_down(*end, latency_ms=latency_ms, jitter_ms=jitter_ms)
        words = f"answers {latency_ms} ms late, give or take {jitter_ms}, on {_named(ends)}"
        return Fault(words, lambda: self._heal(ends), self._lasts_s())

    def _heal(self, ends: list[tuple[str, str]]) -> None:
        for end in ends:
            self._pair.stack.heal(*end)

    # --- clocks ---

    def _clock(self) -> Fault:
        region = self._where()
        names = ACTORS if self._die.random() < 1 / 3 else (self._die.choice(ACTORS),)
        wall_s = self._die.choice((-1.0, 1.0)) * self._die.uniform(0.2, 6.0) * HOUR_S
        boot_s = self._die.choice((0.0, self._die.uniform(5.0, 3 * HOUR_S)))
        return self.jump(region, list(names), wall_s, boot_s)

    def jump(self, region: str, names: list[str], wall_s: float, boot_s: float) -> Fault:
        """The wall clocks are wrong until the end of the fault; CLOCK_BOOTTIME jumps ahead once and for all.

        Not in a standby's controller: it would count hours that nobody lived through as waited, and clocks that run at
        other rates are what the protocol does not stand (docs/failover.md, assumption 1). A machine that was really
        suspended is `stop` and `region`: CLOCK_BOOTTIME counts that time, and so does everybody else's.
        """
        holder, _ = self._pair.holder()
        for name in names:
            ahead_s = 0.0 if name == "controller" and region != holder else boot_s
            self._pair.clocks.jump(f"{name}-{region}", wall_s=wall_s, boot_s=ahead_s)

        def undo() -> None:
            for name in names:
                self._pair.clocks.jump(f"{name}-{region}", wall_s=0.0, boot_s=0.0)

        whose = "all clocks" if len(names) > 1 else f"the clock of the {names[0]}"
        words = f"{whose} in {region}: wall {wall_s / HOUR_S:+.1f} h, boottime {boot_s:+.0f} s"
        return Fault(words, undo, self._lasts_s())


def _named(ends: list[tuple[str, str]]) -> str:
    return " and ".join(f"{client}'s way to {target}" for client, target in ends)
