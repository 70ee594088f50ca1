"""Faults planted by hand, each with the tests that must see it: if one lives, a promise is not checked."""

from __future__ import annotations

from dataclasses import dataclass

LEASE, DECIDE, HANDOVER = "pipelines/core/lease.py", "pipelines/core/failover_decision.py", "pipelines/core/handover.py"
SUSPICION, PULSE = "pipelines/core/failure_detector.py", "pipelines/core/heartbeats.py"
LINEAGE, LEDGER = "pipelines/core/lineage.py", "pipelines/core/ledger.py"
PUBLISH, REPLICATE, COPYING = (
    "pipelines/flows/agent/publisher.py",
    "pipelines/flows/replication/lane_replicator.py",
    "pipelines/flows/replication/checkpoint_copies.py",
)
FAILOVER, MOVES, RECOVERABLE = (
    "pipelines/flows/authority/controller.py",
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


MUTANTS = (
    Mutant(
        "a hook that is silent is a veto",
        "pipelines/flows/authority/approval_hook.py",
        "verdict, why = Verdict.FREE, str(error)",
        "verdict, why = Verdict.VETO, str(error)",
        ("tests/core/authority/test_approval_hook.py",),
    ),
    Mutant(
        "a hook's objection does not count",
        "pipelines/flows/authority/approval_hook.py",
        "verdict = Verdict.VETO if why else Verdict.FREE",
        "verdict = Verdict.FREE",
        ("tests/core/authority/test_approval_hook.py",),
    ),
    Mutant(
        "an adopted branch hangs on the epoch before it",
        LEASE,
        "before.epoch if parent is None else parent, fork",
        "before.epoch, fork",
        ("tests/simulation/test_branches.py",),
    ),
    Mutant(
        "a drill writes over the real objects",
        "services/wrappers/overlay.py",
        "self._own.put(self._prefix + key, body)",
        "self._base.put(key, body)",
        ("tests/core/authority/test_drill.py",),
    ),
    Mutant(
        "a dead simulated_primary renews",
        "pipelines/flows/authority/simulated_primary.py",
        "if not self._dead and now_s - self._wrote_at_s",
        "if now_s - self._wrote_at_s",
        ("tests/core/authority/test_drill.py",),
    ),
    Mutant(
        "one silent node is a silent region",
        PULSE,
        "return min((node.rhythm.phi",
        "return max((node.rhythm.phi",
        ("tests/core/authority/test_failure_detector.py",),
    ),
    Mutant(
        "an outage teaches the rhythm",
        SUSPICION,
        "min(one, PAUSE_MOST * floor_s)",
        "min(one, PHI_MOST * floor_s)",
        ("tests/core/authority/test_failure_detector.py",),
    ),
    Mutant(
        "no floor under the suspicion",
        SUSPICION,
        "if silent_s < floor_s:",
        "if silent_s < 0:",
        ("tests/core/authority/test_failure_detector.py",),
    ),
    Mutant(
        "what others hear does not count",
        DECIDE,
        "elsewhere_s, policy.silence_s, elsewhere_s >= policy.silence_s, asked",
        "elsewhere_s, policy.silence_s, True, asked",
        CORE_DECIDE,
    ),
    Mutant(
        "the observer's own troubles do not count",
        DECIDE,
        "limit_s = now_s - view.heard_at_s, policy.silence_s * view.patience",
        "limit_s = now_s - view.heard_at_s, policy.silence_s",
        CORE_DECIDE,
    ),
    Mutant(
        "validity counted from the reply",
        LEASE,
        "Held(lease, etag), now_s, won_at_s=mine.sent_at_s)",
        "Held(lease, etag), now_s, won_at_s=now_s)",
        CORE_LEASE,
    ),
    Mutant(
        "no margin in the holder's validity",
        LEASE,
        "(1 - self.rho) - self.margin_s\n\n    def challenger",
        "(1 + self.rho)\n\n    def challenger",
        CORE_LEASE,
    ),
    Mutant(
        "challenger at 0.9 L",
        LEASE,
        "seen_at_s + lease_s * (1 + self.rho) + self.margin_s",
        "seen_at_s + lease_s * 0.9",
        CORE_LEASE,
    ),
    Mutant(
        "write id not compared", LEASE, "if one.lease.write_id == held.lease.write_id), None)", "), None)", CORE_LEASE
    ),
    Mutant(
        "an unchanged record settles a pending write",
        LEASE,
        "return dataclasses.replace(belief, read_at_s=now_s, missing=False)\n    mine",
        "return dataclasses.replace(belief, read_at_s=now_s, missing=False, pending=())\n    mine",
        CORE_LEASE,
    ),
    Mutant(
        "a record that fell back is believed",
        LEASE,
        "(lease.epoch < self.epoch_max or lease.renew_seq < self.renew_seq_max)",
        "False",
        (*CORE_LEASE, *CORE_DECIDE),
    ),
    Mutant(
        "the epoch is not raised",
        LEASE,
        "epoch=before.epoch + 1,\n        mode",
        "epoch=before.epoch,\n        mode",
        CORE_LEASE,
    ),
    Mutant("the predecessor is not named", LEASE, "predecessor=before.write_id", "predecessor=GENESIS", CORE_LEASE),
    Mutant(
        "whoever released goes on",
        LEASE,
        "or self.gone_backwards or self.releases:",
        "or self.gone_backwards:",
        CORE_DECIDE,
    ),
    Mutant(
        "a release is every region's",
        LEASE,
        "(lease.mode, lease.target) == (RELEASED, region)",
        "lease.mode == RELEASED",
        CORE_DECIDE,
    ),
    Mutant(
        "a renewal ends a planned move",
        LEASE,
        "        renew_seq=before.renew_seq + 1,",
        "        mode=ACTIVE,\n        renew_seq=before.renew_seq + 1,",
        CORE_DECIDE,
    ),
    Mutant(
        "silence alone promotes",
        DECIDE,
        "if not _expiry_gate(view, now_s, policy).open:\n        return (",
        "if False:\n        return (",
        (*CORE_DECIDE, *WORLDS),
    ),
    Mutant("an unreachable witness stops nobody", DECIDE, "age_s <= policy.witness_age_s)", "True)", CORE_DECIDE),
    Mutant(
        "renewal without evidence",
        DECIDE,
        "return _if_open(Action.RENEW, Reason.RENEWAL_DUE, Reason.NO_EVIDENCE, evidence)",
        "return Decision(Action.RENEW, Reason.RENEWAL_DUE, evidence)",
        CORE_DECIDE,
    ),
    Mutant(
        "a person skips the lease too",
        DECIDE,
        "advisory=view.operator and view.fenced",
        "advisory=view.operator",
        CORE_DECIDE,
    ),
    Mutant("pause is not looked at", DECIDE, "lease.mode != PAUSED, asked", "True, asked", WORLDS),
    Mutant("moves may flap", DECIDE, "view.moved_ago_s >= policy.settle_s", "True", WORLDS),
    Mutant("more may be lost than promised", DECIDE, "lost <= policy.rpo_steps", "True", CORE_DECIDE),
    Mutant(
        "a released run is taken from any step",
        DECIDE,
        "least = lease.committed_step if given else least",
        "least = least",
        CORE_DECIDE,
    ),
    Mutant(
        "given away before the target has it",
        HANDOVER,
        "drained(view), rule",
        "True, rule",
        CORE_DECIDE,
    ),
    Mutant("given away to nobody", HANDOVER, "1, view.target_waits,", "1, True,", CORE_DECIDE),
    Mutant("given away under an older process's lease", HANDOVER, "older_s <= 0", "True", (*CORE_DECIDE, *WORLDS)),
    Mutant("given away while grants are out", HANDOVER, "grants_s <= 0", "True", CORE_DECIDE),
    Mutant(
        "grants stay long while a run moves",
        MOVES,
        "min(left_s, GRANT_S) if lease.mode == HANDOVER else left_s",
        "left_s",
        CORE_DECIDE,
    ),
    Mutant(
        "everything lies on the lineage",
        LINEAGE,
        "limit is None or step <= limit",
        "True",
        ("tests/core/authority/test_lineage_rule.py",),
    ),
    Mutant(
        "unheard-of epochs count",
        LINEAGE,
        "return Standing.UNKNOWN",
        "return Standing.CURRENT",
        ("tests/core/authority/test_lineage_rule.py",),
    ),
    Mutant(
        "the warmer skips the lineage",
        RECOVERABLE,
        "if standing(view, one.epoch, one.step) is Standing.CURRENT]",
        "]",
        ("tests/core/standby/test_warmer.py",),
    ),
    Mutant(
        "committed without a valid grant",
        PUBLISH,
        "if not branch and not self._valid(launch):",
        "if False:",
        (*AGENT, "tests/core/authority/test_witness_away.py"),
    ),
    Mutant("another attempt's grant is good enough", PUBLISH, "and own and self._clock", "and self._clock", AGENT),
    Mutant(
        "a branch is visible before its fork is known",
        REPLICATE,
        "event.epoch == view.epoch and _is_branch(event)",
        "False",
        MIRROR,
    ),
    Mutant(
        "an adopted branch is visible before its bytes",
        REPLICATE,
        'frozenset({"committed", "abandoned", "branch"})',
        'frozenset({"committed", "abandoned"})',
        MIRROR,
    ),
    Mutant("the replicator skips the lineage", REPLICATE, "if place is Standing.BRANCH:", "if False:", MIRROR),
    Mutant(
        "visible before its bytes",
        REPLICATE,
        "if not self._copies.done(event):",
        "if self._copies.done(event) is None:",
        MIRROR,
    ),
    Mutant("duplicates are published again", REPLICATE, " or arrival is Arrival.DUPLICATE:", ":", MIRROR),
    Mutant(
        "the lineage is not read again before publishing",
        REPLICATE,
        "if not ready or not self._still_stands(ready):",
        "if not ready:",
        MIRROR,
    ),
    Mutant(
        "a new launch begins while the run moves",
        FAILOVER,
        "if held.lease.mode in core.MOVING:",
        "if False:",
        WORLDS,
    ),
    Mutant("a guard lets an ended validity pass", GUARD, "now_s < word.valid_until_s:", "word.valid_until_s:", GUARDS),
    Mutant("a guard's grace may leave the margin", GUARD, "margin_s * GRACE_OF_MARGIN)", "margin_s * 9)", GUARDS),
    Mutant("a guard kills a trainer that holds", GUARD, "if word.held or now_s <", "if now_s <", GUARDS),
    Mutant(
        "a guard's validity counted from the answer",
        VIGIL,
        "valid_s, asked_s + reply",
        "valid_s, self._clock.boottime_s() + reply",
        VIGILS,
    ),
    Mutant(
        "another attempt renews a guard's validity", VIGIL, " and (reply.epoch, reply.attempt) == own:", ":", VIGILS
    ),
    Mutant(
        "a flow that is being turned is given to a second thread",
        "services/runtime/scheduler.py",
        "        if entry.turning:",
        "        if False:",
        ("tests/core/authority/test_many_runs.py",),
    ),
    Mutant(
        "everybody asks a witness that does not answer",
        "services/wrappers/witness.py",
        "if tries and self._tried:",
        "if False:",
        ("tests/core/authority/test_many_runs.py",),
    ),
    Mutant(
        "a group's member is replaced whatever version the write names",
        "pipelines/core/lease_groups.py",
        "if (None if found is None else etag_of(found)) == change.expected_etag:",
        "if True:",
        ("tests/core/authority/test_lease_groups.py",),
    ),
    Mutant(
        "a member's write is refused by what was remembered",
        "services/wrappers/grouped_leases.py",
        "if len(allowed) < len(changes) and not fresh:",
        "if False:",
        ("tests/core/authority/test_lease_groups.py",),
    ),
    Mutant(
        "a read is answered by one that began before it",
        "services/wrappers/grouped_leases.py",
        "wanted = self._begun + 1",
        "wanted = self._ended + 1",
        ("tests/core/authority/test_lease_groups.py",),
    ),
    Mutant(
        "a group that another region moved refuses our members",
        "services/wrappers/grouped_leases.py",
        "            known, fresh = None, False\n",
        "            return\n",
        ("tests/core/authority/test_lease_groups.py",),
    ),
    Mutant("a sweep takes branches", RETENTION, "(branch, Keep.BRANCH)", "(False, Keep.BRANCH)", SWEEPS),
    Mutant("a sweep ignores the grace", RETENTION, "due=since_s >= policy.grace_s", "due=True", SWEEPS),
    Mutant("a sweep's grace by one clock only", RETENTION, "max(0, min(now", "max(0, max(now", SWEEPS),
    Mutant("a sweep takes open uploads", RETENTION, "(unsettled and young, Keep.OPEN)", "(False, Keep.OPEN)", SWEEPS),
    Mutant("a sweep ignores pins", RETENTION, "(Keep.PINNED, roots.pinned)", "(Keep.PINNED, ())", SWEEPS),
    Mutant(
        "a sweep ignores what other regions have", RETENTION, "(Keep.SHARED, roots.shared)", "(Keep.SHARED, ())", SWEEPS
    ),
    Mutant("a sweep goes on out of reachability", RETENTION, "Hold.UNSEEN if roots.unseen else None", "None", SWEEPS),
    Mutant("a sweep's lineage may be behind", RETENTION, "> roots.view.epoch:", "> roots.view.epoch + 9:", SWEEPS),
    Mutant(
        "a sweep deletes chunks before the manifest's key is taken",
        SWEEP,
        "if verdict.reason is not Go.TOMBSTONE and not self._settled",
        "if verdict.reason is None and not self._settled",
        SWEEPS,
    ),
    Mutant("a sweep gives way to nobody", SWEEP, "if verdict in plan(", "if True or verdict in plan(", SWEEPS),
    Mutant(
        "chunks go before their receipts",
        RETENTION,
        "return 0 if match is None or match.lastindex is None else match.lastindex",
        "return 0 if match is None or match.lastindex is None else -match.lastindex",
        SWEEPS,
    ),
    Mutant("committed without looking for the chunks again", UPLOADING, "return not gone", "return True", SWEEPS),
    Mutant("a receipt is believed whatever is gone", UPLOADING, "shard.rank not in doubted and (", "(", SWEEPS),
    Mutant("a copy is visible though its chunks went", COPYING, " or not self._still_whole(copy):", ":", MIRROR),
    Mutant(
        "a swept manifest is believed in", RECOVERABLE, "now is None or now.digest != found.digest", "False", SWEEPS
    ),
    Mutant(
        "a pinned copy gives way", REPLICATE, "is_pinned(self._store, manifests.check_event(event))", "False", MIRROR
    ),
    Mutant(
        "a link's user may write in the other region's Kafka",
        "services/permissions/kafka_policies.py",
        '"link": (Grant(_LOOK,',
        '"link": (Grant(_WORK,',
        ("tests/core/runtime/test_kafka_access.py",),
    ),
    Mutant(
        "a Kafka that refuses us ends the controller",
        "pipelines/flows/authority/heartbeat_reader.py",
        "except MisconfiguredError as error:",
        "except ZeroDivisionError as error:",
        ("tests/core/runtime/test_kafka_access.py",),
    ),
    Mutant(
        "a restarted promoter chooses the fork anew",
        DECIDE,
        "return _if_open(Action.RENEW, Reason.NEW_INCARNATION",
        "return _if_open(Action.TAKE_OVER, Reason.NEW_INCARNATION",
        PROMOTIONS,
    ),
    Mutant(
        "a launch starts from what is newest by then, not from the fork",
        FAILOVER,
        "start = self._recoverable.start(lease)",
        "start = self._recoverable.newest(self._run, view_of(lease.lineage))",
        PROMOTIONS,
    ),
    Mutant(
        "a restarted controller makes a second attempt of a launch",
        FAILOVER,
        "if held.lease.launch != name:",
        "if name:",
        PROMOTIONS,
    ),
    Mutant(
        "an epoch whose winner has died is never claimed",
        FAILOVER,
        "self._unclaimed = True  # a process",
        "self._unclaimed = False  # a process",
        PROMOTIONS,
    ),
    Mutant(
        "only its writer notes a change",
        FAILOVER,
        "if held is None or held.lease.renew_seq <= self._noted:",
        "if held is None or not self._belief.is_holder or held.lease.renew_seq <= self._noted:",
        PROMOTIONS,
    ),
    Mutant(
        "an unknown schema is skipped",
        REPLICATE,
        "it waits, it is no dead letter\n            return None",
        "it waits, it is no dead letter\n            return _Outcome()",
        REPLICATOR_STORIES,
    ),
    Mutant(
        "a store that is away stops all runs of a lane",
        REPLICATE,
        "except (UnknownSchemaError, RetryableError) as error:",
        "except UnknownSchemaError as error:",
        REPLICATOR_STORIES,
    ),
    Mutant(
        "a replicator begins without fencing the one before it",
        REPLICATE,
        "self._log.transaction(())",
        "pass",
        REPLICATOR_STORIES,
    ),
    Mutant("attempts share a folder", "pipelines/paths.py", "/a{self.attempt:04d}/s", "/a0001/s", CHECKPOINT_STORIES),
    Mutant(
        "of two attempts at one place the earlier one is newer",
        RECOVERABLE,
        "(found[0], found[1].attempt)",
        "(found[0], -found[1].attempt)",
        CHECKPOINT_STORIES,
    ),
    Mutant(
        "a replaced attempt is waited for without end",
        PUBLISH,
        "return replaced and self._abandon(",
        "return not own and self._abandon(",
        CHECKPOINT_STORIES,
    ),
    Mutant(
        "a takeover that landed late is valid from when it was seen",
        LEASE,
        "NEVER_S if mine is None else mine.sent_at_s)",
        "NEVER_S if mine is None else now_s)",
        ("tests/scenarios/test_directed_authority.py",),
    ),
    Mutant(
        "a redriven event that is visible already is published again",
        REDRIVE,
        "        if there:\n",
        "        if False:\n",
        REDRIVES,
    ),
    Mutant(
        "a redriven letter is not marked",
        REDRIVE,
        "if each is not None), told, *changes])",
        "if each is not None), *changes])",
        REDRIVES,
    ),
    Mutant(
        "force makes an event visible that the decision refuses",
        REDRIVE,
        "outcome, sent = DEAD_AGAIN, verdict.letter",
        "outcome, sent = PUBLISHED, verdict.message or Message(letter.topic, letter.key, letter.value)",
        REDRIVES,
    ),
    Mutant(
        "a redrive does not look at what is visible",
        "pipelines/flows/replication/visible_index.py",
        "elif item.partition.topic == self._topic:",
        "elif False:",
        REDRIVES,
    ),
    Mutant(
        "a replay judges by numbers that are visible nowhere",
        "pipelines/core/replay_rules.py",
        "if not numbers - known.visible:",
        "if not numbers.above(ledger.watermarks.get(stream, 0)):",
        ("tests/core/inspection/test_replay.py",),
    ),
    Mutant(
        "what a wire format leaves out is not told",
        "services/operations/replay_targets.py",
        "self.say(f",
        "str(f",
        ("tests/core/inspection/test_confluent.py",),
    ),
    Mutant(
        "a replayed heartbeat is a sign of life",
        "pipelines/flows/authority/heartbeat_reader.py",
        "if replay_of(item.headers) is not None:",
        "if False and replay_of(item.headers) is not None:",
        ("tests/core/inspection/test_replay.py",),
    ),
    Mutant(
        "what an audit misses at a standby is called in flight",
        "pipelines/core/audit.py",
        "_kept(missing.up_to(mark), taken, lane, log)",
        "_kept(missing.up_to(0), taken, lane, log)",
        ("tests/core/inspection/test_audit.py",),
    ),
    Mutant(
        "a log that does not answer counts as an empty one",
        "pipelines/flows/inspection/audit_reader.py",
        "return Log(self.region, str(error))",
        "return Log(self.region)",
        ("tests/core/inspection/test_audit.py",),
    ),
    Mutant(
        "what cannot be decoded is hidden by a filter",
        "pipelines/core/record_filter.py",
        "return not decoded if value is None else wanted.holds(value)",
        "return value is not None and wanted.holds(value)",
        ("tests/core/log/test_record_filter.py",),
    ),
    Mutant(
        "a batch takes its last number only",
        "pipelines/core/ledger.py",
        "(seq if first_seq is None else first_seq) <= seen + 1",
        "seq == seen + 1",
        ("tests/core/agent/test_metric_batches.py",),
    ),
    Mutant(
        "the position passes metrics that gather",
        "pipelines/flows/agent/outbox.py",
        "for queue in (self.metrics, self.others) if queue",
        "for queue in (self.others,) if queue",
        ("tests/core/agent/test_outbox.py",),
    ),
    Mutant(
        "a number in the headers of garbage may leap",
        "pipelines/core/sequence_numbers.py",
        "if arrival is Arrival.NEXT else None",
        "if arrival is not Arrival.DUPLICATE else None",
        ("tests/core/log/test_sequence_numbers.py",),
    ),
    Mutant(
        "a payload that lost bytes hides the next record",
        "client/farside/_segments.py",
        "return end if found is None else offset + found",
        "return end",
        ("tests/core/client/test_segments.py",),
    ),
    Mutant(
        "a log is removed with records left in it",
        "services/adapters/spool.py",
        "or self.read(run, producer, offset, 1):",
        ":",
        ("tests/contract/test_spool.py",),
    ),
    Mutant(
        "a metric left out is not accounted for",
        "client/farside/_thinning.py",
        "account.dropped += 1",
        "pass",
        ("tests/core/client/test_thinning.py",),
    ),
    Mutant("the epoch is not remembered", FAILOVER, "self._epoch_store.remember(held.lease)", "pass", WORLDS),
)
