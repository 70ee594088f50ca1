"""Faults in what is said: lags that are too small, and troubles that nobody is told of."""

from __future__ import annotations

from tests.mutants.places import PUBLISH, PULSE, REPAIR, Mutant

LAG, TROUBLES, DIAGNOSIS = "pipelines/core/lag.py", "pipelines/core/troubles.py", "pipelines/core/diagnosis.py"
LAGS, FOUND = ("tests/core/authority/test_lag.py",), ("tests/core/authority/test_troubles.py",)
LANE_PROGRESS, LANES = "pipelines/core/lane_progress.py", ("tests/core/replication/test_lane_progress.py",)

HONESTY_FAULTS = (
    Mutant("an old lag is exact", LAG, "self.source == HEARTBEATS and self.age_s <= FRESH_S", "True", LAGS),
    Mutant(
        "a lag across an unknown fork is a number",
        LAG,
        "if one.place.epoch > view.epoch]",
        "if one.place.epoch > view.epoch + 9]",
        LAGS,
    ),
    Mutant("what a branch committed is the primary's step", LAG, " or _counts(view, one.place)]", " or True]", LAGS),
    Mutant(
        "a standby of a run that went back is level",
        LAG,
        "return place.epoch > here.epoch or (place.epoch == here.epoch and 0 <= here.seq < place.seq)",
        "return False",
        LAGS,
    ),
    Mutant("a heartbeat that comes late is news", PULSE, "now_s - max(0.0, late_s)", "now_s", LAGS),
    Mutant(
        "heartbeats name no committed step",
        PUBLISH,
        "committed_step=committed_step,\n            committed_seq",
        "committed_step=-1,\n            committed_seq",
        LAGS,
    ),
    Mutant(
        "a lag that is a lower bound exceeds nothing",
        TROUBLES,
        "elif limit is not None and lag.steps > limit[0]:",
        "elif limit is not None and lag.is_exact and lag.steps > limit[0]:",
        FOUND,
    ),
    Mutant(
        "a lane that stands is not told", TROUBLES, "for one in lane.standing:", "for one in lane.standing[:0]:", FOUND
    ),
    Mutant(
        "a winner that cannot start is well", TROUBLES, "if grant.training == 0 and", "if grant.training < 0 and", FOUND
    ),
    Mutant("nothing is wrong but for what was found", DIAGNOSIS, "if seen.findings:", "if False:", FOUND),
    Mutant(
        "what one of two observers misses is not told", DIAGNOSIS, "return _partly_reached(seen)", "return None", FOUND
    ),
    Mutant("a lane that cannot be read is level", LANE_PROGRESS, "if self._trouble is not None:", "if False:", LANES),
    Mutant(
        "a checkpoint that was set aside is as good as visible",
        LANE_PROGRESS,
        "(visible and one < place)",
        "one < place",
        LANES,
    ),
    Mutant(
        "an audit counts on a lane that stands",
        "pipelines/core/audit.py",
        'yield from (f"{region}: {text}" for text in of.standing)',
        "yield from ()",
        ("tests/core/inspection/test_audit.py",),
    ),
    Mutant(
        "a damage that is repaired is still told as one that waits",
        REPAIR,
        "            self._waits.pop(note.place, None)\n",
        "",
        ("tests/core/replication/test_damage_repair.py",),
    ),
    Mutant(
        "another reason than the finding's is left out",
        "services/cli/status.py",
        "any(why in text for text in stands)",
        "bool(stands)",
        ("tests/core/cli/test_status.py",),
    ),
)
