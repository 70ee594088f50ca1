"""Judges stores and logs, as things take effect in them. Knows nothing of the faults.

What is visible must have its bytes (I13), once (I15), on the lineage (I5), and in the order of its producer's numbers
unless it says that it is not; what was accepted must come out somewhere (I14); nobody overwrites anything (I6); a
checkpoint that is chosen is whole (I7).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.manifests import objects
from pipelines.core.metric_batches import rows_of
from pipelines.paths import CheckpointId, parse_checkpoint
from pipelines.ports import Message, SpoolRecord, Verifier
from schemas.codec import Codec, digest
from schemas.records import Abandoned, Checkpoint, DeadLetter, EpochChange, Event, Lease, Manifest, Record
from tests.simulation.authority_checker import AuthorityChecker

Identity = tuple[str, int, str, str, int]  # run, epoch, producer, lane, number
SAYS_SO = {
    "farside_redriven",
    "farside_filled",
    "farside_rebuilt",
    "farside_replay",
}  # headers of what stands out of order
LANES = {paths.topic(lane) for lane in paths.REPLICATED_LANES}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A manifest as it lies at its key."""

    record: Manifest | Abandoned
    digest: str


@dataclass(frozen=True, slots=True)
class _Accepted:
    """An event that a spool accepted."""

    identity: Identity
    step: int


def _identity(event: Event) -> Identity:
    return (event.run, event.epoch, event.producer, event.lane, event.seq)


def _rows(record: Record) -> tuple[Event, ...]:
    """The events in a record: of a batch each of its rows."""
    return rows_of(record) if isinstance(record, Event) else ()


class EventChecker:
    """I5, I6, I7, I8, I12, I13, I14 and I15."""

    def __init__(
        self, regions: Collection[str], authority: AuthorityChecker, signer: Verifier, fail: Callable[[str], None]
    ) -> None:
        self._authority, self._signer, self._fail = authority, signer, fail
        self._codec = Codec()
        self._digests: dict[str, str] = {}  # of each key, in whichever store
        self._here: dict[str, dict[str, tuple[str, int]]] = {name: {} for name in regions}
        self._outcomes: dict[str, dict[str, _Outcome]] = {name: {} for name in regions}
        self._by_digest: dict[str, dict[str, Manifest]] = {name: {} for name in regions}
        self._visible: dict[str, dict[Identity, str]] = {name: {} for name in regions}
        self._newest_seq: dict[tuple[str, Identity], int] = {}  # of each region and stream (its identity with number 0)
        self._accepted: dict[str, list[_Accepted]] = {name: [] for name in regions}
        self._committed: dict[tuple[str, int], int] = {}  # run, epoch: the newest step that was reported committed
        self._forged: set[str] = set()  # digests of manifests
        self.foreign = 0  # dead letters of what was forged
        self._rotten: set[CheckpointId] = set()
        self._newest: dict[str, tuple[int, int, str]] = {}  # run: epoch, number, key of what was committed last

    # --- stores ---

    def created(self, region: str, key: str, body: bytes) -> None:
        """An object is new in a region's store."""
        found = digest(body)
        if self._digests.setdefault(key, found) != found:
            self._fail(f"I6: {key} in {region} is not what lies elsewhere under that key")
        self._here[region][key] = (found, len(body))
        if key.endswith("/manifest"):
            self._outcome(region, key, body)
        elif "/launches/" in key:
            self._launched(region, key, json.loads(body))

    def overwritten(self, region: str, key: str, body: bytes) -> None:
        """An object was put, whatever was there: a probe, or the very bytes that were created under that key."""
        if not key.startswith("health/") and self._digests.get(key) != digest(body):
            self._fail(f"I6: {key} was overwritten in {region}")

    def asks_to_create(self, process: str, region: str, key: str, body: bytes) -> None:
        """I8: who asks for a manifest, which is the commit, does so while nobody else may."""
        if not process.startswith("agent@") or not key.endswith("/manifest"):
            return
        own = parse_checkpoint(key)
        others = self._authority.holders(own.run) - {region}
        if others and self._authority.counts(own.run, own.epoch, own.step) and self._is_manifest(body):
            self._fail(f"I8: {process} commits {key} while {', '.join(sorted(others))} holds {own.run}")

    def asks_to_publish(self, process: str, region: str, messages: Sequence[Message]) -> None:
        """I8: what is past a fork is not reported as committed, by whoever asks while another region holds the run."""
        for message in messages:
            if message.topic != paths.CHECKPOINTS:
                continue
            event = self._codec.decode(message.value)
            if isinstance(event, Checkpoint) and event.state == "committed" and self._names_manifest(event):
                others = self._authority.holders(event.run) - {region}
                if others and not self._authority.counts(event.run, event.epoch, event.step):
                    who = ", ".join(sorted(others))
                    self._fail(f"I8: {process} reports {event.manifest_key} committed while {who} holds {event.run}")

    def _names_manifest(self, event: Checkpoint) -> bool:
        found = self._outcomes[event.region].get(event.manifest_key)
        return found is not None and isinstance(found.record, Manifest)

    def forged(self, event: Checkpoint) -> None:
        """A region says this of an epoch that it does not hold."""
        self._forged.add(event.manifest_digest)

    def _check_author(self, run: str, epoch: int, region: str, what: str) -> None:
        """I17: what counts was made by the region that won its epoch."""
        entry = self._authority.chains.get(run, {}).get(epoch)
        if entry is None or entry.region != region:
            holder = "nobody" if entry is None else entry.region
            self._fail(f"I17: {what} is by {region}, and epoch {epoch} of {run} is held by {holder}")

    def _is_manifest(self, body: bytes) -> bool:
        return isinstance(self._codec.decode(self._signer.opened(body).payload), Manifest)

    def _outcome(self, region: str, key: str, body: bytes) -> None:
        opened = self._signer.opened(body)
        payload = opened.payload
        record = self._codec.decode(payload)
        if not isinstance(record, Manifest | Abandoned):
            self._fail(f"I7: {key} in {region} holds a {type(record).__name__}")
            return
        own = CheckpointId(record.run, record.epoch, record.attempt, record.step)
        if own.manifest != key:
            self._fail(f"I7: {key} in {region} is of {own.prefix}")
        self._outcomes[region][key] = _Outcome(record, digest(payload))
        self._check_author(own.run, own.epoch, opened.region, f"the signature of {key} in {region}")
        if isinstance(record, Abandoned):
            return
        self._check_author(own.run, own.epoch, record.region, f"{key} in {region}")
        if own in self._rotten:
            self._fail(f"I7: {key} is committed, though a rank state of it changed in the spool")
        self._by_digest[region][digest(payload)] = record
        for one in objects(record):
            if self._here[region].get(one.key) != (one.sha256, one.size):
                self._fail(f"I7, I13: {key} is in {region} before {one.key}")
        parent = record.parent_digest
        if record.region == region and parent and parent not in self._by_digest[region]:
            self._fail(f"I5: {key} in {region} names a parent that is not there")

    def _launched(self, region: str, key: str, plain: Mapping[str, object]) -> None:
        """I7: what a launch starts from is whole, here, and on the lineage; an attempt is one launch's."""
        run, epoch, attempt = key.split("/")[1], int(str(plain["epoch"])), int(str(plain["attempt"]))
        if self._authority.attempts.get((run, epoch, attempt)) != (region, plain["name"]):
            self._fail(f"I6: {key} in {region} is attempt {attempt} of epoch {epoch}, which was not given to it")
        start = str(plain["start_manifest_key"])
        if start:
            self._chosen(region, run, str(plain["start_manifest_digest"]), epoch, f"{key} starts from {start}")

    def _chosen(self, region: str, run: str, named: str, newest: int, what: str) -> None:
        found = self._by_digest[region].get(named)
        if found is None:
            self._fail(f"I7: {what}, which is not whole in {region}")
        elif found.run != run or not self._authority.counts(run, found.epoch, found.step, newest):
            self._fail(f"I5, I7: {what}, step {found.step} of epoch {found.epoch}, which is not on the lineage")

    # --- the witness ---

    def landed(self, lease: Lease, before: Lease | None) -> None:
        """I5, I7, I9: an epoch goes on from a whole checkpoint of the lineage before it, or of a branch by will."""
        if before is None or lease.epoch == before.epoch:
            return
        entry = lease.lineage[-1]
        if entry.fork_step >= 0:
            what = f"epoch {entry.epoch} of {lease.run} forks at {entry.fork_step}"
            newest = entry.parent_epoch if entry.reason == "adopted" else before.epoch
            self._chosen(entry.region, lease.run, entry.fork_manifest_digest, newest, what)
            found = self._by_digest[entry.region].get(entry.fork_manifest_digest)
            if found is not None and found.step != entry.fork_step:
                self._fail(f"I9: {what}, its manifest is of step {found.step}")
        self._nothing_lost_by_plan(lease.run, before.epoch)

    def _nothing_lost_by_plan(self, run: str, epoch: int) -> None:
        closing = self._authority.chains[run].get(epoch + 1)
        newest = self._committed.get((run, epoch), -1)
        if closing is not None and closing.reason == "switchover" and newest > closing.fork_step:
            self._fail(f"I8: the planned move of {run} to {closing.region} lost step {newest} of epoch {epoch}")

    # --- logs ---

    def appended(self, region: str, message: Message, looked: Mapping[str, int]) -> None:
        """A message is visible in a region's log."""
        if message.topic in LANES:
            event = self._codec.decode(message.value)
            is_marked = any(name in SAYS_SO for name, _ in message.headers)
            for row in _rows(event):
                if _identity(row) not in self._visible[region] and not is_marked:
                    self._in_order(region, row)
                self._seen(region, row, looked)
        elif message.topic == paths.DEAD_LETTERS:
            self._dead(region, self._codec.decode_as(DeadLetter, message.value), looked)
        elif message.topic == paths.CONTROL and message.headers:
            self._judge_announcement(region, self._codec.decode(message.value))

    def _in_order(self, region: str, event: Event) -> None:
        """A number that is seen for the first time follows those of its producer that are there (docs/events.md, 6)."""
        key = (region, (event.run, event.epoch, event.producer, event.lane, 0))
        newest = self._newest_seq.get(key, 0)
        if event.seq < newest:
            self._fail(f"order: {event.lane} {event.seq} of {event.producer} in {region} came after {newest}")
        self._newest_seq[key] = max(event.seq, newest)

    def _seen(self, region: str, event: Event, looked: Mapping[str, int]) -> None:
        identity = _identity(event)
        state, what = "seen", f"{event.lane} {event.seq} of {event.producer} in {region}"
        if isinstance(event, Checkpoint):
            state = event.state
            if state != "superseded":
                self._has_bytes(region, event)
        if event.region == region:
            if state == "committed":
                self._reported(event)
            self._visible[region][identity] = state
            return
        self._check_author(event.run, event.epoch, event.region, what)
        if identity in self._visible[region]:
            self._fail(f"I15: {what} became visible twice")
        if not self._authority.counts(event.run, event.epoch, event.step, looked.get(event.run, 0)):
            self._fail(f"I5: {what}, step {event.step} of epoch {event.epoch}, was past the fork as {region} knew it")
        self._visible[region][identity] = state

    def _reported(self, event: Event) -> None:
        """A commit, as its own region says it."""
        if not isinstance(event, Checkpoint) or not self._names_manifest(event):
            return
        of = (event.run, event.epoch)
        self._committed[of] = max(event.step, self._committed.get(of, -1))
        self._nothing_lost_by_plan(*of)

    def _has_bytes(self, region: str, event: Checkpoint) -> None:
        """I13. A manifest was found whole when it was created, and nothing is ever taken away."""
        found = self._outcomes[region].get(event.manifest_key)
        if found is None or found.digest != event.manifest_digest:
            self._fail(f"I13: the event of {event.manifest_key} is visible in {region} before what it names")

    def _dead(self, region: str, letter: DeadLetter, looked: Mapping[str, int]) -> None:
        if letter.reason == "foreign_epoch":
            record = self._codec.decode(letter.value)
            if not isinstance(record, Checkpoint) or record.manifest_digest not in self._forged:
                self._fail(f"I14: {region} calls foreign what nobody forged: {letter.detail}")
            self.foreign += 1
            return
        if letter.reason != "branch":
            self._fail(f"I14: {region} has a dead letter, {letter.reason}: {letter.detail}")
            return
        rows, known = _rows(self._codec.decode(letter.value)), self._visible[region]
        # Of a batch that a fork parts, the letter has all of it: rows that count, and rows that an earlier batch had
        # brought before the fork was known, are not what is set aside.
        aside = [
            one
            for one in rows
            if not self._authority.counts(one.run, one.epoch, one.step, looked.get(one.run, 0))
            and (len(rows) == 1 or _identity(one) not in known)
        ]
        if rows and not aside:
            one = rows[-1]
            self._fail(f"I5: step {one.step} of epoch {one.epoch} was set aside in {region}, and is on the lineage")
        for one in aside:
            if _identity(one) in known:
                self._fail(f"I15: {one.lane} {one.seq} of {one.producer} is visible in {region} and set aside")
            known[_identity(one)] = "set aside"

    def _judge_announcement(self, region: str, record: Record) -> None:
        """I12: what is told of a change is what was written at the witness."""
        if not isinstance(record, EpochChange):
            return
        entry = self._authority.chains.get(record.run, {}).get(record.epoch)
        announced = (region, record.fork_step, record.reason, record.actor)
        if entry is None or announced != (entry.region, entry.fork_step, entry.reason, entry.actor):
            self._fail(f"I12: {region} tells of epoch {record.epoch} of {record.run} what was not written")
        elif record.holder_before and not record.gates and record.reason != "adopted":
            self._fail(f"I12: {region} does not tell which gates it saw before epoch {record.epoch} of {record.run}")

    # --- spools ---

    def rotten(self, own: CheckpointId) -> None:
        """A rank state of this checkpoint changed in the spool before it was read."""
        self._rotten.add(own)

    def accepted(self, region: str, record: SpoolRecord) -> None:
        """A record is durable in a node's spool."""
        identity = (record.run, record.epoch, record.producer, record.lane, record.seq)
        self._accepted[region].append(_Accepted(identity, record.step))

    def count_visible(self) -> int:
        """How much is visible, in all regions together."""
        return sum(map(len, self._visible.values()))

    def missing(self, survivors: Collection[str]) -> list[str]:
        """I14: what a surviving node accepted and a surviving region neither shows nor says to have set aside."""
        found = []
        adopted = {
            run for run, chain in self._authority.chains.items() if any(e.reason == "adopted" for e in chain.values())
        }
        for origin in survivors:
            for one in self._accepted[origin]:
                run, epoch, producer, lane, seq = one.identity
                what = f"{lane} {seq} of {producer}, epoch {epoch}, step {one.step}, accepted in {origin}"
                on_line = self._authority.counts(run, epoch, one.step)
                for region in survivors:
                    state = self._visible[region].get(one.identity)
                    if state is None:
                        found.append(f"I14: {what}, is not visible in {region}")
                    elif state == "set aside" and on_line and run not in adopted:
                        found.append(f"I14: {what}, is on the lineage and was set aside in {region}")
        return found + self._behind(survivors)

    def _behind(self, survivors: Collection[str]) -> list[str]:
        """The newest checkpoint on each lineage that a survivor committed is whole in all of them.

        What was adopted had been set aside elsewhere as a branch: the next checkpoint that is committed brings it.
        """
        found = []
        for run, lease in self._authority.newest.items():
            adopted = max((one.epoch for one in lease.lineage if one.reason == "adopted"), default=0)
            whole = [
                (one.record.epoch, one.record.lineage_seq, key)
                for name in survivors
                for key, one in self._outcomes[name].items()
                if isinstance(one.record, Manifest)
                and one.record.run == run
                and one.record.region in survivors
                and self._authority.counts(run, one.record.epoch, one.record.step)
            ]
            newest = max(whole, default=None)
            if newest is not None and newest[0] >= adopted:
                found += [
                    f"I14: {newest[2]}, the newest of {run} under {lease.holder}, is not in {name}"
                    for name in survivors
                    if newest[2] not in self._outcomes[name]
                ]
        return found
