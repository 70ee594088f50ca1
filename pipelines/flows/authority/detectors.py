"""A controller's detectors for one run: other observers' sightings, the rhythm of commits, its own health."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.core.diagnosis import Diagnosis, NodeSign, Symptoms, Vantage, diagnose
from pipelines.core.failover_decision import FailoverPolicy, RunView
from pipelines.core.failure_detector import PHI_LIMIT, Rhythm, SelfTrust
from pipelines.core.lease import NEVER_S
from pipelines.core.troubles import Finding
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.reachability import Reachability, vantage_of
from schemas.records import Lease

SIGHTINGS = 3.0  # a sighting counts for so many rounds of probes
COMMIT_FLOOR = 10.0  # times the silence: a commit is not late before
SCORE_EVERY_S = 1.0


class Detectors:
    """Weighs everything that one controller hears about one run; called by the lease's thread only."""

    def __init__(
        self,
        region: str,
        policy: FailoverPolicy,
        peer_states: Mapping[str, PeerState],
        reachability: Reachability | None,
    ) -> None:
        self._region, self._policy, self._peer_states, self._reachability = region, policy, peer_states, reachability
        self._trust = SelfTrust()
        self._commits = Rhythm()
        self._committed: tuple[int, int] = (0, -1)  # epoch, step

    def turned(self, now_s: float, *, well: bool) -> None:
        """Note a turn of the controller's loop; `well`: it came in time and its own dependencies answered."""
        self._trust = self._trust.after(now_s, well=well, every_s=SCORE_EVERY_S)

    def saw(self, lease: Lease, committed_step: int, now_s: float) -> None:
        """Note the lease record as it is now; a committed step that rose is a commit."""
        newest = (lease.epoch, max(lease.committed_step, committed_step))
        if newest[0] != self._committed[0]:
            self._commits = Rhythm(now_s)
        elif newest > self._committed:
            self._commits = self._commits.heard(now_s)
        self._committed = max(newest, self._committed)

    def vantages(self, holder: str, now_s: float) -> tuple[Vantage, ...]:
        """Every observer outside of the holder's region, ourselves first."""
        if self._reachability is None or holder == self._region:
            return tuple(view for _, view in self._reported(holder, now_s))
        own = self._reachability.vantage(holder, now_s)
        return (own, *(view for _, view in self._reported(holder, now_s) if view.name != own.name))

    def _reported(self, holder: str, now_s: float) -> list[tuple[str, Vantage]]:
        """Recent sightings of the holder's region by services outside of it, each with the service's region."""
        if self._reachability is None:
            return []
        since_s = now_s - SIGHTINGS * self._reachability.every_s
        return [
            (sighting.region, vantage_of(sighting, now_s - heard_at_s))
            for listener in self._peer_states.values()
            for (_, of_region), (sighting, heard_at_s) in listener.sightings.items()
            if of_region == holder and sighting.region != holder and heard_at_s > since_s
        ]

    def elsewhere_at_s(self, holder: str, now_s: float) -> float:
        """When another region heard the holder's nodes last."""
        others = [view for region, view in self._reported(holder, now_s) if region != self._region]
        return max((now_s - view.nodes_age_s for view in others), default=NEVER_S)

    def heard(self, view: RunView, now_s: float) -> RunView:
        """The view with the detectors' figures filled in."""
        held = view.belief.held
        listener = None if held is None else self._peer_states.get(held.lease.holder)
        if held is None or listener is None:
            return dataclasses.replace(view, patience=self._trust.patience)
        return dataclasses.replace(
            view,
            phi=listener.pulse.phi(now_s, self._policy.silence_s),
            elsewhere_at_s=self.elsewhere_at_s(held.lease.holder, now_s),
            patience=self._trust.patience,
        )

    def diagnosis(self, view: RunView, now_s: float, findings: tuple[Finding, ...] = ()) -> Diagnosis | None:
        """The part that is broken; None while the lease record has not been read.

        Args:
            view: the run.
            now_s: on the controller's clock.
            findings: everything else that is wrong.
        """
        held, policy = view.belief.held, self._policy
        if held is None:
            return None
        listener = self._peer_states.get(held.lease.holder)
        pulse = None if listener is None else listener.pulse
        floor_s, nodes = policy.silence_s, {}
        for name, node in ({} if pulse is None else pulse.nodes).items():
            age_s, phi = now_s - node.heard_at_s, node.rhythm.phi(now_s, floor_s)
            nodes[name] = NodeSign(age_s, phi, age_s >= floor_s * view.patience and phi >= PHI_LIMIT)
        every_s = policy.silence_s if self._reachability is None else self._reachability.every_s
        return diagnose(
            Symptoms(
                region=self._region,
                holder=held.lease.holder,
                witness_age_s=now_s - view.belief.read_at_s,
                witness_limit_s=policy.witness_age_s,
                renewed_age_s=now_s - view.belief.seen_at_s,
                renewed_limit_s=policy.renewals_seen_s,
                controller_age_s=now_s - view.controller_at_s,
                log_age_s=now_s - view.log_ack_at_s,
                store_age_s=now_s - view.store_put_at_s,
                evidence_s=policy.evidence_s,
                silence_s=floor_s,
                reach_s=max(floor_s, 2 * every_s),
                score=self._trust.score,
                commit_age_s=now_s - self._commits.at_s,
                commit_limit_s=self._commits.late_after_s(COMMIT_FLOOR * floor_s),
                nodes=nodes,
                vantages=self.vantages(held.lease.holder, now_s),
                findings=findings,
            )
        )
