"""The checkpoint that a takeover of this region would begin from, looked for and read back before it is needed (I20).

Belongs to the controller's thread; `core/fork_choice.py` chooses, `flows/standby/verifier.py` reads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipelines.core.failover_decision import RunView, wanted_since_s
from pipelines.core.fork_choice import NEWEST_KEPT, ForkChoice, choose_fork
from pipelines.core.lease import NEVER_S
from pipelines.core.lineage import view_of
from pipelines.errors import RetryableError
from pipelines.flows.authority.controller_parts import ControllerPorts, RunRole
from pipelines.flows.standby.recoverable import RecoverableCheckpoint, RecoverableFinder
from pipelines.flows.standby.verifier import CheckpointVerifier
from schemas.records import Lease

LOOK_LEAST_S = 1.0  # between two looks for the region's recoverable step, while the log names no new one


@dataclass(frozen=True, slots=True)
class PossibleFork:
    """A checkpoint, and how lately its bytes were read back here."""

    checkpoint: RecoverableCheckpoint
    choice: ForkChoice

    @property
    def verified(self) -> bool:
        """Whether an epoch may begin from it now."""
        return self.choice.age_s <= self.choice.limit_s


def forked(view: RunView, fork: PossibleFork | None) -> RunView:
    """The view of a run with the checkpoint that a takeover would begin from."""
    if fork is None:
        return view
    return dataclasses.replace(view, recoverable_step=fork.checkpoint.manifest.step, fork=fork.choice)


class ForkFinder:
    """Knows a region's newest checkpoints of one run, and which of them an epoch may begin from.

    Args:
        role: the run, and how long its newest checkpoint is waited for.
        ports: the region's store, its signer and the controller's clock.
        verifier: reads checkpoints back, on a thread of its own.
    """

    def __init__(self, role: RunRole, ports: ControllerPorts, verifier: CheckpointVerifier) -> None:
        self._run, self._policy, self._clock, self._verifier = role.run, role.policy, ports.clock, verifier
        self.finder = RecoverableFinder(ports.store, ports.signer, ports.codec)
        self._journal = ports.journal
        self._told_foreign: set[str] = set()
        self._newest: tuple[RecoverableCheckpoint, ...] = ()
        self._wanted_since_s: float | None = None
        self._looked_s = NEVER_S
        self._looked_for: object = None

    def look(self, lease: Lease, outcomes: object, *, again: bool = False) -> None:
        """Look for the newest checkpoints on the lineage, and have the verifier follow them.

        A listing is dear: only after the region's log named an outcome, in a new epoch, when damage was found or
        mended, or after a while.

        Args:
            lease: the run's record.
            outcomes: changes when the region's log, or an agent, has named one.
            again: in any case.

        Raises:
            RetryableError: the store does not answer.
        """
        now_s = self._clock.boottime_s()
        damaged = self._verifier.damaged
        wanted = (outcomes, lease.epoch, damaged)
        rests = now_s - self._looked_s < max(LOOK_LEAST_S, self._policy.profile.lease_s / 2)
        if wanted == self._looked_for and rests and not again:
            return
        self._newest = self.finder.newest_first(self._run, view_of(lease.lineage), NEWEST_KEPT, damaged)
        self._looked_for, self._looked_s = wanted, now_s
        for key, why in self.finder.foreign.items():
            if key not in self._told_foreign:
                self._told_foreign.add(key)
                self._journal.say("recoverable.foreign_epoch", run=self._run, manifest=key, why=why)
        self._verifier.follow(self._newest, self.finder.distrusted)

    def newest(self) -> RecoverableCheckpoint | None:
        """The newest checkpoint that was found and is not known to be damaged; None if there is none."""
        return next(iter(self._sound()), None)

    def want(self, view: RunView, now_s: float) -> None:
        """Note whether the region wants to take the run over; if so, its newest checkpoint is read back at once.

        Args:
            view: of the run.
            now_s: on the controller's clock.
        """
        self._wanted_since_s = wanted_since_s(view, self._wanted_since_s, now_s, self._policy)
        newest = self.newest()
        if self._wanted_since_s is not None and newest is not None:
            self._verifier.ask(newest, max(self._wanted_since_s, now_s - self._policy.verified_age_s_max))

    def fork(self, now_s: float) -> PossibleFork | None:
        """The checkpoint that a takeover would begin from now; None if there is none.

        Args:
            now_s: on the controller's clock.
        """
        candidates = self._sound()
        choice = choose_fork(
            [self._verifier.verified_at_s(checkpoint) for checkpoint in candidates],
            self._wanted_since_s,
            now_s,
            wait_s=self._policy.verify_wait_s,
            age_s_max=self._policy.verified_age_s_max,
        )
        return None if choice is None else PossibleFork(candidates[choice.place], choice)

    def start(self, lease: Lease) -> RecoverableCheckpoint | None:
        """The checkpoint from which a launch starts, read back here; None: from step 0.

        Raises:
            RetryableError: it is still being read back, or is damaged and has no substitute; or the store does not
                answer.
        """
        start = self.finder.start(lease, self._verifier.damaged)
        if start is not None:
            self.check(start)
        return start

    def check(self, checkpoint: RecoverableCheckpoint) -> None:
        """Have a checkpoint read back, unless that was done lately.

        Raises:
            RetryableError: it is not known to be sound: the text says what a person can do.
        """
        manifest, now_s = checkpoint.manifest, self._clock.boottime_s()
        if checkpoint.key in self._verifier.damaged:
            bad = [damage for damage in self._verifier.damages() if damage.key.startswith(f"{manifest.prefix}/")]
            raise RetryableError(
                f"step {manifest.step} of epoch {manifest.epoch} is damaged in this region's store: "
                f"{'; '.join(f'{damage.key} {damage.why}' for damage in bad[:3])}. It is repaired as soon as another "
                "region that has it answers; otherwise put the object back from a backup, or move the run to a region "
                "whose copy is whole (farside failover)"
            )
        since_s = now_s - self._policy.verified_age_s_max
        if self._verifier.verified_at_s(checkpoint) < since_s:
            self._verifier.ask(checkpoint, since_s)
            raise RetryableError(f"step {manifest.step} of epoch {manifest.epoch} is being read back before its use")

    def _sound(self) -> list[RecoverableCheckpoint]:
        damaged = self._verifier.damaged
        return [checkpoint for checkpoint in self._newest if checkpoint.key not in damaged]
