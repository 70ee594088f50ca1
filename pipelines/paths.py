"""Every object key and topic name; computed here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.errors import CorruptError, MisconfiguredError

TOPIC_PREFIX = "farside."
HEARTBEATS = f"{TOPIC_PREFIX}heartbeats"
CHECKPOINTS = f"{TOPIC_PREFIX}checkpoints"
METRICS = f"{TOPIC_PREFIX}metrics"
DATA_VERSIONS = f"{TOPIC_PREFIX}data-versions"
CONTROL = f"{TOPIC_PREFIX}control"
DEAD_LETTERS = f"{TOPIC_PREFIX}dead-letters"
LEDGER = f"{TOPIC_PREFIX}ledger"
ALARMS = f"{TOPIC_PREFIX}alarms"

LANES = ("heartbeats", "checkpoints", "metrics", "data-versions", "control")
REPLICATED_LANES = ("checkpoints", "data-versions", "metrics")
REPLAYABLE_LANES = REPLICATED_LANES
EVERY_RUN = "*"  # in place of a run's name, in what a region says once for all of them; no run can be called so
COMPACTED = frozenset({LEDGER, ALARMS})
TOPICS = (HEARTBEATS, CHECKPOINTS, METRICS, DATA_VERSIONS, CONTROL, DEAD_LETTERS, LEDGER, ALARMS)

NUMBER_DIGITS = 9  # of an epoch in a key, at most

_RUN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_CHECKPOINT = re.compile(r"runs/([a-z0-9][a-z0-9._-]{0,62})/e(\d{6,})/a(\d{4,})/s(\d{10,})(?:/|$)")

_PIN = re.compile(r"runs/([a-z0-9][a-z0-9._-]{0,62})/pins/e(\d{6,})-a(\d{4,})-s(\d{10,})/(\d{6,})")


def topic(lane: str) -> str:
    """The topic of a lane."""
    return f"{TOPIC_PREFIX}{lane}"


def transactional_prefix(region: str) -> str:
    """The beginning of the transactional ids of a region's replicator."""
    return f"farside-replicator-{region}-"


def transactional_id(region: str, peer: str, lane: str) -> str:
    """The transactional id of the one writer of a peer's lane in a region's log."""
    return f"{transactional_prefix(region)}{peer}-{lane}"


def check_run(run: str) -> str:
    """The run's name, if it can stand in a key."""
    if not _RUN.fullmatch(run):
        raise MisconfiguredError(
            f"run name {run!r}: use 1 to 63 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
        )
    return run


@dataclass(frozen=True, slots=True, order=True)
class CheckpointId:
    """The identity of a checkpoint: one manifest joins the shards of one attempt."""

    run: str
    epoch: int
    attempt: int
    step: int

    @property
    def prefix(self) -> str:
        """The folder of its objects, without a slash at the end."""
        return f"runs/{self.run}/e{self.epoch:06d}/a{self.attempt:04d}/s{self.step:010d}"

    @property
    def manifest(self) -> str:
        """The key of its one outcome: a manifest, or the record that there will be none."""
        return f"{self.prefix}/manifest"

    @property
    def intent(self) -> str:
        """The key of its intent."""
        return f"{self.prefix}/intent"

    def receipt(self, rank: int) -> str:
        """The key of a rank's receipt."""
        return f"{self.prefix}/receipts/rank-{rank:05d}"

    def chunk(self, rank: int, index: int) -> str:
        """The key of a shard's chunk."""
        return f"{self.prefix}/rank-{rank:05d}/chunk-{index:06d}"

    def rank_state(self, rank: int) -> str:
        """The key of a rank's RNG and loader state."""
        return f"{self.prefix}/rank-{rank:05d}/state"


def parse_checkpoint(key: str) -> CheckpointId:
    """The checkpoint that a key or prefix belongs to; CorruptError if it is none."""
    match = _CHECKPOINT.match(key)
    if match is None:
        raise CorruptError(f"{key!r} is not under a checkpoint's prefix")
    return CheckpointId(match[1], int(match[2]), int(match[3]), int(match[4]))


def committed(keys: Iterable[str]) -> list[CheckpointId]:
    """The checkpoints whose outcome is among these keys."""
    return [parse_checkpoint(key) for key in keys if key.endswith("/manifest")]


def epochs_prefix(run: str) -> str:
    """The folder of the epochs that a region has seen."""
    return f"runs/{run}/epochs/"


def epoch_seen(run: str, epoch: int) -> str:
    """The create-only object that remembers an epoch."""
    return f"{epochs_prefix(run)}{epoch:06d}"


def checkpoints_prefix(run: str) -> str:
    """The folder under which a run's checkpoints lie."""
    return f"runs/{run}/e"


def canonical(key: str) -> CheckpointId | None:
    """The checkpoint under whose very prefix a key lies; None if it is written in any other way than ours."""
    try:
        own = parse_checkpoint(key)
    except CorruptError:
        return None
    return own if key.startswith(f"{own.prefix}/") else None


def pins_prefix(run: str) -> str:
    """The folder of the pins in a region."""
    return f"runs/{run}/pins/"


def pins_of(own: CheckpointId) -> str:
    """The folder of one checkpoint's pins."""
    return f"{pins_prefix(own.run)}e{own.epoch:06d}-a{own.attempt:04d}-s{own.step:010d}/"


def pin(own: CheckpointId, number: int) -> str:
    """The create-only object that pins a checkpoint (odd number), or ends the pin before it (even number)."""
    return f"{pins_of(own)}{number:06d}"


def parse_pin(key: str) -> tuple[CheckpointId, int]:
    """The checkpoint and the number of a pin; CorruptError if it is none."""
    match = _PIN.fullmatch(key)
    if match is None:
        raise CorruptError(f"{key!r} is no pin")
    return CheckpointId(match[1], int(match[2]), int(match[3]), int(match[4])), int(match[5])


def discarded_prefix(run: str) -> str:
    """The folder of the branches that were discarded in a region."""
    return f"runs/{run}/discarded/"


def launches_prefix(run: str) -> str:
    """The folder of the launches that were granted."""
    return f"runs/{run}/launches/"


DAMAGE = "damage/"
"""The folder of the notes about objects whose bytes went bad in a region's store."""

REPAIRED = "-over"
"""What the key of the object that closes a note ends with."""


def damage_prefix(run: str) -> str:
    """The folder of the notes about a run's damaged objects."""
    return f"{DAMAGE}{run}/"


def run_of_damage(place: str) -> str:
    """The run of a note about a damaged object; `EVERY_RUN` if the place names none."""
    run = place.removeprefix(DAMAGE).partition("/")[0]
    return run if place.startswith(DAMAGE) and _RUN.fullmatch(run) else EVERY_RUN


def damages_of(own: CheckpointId) -> str:
    """The folder of the notes about one checkpoint's objects."""
    return f"{damage_prefix(own.run)}e{own.epoch:06d}-a{own.attempt:04d}-s{own.step:010d}/"


def damage_of(key: str) -> str:
    """The folder of the notes about one object of a checkpoint; CorruptError if the key is none."""
    own = parse_checkpoint(key)
    name = key.removeprefix(f"{own.prefix}/").replace("/", "-")
    return f"{damages_of(own)}{name}/"


def damaged(key: str, time_ms: int) -> str:
    """The create-only object which says that the object at `key` was found damaged then."""
    return f"{damage_of(key)}{time_ms:015d}"


def shard_lists_prefix(run: str) -> str:
    """The folder of the lists of shards that a run's data versions name."""
    return f"runs/{run}/data-versions/"


def shard_list(run: str, sha256: str) -> str:
    """The create-only object that holds the list of shards of a data version, named by the digest of its bytes."""
    return f"{shard_lists_prefix(run)}{sha256}"


def set_aside(run: str, sha256: str) -> str:
    """The create-only object that holds the bytes of a dead letter which no topic could take."""
    return f"runs/{run}/set-aside/{sha256}"


SWEEPS = "sweeps/"
"""The folder of the sweeps' notes."""


def sweeps_prefix(run: str) -> str:
    """The folder of the notes of a run's sweeps."""
    return f"{SWEEPS}{run}/notes/"


def sweep_note(run: str, time_ms: int, note_id: str) -> str:
    """The create-only object which says what a sweep found unreferenced."""
    return f"{sweeps_prefix(run)}{time_ms:015d}-{note_id}"


def sweep_clock(run: str) -> str:
    """The object that is put to learn the store's own time."""
    return f"{SWEEPS}{run}/clock"


def schema(fingerprint: str) -> str:
    """The key of a writer's schema."""
    return f"schemas/{fingerprint}"


def health(service: str, region: str) -> str:
    """The key of a service's store probe."""
    return f"health/{service}-{region}"


def lease(run: str) -> str:
    """The lease record, in the witness's bucket."""
    return f"leases/{run}"


def lease_group(group: str) -> str:
    """The record that holds the leases of a group's runs, in the witness's bucket."""
    return f"lease-groups/{group}"


def audit_prefix(run: str) -> str:
    """The folder of the claims of a run's epochs, in the witness's bucket."""
    return f"audit/{run}/"


def audit(run: str, epoch: int) -> str:
    """The create-only claim of an epoch, in the witness's bucket."""
    return f"{audit_prefix(run)}{epoch:06d}"


def highest_number(prefix: str, keys: Iterable[str]) -> int:
    """The highest number that follows a prefix among some keys; 0 if there is none. Other keys are passed over."""
    names = (key.removeprefix(prefix) for key in keys)
    numbers = (int(name) for name in names if name.isascii() and name.isdecimal() and len(name) <= NUMBER_DIGITS)
    return max(numbers, default=0)


def history_prefix(run: str) -> str:
    """The folder of the records that were noted, in the witness's bucket."""
    return f"history/{run}/"


def noted(run: str, renew_seq: int) -> str:
    """The create-only copy of a lease record; its number rises with every write, so the keys are in order."""
    return f"{history_prefix(run)}{renew_seq:012d}"


def notified(run: str, epoch: int) -> str:
    """The create-only object which says that the webhook of an epoch was taken."""
    return f"runs/{run}/notified/{epoch:06d}"


def starts_prefix(run: str, node: str) -> str:
    """The folder of the records from which checkpoint a node's launches were started."""
    return f"runs/{run}/starts/{node}/"


def start(run: str, node: str, launch: str) -> str:
    """The create-only object that remembers a launch's epoch, attempt and start."""
    return f"{starts_prefix(run, node)}{launch}"


def discarded(run: str, epoch: int) -> str:
    """The create-only object which says that a branch was discarded, by whom and why."""
    return f"{discarded_prefix(run)}{epoch:06d}"


def launched(run: str, launch: str) -> str:
    """The create-only object in which a controller fixes a launch's epoch, attempt and start, before it grants it."""
    return f"{launches_prefix(run)}{launch}"


DRILL_TOPICS = "drill."
"""The beginning of a topic's name in a drill."""

REPLAY_TOPICS = "replay."
"""The beginning of the names of topics that a replay may write to; no service reads them."""

DRILLS = "drills/"
"""The folder of everything that drills write in a region's bucket."""


def drill_prefix(drill_id: str) -> str:
    """The folder of everything that one drill writes; removed when it is over."""
    return f"{DRILLS}now/{drill_id}/"


def drills_prefix(run: str) -> str:
    """The folder of a run's history of drills."""
    return f"{DRILLS}history/{run}/"


def drilled(run: str, time_ms: int, drill_id: str) -> str:
    """The create-only object that remembers a drill; the keys are in order of time."""
    return f"{drills_prefix(run)}{time_ms:015d}-{drill_id}"
