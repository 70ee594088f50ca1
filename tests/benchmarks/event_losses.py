"""Loses records at the source and compares how each of the two takes it: the last part of `bench-events`.

Each story is played on the lane of data versions, or on a topic of the same shape and bytes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.event_load import VERSIONS_TOPIC, Tail, versions
from tests.benchmarks.event_peers import Peer

SETTLES_S = 90.0
Say = Callable[[str], None]


class Losses:
    """The stories of one peer; `batch` records each."""

    def __init__(self, peer: Peer, batch: int, deadline_s: float) -> None:
        self._peer, self._batch, self._deadline_s = peer, batch, deadline_s
        self._topic, self._target = peer.source(VERSIONS_TOPIC), peer.target(VERSIONS_TOPIC)

    def measured(self, say: Say) -> dict[str, Any]:
        """All of them."""
        stories = {
            "retention overtook unread records": self._retention,
            "topic made anew while it was stopped": self._anew_stopped,
            "topic made anew while it ran": self._anew_running,
        }
        found = {}
        for name, story in stories.items():
            say(f"{self._peer.name}: {name}")
            with contextlib.closing(Tail(self._peer.west.cluster, self._target)) as tail:
                found[name] = story(tail)
        return found

    def _retention(self, tail: Tail) -> dict[str, Any]:
        """Half of what came while the replicator was stopped is gone when it starts again."""
        name, east, batch = "retention", self._peer.east, self._batch
        self._peer.start()
        if east.end(self._topic) == 0:
            east.make(self._topic)
        east.send(versions(self._topic, name, 1, batch))
        tail.until((name, batch), SETTLES_S)
        self._peer.stop()
        east.send(versions(self._topic, name, batch + 1, 2 * batch))
        east.forget(self._topic, east.end(self._topic) - batch // 2)
        return self._seen_after(tail, name, 2 * batch, gone=batch // 2)

    def _anew_stopped(self, tail: Tail) -> dict[str, Any]:
        """The new topic is longer than the old one was, so an old offset lies within it."""
        name, east = "anew", self._peer.east
        self._peer.stop()
        count = east.end(self._topic) + self._batch
        self._make_anew(name, count)
        return self._seen_after(tail, name, count, gone=0)

    def _anew_running(self, tail: Tail) -> dict[str, Any]:
        name = "meanwhile"
        self._peer.start()
        mark = self._peer.mark()
        self._make_anew(name, self._batch)
        return self._seen_after(tail, name, self._batch, gone=0, mark=mark)

    def _make_anew(self, name: str, count: int) -> None:
        east = self._peer.east
        east.delete(self._topic)
        east.make(self._topic)
        east.send(versions(self._topic, name, 1, count))

    def _seen_after(self, tail: Tail, name: str, last: int, gone: int, mark: int | None = None) -> dict[str, Any]:
        """The sent records that are visible, once the last of them is, and the messages logged about the rest."""
        if mark is None:
            mark = self._peer.mark()
            self._peer.start()
        begun_s = time.monotonic()
        at_s = tail.until((name, last), self._deadline_s)
        notices = self._peer.notices(mark, VERSIONS_TOPIC)
        visible = sum(1 for of, _ in tail.seen if of == name)
        return {
            "sent": last,
            "gone_at_the_source": gone,
            "visible": visible,
            "missing_though_there": last - gone - visible,
            "twice": tail.twice,
            "last_visible_after_s": None if at_s is None else round(at_s - begun_s, 1),
            "noticed": bool(notices.about),
            "said": list(notices.about[:5]),
            "other_warnings": list(notices.warnings[:10]),
            "said_quietly": list(notices.quiet[:5]),
        }
