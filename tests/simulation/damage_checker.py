"""Judges what becomes of bytes that go bad at rest: no epoch begins from them (I20), and they are repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

from pipelines.paths import CheckpointId, parse_checkpoint
from schemas.codec import digest
from schemas.records import Lease

SLACK_S = 1.0  # clocks' rates differ


class DamageChecker:
    """Knows which objects are bad in which region, and since when.

    Args:
        now_s: true time.
        age_s_max: so long after an object went bad, nothing may begin from it.
        fail: is told what was broken.
    """

    def __init__(self, now_s: Callable[[], float], age_s_max: float, fail: Callable[[str], None]) -> None:
        self._now_s, self._age_s_max, self._fail = now_s, age_s_max, fail
        self._bad: dict[tuple[str, str], tuple[float, str]] = {}  # region, key: since when, and the digest it had
        self.flips = 0
        self.repairs = 0

    def flipped(self, region: str, key: str, body: bytes) -> None:
        """An object whose bytes were these goes bad now."""
        self.flips += 1
        self._bad.setdefault((region, key), (self._now_s(), digest(body)))

    def is_bad(self, region: str, key: str) -> bool:
        """Whether it went bad and was not repaired yet."""
        return (region, key) in self._bad

    def overwritten(self, region: str, key: str, body: bytes) -> None:
        """An object was put."""
        bad = self._bad.get((region, key))
        if bad is not None and bad[1] == digest(body):
            del self._bad[region, key]
            self.repairs += 1

    def landed(self, lease: Lease, asked_s: float) -> None:
        """I20: a new epoch's fork was read back in the winning region not too long before the write was sent."""
        entry = lease.lineage[-1]
        if entry.fork_step < 0:
            return
        for (region, key), (since_s, _) in self._bad.items():
            own = parse_checkpoint(key)
            same = (own.run, own.step, own.epoch) == (lease.run, entry.fork_step, entry.parent_epoch)
            if region == entry.region and same and since_s < asked_s - self._age_s_max - SLACK_S:
                self._fail(f"I20: epoch {entry.epoch} of {lease.run} begins from {key}, bad since {since_s:.3f}")

    def launched(self, region: str, key: str, body: bytes) -> None:
        """And so for the checkpoint from which a launch starts."""
        if "/launches/" not in key:
            return
        start = str(json.loads(body)["start_manifest_key"])
        for (where, bad), (since_s, _) in self._bad.items():
            late = since_s < self._now_s() - self._age_s_max - SLACK_S
            if late and start and where == region and parse_checkpoint(bad) == parse_checkpoint(start):
                self._fail(f"I20: {key} starts from {bad} in {region}, bad since {since_s:.3f}")

    def unrepaired(self, survivors: Mapping[str, Collection[str]]) -> list[str]:
        """The bad objects of a region that lives, though another one has them whole; `survivors`: the keys of each."""
        return [
            f"I20: {key} is bad in {region} since {since_s:.3f} and was not repaired"
            for (region, key), (since_s, _) in self._bad.items()
            if region in survivors
            and any(
                key in keys and (other, key) not in self._bad and (other, _manifest(key)) not in self._bad
                for other, keys in survivors.items()
                if other != region
            )
        ]


def _manifest(key: str) -> str:
    own: CheckpointId = parse_checkpoint(key)
    return own.manifest
