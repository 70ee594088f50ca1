"""One run as its controller tells it: how far its region is behind, everything that is wrong, and the alarms about it.

This is the one place that computes the lag (I19): status, explain, metrics, alarms and audit show its figure. One
thread at a time calls `turned`; `lag`, `findings` and `alarms` may be called from another, since they only read values
that are replaced whole.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

from pipelines import paths
from pipelines.core.alarms import ACKNOWLEDGED, HEALED, OPEN, alarm, id_of, key_of, plain, status_of
from pipelines.core.heartbeats import HOLD_PHASES
from pipelines.core.lag import HEARTBEATS, LEASE_RECORD, HeardPlace, Lag, Place, lag_of
from pipelines.core.lease import ACTIVE, NEVER_S, Belief
from pipelines.core.lineage import view_of
from pipelines.core.troubles import CONTROLLERS_PART, Damage, Failing, Finding, Grant, RegionView, findings
from pipelines.flows.authority.controller_parts import ControllerPorts, Observers, RunRole
from pipelines.flows.authority.region_watch import RegionSeen
from pipelines.flows.standby.recoverable import RecoverableCheckpoint
from schemas.http_bodies import AlarmStatus, SkippedStatus
from schemas.records import Alarm, Lease

LANE = "authority"  # of the controller's alarms, which concern no lane alone
TOLD_S = 2.0  # an agent tells its controller of a commit within so long, reading the record included
SKIPPED_LISTED = 5
WAITING = "waiting"


class RunWatch:
    """One run in one region.

    Args:
        role: the run, the region, and the run's objectives.
        ports: the controller's; the journal hears of each alarm that is raised or ends.
        observers: what every region says of the run, and the other services of this one; alarms are published with the
            signs that the region works.
    """

    def __init__(self, role: RunRole, ports: ControllerPorts, observers: Observers) -> None:
        self._run, self._region, self._policy = role.run, role.region, role.policy
        self._peer_states, self._region_watch = observers.peer_states, observers.region_watch
        self._publish = observers.self_evidence.alarms.append
        self._verifier, self._self_evidence = observers.verifier, observers.self_evidence
        self._reachability = observers.reachability
        self._clock, self._journal = ports.clock, ports.journal
        self._record_id = ""  # of the lease record that was seen last
        self._record_true_s = NEVER_S  # what it says was true at this moment, or later
        self._read_at_s = NEVER_S
        self._attempt = (0, 0)
        self._attempt_since_s = ports.clock.boottime_s()
        self._unknown_since_s: float | None = None
        self._failing: dict[str, tuple[str, float]] = {}
        self._findings: tuple[Finding, ...] = ()
        self._alarms: dict[bytes, Alarm] = {}
        self._lock = threading.Lock()

    # --- the lag ---

    def lag(self, belief: Belief, recovered: RecoverableCheckpoint | None) -> Lag | None:
        """How far this region is behind; None if it holds the run, or has not read the lease record."""
        if belief.held is None or belief.held.lease.holder == self._region:
            return None
        lease, now_s = belief.held.lease, self._clock.boottime_s()
        manifest = None if recovered is None else recovered.manifest
        here = None if manifest is None else Place(manifest.epoch, manifest.step, manifest.lineage_seq)
        heard = self._heard(lease, now_s)
        read_s = now_s - belief.read_at_s
        if read_s > self._policy.witness_age_s:  # who the primary is was true when the record was read
            heard = [dataclasses.replace(one, age_s=max(one.age_s, read_s)) for one in heard]
        return lag_of(heard, here, view_of(lease.lineage))

    def _heard(self, lease: Lease, now_s: float) -> list[HeardPlace]:
        seen_s = now_s - self._record_true_s if self._record_true_s > NEVER_S else 0.0
        told_s = max(seen_s, (self._clock.wall_ms() - lease.time_ms) / 1000) + TOLD_S
        heard = [HeardPlace(Place(lease.epoch, lease.committed_step), told_s, LEASE_RECORD)]
        listener = self._peer_states.get(lease.holder)
        nodes = () if listener is None else tuple(listener.pulse.nodes.values())
        heard += [
            HeardPlace(node.committed, now_s - node.committed_at_s, HEARTBEATS)
            for node in nodes
            if node.committed is not None
        ]
        return heard

    # --- what is wrong ---

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that was wrong at the last turn."""
        return self._findings

    @property
    def skipped(self) -> tuple[SkippedStatus, ...]:
        """The newest checkpoints that were given up, oldest first."""
        return tuple(
            SkippedStatus(
                region=one.region,
                epoch=one.epoch,
                step=one.step,
                state=one.state,
                reason=one.reason,
                time_ms=one.time_ms,
            )
            for one in self._peer_states[self._region].skipped[-SKIPPED_LISTED:]
        )

    def failing(self, own: Mapping[str, str]) -> dict[str, str]:
        """The controller's own parts that fail, and the flows that observe for it, each with its error."""
        parts = {**own, "self_evidence": self._self_evidence.trouble, "verifier": self._verifier.trouble}
        parts["reachability"] = "" if self._reachability is None else self._reachability.trouble
        parts |= {f"listen {name}": one.trouble for name, one in self._peer_states.items()}
        return {part: why for part, why in parts.items() if why}

    def turned(self, belief: Belief, recovered: RecoverableCheckpoint | None, troubles: Mapping[str, str]) -> None:
        """Look at everything once more, and raise or end alarms.

        Args:
            belief: what is believed of the lease.
            recovered: this region's newest recoverable checkpoint.
            troubles: the controller's own parts that fail, with the error.
        """
        now_s = self._clock.boottime_s()
        self._saw(belief, now_s)
        self._failing = {part: (why, self._failing.get(part, ("", now_s))[1]) for part, why in troubles.items()}
        lag = self.lag(belief, recovered)
        if lag is None or lag.steps is not None:
            self._unknown_since_s = None
        elif belief.held is not None and belief.held.lease.attempt == 0 and belief.held.lease.epoch == 1:
            self._unknown_since_s = None  # nobody has launched the trainer yet: there is nothing to be behind
        elif self._unknown_since_s is None:
            self._unknown_since_s = now_s
        self._findings = findings(self._view(belief, lag, now_s))
        self._raise(self._findings)

    def _saw(self, belief: Belief, now_s: float) -> None:
        """Note when the lease record changed: after the last reading that showed an older one."""
        if belief.held is None:
            return
        lease = belief.held.lease
        if lease.write_id != self._record_id:
            self._record_id, self._record_true_s = lease.write_id, self._read_at_s
        self._read_at_s = belief.read_at_s
        if (lease.epoch, lease.attempt) != self._attempt:
            self._attempt, self._attempt_since_s = (lease.epoch, lease.attempt), now_s

    def _view(self, belief: Belief, lag: Lag | None, now_s: float) -> RegionView:
        watch = self._region_watch
        seen = RegionSeen() if watch is None else watch.seen
        own = self._peer_states[self._region]
        holds = belief.is_holder
        failing = {
            f"{CONTROLLERS_PART}{part}": Failing(why, now_s - at_s) for part, (why, at_s) in self._failing.items()
        }
        unseen = seen.unseen_at(now_s)
        if not holds:
            unseen.pop("agent", None)  # a standby without one is not ready, which its pool says
        return RegionView(
            run=self._run,
            lag=lag,
            lag_unknown_s=0.0 if self._unknown_since_s is None else now_s - self._unknown_since_s,
            rpo_steps=self._policy.rpo_steps,
            cadence_steps=own.cadence_steps,
            lanes=seen.lanes,
            unseen=unseen,
            failing=failing | seen.failing_of(self._run, now_s),
            uploads=seen.uploads.get(self._run, 0) if holds else 0,
            uploads_s=seen.uploads_s(self._run, now_s),
            spool_grows=seen.spool_grows and holds,
            grant=self._grant(belief, now_s),
            abandoned=tuple(f"step {one.step}: {one.reason}" for one in own.abandoned_in_a_row),
            damages=self._damages(),
        )

    def _damages(self) -> tuple[Damage, ...]:
        """The objects that were read back in this region and are not what their manifests name."""
        wall_ms = self._clock.wall_ms()
        return tuple(
            Damage(paths.parse_checkpoint(one.key).step, one.key, one.why, max(0.0, (wall_ms - one.seen_ms) / 1000))
            for one in self._verifier.damages()
        )

    def _grant(self, belief: Belief, now_s: float) -> Grant | None:
        held = belief.held
        if held is None or not belief.is_holder or held.lease.mode != ACTIVE:
            return None
        nodes = self._peer_states[self._region].pulse.nodes
        training = {name: node for name, node in nodes.items() if node.epoch == held.lease.epoch}
        stuck = {
            name: node.heard_at_s - node.works_at_s
            for name, node in training.items()
            if node.phase not in HOLD_PHASES and node.heard_at_s > node.works_at_s
        }
        return Grant(
            epoch=held.lease.epoch,
            attempt=held.lease.attempt,
            held_s=now_s - self._attempt_since_s,
            waiting=sum(node.phase == WAITING for node in nodes.values()),
            training=len(training),
            stuck=stuck,
            step=max((node.step for node in training.values()), default=-1),
        )

    # --- alarms ---

    def alarms(self) -> tuple[AlarmStatus, ...]:
        """The open alarms, oldest first."""
        with self._lock:
            opened = [one for one in self._alarms.values() if one.state == OPEN]
        return tuple(status_of(one) for one in sorted(opened, key=lambda one: one.time_ms))

    def acknowledge(self, alarm_id: str, actor: str) -> bool:
        """Note that a person knows of an alarm; it is open again if it ends and comes back. False: there is none."""
        with self._lock:
            for key, one in self._alarms.items():
                if id_of(one) == alarm_id:
                    if one.state == OPEN:
                        self._alarms[key] = dataclasses.replace(one, state=ACKNOWLEDGED, actor=actor)
                        self._report(self._alarms[key])
                    return True
        return False

    def _raise(self, found: tuple[Finding, ...]) -> None:
        """One alarm for each finding, for as long as it lasts; its cause keeps the newest figures."""
        with self._lock:
            before, self._alarms = self._alarms, {}
            for finding in found:
                raised = self._alarm(finding)
                key = key_of(raised)
                earlier = before.pop(key, None)
                if earlier is None:
                    self._alarms[key] = raised
                    self._report(raised)
                else:
                    self._alarms[key] = dataclasses.replace(earlier, cause=raised.cause)
            for ended in before.values():
                self._report(dataclasses.replace(ended, state=HEALED))

    def _alarm(self, finding: Finding) -> Alarm:
        return alarm(
            finding.kind,
            peer=self._region,
            lane=LANE,
            cause=finding.text,
            time_ms=self._clock.wall_ms(),
            run=self._run,
            place=f"{self._run}/{finding.part}",
        )

    def _report(self, changed: Alarm) -> None:
        self._publish(changed)
        name = "control.alarm" if changed.state == OPEN else f"control.alarm_{changed.state}"
        self._journal.say(name, **plain(changed))
