"""The agent's flow: from a node's spool to its region's store and Kafka. It never stops a trainer; one thread turns it.

A log has one position, which moves only past what is settled. A checkpoint that is not settled holds back the position
and its own lane; other lanes are published past it, and after a crash may be published again under the same identity,
which every reader counts once (I15). What an attempt was started from is remembered in the store, create-only.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.authorship import SIGNATURE, disagreement
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.core.manifests import build, intent_of, size_bytes
from pipelines.core.resume_mode import resume_mode
from pipelines.core.set_aside import clipped
from pipelines.errors import CorruptError, FencedError, ForeignEpochError, MisconfiguredError, RetryableError
from pipelines.flows.agent.agent_ports import AgentNode, AgentPorts, PublishPolicy, StartFolders
from pipelines.flows.agent.grant_renewal import HARD, authority_of
from pipelines.flows.agent.outbox import Outbox, Tail
from pipelines.flows.agent.sending import Sending
from pipelines.flows.agent.uploads import Uploads
from pipelines.flows.log.envelope import headers_of, identity_of, wrap
from pipelines.paths import CheckpointId
from pipelines.ports import GrantReply, SpoolRecord
from schemas.codec import DecodeError, digest
from schemas.http_bodies import PublisherStatus
from schemas.records import (
    Abandoned,
    Checkpoint,
    Heartbeat,
    Intent,
    LastSeq,
    Manifest,
)

__all__ = ["Publisher", "headers_of"]

ASK_S = 0.5
ASK_WAITING_S = 0.2
TURN_S = 0.1
CHUNKS_PER_STEP = 4
NUMBER_END = 2**63
GIVEN_UP_MAX, REASON_TOLD = 8, 300  # checkpoints, and characters of each reason, in a standing


@dataclass(slots=True)
class _Launch:
    """A granted launch of this node, and the newest answer about it."""

    name: str
    epoch: int
    attempt: int
    start_digest: str
    start_seq: int
    reply: GrantReply = field(default_factory=lambda: GrantReply("wait"))
    asked_at_s: float = float("-inf")
    written: dict[str, object] = field(default_factory=dict)  # the standing that the trainer sees
    given_up: dict[int, str] = field(default_factory=dict)  # its newest checkpoints that there will not be: step, why


class Publisher:
    """One node's agent.

    Args:
        node: the node that it serves.
        ports: its own.
        policy: how often, in which batches and how fast it publishes.
        folders: where the checkpoint lies from which a launch starts.
    """

    def __init__(
        self,
        node: AgentNode,
        ports: AgentPorts,
        policy: PublishPolicy | None = None,
        folders: StartFolders | None = None,
    ) -> None:
        policy, folders = policy or PublishPolicy(), folders or StartFolders()
        self._region, self._node = node.region, node.name
        self._spool, self._store = ports.spool, ports.store
        self._grants, self._signer, self._codec = ports.grants, ports.signer, ports.codec
        self._clock, self._journal = ports.clock, ports.journal
        self._heartbeat_s = policy.heartbeat_s
        self._locate, self._fetch = folders.locate, folders.fetch
        self._producer = f"agent-{node.name}-{ports.entropy.new_id()[:16]}"
        self._beat_seq: dict[tuple[str, int], int] = {}
        self._beat_at_s: dict[str, float] = {}
        self._asked_at_s: dict[tuple[str, str], float] = {}
        self._launches: dict[str, dict[str, _Launch]] = {}
        self._tails: dict[tuple[str, str], Tail] = {}
        self._sending = Sending(node, ports)
        self._outbox = Outbox(node, policy, ports, self._sending)
        self._turns = 0
        self._committed: dict[str, int] = {}
        self._newest: dict[str, tuple[int, int, int]] = {}  # by run: epoch, lineage number and step, of the newest
        self._uploading = Uploads(
            spool=ports.spool,
            store=ports.store,
            codec=ports.codec,
            beats=lambda run: self._guarded(self._heartbeat, run),
        )
        self._reported: set[str] = set()
        self._troubles: dict[str, str] = {}

    def turn(self) -> float:
        """One turn over every run; seconds until the next one."""
        self._uploading.budget = CHUNKS_PER_STEP
        self._turns += 1
        self._sending.begin_turn()
        try:
            runs = self._spool.runs()
        except RetryableError as error:
            self._note_trouble("spool", error)
            return TURN_S
        self._troubles.pop("spool", None)
        for run in runs:
            for part in (self._heartbeat, self._authorise, self._stand, self._drain):
                self._guarded(part, run)
        behind = self._outbox.look(self._tails)
        return 0.0 if self._uploading.budget <= 0 or behind else TURN_S

    def status(self) -> PublisherStatus:
        """Which launches are granted, how much waits, and which part fails."""
        launches = {
            run: {launch.name: launch.reply.state for launch in of.values()} for run, of in self._launches.items()
        }
        waiting = Counter(dict.fromkeys(self._launches, 0))
        for (run, _), tail in list(self._tails.items()):
            waiting[run] += len(tail.pending)
        return PublisherStatus(
            producer=self._producer,
            backlog=self._outbox.backlog(),
            backlog_checkpoints=sum(len(tail.pending) for tail in self._tails.values()),
            committed_step=dict(self._committed),
            troubles=dict(self._troubles),
            launches=launches,
            waiting_checkpoints=dict(waiting),
        )

    def _guarded(self, part: Callable[[str], None], run: str) -> None:
        """Run one part of a turn; a dependency that is away stops this part only (I16)."""
        name = f"{run}/{part.__name__.lstrip('_')}"
        try:
            part(run)
        except (FencedError, MisconfiguredError):
            raise
        except (RetryableError, CorruptError, DecodeError) as error:
            self._note_trouble(name, error)
        except Exception as error:  # noqa: BLE001 - one run's files may stop this run's part, not the others (I18)
            self._note_trouble(name, error, traceback.format_exc())
        else:
            self._troubles.pop(name, None)

    def _note_trouble(self, name: str, error: Exception, stack: str = "") -> None:
        """Report it once, until it is over."""
        text = f"{type(error).__name__}: {error}" if stack else str(error)
        if name not in self._troubles:
            self._journal.say("publish.waits", part=name, error=text, **({"stack": stack} if stack else {}))
        self._troubles[name] = text

    # --- authority ---

    def _known(self, run: str) -> dict[str, _Launch]:
        """The launches that were granted to this node, also to an agent before this one."""
        if run not in self._launches:
            launches = {}
            for key in self._store.list(paths.starts_prefix(run, self._node)):
                body = self._store.get(key)
                try:
                    launch = None if body is None else _launch_from(key, body)
                except CorruptError as error:
                    self._note_trouble(key, error)
                    continue
                if launch is not None:
                    launches[launch.name] = launch
            self._launches[run] = launches
        return self._launches[run]

    def _authorise(self, run: str) -> None:
        known = self._known(run)
        for name in self._spool.launches(run):
            now_s = self._clock.boottime_s()
            if now_s - self._asked_at_s.get((run, name), float("-inf")) < ASK_WAITING_S:
                continue
            self._asked_at_s[run, name] = now_s
            reply = self._grants.ask(run, name, self._node, self._committed.get(run, -1), begins=True)
            if reply.state == "granted":
                self._grant(run, name, reply, known)

    def _grant(self, run: str, name: str, reply: GrantReply, known: dict[str, _Launch]) -> None:
        folder: str | None = None
        request = self._spool.request(run, name)
        resumes = resume_mode(request, self._start_manifest(reply))
        if reply.start_manifest_key:
            folder = self._locate(reply.start_manifest_digest)
            if folder is None and self._fetch is None:
                raise RetryableError(f"no folder holds {reply.start_manifest_key} and there is no way to fetch it")
            if folder is None and self._fetch is not None:
                folder = self._fetch(reply)
        launch = _Launch(name, reply.epoch, reply.attempt, reply.start_manifest_digest, reply.start_lineage_seq)
        plain = {
            "name": name,
            "epoch": launch.epoch,
            "attempt": launch.attempt,
            "start_digest": launch.start_digest,
            "start_seq": launch.start_seq,
        }
        self._store.create(paths.start(run, self._node, name), json.dumps(plain).encode())
        known[name] = launch
        self._spool.grant(
            run,
            name,
            {
                "launch": name,
                "epoch": reply.epoch,
                "attempt": reply.attempt,
                "step": reply.start_step if folder is not None else 0,
                "mode": resumes.mode,
                "exact": resumes.exact,
                "manifest_digest": reply.start_manifest_digest,
                "folder": folder,
                **self._authority(run, name, reply),
            },
        )
        self._journal.say(
            "publish.granted",
            run=run,
            launch=name,
            epoch=reply.epoch,
            attempt=reply.attempt,
            mode=resumes.mode,
            exact=resumes.exact,
            differs=resumes.differs,
            fencing=reply.fencing,
            guarded=bool(request.guard),
        )

    def _authority(self, run: str, name: str, reply: GrantReply) -> dict[str, object]:
        """The launch's authority; under *hard* the controller is asked anew, since the fetch may have taken long."""
        asked_s = self._clock.boottime_s()
        return authority_of(reply if reply.fencing != HARD else self._grants.ask(run, name, self._node, -1), asked_s)

    def _start_manifest(self, reply: GrantReply) -> Manifest | None:
        """The manifest of the checkpoint from which the launch starts; None at step 0."""
        if not reply.start_manifest_key:
            return None
        envelope = self._store.get(reply.start_manifest_key)
        if envelope is None:
            raise RetryableError(f"{reply.start_manifest_key} is granted as the start and not in the store")
        opened = self._signer.opened(envelope)
        if digest(opened.payload) != reply.start_manifest_digest:
            raise CorruptError(f"{reply.start_manifest_key} is not the manifest that was granted as the start")
        return self._codec.decode_as(Manifest, opened.payload)

    def _stand(self, run: str) -> None:
        """Ask again for launches that still matter, counted from before asking (6.4), and tell the trainer."""
        known = self._known(run)
        newest = max(((launch.epoch, launch.attempt) for launch in known.values()), default=(0, 0))
        wanted = {newest} | {(beat.epoch, beat.attempt) for beat in self._spool.beats(run)}
        for (of, _), tail in self._tails.items():
            if of == run:
                wanted |= {(record.epoch, record.attempt) for _, record in tail.pending}
        for launch in known.values():
            now_s = self._clock.boottime_s()
            if (launch.epoch, launch.attempt) in wanted and now_s - launch.asked_at_s >= ASK_S:
                reply = self._grants.ask(run, launch.name, self._node, self._committed.get(run, -1))
                launch.asked_at_s, launch.reply = now_s, reply
            self._write_standing(run, launch)

    def _write_standing(self, run: str, launch: _Launch) -> None:
        state = launch.reply.state
        if state != "superseded":
            state = "granted" if self._valid(launch) else "provisional"
        committed = max(self._committed.get(run, -1), launch.reply.committed_step)
        answer: dict[str, object] = {"state": state, "epoch": launch.epoch, "attempt": launch.attempt}
        answer |= {
            "committed_step": _step(committed),
            "recoverable_step": _step(launch.reply.recoverable_step),
            "reason": launch.reply.reason,
            "draining": launch.reply.draining,
            "given_up": [{"step": step, "reason": reason} for step, reason in launch.given_up.items()],
        }
        if answer != launch.written:
            self._spool.standing(run, launch.name, answer | {"time_ms": self._clock.wall_ms()})
            launch.written = answer

    def _valid(self, launch: _Launch) -> bool:
        """I8: the grant is this attempt's own and has not run out at this moment."""
        reply = launch.reply
        own = (reply.epoch, reply.attempt) == (launch.epoch, launch.attempt)
        return reply.state == "granted" and own and self._clock.boottime_s() < launch.asked_at_s + reply.valid_s

    # --- records ---

    def _drain(self, run: str) -> None:
        """Publish each producer's records: one that is damaged or has to wait does not hold up the others."""
        troubles: list[RetryableError | CorruptError | DecodeError] = []
        for producer in self._in_turn(run):
            try:
                self._drain_one(run, producer)
            except (RetryableError, CorruptError, DecodeError) as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]

    def _in_turn(self, run: str) -> tuple[str, ...]:
        """The run's producers, another one first each time, since they share the pace."""
        names = self._spool.producers(run)
        first = self._turns % len(names) if names else 0
        return names[first:] + names[:first]

    def _drain_one(self, run: str, producer: str) -> None:
        tail = self._tails.get((run, producer)) or Tail.at(self._spool.position(run, producer))
        self._tails[run, producer] = tail
        try:
            self._outbox.read_on(run, producer, tail)
            try:
                self._outbox.publish(tail)
            finally:  # with Kafka away, the bytes of checkpoints are brought to the store all the same
                while tail.pending and self._settle(tail.pending[0][1]):
                    tail.pending.popleft()
        finally:
            if tail.settled != tail.noted:
                self._spool.advance(run, producer, tail.settled)
                tail.noted = tail.settled
        if self._outbox.done_with(run, producer, tail):
            del self._tails[run, producer]

    # --- checkpoints ---

    def _settle(self, record: SpoolRecord) -> bool:
        """Bring one checkpoint to its outcome and publish it; False while that has to wait."""
        own = CheckpointId(record.run, record.epoch, record.attempt, record.step)
        launch = self._launch_of(record)
        if launch is None:
            self._once(f"{own.prefix}: no grant of this node is known for its attempt")
            return False
        if record.kind != "intent":
            return self._abandon(own, record, launch, clipped(record.body.get("reason", record.kind)))
        try:
            intent = intent_of(
                own,
                producer=record.producer,
                seq=record.seq,
                time_ms=record.time_ms,
                body=record.body,
                start_manifest_digest=launch.start_digest,
                start_lineage_seq=launch.start_seq,
            )
            if self._store.get(own.manifest) is None and not self._uploading.upload(own, intent):
                # Its trainer is gone, and what is missing may never come.
                replaced = launch.reply.state == "superseded" and not self._is_branch(launch.reply, own)
                return replaced and self._abandon(own, record, launch, "superseded before it was uploaded")
            return self._commit(own, intent, record, launch)
        except (
            CorruptError,
            OverflowError,
            UnicodeEncodeError,
        ) as error:  # also numbers and texts that Avro cannot hold
            return self._abandon(own, record, launch, clipped(error))

    def _launch_of(self, record: SpoolRecord) -> _Launch | None:
        for launch in self._known(record.run).values():
            if (launch.epoch, launch.attempt) == (record.epoch, record.attempt):
                return launch
        return None

    def _commit(self, own: CheckpointId, intent: Intent, record: SpoolRecord, launch: _Launch) -> bool:
        existing = self._store.get(own.manifest)
        superseded = launch.reply.state == "superseded"
        branch = superseded and self._is_branch(launch.reply, own)
        if existing is None:
            before = self._outcome_before(own, intent)
            if before is not None and superseded and not branch:
                return self._abandon(own, record, launch, "superseded before it was committed")
            envelope = None if before is None else self._manifest(own, intent, *before)
            if envelope is None:
                return False
            if not branch and not self._valid(launch):
                self._once(f"{own.prefix}: provisional, no valid grant")
                return False
            self._store.create(own.manifest, envelope)
            existing = self._store.get(own.manifest)
        if not superseded and not self._valid(launch):
            return False
        return self._publish_outcome(own, record, existing or b"", "branch" if branch else "committed")

    def _manifest(self, own: CheckpointId, intent: Intent, parent_digest: str, seq: int) -> bytes | None:
        """The signed manifest; None unless everything that it names is in the store at this moment (6.10)."""
        receipts = self._uploading.receipts(own, intent)
        if receipts is None:
            return None
        manifest = build(intent, receipts, self._region, parent_digest, seq)
        envelope = self._signer.sign(self._codec.encode(manifest))
        return envelope if self._uploading.whole(own, manifest) else None

    def _publish_outcome(self, own: CheckpointId, record: SpoolRecord, envelope: bytes, state: str) -> bool:
        payload = self._own_outcome(own, envelope)
        outcome = self._codec.decode(payload)
        if isinstance(outcome, Abandoned):
            size, seq, reason, state = 0, outcome.lineage_seq, outcome.reason, "abandoned"
        elif isinstance(outcome, Manifest):
            size, seq, reason = size_bytes(outcome), outcome.lineage_seq, ""
        else:
            raise CorruptError(f"{own.manifest} holds a {type(outcome).__name__}")
        event = Checkpoint(
            **identity_of(record, self._region),
            state=state,
            manifest_key=own.manifest,
            manifest_digest=digest(payload),
            lineage_seq=seq,
            size_bytes=size,
            reason=reason,
        )
        self._sending.send([wrap(event, "checkpoint", self._codec)])
        if state == "committed":
            self._committed[own.run] = max(own.step, self._committed.get(own.run, -1))
            self._newest[own.run] = max((own.epoch, seq, own.step), self._newest.get(own.run, (0, -1, -1)))
        if isinstance(outcome, Abandoned):
            self._tell_given_up(own, record, reason)
        self._journal.say(f"checkpoint.{state}", run=own.run, epoch=own.epoch, step=own.step, reason=reason)
        self._spool.release(own)
        self._uploading.forget(own)
        return True

    def _own_outcome(self, own: CheckpointId, envelope: bytes) -> bytes:
        """The payload of an outcome that stands in this region's store; CorruptError unless this region signed it."""
        opened = self._signer.opened(envelope)
        why = disagreement({SIGNATURE: opened.region, "its agent": self._region})
        if why:
            raise ForeignEpochError(f"{own.manifest}: {why}")
        return opened.payload

    def _tell_given_up(self, own: CheckpointId, record: SpoolRecord, reason: str) -> None:
        """Tell the trainer before the position passes the record: an agent that dies in between tells it again."""
        launch = self._launch_of(record)
        if launch is None:
            return
        launch.given_up.pop(own.step, None)
        launch.given_up[own.step] = clipped(reason, REASON_TOLD)
        for step in list(launch.given_up)[:-GIVEN_UP_MAX]:
            del launch.given_up[step]
        with contextlib.suppress(RetryableError):  # the disk is full: it is written with the next standing
            self._write_standing(own.run, launch)

    def _abandon(self, own: CheckpointId, record: SpoolRecord, launch: _Launch, reason: str) -> bool:
        """Take the manifest's key with the record that there will be none, and say so."""
        if launch.reply.state != "superseded" and not self._valid(launch):
            return False
        existing = self._store.get(own.manifest)
        if existing is None:
            parent, seq = self._newest_outcome(own, launch)
            gone = Abandoned(
                run=own.run,
                epoch=own.epoch,
                attempt=own.attempt,
                step=own.step,
                parent_digest=parent,
                lineage_seq=seq,
                reason=reason,
            )
            self._store.create(own.manifest, self._signer.sign(self._codec.encode(gone)))
            existing = self._store.get(own.manifest)
        branch = launch.reply.state == "superseded" and self._is_branch(launch.reply, own)
        return self._publish_outcome(own, record, existing or b"", "branch" if branch else "committed")

    def _is_branch(self, reply: GrantReply, own: CheckpointId) -> bool:
        view = LineageView(max((fork[0] for fork in reply.forks), default=reply.epoch), reply.forks)
        return standing(view, own.epoch, own.step) is Standing.BRANCH

    def _outcome_before(self, own: CheckpointId, intent: Intent) -> tuple[str, int] | None:
        """(parent digest, this one's lineage number); None until the step before is settled."""
        if intent.previous_step < 0:
            return intent.start_manifest_digest, intent.start_lineage_seq + 1
        previous = CheckpointId(own.run, own.epoch, own.attempt, intent.previous_step)
        envelope = self._store.get(previous.manifest)
        return None if envelope is None else self._following(previous, envelope)

    def _newest_outcome(self, own: CheckpointId, launch: _Launch) -> tuple[str, int]:
        folder = own.prefix.rpartition("/")[0] + "/"
        keys = [k for k in self._store.list(folder) if k.endswith("/manifest") and k < own.manifest]
        envelope = self._store.get(keys[-1]) if keys else None
        return (launch.start_digest, launch.start_seq + 1) if envelope is None else self._following(own, envelope)

    def _following(self, own: CheckpointId, envelope: bytes) -> tuple[str, int]:
        payload = self._own_outcome(own, envelope)
        outcome = self._codec.decode(payload)
        if isinstance(outcome, Abandoned):
            return outcome.parent_digest, outcome.lineage_seq + 1
        if not isinstance(outcome, Manifest):
            raise CorruptError(f"the outcome before is a {type(outcome).__name__}")
        return digest(payload), outcome.lineage_seq + 1

    def _once(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._journal.say("publish.provisional", why=text)

    # --- heartbeats ---

    def _heartbeat(self, run: str) -> None:
        now_s = self._clock.boottime_s()
        if now_s - self._beat_at_s.get(run, float("-inf")) < self._heartbeat_s:
            return
        self._beat_at_s[run] = now_s
        beats = self._spool.beats(run)
        newest = max(beats, key=lambda one: (one.epoch, one.attempt, one.time_ms), default=None)
        epoch = newest.epoch if newest else 0
        seq = self._beat_seq[run, epoch] = self._beat_seq.get((run, epoch), 0) + 1
        committed_epoch, committed_seq, committed_step = self._newest_committed(run)
        event = Heartbeat(
            event_id=f"{run}/{epoch}/{self._producer}/heartbeats/{seq}",
            run=run,
            region=self._region,
            epoch=epoch,
            attempt=newest.attempt if newest else 0,
            producer=self._producer,
            seq=seq,
            step=newest.step if newest else 0,
            time_ms=self._clock.wall_ms(),
            node=self._node,
            phase=newest.phase if newest else "idle",
            budget_s=newest.budget_s if newest else 0.0,
            last_seqs=tuple(
                LastSeq(producer=beat.producer, lane=lane, seq=last)
                for beat in beats
                for lane, last in sorted(beat.last_seq.items())
            ),
            committed_epoch=committed_epoch,
            committed_step=committed_step,
            committed_seq=committed_seq,
        )
        self._sending.send([wrap(event, "heartbeat", self._codec)])

    def _newest_committed(self, run: str) -> tuple[int, int, int]:
        """Epoch, lineage number (-1: not known) and step of the run's newest committed checkpoint.

        This node commits it itself, or hears of it from its controller, which every node of the region tells.
        """
        own = self._newest.get(run, (0, -1, -1))
        for launch in self._launches.get(run, {}).values():
            if launch.reply.state == "granted" and (launch.epoch, launch.reply.committed_step) > (own[0], own[2]):
                own = (launch.epoch, -1, launch.reply.committed_step)
        return own


def _launch_from(key: str, body: bytes) -> _Launch:
    """A launch that was granted before, as it was remembered; CorruptError if that cannot be read."""
    try:
        found = json.loads(body)
        name, start_digest = found["name"], found["start_digest"]
        numbers = [found[one] for one in ("epoch", "attempt", "start_seq")]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CorruptError(f"{key} is damaged, the launch's checkpoints wait: {type(error).__name__}") from error
    fits = all(type(one) is int and -1 <= one < NUMBER_END for one in numbers) and isinstance(start_digest, str)
    if not fits or name != key.rpartition("/")[2]:
        raise CorruptError(f"{key} is damaged, the launch's checkpoints wait: its fields do not fit")
    return _Launch(name, numbers[0], numbers[1], start_digest, numbers[2])


def _step(step: int) -> int | None:
    return step if step >= 0 else None
