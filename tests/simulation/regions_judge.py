"""Judges a world of regions while it runs: what takes effect goes to the checkers, and the first fault ends it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from pipelines.core.lease import Belief
from pipelines.core.lease_profiles import LeaseProfile
from pipelines.ports import Message
from schemas.records import Lease
from tests.simulation.authority_checker import AuthorityChecker, Standing
from tests.simulation.damage_checker import DamageChecker
from tests.simulation.event_checker import EventChecker
from tests.simulation.kernel import Kernel, Process
from tests.simulation.register_checker import faults_of_register
from tests.simulation.simulated_ports import KeyedSigner, WatchedObjects, WitnessServer


class Believing(Protocol):
    """A run's controller, as far as it is judged."""

    _belief: Belief


class Judge:
    """Implements Watcher. `found` holds what was broken, in words."""

    def __init__(
        self, regions: Collection[str], kernel: Kernel, profile: LeaseProfile, verified_age_s_max: float
    ) -> None:
        self.found: list[str] = []
        self._kernel, self._profile = kernel, profile
        self.authority = AuthorityChecker(lambda: kernel.now_s, self.fail)
        self.events = EventChecker(regions, self.authority, KeyedSigner(), self.fail)
        self._beliefs: dict[tuple[str, str], Belief] = {}
        self.damage = DamageChecker(lambda: kernel.now_s, verified_age_s_max, self.fail)
        self.asks_to_create = self.events.asks_to_create
        self.asks_to_publish = self.events.asks_to_publish
        self.accepted = self.events.accepted
        self.rotten = self.events.rotten

    def fail(self, text: str) -> None:
        """A promise was broken."""
        self.found.append(f"{self._kernel.now_s:.3f} {text}")

    def is_broken(self) -> bool:
        """Whether the world may end here."""
        return bool(self.found)

    def created(self, region: str, key: str, body: bytes) -> None:
        """An object is new in a region's store."""
        self.events.created(region, key, body)
        self.damage.launched(region, key, body)

    def overwritten(self, region: str, key: str, body: bytes) -> None:
        """An object was put, whatever was there."""
        self.events.overwritten(region, key, body)
        self.damage.overwritten(region, key, body)

    def appended(self, region: str, message: Message, looked: Mapping[str, int]) -> None:
        """A message is visible."""
        self.events.appended(region, message, looked)

    def landed(self, lease: Lease, asked_s: float) -> None:
        """A lease write took effect; it was sent at `asked_s`."""
        before = self.authority.landed(lease)
        self.events.landed(lease, before)
        if before is not None and before.epoch < lease.epoch:
            self.damage.landed(lease, asked_s)

    def claims(self, process: Process, region: str, controls: Mapping[str, Believing]) -> None:
        """A controller gives way: what does it believe?"""
        for run, control in controls.items():
            belief, key = control._belief, (process.seed, run)
            if self._beliefs.get(key) is belief:
                continue
            self._beliefs[key] = belief
            until_s = process.true_s(belief.valid_until_s(self._profile))
            lease = None if belief.held is None else belief.held.lease
            if lease is None or until_s <= self._kernel.now_s:
                self.authority.claims(process.seed, run, None, "")
            else:
                standing = Standing(region, lease.epoch, until_s)
                self.authority.claims(process.seed, run, standing, lease.write_id)

    def missing(self, survivors: Mapping[str, WatchedObjects]) -> list[str]:
        """The events that are not where they belong yet, and bad objects that could be repaired."""
        keys = {region: set(objects.objects) for region, objects in survivors.items()}
        return self.events.missing(survivors) + self.damage.unrepaired(keys)

    def conclude(self, witness: WitnessServer, survivors: Mapping[str, WatchedObjects]) -> None:
        """Judge what can only be judged at the end."""
        if not self.found:
            for text in self.missing(survivors)[:5]:
                self.fail(text)
        for run, operations in witness.operations.items():
            landed = [one.write_id for one in witness.leases.history if one.run == run]
            for text in faults_of_register(operations, landed):
                self.fail(f"I4: {text}")
