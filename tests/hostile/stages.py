"""All hostile cases, in the order in which they play, and the stack of each stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.hostile import live, node_files, poison_events, poison_stores, restarts, witness_faults, wrong_or_lost
from tests.hostile.cases import Case, Stage
from tests.hostile.live import REGIONS, STEADY, WEST, Live
from tests.hostile.trainers import SERVICES

# Those that restart services or lose a region come after those that do not.
CASES: tuple[Case, ...] = (
    *poison_events.CASES,
    *poison_stores.CASES,
    *node_files.CASES,
    *wrong_or_lost.CASES,
    *witness_faults.CASES,
    *restarts.CASES,
)
_AT_WORK = {
    Stage.LOG: (("replicator", WEST),),
    Stage.RUNS: tuple((service, region) for region in REGIONS for service in SERVICES),
}


@contextlib.contextmanager
def opened(folder: Path, stage: Stage, cases: Sequence[Case]) -> Iterator[Live]:
    """The stack of a stage with these cases' runs; everybody is at work."""
    runs = sorted({case.run for case in cases} - {STEADY})
    with live.opened(folder, runs, _AT_WORK[stage], by_hand=stage is Stage.LOG) as found:
        if stage is Stage.RUNS:
            found.trained = {(STEADY, region) for region in REGIONS}
        found.keep()
        yield found
