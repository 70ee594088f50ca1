"""A planted fault, and the short names of the files and tests that the tables of faults share."""

from __future__ import annotations

from dataclasses import dataclass

LEASE_PROFILES = "pipelines/core/lease_profiles.py"
LEASE, DECIDE, HANDOVER = "pipelines/core/lease.py", "pipelines/core/failover_decision.py", "pipelines/core/handover.py"
SUSPICION, PULSE = "pipelines/core/failure_detector.py", "pipelines/core/heartbeats.py"
LINEAGE, LEDGER = "pipelines/core/lineage.py", "pipelines/core/ledger.py"
PUBLISH, REPLICATE, COPYING = (
    "pipelines/flows/agent/publisher.py",
    "pipelines/flows/replication/lane_replicator.py",
    "pipelines/flows/replication/checkpoint_copies.py",
)
FORKS, VERIFIER, NOTES, REPAIR = (
    "pipelines/core/fork_choice.py",
    "pipelines/flows/standby/verifier.py",
    "pipelines/flows/standby/damage_notes.py",
    "pipelines/flows/replication/damage_repair.py",
)
READ_BACK = (
    "tests/core/authority/test_fork_choice.py",
    "tests/core/standby/test_verifier.py",
    "tests/core/authority/test_unsound_checkpoints.py",
)
FAILOVER, LAUNCHES, MOVES, RECOVERABLE = (
    "pipelines/flows/authority/controller.py",
    "pipelines/flows/authority/launches.py",
    "pipelines/flows/authority/planned_moves.py",
    "pipelines/flows/standby/recoverable.py",
)

CORE_LEASE = ("tests/core/authority/test_lease_core.py", "tests/simulation/test_lease_simulation.py")
CORE_DECIDE = ("tests/core/authority/test_failover_decision.py", "tests/core/authority/test_handover.py")
WORLDS = ("tests/simulation/test_failover_simulation.py", "tests/simulation/test_switchover_simulation.py")
GUARD, GUARDS = "client/farside/_validity.py", ("tests/core/client/test_validity.py",)
VIGIL, VIGILS = "pipelines/flows/agent/grant_renewal.py", ("tests/core/agent/test_grant_renewal.py",)
RETENTION, SWEEP, UPLOADING = (
    "pipelines/core/retention.py",
    "pipelines/flows/retention/sweep.py",
    "pipelines/flows/agent/uploads.py",
)
SWEEPS = (
    "tests/core/retention/test_retention.py",
    "tests/core/retention/test_sweep.py",
    "tests/core/retention/test_sweep_races.py",
)
REDRIVE, REDRIVES = (
    "pipelines/flows/replication/redrive_requests.py",
    ("tests/core/replication/test_redrive_requests.py",),
)
BATCHES, DECOMPRESSION = "services/adapters/kafka/batches.py", "services/adapters/kafka/decompression.py"
FOREIGN_BATCHES, KAFKA_ERRORS = ("tests/contract/test_kafka_poison.py",), ("tests/contract/test_kafka_errors.py",)
LIBRDKAFKA, LIBRDKAFKA_LOG = "services/adapters/kafka/librdkafka_log.py", ("tests/contract/test_librdkafka_log.py",)
SCHEMAS, POISON = ("tests/core/log/test_schemas.py",), ("tests/core/replication/test_poison.py",)
TRANSFERS, COPIES = "services/adapters/transfers.py", ("tests/contract/test_transfers.py",)
JUDGE = "pipelines/flows/replication/record_judge.py"
SENDING, SENDINGS = "pipelines/flows/agent/sending.py", ("tests/core/agent/test_sending.py",)
AGENT, MIRROR = ("tests/core/agent/test_publisher.py",), ("tests/core/replication/test_lane_replicator.py",)
PROMOTIONS = ("tests/simulation/test_interrupted_promotion.py",)
CHECKPOINT_STORIES = ("tests/scenarios/test_directed_checkpoints.py",)
REPLICATOR_STORIES = ("tests/scenarios/test_directed_replication.py",)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: where, what stands there, what is put in its place, and who must notice."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
