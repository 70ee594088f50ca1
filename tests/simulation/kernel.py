"""True time, and processes made of strands (greenlets) that give way to each other only where they say so.

A process has a clock of its own; it may be frozen, so that all its strands stand still, and killed, after which nothing
of it ever runs again. What is next is decided by the time and the order in which things were asked for: by the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import greenlet

from pipelines.errors import FencedError

LEAST_REST_S = 0.02
FOR_EVER_S = 1e9


class Kernel:
    """The queue of what happens when."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.steps = 0
        self.hub = greenlet.getcurrent()
        self.current: Strand | None = None
        self._number = 0
        self._queue: list[tuple[float, int, Callable[[], object] | None, Strand | None, int]] = []

    def at(self, delay_s: float, act: Callable[[], object]) -> None:
        """Let something happen later."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._number, act, None, 0))

    def resume(self, delay_s: float, strand: Strand) -> None:
        """Let a strand go on later, unless it was woken before."""
        self._number += 1
        strand.token += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._number, None, strand, strand.token))

    def run(self, until_s: float, after_each: Callable[[], bool]) -> None:
        """Run what is due until then, one after the other; `after_each` looks at the world, and True ends it."""
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            due_s, _, act, strand, token = heapq.heappop(queue)
            if strand is None:
                self.now_s = due_s
                if act is not None:
                    act()
            else:
                process = strand.process
                if strand.token != token or not process.alive:
                    continue
                if process.frozen_until_s > due_s:
                    self.now_s = due_s
                    self.resume(process.frozen_until_s - due_s, strand)
                    continue
                self.now_s = due_s
                self.current = strand
                strand.greenlet.switch()
                self.current = None
            self.steps += 1
            if after_each():
                return
        self.now_s = max(self.now_s, until_s)


class Strand:
    """One thread of a process: a flow that is turned again and again, or something that is done once."""

    def __init__(self, process: Process, name: str, body: Callable[[Strand], None]) -> None:
        self.process, self.name = process, name
        self.token = 0
        self.resting = False
        self.woken = False
        self.greenlet = greenlet.greenlet(lambda: self._live(body), parent=process.kernel.hub)

    def _live(self, body: Callable[[Strand], None]) -> None:
        try:
            body(self)
        except FencedError as error:
            self.process.ends(f"{self.name} was fenced: {error}", failed=False)
        except Exception as error:  # noqa: BLE001 - as services/runtime/process.py does: the process ends with it
            self.process.ends(f"{self.name} failed: {type(error).__name__}: {error}", failed=True)

    def rest(self, seconds: float) -> None:
        """Give way until then, or until woken."""
        if self.woken:
            seconds, self.woken = LEAST_REST_S, False
        self.resting = True
        self.process.pause(seconds)
        self.resting = False

    def wake(self) -> None:
        """There is something to do: if it rests, it goes on."""
        if self.resting:
            self.resting = False
            self.process.kernel.resume(LEAST_REST_S, self)
        else:
            self.woken = True


class Trap:
    """Does something to a process, once, at its next call of a port whose name holds `call`."""

    def __init__(self, call: str, *, after: bool, act: Callable[[], None]) -> None:
        self.call, self.after, self.act = call, after, act


class Process:
    """One process: its clock, its strands, its luck.

    Args:
        kernel: true time.
        name: what and where.
        seed: decides how slow things are for it.
        rate: how fast its clock runs.
        offset_s: what its clock showed at the beginning.
        ended: is told why it ended by itself, and whether that is a failure.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        seed: str,
        *,
        rate: float,
        offset_s: float,
        ended: Callable[[Process, str, bool], None],
    ) -> None:
        self.kernel, self.name = kernel, name
        self.random = random.Random(seed)
        self.rate, self.offset_s = rate, offset_s
        self.alive = True
        self.frozen_until_s = 0.0
        self.traps: list[Trap] = []
        self.yields = 0
        self.looked: dict[str, int] = {}  # the newest epoch of each run that its last listing showed
        self.watches: Callable[[], None] | None = None  # called whenever it gives way
        self._ids = 0
        self.seed = seed
        self._strands: list[Strand] = []
        self._ended = ended

    # --- ports that are a process's own ---

    def boottime_s(self) -> float:
        """Implements Clock."""
        return self.offset_s + self.rate * self.kernel.now_s

    def wall_ms(self) -> int:
        """Implements Clock."""
        return int(self.kernel.now_s * 1000)

    def sleep(self, seconds: float) -> None:
        """Implements Clock: give way."""
        self.pause(seconds)

    def new_id(self) -> str:
        """Implements Entropy: never the same twice, also not in its first half."""
        self._ids += 1
        return f"{random.Random(f'{self.seed}/{self._ids}').getrandbits(128):032x}"

    def true_s(self, boottime_s: float) -> float:
        """When its clock shows that."""
        return (boottime_s - self.offset_s) / self.rate

    # --- life ---

    def strand(self, name: str, body: Callable[[Strand], None], delay_s: float = 0.0) -> Strand:
        """One more thread."""
        strand = Strand(self, name, body)
        self._strands.append(strand)
        self.kernel.resume(delay_s, strand)
        return strand

    def turn(
        self, name: str, flow: Callable[[], float], least_s: float = LEAST_REST_S, polled_s: float = 0.0
    ) -> Strand:
        """A flow on a thread of its own.

        least_s: it rests at least so long, if it rests. polled_s: it does not rest if it wants to do so for no longer
        than that and has waited for records meanwhile.
        """

        def body(strand: Strand) -> None:
            while True:
                before = self.yields
                wait_s = flow()
                if wait_s > polled_s or self.yields == before:
                    strand.rest(max(wait_s, least_s))

        return self.strand(name, body, self.random.uniform(0.0, 0.5))

    def pause(self, seconds: float) -> None:
        """Give way for a while, longer if the process is frozen then. The strand that is running calls this."""
        kernel = self.kernel
        if not self.alive or kernel.current is None:
            raise greenlet.GreenletExit  # it is being killed: what it wanted to do at its end does not happen
        self.yields += 1
        if self.watches is not None:
            self.watches()
        kernel.resume(seconds, kernel.current)
        kernel.hub.switch()

    def point(self, call: str, *, after: bool = False) -> None:
        """Before or after a port's call: where a trap may be set."""
        for trap in self.traps:
            if trap.after is after and trap.call in call:
                self.traps.remove(trap)
                trap.act()
                self.pause(0.0)
                return

    def freeze(self, seconds: float) -> None:
        """Stand still."""
        self.frozen_until_s = max(self.frozen_until_s, self.kernel.now_s + seconds)

    def kill(self) -> None:
        """Nothing of it runs any more. Only the kernel's own events may call this, never a strand."""
        if not self.alive:
            return
        self.alive = False
        for strand in self._strands:
            if strand.greenlet:  # it has begun and has not ended
                strand.greenlet.throw(greenlet.GreenletExit)
        self._strands.clear()

    def ends(self, why: str, *, failed: bool) -> None:
        """One of its threads ended it, as services/runtime/process.py does."""
        if self.alive:
            self.kernel.at(0.0, lambda: self._ended(self, why, failed))
