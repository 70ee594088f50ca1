"""How long what cannot be decided yet is waited for, and how a rest grows that follows a failure. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

UNKNOWN_WAIT_S = 3_600.0  # for an epoch or a schema that a region does not know: longer than a witness is away
REST_FIRST_S, REST_MOST_S = 1.0, 60.0
KEPT_MAX = 10_000


@dataclass(slots=True)
class Patience:
    """Since when each thing was waited for.

    Once a wait is over it stays so while more of its kind arrive, so that a stream of them holds nothing up for longer
    than one of them; after a pause as long as the wait itself the next one is waited for again. A clock that jumps
    during a wait ends it.
    """

    wait_s: float
    _waits: dict[Hashable, tuple[float, float]] = field(default_factory=dict)  # since when, and when it was asked last

    def is_over(self, what: Hashable, now_s: float) -> bool:
        """Whether something was waited for long enough; the first question begins the wait."""
        since_s, asked_s = self._waits.pop(what, (now_s, now_s))
        if asked_s - since_s >= self.wait_s < now_s - asked_s:
            since_s = now_s
        self._waits[what] = (since_s, now_s)
        if len(self._waits) > KEPT_MAX:
            del self._waits[next(iter(self._waits))]  # the one that was asked for longest ago
        return now_s - since_s >= self.wait_s

    def settle(self, what: Hashable) -> None:
        """Forget a wait that ended well; one that is over stays so."""
        since_s, asked_s = self._waits.get(what, (0.0, self.wait_s))
        if asked_s - since_s < self.wait_s:
            del self._waits[what]


@dataclass(slots=True)
class Rest:
    """A rest after a failure, longer each time, so that it holds up nothing else; with the reason and since when.

    `since_ms` is wall time, for people.
    """

    reason: str
    since_ms: int
    until_s: float
    length_s: float = REST_FIRST_S

    @classmethod
    def after(cls, before: Rest | None, reason: str, *, now_s: float, wall_ms: int) -> Rest:
        """The rest that a failure is followed by; `before` is the one before it, unless it has worked meanwhile."""
        if before is None:
            return cls(reason, wall_ms, now_s + REST_FIRST_S)
        length_s = min(before.length_s * 2, REST_MOST_S)
        return cls(reason, before.since_ms, now_s + length_s, length_s)
