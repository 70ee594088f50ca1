"""The faults of a world of regions, drawn from the seed before anything begins: a numbered list.

Each fault can be left out without changing the others, so a failing seed shrinks by leaving out as many as can be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LENGTH_S = 100.0
FIRST_S = 5.0
SERVICES = ("controller", "agent", "replicator", "warmer", "trainer")
CALLS = {
    "controller": ("witness.write", "witness.read", "witness.claim", "store.create", "log.publish", "source.poll"),
    "agent": ("store.create", "/manifest", "/receipts", "log.publish", "spool.advance", "spool.grant", "grants.ask"),
    "replicator": ("log.transaction", "/manifest", "store.create", "store.list", "source.poll", "store.get"),
    "warmer": ("store.get", "log.publish"),
    "trainer": ("",),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, or that a person does, at a moment.

    Attributes:
        number: by which it can be left out.
        at_s: in true time.
        kind: what.
        where: a region, a pair of regions, or a process.
        for_s: how long.
        detail: what else there is to know.
    """

    number: int
    at_s: float
    kind: str
    where: str
    for_s: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        words = f"fault {self.number} at {self.at_s:.3f}: {self.kind} {self.where} {self.detail}".rstrip()
        return f"{words} for {self.for_s:.1f} s" if self.for_s else words


def drawn(seed: int, regions: Sequence[str], runs: Sequence[str], length_s: float = LENGTH_S) -> tuple[Fault, ...]:
    """The faults of a seed, in order of time."""
    luck = random.Random(f"{seed}/faults")
    kinds = list(_DRAWS)
    weights = [_DRAWS[kind][0] for kind in kinds]
    found = []
    for number in range(1, luck.randint(4, 18) + 1):
        kind = luck.choices(kinds, weights)[0]
        at_s = luck.uniform(FIRST_S, length_s)
        where, for_s, detail = _DRAWS[kind][1](luck, regions, runs)
        found.append(Fault(number, round(at_s, 3), kind, where, round(for_s, 1), detail))
    found += _flips(seed, regions, len(found), length_s)
    found += _of_late(seed, regions, len(found), length_s)
    found += _forgeries(seed, regions, len(found), length_s)
    return tuple(sorted(found, key=lambda one: one.at_s))


def _flips(seed: int, regions: Sequence[str], before: int, length_s: float) -> list[Fault]:
    """Bits that go bad at rest; drawn on their own, so that seeds found before there were any stay what they were."""
    luck = random.Random(f"{seed}/flips")
    count = luck.choices((0, 1, 2, 3), (5, 3, 1, 1))[0]
    return [
        Fault(
            before + number,
            round(luck.uniform(FIRST_S, length_s), 3),
            "flip",
            luck.choice(regions),
            detail=luck.choice(("chunk", "chunk", "state", "manifest")),
        )
        for number in range(1, count + 1)
    ]


def _of_late(seed: int, regions: Sequence[str], before: int, length_s: float) -> list[Fault]:
    """A narrow link, a rank state that rots in the spool: drawn on their own, for the same reason."""
    luck, found = random.Random(f"{seed}/narrow"), []
    if luck.random() < 0.3:
        one, other = luck.sample(list(regions), 2)
        found.append(("narrow", f"{one}>{other}", luck.uniform(15, 60)))
    if luck.random() < 0.3:
        found.append(("rot", _one_of(luck, regions), 0.0))
    return [
        Fault(before + number, round(luck.uniform(FIRST_S, length_s), 3), kind, where, round(for_s, 1))
        for number, (kind, where, for_s) in enumerate(found, 1)
    ]


def _forgeries(seed: int, regions: Sequence[str], before: int, length_s: float) -> list[Fault]:
    """A hostile region with its own key signs what is of another's epoch; drawn on their own, for the same reason."""
    luck = random.Random(f"{seed}/forgeries")
    count = luck.choices((0, 1, 3), (6, 2, 2))[0]
    return [
        Fault(
            before + number,
            round(luck.uniform(FIRST_S, length_s), 3),
            "forge",
            luck.choice(regions),
            detail=luck.choice(("in its own name", "in the holder's name")),
        )
        for number in range(1, count + 1)
    ]


def _one_of(luck: random.Random, regions: Sequence[str]) -> str:
    """A region: every other time the one in which the run begins, where most is to be lost."""
    return regions[0] if luck.random() < 0.4 else luck.choice(regions)


_Drawn = tuple[str, float, str]
_Draw = Callable[[random.Random, Sequence[str], Sequence[str]], _Drawn]


def _service(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> tuple[str, str]:
    """A process, and its service."""
    service = luck.choices(SERVICES, (4, 3, 3, 1, 1))[0]
    of = f"/{luck.choice(runs)}" if service in {"warmer", "trainer"} else ""
    return f"{service}@{_one_of(luck, regions)}{of}", service


def _aimed(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> tuple[str, str]:
    """A process, and a call before or after which it is struck."""
    where, service = _service(luck, regions, runs)
    return where, f"{luck.choice(('before', 'after'))} {luck.choice(CALLS[service])}"


def _pause(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    where, detail = _aimed(luck, regions, runs)
    return where, luck.uniform(1, 10) if luck.random() < 0.5 else luck.uniform(10, 50), detail


def _crash(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    where, detail = _aimed(luck, regions, runs)
    return where, luck.uniform(0.5, 15), detail


def _twin(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    """The process stands still, another one is started beside it, and it wakes again."""
    del runs
    service = luck.choice(("controller", "replicator"))
    detail = f"{luck.choice(('before', 'after'))} {luck.choice(CALLS[service])}"
    return f"{service}@{_one_of(luck, regions)}", luck.uniform(5, 40), detail


def _link(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    del runs
    one, other = luck.sample([*regions, "witness", "witness"], 2)
    if one == other:
        other = luck.choice(regions)
    return f"{one}>{other}", luck.uniform(1, 45), luck.choice(("one way", "both ways"))


def _server(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    del runs
    name = f"{luck.choice(('store', 'kafka'))}@{_one_of(luck, regions)}"
    return name, luck.uniform(1, 30), luck.choice(("is down", "answers get lost", "is late", "is late"))


def _witness(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    del runs
    return f"{_one_of(luck, regions)}>witness", luck.uniform(2, 40), luck.choice(("answers get lost", "is late"))


def _region(shortest_s: float, longest_s: float) -> _Draw:
    def draw(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
        del runs
        return _one_of(luck, regions), luck.uniform(shortest_s, longest_s), ""

    return draw


def _lost(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    del runs
    return _one_of(luck, regions), 0.0, ""


def _operator(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    request = luck.choices(
        ("switchover", "failover", "pause", "resume", "cancel", "acknowledge", "adopt"), (6, 5, 1, 2, 2, 2, 5)
    )[0]
    return luck.choice(regions), 0.0, f"{request} {luck.choice(runs)}"


def _replay(luck: random.Random, regions: Sequence[str], runs: Sequence[str]) -> _Drawn:
    del runs
    return luck.choice(regions), 0.0, ""


_DRAWS: dict[str, tuple[int, _Draw]] = {
    "pause": (6, _pause),
    "crash": (5, _crash),
    "twin": (2, _twin),
    "cut": (5, _link),
    "server": (4, _server),
    "witness": (3, _witness),
    "freeze": (3, _region(12, 60)),
    "isolate": (3, _region(12, 60)),
    "reboot": (2, _region(5, 40)),
    "lose": (1, _lost),
    "operator": (10, _operator),
    "replay": (1, _replay),
}
