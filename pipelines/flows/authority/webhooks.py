"""Sends a webhook for each epoch that this region wins, and a ping while its controller works.

A webhook is sent at least once, under a key that is the same for each repetition; that its receiver took it is written
down in the region's store, create-only, so neither a restart nor a replay sends it again (I15). The ping goes out only
while the lease's loop turns: its receiver raises the alarm when pings stop, since a dead controller cannot.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pipelines import paths
from pipelines.errors import RetryableError
from pipelines.ports import Clock, Journal, ObjectStore, Poster
from schemas.records import EpochEntry

TURN_S = 1.0
RETRY_S = 5.0
ALIVE_S = 10.0  # a ping is sent if the lease's loop turned so recently


@dataclass(frozen=True, slots=True, kw_only=True)
class Receivers:
    """Who outside hears of a run.

    Attributes:
        webhook: hears of each epoch that this region wins; None: nobody does.
        ping: hears every `ping_s` that the controller works; None: nobody does.
        ping_s: the pause between two pings.
    """

    webhook: Poster | None
    ping: Poster | None
    ping_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedController:
    """The controller that is spoken for.

    Attributes:
        won: returns the newest epoch if this region won it, else None.
        turned_at_s: returns when the lease's loop turned last.
    """

    won: Callable[[], EpochEntry | None]
    turned_at_s: Callable[[], float]


class Webhooks:
    """Sends the webhooks and pings of one run in one region.

    Args:
        run: which run.
        region: this region.
        receivers: who outside hears of it.
        watched: the run's controller.
        store: the region's; what was sent is written down there.
        clock: the machine's own.
        journal: hears of each webhook, and of the first that did not get through.
    """

    def __init__(
        self,
        *,
        run: str,
        region: str,
        receivers: Receivers,
        watched: WatchedController,
        store: ObjectStore,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._run, self._region = run, region
        self._webhook, self._ping, self._ping_s = receivers.webhook, receivers.ping, receivers.ping_s
        self._won, self._turned_at_s = watched.won, watched.turned_at_s
        self._store, self._clock, self._journal = store, clock, journal
        self._sent_epoch = 0
        self._pinged_at_s = float("-inf")
        self.trouble = ""

    def turn(self) -> float:
        """Send what is due; seconds until the next turn."""
        try:
            self._send_ping()
            self._send_webhook()
        except RetryableError as error:
            if not self.trouble:
                self._journal.say("webhook.waits", run=self._run, error=str(error))
            self.trouble = str(error)
            return RETRY_S
        self.trouble = ""
        return TURN_S

    def _send_ping(self) -> None:
        now_s = self._clock.boottime_s()
        alive = now_s - self._turned_at_s() <= ALIVE_S
        if self._ping is not None and alive and now_s - self._pinged_at_s >= self._ping_s:
            self._pinged_at_s = now_s  # a receiver that is away is not called more often than one that answers
            self._ping.post(f"{self._run}/{self._region}", b"")

    def _send_webhook(self) -> None:
        entry = self._won()
        if self._webhook is None or entry is None or entry.epoch <= self._sent_epoch:
            return
        marker, key = paths.notified(self._run, entry.epoch), f"{self._run}/{entry.epoch}"
        if self._store.get(marker) is None:
            body = json.dumps({"run": self._run, "key": key, **asdict(entry)}, sort_keys=True).encode()
            self._webhook.post(key, body)
            self._store.create(marker, body)
            self._journal.say("webhook.sent", run=self._run, epoch=entry.epoch, reason=entry.reason)
        self._sent_epoch = entry.epoch
