"""Faults in who is believed: authors and epochs, keys, and a record that was put back."""

from __future__ import annotations

from tests.mutants.places import AGENT, FAILOVER, JUDGE, PUBLISH, RECOVERABLE, REPAIR, SWEEP, Mutant

AUTHORSHIP, EPOCHS, SIGNER = (
    "pipelines/core/authorship.py",
    "pipelines/flows/authority/epoch_store.py",
    "services/adapters/signer.py",
)
EVIDENCE = "pipelines/flows/authority/record_evidence.py"
PUT_BACK = ("tests/core/authority/test_record_put_back.py",)
FOREIGN = ("tests/core/replication/test_foreign_epochs.py",)
AUTHORS = ("tests/core/authority/test_authorship.py",)
SIGNERS = ("tests/core/runtime/test_signer.py",)

TRUST_FAULTS = (
    Mutant(
        "who signs for another's epoch is believed",
        AUTHORSHIP,
        "if region != holder}",
        'if region == "nobody"}',
        FOREIGN,
    ),
    Mutant(
        "a manifest that another region signed is believed",
        AUTHORSHIP,
        "if len(set(claims.values())) <= 1:",
        "if claims:",
        FOREIGN,
    ),
    Mutant(
        "a hostile region's word is believed by a whole world",
        JUDGE,
        "        return known_foreign(self.view_of(run), epoch, self._peer)\n",
        '        return known_foreign(self.view_of(run), epoch, self._peer) and ""\n',
        ("tests/simulation/test_regions_simulation.py",),
    ),
    Mutant(
        "what is foreign takes the numbers of whom they belong to",
        JUDGE,
        "return self._dead_letter(item, FOREIGN_EPOCH, why, None)",
        "return self._dead_letter(item, FOREIGN_EPOCH, why, Numbered(stream(event), first_number(event), event.seq))",
        FOREIGN,
    ),
    Mutant(
        "bytes that nobody can read take another region's numbers",
        JUDGE,
        "if self._names_foreign_numbers(item):",
        "if not item.fetched.headers:",
        FOREIGN,
    ),
    Mutant(
        "a copy gives way to a checkpoint of another's epoch",
        JUDGE,
        "            and not foreign(view, other.epoch, {EVENT: other.region})\n",
        "",
        FOREIGN,
    ),
    Mutant(
        "an epoch whose holder is not known yet is nobody's for ever",
        "pipelines/core/lineage.py",
        "return epoch > view.epoch or (is_won and holder_of(view, epoch) is None)",
        "return epoch > view.epoch or not is_won",
        FOREIGN,
    ),
    Mutant(
        "a foreign letter hides the numbers of whom they belong to",
        "pipelines/flows/replication/visible_index.py",
        " and record.reason != FOREIGN_EPOCH:",
        ":",
        FOREIGN,
    ),
    Mutant(
        "a replay makes up for what is of another's epoch",
        "pipelines/core/replay_rules.py",
        'known_foreign(view, facts.epoch, peer) != ""',
        'known_foreign(view, facts.epoch, peer) == "never"',
        FOREIGN,
    ),
    Mutant(
        "a checkpoint of another's epoch is rebuilt",
        "pipelines/flows/replication/event_rebuild.py",
        "return is_current and not foreign(view, own.epoch, {MANIFEST: self._peer})",
        "return is_current",
        FOREIGN,
    ),
    Mutant(
        "a checkpoint of another's hand is rebuilt",
        "pipelines/flows/replication/event_rebuild.py",
        "            raise ForeignEpochError(why)\n",
        "            pass\n",
        FOREIGN,
    ),
    Mutant(
        "a forged checkpoint is chosen",
        RECOVERABLE,
        "        return not why\n",
        "        return True\n",
        AUTHORS,
    ),
    Mutant(
        "a manifest may name another region than the one that signed it",
        RECOVERABLE,
        "disagreement(made_by(record, signer))",
        'disagreement(made_by(record, signer)) and ""',
        AUTHORS,
    ),
    Mutant(
        "an epoch that a region missed is never written down there",
        EPOCHS,
        "            if key not in there:\n",
        "            if key not in there and length == len(lease.lineage):\n",
        AUTHORS,
    ),
    Mutant(
        "a manifest is repaired by whoever has one",
        REPAIR,
        "(view is None or not finder.counts(whole, view))",
        "view is None",
        ("tests/core/replication/test_damage_repair.py",),
    ),
    Mutant(
        "a forged checkpoint takes the place of one that counts among those that stay",
        SWEEP,
        "            raise ForeignEpochError(why)\n",
        "            pass\n",
        ("tests/core/retention/test_sweep.py",),
    ),
    Mutant(
        "an outcome of another's hand is reported as committed",
        PUBLISH,
        '            raise ForeignEpochError(f"{own.manifest}: {why}")\n',
        "            pass\n",
        AGENT,
    ),
    Mutant(
        "a trainer starts from whatever lies under the key that was granted",
        PUBLISH,
        "if digest(opened.payload) != reply.start_manifest_digest:",
        "if not opened.payload:",
        AGENT,
    ),
    Mutant(
        "a new incarnation takes whatever record it finds",
        FAILOVER,
        "if decision.begins and not self._evidence.allows(self._belief):",
        "if decision.begins and not decision:",
        PUT_BACK,
    ),
    Mutant(
        "the witness's audit copies are not looked at",
        EVIDENCE,
        "EpochSeen(self._leases.claimed(self._run), ",
        "EpochSeen(0, ",
        PUT_BACK,
    ),
    Mutant(
        "the peers' epochs are not looked at",
        EVIDENCE,
        "[claimed, self._peers.highest(self._run)]",
        "[claimed]",
        PUT_BACK,
    ),
    Mutant(
        "who begins does not wait until the peers were asked",
        EVIDENCE,
        "if self._peers is not None and not self._peers.is_complete:",
        "if self._peers is not None and not self._run:",
        PUT_BACK,
    ),
    Mutant(
        "a record that was put back supersedes trainers",
        FAILOVER,
        "        if self._belief.gone_backwards:  # nobody",
        "        if not forks:  # nobody",
        PUT_BACK,
    ),
    Mutant(
        "a restored record is believed by a whole world",
        EVIDENCE,
        "epoch_max=max(belief.epoch_max, self._highest.epoch)",
        "epoch_max=belief.epoch_max",
        ("tests/simulation/test_restored_record.py",),
    ),
    Mutant(
        "a revoked key is believed",
        SIGNER,
        "        if signed.key_id in self._revoked:\n",
        '        if signed.key_id == "":\n',
        SIGNERS,
    ),
    Mutant(
        "a private key that fits no public one signs",
        SIGNER,
        "if public == own]",
        "if public]",
        SIGNERS,
    ),
    Mutant(
        "a private key that others can read is used",
        "services/adapters/private_files.py",
        "    if found.st_mode & forbidden:\n",
        "    if not found.st_mode:\n",
        SIGNERS,
    ),
)
