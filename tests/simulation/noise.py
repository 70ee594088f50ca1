"""The disturbances of a noisy world: spans of time in which a way is cut or a process stands still, and delays.

All spans of a world are drawn before it begins, in true time, so that a question about any moment is a look-up.
"""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Often:
    """Something that begins every `every_s` on average and lasts from `least_s` to `most_s`, short ones oftener."""

    every_s: float
    least_s: float
    most_s: float

    def drawn(self, random: random.Random, length_s: float) -> Spans:
        """The spans of one world."""
        found, at_s = [], random.expovariate(1 / self.every_s)
        while at_s < length_s:
            lasts_s = math.exp(random.uniform(math.log(self.least_s), math.log(self.most_s)))
            found.append((at_s, at_s + lasts_s))
            at_s += lasts_s + random.expovariate(1 / self.every_s)
        return Spans(found)


class Spans:
    """Disjoint spans of true time, in order."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin_s, end_s in spans:
            if self._ends and begin_s <= self._ends[-1]:
                self._ends[-1] = max(end_s, self._ends[-1])
            else:
                self._begins.append(begin_s)
                self._ends.append(end_s)

    def with_all(self, *others: Spans) -> Spans:
        """The moments that lie in any of them."""
        lists = (list(zip(one._begins, one._ends, strict=True)) for one in (self, *others))
        return Spans(heapq.merge(*lists))

    def after(self, at_s: float) -> float:
        """The moment itself, or the end of the span in which it lies."""
        index = bisect.bisect_right(self._begins, at_s) - 1
        return self._ends[index] if index >= 0 and at_s < self._ends[index] else at_s

    def before(self, at_s: float) -> float:
        """The moment itself, or the begin of the span in which it lies."""
        index = bisect.bisect_right(self._begins, at_s) - 1
        return self._begins[index] if index >= 0 and at_s < self._ends[index] else at_s

    def __contains__(self, at_s: float) -> bool:
        """Whether the moment lies in one of them."""
        return self.after(at_s) > at_s

    def __len__(self) -> int:
        """How many there are."""
        return len(self._begins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How bad it is. The primary lives through all of it.

    Attributes:
        uplink: one region is cut from everything else, as in GitHub's 43 s of 2018.
        witness: one region's way to the witness is cut.
        link: nothing comes over the link between the regions.
        deaf: one region does not hear the other's Kafka, and is heard.
        controller_stops: a controller's process stands still, wherever it is.
        node_stops: so does a node with its agent.
        hiccups: a region's own Kafka and store do not answer.
        delay_s: of one way over a link, the median; the spread is that of a log-normal.
        loss: of a packet; it is sent again after 0.2 s, then twice that, and so on.
        tail: how often a delay is drawn from a Pareto distribution instead, from 1 s up to `tail_most_s`.
        late: how often a request that a cut swallows arrives after it all the same.
    """

    uplink: Often = Often(3 * 3600.0, 1.0, 60.0)
    witness: Often = Often(1800.0, 1.0, 60.0)
    link: Often = Often(600.0, 1.0, 60.0)
    deaf: Often = Often(1800.0, 1.0, 300.0)
    controller_stops: Often = Often(900.0, 0.1, 30.0)
    node_stops: Often = Often(900.0, 0.1, 30.0)
    hiccups: Often = Often(1800.0, 0.5, 20.0)
    delay_s: float = 0.04
    spread: float = 0.8
    loss: float = 0.02
    again_s: float = 0.2
    tail: float = 0.001
    tail_most_s: float = 30.0
    late: float = 0.3

    def delay(self, random: random.Random) -> float:
        """One way over a link, in seconds."""
        if random.random() < self.tail:
            return min(self.tail_most_s, random.paretovariate(1.5))
        delay_s, again_s = self.delay_s * math.exp(random.gauss(0.0, self.spread)), self.again_s
        while random.random() < self.loss:
            delay_s += again_s
            again_s *= 2
        return delay_s
