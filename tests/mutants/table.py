"""Faults planted by hand, each with the tests that must see it: if one lives, a promise is not checked."""

from __future__ import annotations

from dataclasses import dataclass

LEASE, DECIDE, HANDOVER = "pipelines/core/lease.py", "pipelines/core/decide.py", "pipelines/core/handover.py"
SUSPICION, PULSE = "pipelines/core/suspicion.py", "pipelines/core/pulse.py"
LINEAGE, LEDGER = "pipelines/core/lineage.py", "pipelines/core/ledger.py"
PUBLISH, REPLICATE, COPYING = "pipelines/flows/publish.py", "pipelines/flows/replicate.py", "pipelines/flows/copying.py"
FAILOVER, MOVES, RECOVERABLE = (
    "pipelines/flows/failover.py",
    "pipelines/flows/moves.py",
    "pipelines/flows/recoverable.py",
)

CORE_LEASE = ("tests/core/test_lease_core.py", "tests/simulation/test_lease_simulation.py")
CORE_DECIDE = ("tests/core/test_decide.py", "tests/core/test_handover.py")
WORLDS = ("tests/simulation/test_failover_simulation.py", "tests/simulation/test_switchover_simulation.py")
GUARD, GUARDS = "client/farside/_validity.py", ("tests/core/test_validity.py",)
VIGIL, VIGILS = "pipelines/flows/vigil.py", ("tests/core/test_vigil.py",)
AGENT, MIRROR = ("tests/core/test_publish.py",), ("tests/core/test_replicate.py",)


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
        "pipelines/flows/hook.py",
        "verdict, why = Verdict.FREE, str(error)",
        "verdict, why = Verdict.VETO, str(error)",
        ("tests/core/test_hook.py",),
    ),
    Mutant(
        "a hook's objection does not count",
        "pipelines/flows/hook.py",
        "verdict = Verdict.VETO if why else Verdict.FREE",
        "verdict = Verdict.FREE",
        ("tests/core/test_hook.py",),
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
        "services/wrappers/aside.py",
        "self._own.put(self._prefix + key, body)",
        "self._base.put(key, body)",
        ("tests/core/test_drill.py",),
    ),
    Mutant(
        "a dead ghost renews",
        "pipelines/flows/ghost.py",
        "if not self._dead and now_s - self._wrote_at_s",
        "if now_s - self._wrote_at_s",
        ("tests/core/test_drill.py",),
    ),
    Mutant(
        "one silent node is a silent region",
        PULSE,
        "return min((node.rhythm.phi",
        "return max((node.rhythm.phi",
        ("tests/core/test_suspicion.py",),
    ),
    Mutant(
        "no floor under the suspicion",
        SUSPICION,
        "if silent_s < floor_s:",
        "if silent_s < 0:",
        ("tests/core/test_suspicion.py",),
    ),
    Mutant(
        "what others hear does not count",
        DECIDE,
        "elsewhere_s, policy.silence_s, elsewhere_s >= policy.silence_s, asked)",
        "elsewhere_s, policy.silence_s, True, asked)",
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
        "drained(view)),",
        "True),",
        CORE_DECIDE,
    ),
    Mutant("given away to nobody", HANDOVER, "1, view.target_waits)", "1, True)", CORE_DECIDE),
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
        ("tests/core/test_lineage_rule.py",),
    ),
    Mutant(
        "unheard-of epochs count",
        LINEAGE,
        "return Standing.UNKNOWN",
        "return Standing.CURRENT",
        ("tests/core/test_lineage_rule.py",),
    ),
    Mutant(
        "the warmer skips the lineage",
        RECOVERABLE,
        "if standing(view, one.epoch, one.step) is Standing.CURRENT]",
        "]",
        ("tests/core/test_warm.py",),
    ),
    Mutant(
        "committed without a valid grant",
        PUBLISH,
        "if not branch and not self._valid(launch):",
        "if False:",
        (*AGENT, "tests/core/test_witness_away.py"),
    ),
    Mutant("another attempt's grant is good enough", PUBLISH, "and own and self._clock", "and self._clock", AGENT),
    Mutant("the replicator skips the lineage", REPLICATE, "if place is Standing.BRANCH:", "if False:", MIRROR),
    Mutant(
        "visible before its bytes",
        REPLICATE,
        "if not self._copying.done(event):",
        "if self._copying.done(event) is None:",
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
        "services/crew.py",
        "        if entry.turning:",
        "        if False:",
        ("tests/core/test_many_runs.py",),
    ),
    Mutant(
        "everybody asks a witness that does not answer",
        "services/wrappers/witness.py",
        "if tries and self._tried:",
        "if False:",
        ("tests/core/test_many_runs.py",),
    ),
    Mutant(
        "a group's member is replaced whatever version the write names",
        "pipelines/core/groups.py",
        "if (None if found is None else etag_of(found)) == change.expected_etag:",
        "if True:",
        ("tests/core/test_groups.py",),
    ),
    Mutant(
        "a member's write is refused by what was remembered",
        "services/wrappers/grouped.py",
        "if len(allowed) < len(changes) and not fresh:",
        "if False:",
        ("tests/core/test_groups.py",),
    ),
    Mutant(
        "a read is answered by one that began before it",
        "services/wrappers/grouped.py",
        "wanted = self._begun + 1",
        "wanted = self._ended + 1",
        ("tests/core/test_groups.py",),
    ),
    Mutant(
        "a group that another region moved refuses our members",
        "services/wrappers/grouped.py",
        "            known, fresh = None, False\n",
        "            return\n",
        ("tests/core/test_groups.py",),
    ),
    Mutant(
        "a batch takes its last number only",
        "pipelines/core/ledger.py",
        "(seq if first_seq is None else first_seq) <= seen + 1",
        "seq == seen + 1",
        ("tests/core/test_metric_batches.py",),
    ),
    Mutant(
        "the position passes metrics that gather",
        "pipelines/flows/outbox.py",
        "for queue in (self.metrics, self.others) if queue",
        "for queue in (self.others,) if queue",
        ("tests/core/test_outbox.py",),
    ),
    Mutant(
        "a number in the headers of garbage may leap",
        "pipelines/core/numbering.py",
        "if arrival is Arrival.NEXT else None",
        "if arrival is not Arrival.DUPLICATE else None",
        ("tests/core/test_numbering.py",),
    ),
    Mutant(
        "a payload that lost bytes hides the next record",
        "client/farside/_segments.py",
        "return end if found is None else offset + found",
        "return end",
        ("tests/core/test_segments.py",),
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
        ("tests/core/test_thinning.py",),
    ),
    Mutant("the epoch is not remembered", FAILOVER, "self._lineages.remember(held.lease)", "pass", WORLDS),
)
