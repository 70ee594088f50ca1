"""A service's journal: each event is a JSON line on standard output, one in the timeline, and counted, by one name."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from structlog.typing import EventDict, WrappedLogger

from pipelines.ports import Clock
from services.runtime.metrics import EVENTS, CounterCollector


class ServiceJournal:
    """Implements Journal for one service process.

    Args:
        service: agent, controller, replicator or warmer.
        region: whose.
        folder: gets `<service>-<region>.jsonl`, with the wall clock in milliseconds.
        clock: its wall clock stamps the timeline.
        registry: gets the counter `farside_events_total{event}`.
        quiet: write nothing on standard output, which is a command's own.
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
        folder.mkdir(parents=True, exist_ok=True)
        self._counts = CounterCollector(EVENTS)
        registry.register(self._counts)
        self._timeline = structlog.wrap_logger(
            _Timeline(folder / f"{service}-{region}.jsonl"),
            processors=[_Stamp(clock), structlog.processors.JSONRenderer(default=str)],
        ).bind(service=service, at=region)
        self._output = structlog.wrap_logger(
            structlog.ReturnLogger() if quiet else structlog.PrintLogger(sys.stdout),
            processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
        ).bind(service=service, region=region)

    def say(self, event: str, **fields: object) -> None:
        """Record one dotted event name with its fields."""
        self._timeline.info(event, **fields)
        self._counts.add(event)
        self._output.info(event, **fields)


class _Stamp:
    """A processor of structlog that puts the Clock port's time and the event's name first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, _logger: WrappedLogger, _method: str, fields: EventDict) -> Mapping[str, object]:
        return {"time_ms": self._clock.wall_ms(), "event": fields["event"], **fields}


class _Timeline:
    """A logger that structlog hands its lines to: each is appended to a file, which may be moved away between two."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def info(self, line: str) -> None:
        """Append one line; nothing is raised when the disk is full, since standard output gets the event too."""
        with self._lock, contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
