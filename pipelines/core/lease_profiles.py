"""The lease's times: the profiles that ship, and the inequalities that every profile must hold. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipelines.errors import MisconfiguredError


@dataclass(frozen=True, slots=True)
class LeaseProfile:
    """The lease's times. Recovery cannot be faster than `challenger_wait_s`: that is its floor."""

    name: str
    lease_s: float
    renew_s: float
    poll_s: float
    rho: float
    margin_s: float

    @property
    def holder_validity_s(self) -> float:
        """How long a write is good for, from before it was sent."""
        return self.lease_s * (1 - self.rho) - self.margin_s

    @property
    def challenger_wait_s(self) -> float:
        """How long a challenger waits, from after it saw the record change."""
        return self.lease_s * (1 + self.rho) + self.margin_s

    def holder_valid_until(self, sent_at_s: float, lease_s: float) -> float:
        """Until when the sender of a record with this `lease_s` may act, on its own clock."""
        return sent_at_s + lease_s * (1 - self.rho) - self.margin_s

    def challenger_may_try_at(self, seen_at_s: float, lease_s: float) -> float:
        """From when on a record with this `lease_s`, seen to change at `seen_at_s`, may be challenged."""
        return seen_at_s + lease_s * (1 + self.rho) + self.margin_s

    def check(self) -> None:
        """Refuse an unsafe combination, with the inequality that fails."""
        rules = {
            "0 <= rho < 1": 0 <= self.rho < 1,
            "margin_s > 0": self.margin_s > 0,
            "renew_s > 0": self.renew_s > 0,
            "0 < poll_s <= renew_s": 0 < self.poll_s <= self.renew_s,
            "2 * renew_s <= lease_s * (1 - rho) - margin_s": 2 * self.renew_s <= self.holder_validity_s,
        }
        failed = [rule for rule, holds in rules.items() if not holds]
        if failed:
            raise MisconfiguredError(f"lease profile {self.name!r} {dataclasses.asdict(self)} violates {failed[0]}")


FAST = LeaseProfile(name="fast", lease_s=4.0, renew_s=1.0, poll_s=0.5, rho=0.01, margin_s=0.5)
DEFAULT = LeaseProfile(name="default", lease_s=60.0, renew_s=10.0, poll_s=5.0, rho=0.01, margin_s=5.0)
PROFILES = {profile.name: profile for profile in (FAST, DEFAULT)}
