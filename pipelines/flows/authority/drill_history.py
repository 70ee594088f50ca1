"""The history of drills: one create-only object each in the region's store, and how old the last good one is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from pipelines import paths
from pipelines.errors import RetryableError
from pipelines.ports import Clock, ObjectStore
from schemas.http_bodies import DrillStatus

LOOK_S = 60.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One rehearsal and its outcome.

    Attributes:
        drill_id: the drill's own name.
        run: whose loss was rehearsed.
        region: the standby in which it ran.
        holder: the region whose loss was rehearsed.
        time_ms: when it began.
        actor: who asked for it.
        good: the first optimizer step was reached, within the promised time.
        why: what went wrong; "" if nothing did.
        from_step: the checkpoint that it resumed from; -1: it ended before that.
        first_step: the first new step; -1: none.
        predicted_parts_s: the recovery time that readiness predicted before, by part.
        measured_parts_s: the recovery time that was measured, by part.
        promised_s: the run's promise; None if there is none.
    """

    drill_id: str
    run: str
    region: str
    holder: str
    time_ms: int
    actor: str
    good: bool
    why: str = ""
    from_step: int = -1
    first_step: int = -1
    predicted_parts_s: dict[str, float] = field(default_factory=dict)
    measured_parts_s: dict[str, float] = field(default_factory=dict)
    promised_s: float | None = None

    @property
    def predicted_rto_s(self) -> float | None:
        """The sum of the predicted parts; None if nothing was predicted."""
        return sum(self.predicted_parts_s.values()) if self.predicted_parts_s else None

    @property
    def measured_rto_s(self) -> float | None:
        """From the last heartbeat to the first new step; None if there was none."""
        return sum(self.measured_parts_s.values()) if self.first_step >= 0 else None

    def plain(self) -> dict[str, object]:
        """As JSON, with both sums."""
        return asdict(self) | {"predicted_rto_s": self.predicted_rto_s, "measured_rto_s": self.measured_rto_s}


def keep(store: ObjectStore, drill: Drill) -> None:
    """Write a drill into the history."""
    store.create(paths.drilled(drill.run, drill.time_ms, drill.drill_id), json.dumps(asdict(drill)).encode())


def history(store: ObjectStore, run: str) -> tuple[Drill, ...]:
    """Every drill of a run in this region, oldest first."""
    bodies = [store.get(key) for key in store.list(paths.drills_prefix(run))]
    return tuple(Drill(**json.loads(body)) for body in bodies if body is not None)


class DrillHistory:
    """Reads every minute how old a run's last good drill in this region is; shown by status, and never a gate."""

    def __init__(self, *, run: str, store: ObjectStore, clock: Clock, most_days: float) -> None:
        self._run, self._store, self._clock, self._most_days = run, store, clock, most_days
        self._good: Drill | None = None
        self._seen: tuple[str, ...] | None = None
        self.trouble = ""

    def turn(self) -> float:
        """Read the history again if it grew; seconds until the next turn."""
        try:
            keys = self._store.list(paths.drills_prefix(self._run))
            if keys != self._seen:
                self._good = next((drill for drill in reversed(history(self._store, self._run)) if drill.good), None)
                self._seen = keys
        except RetryableError as error:
            self.trouble = str(error)
        else:
            self.trouble = ""
        return LOOK_S

    def status(self) -> DrillStatus:
        """The last good drill, and a warning if there is none, it is too old, or nobody can tell."""
        good = self._good
        if good is None:
            warning = f"never drilled in this region: farside drill --run {self._run} rehearses the loss of the primary"
            if self._seen is None:
                warning = f"its drills cannot be read: {self.trouble}" if self.trouble else ""
            return DrillStatus(warning=warning, trouble=self.trouble)
        age_days = max(0.0, (self._clock.wall_ms() - good.time_ms) / 1000 / DAY_S)
        old = f"the last good drill is {age_days:.0f} days old, {self._most_days:g} are allowed"
        return DrillStatus(
            age_days=round(age_days, 2),
            measured_rto_s=good.measured_rto_s,
            warning=old if age_days > self._most_days else "",
            trouble=self.trouble,
        )
