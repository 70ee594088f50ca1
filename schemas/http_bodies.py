"""The bodies of `/status` and `/v1/*`: what a service answers and what it is asked, as frozen dataclasses.

A service builds these and the command reads these, so a renamed field fails where it is read. They cross the wire as
JSON, by `services/http/bodies.py`: a missing or wrongly typed field is refused by its name, an unknown one is ignored,
since regions upgrade at different times. For the same reason a field that is added later has a default: an older
service does not send it.

Steps are optimizer steps. `*_ms` are milliseconds since the Unix epoch by the service's wall clock, `*_s` are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.records import EpochEntry, Lease

# --- the controller: GET /status answers a RunStatus for each run ---


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatus:
    """One condition of a failover, with its figures. `value` is None for what never happened."""

    name: str
    value: float | None
    rule: str
    limit: float
    open: bool
    advisory: bool  # noted only: it never stops anything
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisStatus:
    """Which part fails, in whose region, and the evidence."""

    trouble: str
    where: str
    evidence: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseStatus:
    """Whether a failover to this region would keep the run's objectives now. A primary promises nothing."""

    kept: bool
    broken: tuple[str, ...] = ()  # a sentence for each objective that would be missed
    steps_lost: int | None = None
    predicted_rto_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardStatus:
    """One region as a controller has heard it. `heard_age_s` is None if it never heard a node there."""

    heard_age_s: float | None
    step: int | None
    waiting_ranks: int | None
    phases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessStatus:
    """The standby pool, as its warmer published it last."""

    step: int
    proof: str
    grade: str
    predicted_rto_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillStatus:
    """The last good drill of a run in a region; the ages are None if there was none."""

    age_days: float | None = None
    measured_rto_s: float | None = None
    warning: str = ""
    trouble: str = ""  # why the history cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageStatus:
    """One object of a checkpoint that is not what its manifest names, as read back in this region."""

    key: str
    why: str
    seen_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LagStatus:
    """The primary's newest committed step minus this region's recoverable step, and how well that is known.

    `steps` is None where nothing can be known, and a lower bound unless `is_exact`; `age_s` is since it was true.
    """

    steps: int | None
    is_exact: bool
    age_s: float | None
    source: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingStatus:
    """One thing that is wrong: its kind, which part, for how long (None: not known), and in words."""

    kind: str
    part: str
    since_s: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedStatus:
    """A checkpoint that was given up: where its event was first published, and why."""

    region: str
    epoch: int
    step: int
    state: str  # abandoned or superseded
    reason: str
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmStatus:
    """One gap, reset or trouble: the fields of the record `Alarm`, its short id and its sentence."""

    id: str
    kind: str
    state: str
    peer: str
    lane: str
    run: str
    epoch: int
    producer: str
    place: str
    unlisted: int
    cause: str
    time_ms: int
    actor: str
    ranges: tuple[tuple[int, int], ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run as one region's controller believes it to be, with what it would do now, and why."""

    run: str
    region: str
    profile: str
    fencing: str
    primary: str | None  # None: the lease record was not read yet
    epoch: int
    attempt: int
    committed_step: int | None
    is_holder: bool
    valid_s: float
    recoverable_step: int | None
    recoverable_epoch: int | None
    mode: str | None
    acknowledged: int
    lineage: tuple[EpochEntry, ...]
    target: str
    scheduled_ms: int
    note: str
    promise: PromiseStatus
    action: str
    reason: str
    diagnosis: DiagnosisStatus | None
    next: str
    gates: tuple[GateStatus, ...]
    operator_pending: bool
    witness_age_s: float | None
    regions: dict[str, HeardStatus]
    readiness: ReadinessStatus | None
    forks: tuple[tuple[int, int, int], ...]  # epoch, parent epoch, fork step
    troubles: dict[str, str]
    drill: DrillStatus = DrillStatus()
    fork_verified_age_s: float | None = None  # of what a takeover would begin from; None: never read back here
    damages: tuple[DamageStatus, ...] = ()
    lag: LagStatus | None = None  # None: in the primary, which follows nobody; or an older controller
    findings: tuple[FindingStatus, ...] = ()  # everything that is wrong, as far as this region can see
    skipped: tuple[SkippedStatus, ...] = ()  # the newest checkpoints that were given up, oldest first
    alarms: tuple[AlarmStatus, ...] = ()  # open, oldest first


ControllerStatus = dict[str, RunStatus]
"""By run."""


# --- the replicator: GET /status answers a LaneStatus for each `<peer>/<lane>` ---


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStatus:
    """One checkpoint that is being copied."""

    run: str
    step: int
    moved_bytes: int
    size_bytes: int
    error: str = ""  # why its last object could not be copied; "" once it could
    error_since_ms: int = 0  # wall time


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneAlarmsStatus:
    """How many alarms of a lane are open, and the newest of them, oldest first."""

    open: int = 0
    newest: tuple[AlarmStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingStatus:
    """A lane that stands below the end of its source: why, and for how long nothing has moved.

    `run` is "*" where it concerns every run; `records` is None where the peer does not say what is left.
    """

    run: str
    records: int | None
    reason: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionStatus:
    """For how long a run's newer checkpoints have waited without one becoming visible, and the bound of that.

    `bound_s` is T + 2 S / R (`core.newest_wins`); None while the link's rate or the cadence is not known.
    """

    waiting_s: float
    bound_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatus:
    """One lane that a region follows in a peer: what waits, why, and what of its source is not handled yet."""

    peer: str
    lane: str
    queued: dict[str, int]  # records, by run
    waits: dict[str, str]  # why the first of them waits, by run
    counts: dict[str, int]  # records since the process began, by outcome
    copies: tuple[CopyStatus, ...]
    link_bytes: int
    trouble: str = ""
    reachability_trouble: str = ""  # of the whole region, as the next one
    repair_troubles: dict[str, str] = field(default_factory=dict)  # by run: why damaged objects are not repaired yet
    alarms: LaneAlarmsStatus = LaneAlarmsStatus()
    backlog: int | None = None  # records of the source that are not settled here; None: the peer does not say
    backlog_grows: bool = False
    standing: tuple[StandingStatus, ...] = ()
    completions: dict[str, CompletionStatus] = field(default_factory=dict)  # by run


ReplicatorStatus = dict[str, LaneStatus]
"""By peer and lane: `east/checkpoints`."""


# --- the warmer ---


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmerStatus:
    """The checkpoint that the standby pool has resident, how well it is proven, and the predicted recovery time."""

    run: str
    grade: str
    ready: bool
    waiting_ranks: int
    staged_step: int | None
    staged_epoch: int | None
    manifest_digest: str
    proof: str
    staged_s: float
    load_s: float | None
    predicted_rto_s: float | None
    predicted_parts_s: dict[str, float]  # empty while nothing is staged
    trouble: str = ""


# --- the agent ---


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogStatus:
    """The records that wait in a node's spool. `remaining_s` is None while it does not shrink."""

    records: int
    bytes: int
    records_per_s: float
    bytes_per_s: float
    remaining_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherStatus:
    """A node's publisher: its grants, its backlog and its troubles."""

    producer: str
    backlog: BacklogStatus
    backlog_checkpoints: int
    committed_step: dict[str, int]  # by run
    troubles: dict[str, str]  # by run and part
    launches: dict[str, dict[str, str]]  # the grant's state, by run and launch
    waiting_checkpoints: dict[str, int] = field(default_factory=dict)  # of `backlog_checkpoints`, by run


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRenewalStatus:
    """Under hard fencing: for how long each launch may still compute, by run and launch."""

    hard_left_s: dict[str, float]
    hard_troubles: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPathStatus:
    """Which way to Kafka an agent uses, how often its client was made anew, and how many of these still hang."""

    path: int
    paths: int
    rebuilt: int
    hanging: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus(PublisherStatus):
    """All of an agent, flat: its publisher, its grant renewal and its way to Kafka."""

    hard_left_s: dict[str, float]
    hard_troubles: dict[str, str]
    kafka: KafkaPathStatus


# --- /v1 of the controller ---


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantBody:
    """POST /v1/grant: an agent asks for a launch's standing. The answer is a `GrantReply` of the port Grants."""

    run: str
    launch: str
    committed_step: int  # the newest that the agent has committed; -1: none
    node: str = ""
    begins: bool = False  # the launch waits on this node for its start: it may become a new attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverBody:
    """POST /v1/failover: a person asks this region to take a run over. Who that is, the credential says.

    Asked again under the same key, it is the same request: the answer says what has become of it.
    """

    run: str
    note: str
    key: str  # made by the asker, once for each request
    epoch: int  # that the person saw, and wants to be replaced; 0: whichever is the newest
    fenced: bool  # the person states that the old region cannot write any more
    fenced_epoch: int = 0  # and repeats it for this epoch, though that region seems to live


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverAnswer:
    """The state of the request: waits, won, lost (somebody else won the epoch), refused or expired."""

    state: str
    why: str = ""
    gates: tuple[GateStatus, ...] = ()  # as they stood at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewAnswer:
    """GET /v1/preview?run=: what a failover that is asked for now would meet."""

    action: str
    reason: str
    gates: tuple[GateStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveBody:
    """POST /v1/ask: a person asks the holder for a planned move, a pause, an adoption ... Who, the credential says."""

    run: str
    kind: str
    note: str
    target: str
    at_ms: int
    key: str  # made by the asker, once for each request: under the same key nothing is done twice


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveAnswer:
    """Why the holder refuses; "" if it does not."""

    refused: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryAnswer:
    """GET /v1/history?run=: every noted change of authority, oldest first."""

    records: tuple[Lease, ...]


# --- /v1 of the replicator: whoever asks again is told what has become of the request ---


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayBody:
    """POST /v1/replay: these records of a peer's lane are to be looked at once more."""

    peer: str
    lane: str
    replay_id: str
    cluster: str
    topic_id: str
    partition: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayAnswer:
    """The request's state (waits, done, refused), why, and how many records had which outcome so far."""

    state: str
    why: str
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveBody:
    """POST /v1/redrive: a dead letter is to be handled once more."""

    peer: str
    lane: str
    ask_id: str
    partition: int
    offset: int
    force: bool
    actor: str = ""  # put in by the service, from the credential: whatever is sent is not believed


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveAnswer:
    """The request's state (waits, done, refused), and why."""

    state: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcknowledgeBody:
    """POST /v1/alarm: a person knows of an alarm; it is no longer to be open."""

    peer: str
    lane: str
    alarm: str  # its id


@dataclass(frozen=True, slots=True, kw_only=True)
class AcknowledgeAnswer:
    """The request's state: waits, done, or unknown (there is no such open alarm)."""

    state: str
