"""Bodies of `/status` as a quiet service answers them, for tests to change."""

from __future__ import annotations

import dataclasses
from typing import Any

from schemas.http_bodies import HeardStatus, LaneStatus, PromiseStatus, RunStatus, WarmerStatus
from schemas.records import EpochEntry

RUN_STATUS = RunStatus(
    run="gpt",
    region="west",
    profile="fast",
    fencing="soft",
    primary="west",
    epoch=2,
    attempt=1,
    committed_step=40,
    is_holder=True,
    valid_s=3.2,
    recoverable_step=40,
    recoverable_epoch=2,
    mode="active",
    acknowledged=0,
    lineage=(),
    target="",
    scheduled_ms=0,
    note="",
    promise=PromiseStatus(kept=True),
    action="wait",
    reason="holding",
    diagnosis=None,
    next="renews in 1.0 s",
    gates=(),
    operator_pending=False,
    witness_age_s=0.5,
    regions={"east": HeardStatus(heard_age_s=None, step=None, waiting_ranks=None, phases=())},
    readiness=None,
    forks=(),
    troubles={},
)
LANE_STATUS = LaneStatus(
    peer="east",
    lane="checkpoints",
    queued={},
    waits={},
    counts={},
    copies=(),
    link_bytes=0,
)
WARMER_STATUS = WarmerStatus(
    run="gpt",
    grade="W2",
    ready=True,
    waiting_ranks=2,
    staged_step=40,
    staged_epoch=2,
    manifest_digest="d" * 64,
    proof="loaded",
    staged_s=0.1,
    load_s=0.2,
    predicted_rto_s=5.0,
    predicted_parts_s={"restore": 5.0},
)


def run_status(**changes: Any) -> RunStatus:  # noqa: ANN401 - fields of the record
    """West holds the run; with these fields changed."""
    return dataclasses.replace(RUN_STATUS, **changes)


def lane_status(**changes: Any) -> LaneStatus:  # noqa: ANN401 - as above
    """West follows east's checkpoints, of which there are none; with these fields changed."""
    return dataclasses.replace(LANE_STATUS, **changes)


def epoch_entry(epoch: int, region: str, fork_step: int = -1) -> EpochEntry:
    """An epoch that a region won."""
    return EpochEntry(
        epoch=epoch,
        parent_epoch=epoch - 1,
        fork_step=fork_step,
        fork_manifest_digest="",
        fork_lineage_seq=0,
        region=region,
        reason="region_lost",
        actor="controller",
        time_ms=0,
    )
