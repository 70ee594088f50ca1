"""The controller of one run in one region: reads the witness, lets the core decide, writes, and answers agents.

One thread at a time calls `turn`, which works on leases only: flows of their own (`HeartbeatReader`, `SelfEvidence`)
read heartbeats and probe, and leave values here. `grant` and `status` may be called from another thread: they read
values and leave requests, and only `turn` writes. `turn` returns the seconds until it is due again; whoever has work
for it before then calls `wake`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pipelines.core import lease as core
from pipelines.core.diagnosis import Diagnosis, Trouble
from pipelines.core.failover_decision import Action, Decision, Reason, RunView, decide, moved_ago_s
from pipelines.core.handover import combined
from pipelines.core.lease import Author, Belief, Fork, Held
from pipelines.core.lineage import view_of
from pipelines.core.wakeup import next_in_s
from pipelines.errors import RetryableError, UnknownOutcomeError
from pipelines.flows.authority.approval_hook import ApprovalHook
from pipelines.flows.authority.committed_claims import CommittedClaims
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.detectors import Detectors
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.authority.fork_finder import ForkFinder, PossibleFork, forked
from pipelines.flows.authority.launches import Launches, works_on
from pipelines.flows.authority.planned_moves import (
    ADOPT,
    MoveRequest,
    PlannedMoves,
    adoption_of,
    proven_step,
    record_after,
    refusal,
)
from pipelines.flows.authority.record_evidence import RecordEvidence
from pipelines.flows.authority.run_watch import RunWatch
from pipelines.flows.authority.status import Situation, finite, status_of
from pipelines.flows.authority.takeover_requests import TakeoverRequest, TakeoverRequests, view_with
from pipelines.flows.authority.troubles import Troubles
from pipelines.flows.standby.recoverable import RecoverableCheckpoint
from pipelines.ports import GrantReply
from schemas.http_bodies import FailoverAnswer, RunStatus
from schemas.records import EpochEntry, Lease

TURN_S = 0.1  # while something is under way
STALLED_POLLS = 1.5  # a loop that has not turned for so many polls stood still; less is a busy machine
RETRY_S = 1.0  # after a dependency did not answer
REQUESTS_MAX = 16  # of operators that wait for the next turn


class Controller:
    """Decides and writes who may write for one run, as far as its region has a say in it.

    Args:
        role: the run, and the region's part in it.
        ports: the world outside.
        observers: the flows that observe the regions.
        hook: asks somebody outside before the run is moved; None: nobody is asked.
        wake: called when `turn` has something to do before it is due.

    Raises:
        MisconfiguredError: the lease profile is unsafe.
    """

    def __init__(
        self,
        *,
        role: RunRole,
        ports: ControllerPorts,
        observers: Observers,
        hook: ApprovalHook | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        role.policy.profile.check()
        self._wake = wake
        self._region, self._run = role.region, role.run
        self._first_region, self._candidate = role.first_region, role.candidate
        self._profile, self._policy = role.policy.profile, role.policy
        self._peer_states, self._self_evidence = observers.peer_states, observers.self_evidence
        self._leases, self._codec = ports.leases, ports.codec
        self._clock, self._entropy, self._journal = ports.clock, ports.entropy, ports.journal
        self._epoch_store = EpochStore(ports.store)
        self._verifier = observers.verifier
        self._forks = ForkFinder(role, ports, observers.verifier)
        self._fork: PossibleFork | None = None  # as this turn's decision saw it
        self._belief = Belief(region=role.region, incarnation=f"{role.region}-{ports.entropy.new_id()[:16]}")
        self._durable_epoch: int | None = None  # the highest epoch written down in our store; None: not read yet
        self._written_epoch = 0  # up to here this process has written down who holds each epoch
        self._evidence = RecordEvidence(role.run, ports.leases, observers.peer_epochs)
        self._unclaimed = False
        self._sought: dict[int, tuple[str, tuple[str, ...]]] = {}  # epochs we wrote for: holder before, gates seen
        self._read_since_stall = False
        self._was_holder = False
        self._stood_down = False
        self._turned_at_s = ports.clock.boottime_s()
        self._asked_witness_s = core.NEVER_S
        self._decision = Decision(Action.WAIT, Reason.EPOCHS_UNKNOWN)
        self._silent = False
        self._detectors = Detectors(role.region, role.policy, observers.peer_states, observers.reachability)
        self.watch = RunWatch(role, ports, observers)
        self._diagnosis: Diagnosis | None = None
        own = observers.peer_states[role.region]
        self._launches = Launches(
            run=role.run,
            store=ports.store,
            start=self._forks.start,
            works_on=lambda launch: works_on(
                launch, self._belief.held, own, ports.clock.boottime_s() - role.policy.silence_s
            ),
            clock=ports.clock,
            journal=ports.journal,
        )
        self._committed = CommittedClaims(own, self._forks)
        self._takeovers = TakeoverRequests(
            run=role.run, region=role.region, policy=role.policy, clock=ports.clock, journal=ports.journal
        )
        self._planned_moves = PlannedMoves(role.region, role.policy)
        self._hook = hook
        self._noted = -1
        self._notes: list[Lease] = []
        self._troubles = Troubles(role.run, ports.journal)
        self._try = self._troubles.attempt

    # --- what others ask ---

    def grant(self, launch: str, committed_step: int, *, node: str = "", begins: bool = True) -> GrantReply:
        """The standing of a launch (6.5).

        In the primary, a launch that `begins` on its agent's node is settled in the controller's next turn, and granted
        when its agent asks again. The agent's `committed_step` counts once the region's own log or store names it.
        """
        held, now_s = self._belief.held, self._clock.boottime_s()
        if held is None:
            return GrantReply("wait", reason="the lease record has not been read yet")
        lease = held.lease
        forks = view_of(lease.lineage).forks
        if self._belief.gone_backwards:  # nobody is superseded by a record that was put back
            return GrantReply("wait", epoch=self._belief.epoch_max, reason="the lease record went back")
        known = self._launches.granted(launch)
        if known is None:
            if self._launches.ask(launch, now_s, holds=lease.holder == self._region, node=node, begins=begins):
                self._wake()
            reason = self._launches.why_waits(launch) or f"{lease.holder} holds epoch {lease.epoch}"
            return GrantReply("wait", epoch=lease.epoch, forks=forks, reason=reason)
        if (known.epoch, known.attempt) != (lease.epoch, lease.attempt) or lease.holder != self._region:
            reason = f"{lease.holder} holds epoch {lease.epoch}, attempt {lease.attempt}"
            return GrantReply("superseded", epoch=lease.epoch, attempt=lease.attempt, forks=forks, reason=reason)
        self._committed.claim(committed_step)
        return GrantReply(
            "granted",
            epoch=known.epoch,
            attempt=known.attempt,
            valid_s=self._planned_moves.granted(
                lease, max(0.0, self._belief.valid_until_s(self._profile) - now_s), now_s
            ),
            start_step=known.start_step,
            start_manifest_key=known.start_manifest_key,
            start_manifest_digest=known.start_manifest_digest,
            start_lineage_seq=known.start_lineage_seq,
            forks=forks,
            draining=lease.mode in core.MOVING,
            committed_step=max(lease.committed_step, self._committed.step),
            recoverable_step=self._safe_elsewhere(lease),
            fencing=self._policy.fencing,
            margin_s=self._profile.margin_s,
        )

    def _safe_elsewhere(self, lease: Lease) -> int:
        """The newest step on the lineage that another region says it has proven; -1 if none does."""
        steps = (proven_step(peer, lease) for name, peer in self._peer_states.items() if name != self._region)
        return max((step for step in steps if step is not None), default=-1)

    def ask_takeover(self, request: TakeoverRequest) -> FailoverAnswer:
        """An operator asks this region to take the run over; asked again, it says what has become of that."""
        answer = self._takeovers.ask(request, self._view())
        self._wake()
        return answer

    def ask(self, request: MoveRequest) -> str:
        """An operator asks the holder for a pause, a planned move ...; returns why it is refused, or ""."""
        held = self._belief.held
        why = refusal(request, None if held is None else held.lease, self._region, self._peer_states)
        if not why and len(self._planned_moves.requests) >= REQUESTS_MAX:
            why = f"{REQUESTS_MAX} requests wait already: is the witness reachable?"
        if not why:
            self._planned_moves.requests.append(request)
            self._wake()
        return why

    def history(self) -> tuple[Lease, ...]:
        """Every change of authority that was noted at the witness, oldest first.

        Raises:
            RetryableError: the witness does not answer.
        """
        return self._leases.noted(self._run)

    def won(self) -> EpochEntry | None:
        """The newest epoch if this region holds it, else None."""
        held = self._belief.held
        return None if held is None or held.lease.holder != self._region else held.lease.lineage[-1]

    @property
    def turned_at_s(self) -> float:
        """When the loop turned last; another thread may ask."""
        return self._turned_at_s

    def preview(self) -> Decision:
        """The decision that an operator's failover to this region would meet now, with its gates."""
        view = dataclasses.replace(forked(self._view(), self._fork), operator=True)
        return decide(view, self._clock.boottime_s(), self._policy)

    def status(self) -> RunStatus:
        """The run as this controller believes it to be, what it would do now, and why."""
        return status_of(
            Situation(
                run=self._run,
                policy=self._policy,
                view=forked(self._view(), self._fork),
                decision=self._decision,
                peer_states=self._peer_states,
                recovered=self._forks.newest(),
                damages=self._verifier.damages(),
                committed_step=self._committed.step,
                operator_pending=self._takeovers.pending is not None or bool(self._planned_moves.requests),
                troubles=self._failing_parts(),
                diagnosis=self._diagnosis,
                watch=self.watch,
                wall_ms=self._clock.wall_ms(),
                now_s=self._clock.boottime_s(),
            )
        )

    def _failing_parts(self) -> dict[str, str]:
        own = {"before_hook": "" if self._hook is None else self._hook.why, "record": self._evidence.why(self._belief)}
        return self.watch.failing({**self._troubles, **own})

    # --- the loop ---

    def turn(self) -> float:
        """Read, decide, write and settle what is due; seconds until the next turn."""
        now_s = self._clock.boottime_s()
        stalled = now_s - self._turned_at_s > STALLED_POLLS * self._profile.poll_s + TURN_S
        if stalled:
            self._read_since_stall = False  # we stood still: what we believe may be long over (6.4)
        self._detectors.turned(now_s, well=not stalled and not self._troubles and not self._self_evidence.trouble)
        self._turned_at_s = now_s
        if not self._read_since_stall or now_s >= self._policy.due_at_s(self._asked_witness_s, self._profile.poll_s):
            self._try("witness", self._read)
        self._try("epochs", self._remember)
        if not self._belief.is_holder:
            self._try("recoverable", self._look)
        now_s = self._clock.boottime_s()
        view = self._view()
        self._forks.want(view, now_s)
        self._fork = self._forks.fork(now_s)
        view = forked(view, self._fork)
        self._diagnose(view, now_s)
        moving = self._planned_moves.turn(self._belief, self._peer_states, self._committed.step, now_s)
        decision = combined(decide(view, now_s, self._policy), moving)
        if self._hook is not None:
            decision = self._hook.weigh(decision, self._belief)
        self._journal_decision(decision)
        self._decision = decision
        self._try("act", lambda: self._act(decision))
        if self._belief.is_holder:  # after the renewal: a slow store must not cost the lease
            self._try("recoverable", self._look)
        self._planned_moves.due(self._belief, self._clock.wall_ms())
        self._try("requests", self._apply_requests)
        if self._belief.is_holder and not self._was_holder:
            self._was_holder, self._stood_down = True, False
            self._unclaimed = True  # a process of ours that won the epoch may have died before it left the copy
            self._launches.ask_again()
        self._announce()
        self._try("epochs", self._remember)  # at once: launches wait for it
        self._try("claim", self._claim)
        self._try("history", self._note)  # before a launch takes the record's place: who comes after us sees only that
        self._try("launches", lambda: self._launches.settle(self._attempt_of))
        return self._rests_s(decision)

    def _rests_s(self, decision: Decision) -> float:
        """Seconds until something can change without a wake; while a dependency is away, until the next retry."""
        lease = None if self._belief.held is None else self._belief.held.lease
        moving = lease is not None and lease.mode in core.MOVING and self._belief.is_holder
        asked = self._planned_moves.requests or self._takeovers.pending
        left = self._launches.pending or self._notes or self._unclaimed or asked
        if self._troubles:
            return min(RETRY_S, self._profile.poll_s)
        if moving or left or decision.action is Action.TAKE_OVER:
            return TURN_S
        now_s = self._clock.boottime_s()
        return next_in_s(forked(self._view(), self._fork), decision, self._asked_witness_s, now_s, self._policy)

    def _read(self) -> None:
        self._asked_witness_s = self._clock.boottime_s()
        held = self._leases.read(self._run)
        now_s = self._clock.boottime_s()
        self._belief = (
            core.was_missing(self._belief, now_s) if held is None else core.was_read(self._belief, held, now_s)
        )
        self._belief = self._evidence.weighed(self._belief)
        self._read_since_stall = True
        self._remark()

    def _remember(self) -> None:
        """Write the highest epoch seen down in our store before anything rests on it (6.1)."""
        if self._durable_epoch is None:
            newest = self._epoch_store.newest(self._run)
            self._durable_epoch = 0 if newest is None else newest.view.epoch
            self._belief = dataclasses.replace(self._belief, epoch_max=max(self._belief.epoch_max, self._durable_epoch))
        held = self._belief.held
        if held is not None and held.lease.epoch > self._written_epoch:
            self._epoch_store.remember(held.lease)
            self._written_epoch = held.lease.epoch
            self._durable_epoch = max(self._durable_epoch, held.lease.epoch)

    def _look(self, *, again: bool = False) -> None:
        """Look for the newest recoverable checkpoints, unless nothing has changed."""
        held = self._belief.held
        if held is not None:
            named = self._peer_states[self._region].named, self._committed.claimed
            self._forks.look(held.lease, named, again=again)
            self._committed.prove()

    def _view(self) -> RunView:
        held, own = self._belief.held, self._peer_states[self._region]
        holder = None if held is None else self._peer_states.get(held.lease.holder)
        known = self._durable_epoch is not None and (held is None or held.lease.epoch <= self._durable_epoch)
        readiness = own.readiness
        view = RunView(
            belief=self._belief,
            candidate=self._candidate,
            may_create=self._region == self._first_region,
            epochs_known=known or self._belief.gone_backwards,
            read_since_stall=self._read_since_stall,
            was_holder=self._was_holder,
            stood_down=self._stood_down,
            heard_at_s=core.NEVER_S if holder is None else holder.nodes_at_s,
            controller_at_s=core.NEVER_S if holder is None else holder.pulse.controller_at_s,
            works_at_s=own.pulse.works_at_s,
            log_ack_at_s=self._self_evidence.log_ack_at_s,
            store_put_at_s=self._self_evidence.store_put_at_s,
            pool_ready=readiness is not None and readiness.proof != "",
            moved_ago_s=moved_ago_s(held, self._clock.wall_ms()),
            primary_step=None
            if holder is None
            else max((node.step for node in holder.pulse.nodes.values()), default=None),
        )
        return self._detectors.heard(view_with(view, self._takeovers.pending), self._clock.boottime_s())

    def _diagnose(self, view: RunView, now_s: float) -> None:
        """Diagnose what is broken, and journal it when that changes."""
        if view.belief.held is not None:
            self._detectors.saw(view.belief.held.lease, self._committed.step, now_s)
        self.watch.turned(self._belief, self._forks.newest(), self._failing_parts())
        before, diagnosis = self._diagnosis, self._detectors.diagnosis(view, now_s, self.watch.findings)
        self._diagnosis = diagnosis
        changed = diagnosis is not None and (
            before is None or (before.trouble, before.where) != (diagnosis.trouble, diagnosis.where)
        )
        if diagnosis is not None and changed and (before is not None or diagnosis.trouble is not Trouble.NONE):
            self._journal.say(
                "failover.diagnosed",
                run=self._run,
                trouble=diagnosis.trouble.value,
                where=diagnosis.where,
                evidence=list(diagnosis.evidence),
            )

    def _journal_decision(self, decision: Decision) -> None:
        """Journal a decision that differs from the one before; an operator reads these lines at 3 a.m."""
        gates = {gate.name: gate for gate in decision.gates}
        silence = gates.get("heartbeat_silence_s")
        silent = silence is not None and silence.open
        if silent and not self._silent and silence is not None:
            self._journal.say("failover.silent", run=self._run, region=self._region, silence_s=round(silence.value, 3))
        self._silent = silent
        if _kind(decision) == _kind(self._decision):
            return
        event = "failover.alarm" if decision.action is Action.ALARM else "failover.decided"
        closed = [gate.text for gate in decision.closed]
        self._journal.say(
            event, run=self._run, action=decision.action.value, reason=decision.reason.value, closed=closed
        )

    def _act(self, decision: Decision) -> None:
        held, reason = self._belief.held, decision.reason.value
        self._takeovers.settle(None if held is None else held.lease, decision)
        if decision.action is Action.STAND_DOWN:
            self._was_holder, self._stood_down = False, decision.reason is Reason.REPLACED
            self._journal.say("failover.stood_down", run=self._run, region=self._region, reason=decision.reason.value)
        if decision.begins and not self._evidence.allows(self._belief):
            self._asked_witness_s = core.NEVER_S  # what was seen may be newer than the record that we read
            return
        if decision.action is Action.CREATE:
            self._seek(core.first(self._run, self._author(reason), self._profile), None, decision)
        elif held is not None and decision.action is Action.RENEW:
            self._write(core.renewal(held.lease, self._author(reason), self._committed.step), held)
        elif held is not None and decision.action is Action.TAKE_OVER:
            self._take_over(held, decision)
        elif held is not None and decision.action in {Action.RELEASE, Action.CALL_OFF}:
            self._move(held, decision)

    def _move(self, held: Held, decision: Decision) -> None:
        """Release the run to its target, or call the move off; both are one conditional write."""
        given = decision.action is Action.RELEASE
        mode, target = (core.RELEASED, held.lease.target) if given else (core.ACTIVE, "")
        author = self._author(f"handover_{decision.reason.value}", held.lease.actor, held.lease.note)
        if self._write(core.in_mode(held.lease, author, self._committed.step, mode, target), held):
            self._journal.say(
                "handover.released" if given else "handover.called_off",
                run=self._run,
                target=held.lease.target,
                reason=decision.reason.value,
                committed_step=self._committed.step,
                closed=[gate.text for gate in decision.closed],
            )

    def _apply_requests(self) -> None:
        """Apply the operators' requests, one conditional write each, while we may write at all."""
        while self._planned_moves.requests:
            request, held = self._planned_moves.requests[0], self._belief.held
            why = refusal(request, None if held is None else held.lease, self._region, self._peer_states)
            branch = adoption_of(request, held, self._forks.finder) if not why else None
            if branch is not None:
                self._forks.check(branch)
            if not why and request.kind == ADOPT and branch is None:
                why = f"no whole checkpoint of branch {request.target} is in this store: move the run there first"
            if held is not None and (not why or (request.due and held.lease.holder == self._region)):
                if not self._may_write():
                    return
                if branch is not None:
                    self._adopt(request, held, branch)
                else:
                    author = self._author(
                        "schedule_refused" if why else request.kind, request.actor, why or request.note
                    )
                    after = record_after(request, held.lease, author, self._committed.step, refused=bool(why))
                    if not self._write(after, held):
                        return
            self._planned_moves.requests.popleft()
            self._journal.say(
                "operator.applied" if not why else "operator.refused",
                run=self._run,
                kind=request.kind,
                actor=request.actor,
                note=request.note,
                target=request.target,
                why=why,
            )

    def _adopt(self, request: MoveRequest, held: Held, branch: RecoverableCheckpoint) -> None:
        """A new epoch whose parent is the branch's: what came after the old fork becomes a branch itself (I5, I9)."""
        author = self._author(Reason.ADOPTED.value, request.actor, request.note)
        lease = core.takeover(held.lease, author, branch.fork, self._profile, parent=branch.manifest.epoch)
        self._seek(lease, held, Decision(Action.TAKE_OVER, Reason.ADOPTED))

    def _take_over(self, held: Held, decision: Decision) -> None:
        """Take the run over; the fork point is looked up at the last moment, and fixed by the write (6.6, I9)."""
        self._look(again=True)
        now = self._forks.fork(self._clock.boottime_s())
        checkpoint = None if now is None else now.checkpoint
        decided = None if self._fork is None else self._fork.checkpoint
        if checkpoint != decided or (now is not None and not now.verified):
            return  # the gates were weighed for another one: the next turn weighs them for this one
        if checkpoint is None and held.lease.committed_step >= 0:
            return
        actor, note = "controller", ""
        if decision.reason is Reason.SWITCHOVER:
            actor, note = held.lease.actor, held.lease.note
        elif (operator := self._takeovers.pending) is not None:
            fenced_note = " (the old region was stated to be fenced)" if operator.has_fenced(self._belief) else ""
            actor, note = operator.request.actor, operator.request.note + fenced_note
        elif self._diagnosis is not None and decision.reason is Reason.REGION_LOST:
            note = self._diagnosis.text
        author = self._author(decision.reason.value, actor, note)
        fork = Fork() if checkpoint is None else checkpoint.fork
        self._seek(core.takeover(held.lease, author, fork, self._profile), held, decision)

    def _seek(self, lease: Lease, replaced: Held | None, decision: Decision) -> None:
        before = "" if replaced is None else replaced.lease.holder
        self._sought[lease.epoch] = (before, tuple(gate.text for gate in decision.gates))
        self._write(lease, replaced)

    def _write(self, lease: Lease, replaced: Held | None) -> bool:
        """One conditional write; True if its answer says that it won. Without an answer it stays pending (6.3)."""
        expected = None if replaced is None else replaced.etag
        self._belief = core.sent(self._belief, lease, expected, self._clock.boottime_s())
        try:
            etag = self._leases.write(lease, expected)
        except UnknownOutcomeError:
            self._asked_witness_s = core.NEVER_S
            raise
        except RetryableError:
            self._belief = core.answered(self._belief, lease, None, self._clock.boottime_s())
            raise
        self._belief = core.answered(self._belief, lease, etag, self._clock.boottime_s())
        if etag is None:
            self._asked_witness_s = core.NEVER_S
            return False
        self._remark()
        self._journal.say(
            "lease.written",
            run=self._run,
            epoch=lease.epoch,
            renew_seq=lease.renew_seq,
            reason=lease.reason,
            from_s=self._belief.won_at_s,
            until_s=finite(self._belief.valid_until_s(self._profile)),
        )
        return True

    def _announce(self) -> None:
        """Record that an epoch which we sought is ours, by the write's answer or by a read that showed it (I4, I12)."""
        held = self._belief.held
        if held is None or not self._belief.is_holder or held.lease.epoch not in self._sought:
            return
        lease, entry = held.lease, held.lease.lineage[-1]
        before, gates = self._sought.pop(lease.epoch)
        self._sought.clear()
        self._unclaimed = True
        self._takeovers.won(lease)
        self._committed.begin(lease.committed_step)
        self._journal.say(
            "failover.promoted" if before else "run.created",
            run=self._run,
            region=self._region,
            epoch=lease.epoch,
            fork_step=entry.fork_step,
            holder_before=before,
            reason=entry.reason,
            actor=entry.actor,
            gates=list(gates),
            diagnosis=entry.note if entry.reason == Reason.REGION_LOST.value else "",
        )
        self._self_evidence.outbox.append(self._self_evidence.change(lease, before, gates))

    def _claim(self) -> None:
        """Leave the epoch's create-only copy at the witness, which shows a record that was put back later."""
        held = self._belief.held
        if self._unclaimed and self._belief.is_holder and held is not None:
            self._leases.claim(self._run, held.lease.epoch, self._codec.encode(held.lease))
        self._unclaimed = False

    def _remark(self) -> None:
        """Queue a record that is no mere renewal for the history (I12): its writer may have died before noting it."""
        held = self._belief.held
        if held is None or held.lease.renew_seq <= self._noted:
            return
        self._noted = held.lease.renew_seq
        if held.lease.reason != Reason.RENEWAL_DUE.value:
            self._notes.append(held.lease)

    def _note(self) -> None:
        while self._notes:
            self._leases.note(self._notes[0])
            del self._notes[0]

    # --- launches ---

    def _may_write(self) -> bool:
        held, now_s = self._belief.held, self._clock.boottime_s()
        durable = held is not None and held.lease.epoch == self._durable_epoch
        settled = not self._belief.unread_writes  # decision 0002: a read comes before another write
        return durable and settled and now_s < self._belief.valid_until_s(self._profile)

    def _attempt_of(self, launch: str) -> Lease | None:
        """The lease record with this launch as its newest attempt, written if need be; None if we may not, or lost."""
        if not self._may_write():
            return None
        held = self._belief.held
        if held is None:
            return None
        if held.lease.mode in core.MOVING:
            return None  # the run is on its way: nothing new begins here
        if held.lease.launch != launch:  # else: won before, by us or by the controller before us, and not written down
            self._forks.start(held.lease)  # a launch that cannot start yet is no attempt yet
            author = self._author("launch")
            if not self._write(core.new_attempt(held.lease, author, launch), held):
                return None
        return self._belief.held.lease if self._belief.held is not None else held.lease

    def _author(self, reason: str, actor: str = "", note: str = "") -> Author:
        held = self._belief.held
        if not actor:  # renewals keep the name of who put the run into its mode
            kept = held is not None and (held.lease.mode != core.ACTIVE or held.lease.scheduled_ms > 0)
            actor = held.lease.actor if held is not None and kept else "controller"
        write_id = self._entropy.new_id()
        return Author(self._region, self._belief.incarnation, write_id, reason, actor, self._clock.wall_ms(), note)


def _kind(decision: Decision) -> object:
    """The part of a decision whose change is journalled: a holder that renews every second gets no line."""
    if decision.reason in {Reason.HOLDING, Reason.RENEWAL_DUE}:
        return Reason.HOLDING
    return (decision.action, decision.reason)
