"""Where services say what they do: a JSON line on standard output, one in the timeline, and a counter, by one name."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from pipelines.ports import Clock
from services.runtime.metrics import EVENTS, CounterCollector


class ServiceJournal:
    """Implements Journal for one service process.

    Args:
        service: agent, controller, replicator or warmer.
        region: whose.
        folder: gets `<service>-<region>.jsonl`, with the wall clock in milliseconds.
        clock: tells the time.
        registry: gets the counter `farside_events_total{event}`.
        quiet: say nothing on standard output, which is a command's own.
    """

    def __init__(
        self,
        *,
        service: str,
        region: str,
        folder: Path,
        clock: Clock,
        registry: CollectorRegistry,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        folder.mkdir(parents=True, exist_ok=True)
        self._timeline = folder / f"{service}-{region}.jsonl"
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = CounterCollector(EVENTS)
        registry.register(self._counts)
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(sys.stdout),
            processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
        ).bind(service=service, region=region)
        self._who = {"service": service, "at": region}

    def say(self, event: str, **fields: object) -> None:
        """One dotted event name with its fields."""
        line = json.dumps({"time_ms": self._clock.wall_ms(), "event": event, **self._who, **fields}, default=str)
        with (
            self._lock,
            contextlib.suppress(OSError),  # with the disk full, what is said still reaches standard output
            self._timeline.open("a", encoding="utf-8") as stream,
        ):
            stream.write(line + "\n")
        self._counts.add(event)
        if not self._quiet:
            self._log.info(event, **fields)
