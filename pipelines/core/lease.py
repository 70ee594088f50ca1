"""The lease: what a region believes of its authority, and how belief changes. Pure.

**Why at most one region is valid at an instant (I1).** Let L be the lease, rho the bound on clock rates, m the margin.
The holder counts from *before it sent* the write: on its own clock it stops at `t_send + L(1-rho) - m`, which in true
time is at most `L(1-rho)/(1-rho) = L` after the send (its clock runs at least at rate 1-rho). The challenger counts
from *after it saw* the record change, which is after the holder's write landed, so after the send: it tries not before
`t_seen + L(1+rho) + m`, in true time at least `L(1+rho)/(1+rho) = L` after that. So the holder has stopped when the
challenger begins. A renewal that lands later makes the challenger's write fail, since that names the version it saw.

**Lost replies (I4).** A write that was not answered may have landed, or may still land. It is settled only when a read
shows that the record has moved past the version it named. Until then it is *pending*: its sender acts neither as winner
nor as loser. A write that turns out to have won is valid from its own send time. Its sender may *repeat* it, once a
read has shown the record unchanged: a further conditional write names the same version, so at most one of them lands,
and whichever does ends the doubt about the others (docs/decisions/0002-repeating-a-pending-write.md).

**A planned move (I1 without the wait).** The holder *releases* the record to a named region, and from before it sends
that write it acts no more, whatever becomes of the answer. So the named region need not wait. Another process of the
holder's region may still trust a lease of its own; it was won before this one saw the record as its own for the first
time, so a release waits a whole challenger's wait from that moment (`release_after_s`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from pipelines.core.lease_profiles import LeaseProfile
from schemas.records import GENESIS, EpochEntry, Lease

NEVER_S = float("-inf")
ACTIVE, HANDOVER, RELEASED, PAUSED = "active", "handover", "released", "paused"
MOVING = frozenset({HANDOVER, RELEASED})  # on its way to the record's target


@dataclass(frozen=True, slots=True)
class Held:
    """A lease record as it was read, with the ETag that names this version."""

    lease: Lease
    etag: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A conditional write that has not been settled."""

    lease: Lease
    expected_etag: str | None
    sent_at_s: float


@dataclass(frozen=True, slots=True)
class Belief:
    """One controller incarnation's knowledge of one run's lease, on its own clock.

    Attributes:
        region: who we are.
        incarnation: this process; another one of the same region is somebody else.
        held: the record as last seen, by a read or by our own write's answer.
        seen_at_s: after we saw it change last.
        won_at_s: before we sent the write that made `held` ours; NEVER_S if it is not.
        pending: our writes that are not settled, oldest first.
        epoch_max: the highest epoch ever seen; durable outside.
        renew_seq_max: the highest `renew_seq` seen; it rises with every write, so a fall shows a record put back.
        read_at_s: after the witness answered us last.
        missing: the last read found no record.
        own_since_s: after we first saw the record as ours; NEVER_S if it is not.
    """

    region: str
    incarnation: str
    held: Held | None = None
    seen_at_s: float = NEVER_S
    won_at_s: float = NEVER_S
    pending: tuple[Pending, ...] = field(default=())
    epoch_max: int = 0
    renew_seq_max: int = -1
    read_at_s: float = NEVER_S
    missing: bool = False
    own_since_s: float = NEVER_S

    @property
    def is_holder(self) -> bool:
        """Whether the record as last seen names this very process."""
        lease = None if self.held is None else self.held.lease
        return lease is not None and (lease.holder, lease.incarnation) == (self.region, self.incarnation)

    @property
    def gone_backwards(self) -> bool:
        """The record is older than one that was seen: the witness is broken, nobody acts (I2, I11)."""
        lease = None if self.held is None else self.held.lease
        return lease is not None and (lease.epoch < self.epoch_max or lease.renew_seq < self.renew_seq_max)

    @property
    def unread_writes(self) -> int:
        """Pending writes after which the record was not read yet."""
        return sum(one.sent_at_s >= self.read_at_s for one in self.pending)

    def valid_until_s(self, profile: LeaseProfile) -> float:
        """Until when we may act as the holder, on our clock; NEVER_S if we may not at all.

        Counted with the lease that the *record* names, as a challenger does, whatever the profile says now.
        """
        if self.held is None or not self.is_holder or self.gone_backwards or self.releases:
            return NEVER_S
        return profile.holder_valid_until(self.won_at_s, self.held.lease.lease_s)

    @property
    def releases(self) -> bool:
        """The record is given away, or a write that does so may have landed: we act no more."""
        given = self.held is not None and self.held.lease.mode == RELEASED
        return given or any(one.lease.mode == RELEASED for one in self.pending)

    def release_after_s(self, profile: LeaseProfile) -> float:
        """From when on no other process of our region can trust a lease that it won before us."""
        lease_s = profile.lease_s if self.held is None else self.held.lease.lease_s
        return profile.challenger_may_try_at(self.own_since_s, lease_s)

    def may_try_at_s(self, profile: LeaseProfile) -> float:
        """From when on we may challenge the holder of the record as last seen; at once if it is released to us."""
        lease = None if self.held is None else self.held.lease
        if lease is not None and released_to(lease, self.region):
            return self.seen_at_s
        lease_s = profile.lease_s if self.held is None else self.held.lease.lease_s
        return profile.challenger_may_try_at(self.seen_at_s, lease_s)


def released_to(lease: Lease, region: str) -> bool:
    """Its holder gave the run away to this region."""
    return (lease.mode, lease.target) == (RELEASED, region)


def sent(belief: Belief, lease: Lease, expected_etag: str | None, now_s: float) -> Belief:
    """We are about to send a conditional write; `now_s` was taken before."""
    return dataclasses.replace(belief, pending=(*belief.pending, Pending(lease, expected_etag, now_s)))


def answered(belief: Belief, lease: Lease, etag: str | None, now_s: float) -> Belief:
    """The write's answer: an ETag if it won, None if the record had moved on. No answer: do not call this.

    A lost write is taken off the pending ones; who won instead, only a read tells.
    """
    mine = next(one for one in belief.pending if one.lease.write_id == lease.write_id)
    rest = tuple(one for one in belief.pending if one.lease.write_id != lease.write_id)
    if etag is None:
        return dataclasses.replace(belief, pending=rest)
    return _changed(dataclasses.replace(belief, pending=rest), Held(lease, etag), now_s, won_at_s=mine.sent_at_s)


def was_read(belief: Belief, held: Held, now_s: float) -> Belief:
    """A read's answer; `now_s` was taken after. Settles pending writes (rule 6.3)."""
    if belief.held is not None and held.etag == belief.held.etag:
        return dataclasses.replace(belief, read_at_s=now_s, missing=False)
    mine = next((one for one in belief.pending if one.lease.write_id == held.lease.write_id), None)
    return _changed(belief, held, now_s, won_at_s=NEVER_S if mine is None else mine.sent_at_s)


def was_missing(belief: Belief, now_s: float) -> Belief:
    """A read found no record. What was believed of it stays believed: nothing is settled by a broken witness."""
    return dataclasses.replace(belief, read_at_s=now_s, missing=True)


def _changed(belief: Belief, held: Held, now_s: float, *, won_at_s: float) -> Belief:
    # Pending writes that named another version than the one that is there now can never land any more: ETags do not
    # come back, since every body carries a fresh write id.
    still = tuple(one for one in belief.pending if one.expected_etag == held.etag)
    own = (held.lease.holder, held.lease.incarnation) == (belief.region, belief.incarnation)
    own_since_s = belief.own_since_s if belief.is_holder else now_s
    return dataclasses.replace(
        belief,
        own_since_s=own_since_s if own else NEVER_S,
        held=held,
        seen_at_s=now_s,
        won_at_s=won_at_s,
        pending=still,
        epoch_max=max(belief.epoch_max, held.lease.epoch),
        renew_seq_max=max(belief.renew_seq_max, held.lease.renew_seq),
        read_at_s=now_s,
        missing=False,
    )


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes a record and why, for the history (I12)."""

    region: str
    incarnation: str
    write_id: str
    reason: str
    actor: str
    time_ms: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fork:
    """The fork point of an epoch: the checkpoint from which it goes on (I9). The defaults mean: from step 0."""

    step: int = -1
    manifest_digest: str = GENESIS
    lineage_seq: int = 0


def first(run: str, author: Author, profile: LeaseProfile) -> Lease:
    """The record that creates a run: epoch 1 of its first region."""
    entry = _entry(1, 0, Fork(), author)
    return Lease(
        run=run,
        epoch=1,
        holder=author.region,
        incarnation=author.incarnation,
        mode=ACTIVE,
        renew_seq=0,
        write_id=author.write_id,
        predecessor=GENESIS,
        lease_s=profile.lease_s,
        attempt=0,
        launch="",
        committed_step=-1,
        reason=author.reason,
        actor=author.actor,
        profile=profile.name,
        time_ms=author.time_ms,
        lineage=(entry,),
    )


def renewal(before: Lease, author: Author, committed_step: int) -> Lease:
    """The same authority, renewed; also how a restarted controller takes its own region's record over.

    The lease keeps its length until the next epoch: were it shortened, a challenger that sees the shorter one could
    try while the holder, whose reply was lost, still trusts the longer one.
    """
    return dataclasses.replace(_successor(before, author), committed_step=max(before.committed_step, committed_step))


def in_mode(
    before: Lease, author: Author, committed_step: int, mode: str, target: str = "", scheduled_ms: int = 0
) -> Lease:
    """The same authority in another mode: paused, active again, or on its way to another region.

    A planned move begins at `scheduled_ms` of the holder's wall clock: that is for people, and no gate.
    """
    renewed = renewal(before, author, committed_step)
    return dataclasses.replace(renewed, mode=mode, target=target, note=author.note, scheduled_ms=scheduled_ms)


def acknowledged(before: Lease, author: Author) -> Lease:
    """A person has seen the last move: another automatic one is allowed before its time."""
    return dataclasses.replace(_successor(before, author), acknowledged=before.epoch, note=author.note)


def new_attempt(before: Lease, author: Author, launch: str) -> Lease:
    """A launch of the trainer, recorded before it is granted (6.5)."""
    return dataclasses.replace(_successor(before, author), attempt=before.attempt + 1, launch=launch)


def takeover(before: Lease, author: Author, fork: Fork, profile: LeaseProfile, parent: int | None = None) -> Lease:
    """The next epoch, won by another region: epoch, parent and fork point in one write (6.6, I9).

    Its parent is the epoch before it, unless a branch is adopted: then it is the branch's epoch.
    """
    entry = _entry(before.epoch + 1, before.epoch if parent is None else parent, fork, author)
    return dataclasses.replace(
        _successor(before, author),
        epoch=before.epoch + 1,
        mode=ACTIVE,
        target="",
        scheduled_ms=0,
        note=author.note,
        lease_s=profile.lease_s,
        profile=profile.name,
        attempt=0,
        launch="",
        committed_step=fork.step,
        lineage=(*before.lineage, entry),
    )


def _successor(before: Lease, author: Author) -> Lease:
    return dataclasses.replace(
        before,
        holder=author.region,
        incarnation=author.incarnation,
        renew_seq=before.renew_seq + 1,
        write_id=author.write_id,
        predecessor=before.write_id,
        reason=author.reason,
        actor=author.actor,
        time_ms=author.time_ms,
    )


def _entry(epoch: int, parent: int, fork: Fork, author: Author) -> EpochEntry:
    return EpochEntry(
        epoch=epoch,
        parent_epoch=parent,
        fork_step=fork.step,
        fork_manifest_digest=fork.manifest_digest,
        fork_lineage_seq=fork.lineage_seq,
        region=author.region,
        reason=author.reason,
        actor=author.actor,
        time_ms=author.time_ms,
        note=author.note,
    )
