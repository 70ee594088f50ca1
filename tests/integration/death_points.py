"""Every named point between a spool and another region's log at which a process may die, as a table.

`SHORT` is what `make test` has time for: both services die in each of its rounds. `make event-faults` plays them all.
"""

from __future__ import annotations

from tests.integration.dying_service import Point

AGENT, REPLICATOR = "agent", "replicator"


def _both(service: str, port: str, method: str, about: str = "") -> tuple[Point, Point]:
    return (
        Point(service, port, method, "before", about),
        Point(service, port, method, "after", about),
    )


START = (  # of a launch: its trainer is started anew for it
    *_both(AGENT, "store", "create", r"/starts/"),
    *_both(AGENT, "spool", "grant"),
)
RETIRE = (
    Point(AGENT, "spool", "retire", "before"),
    Point(AGENT, "spool", "retire", "after", gave=True),  # the log of a trainer that is gone was removed
)
AGENT_POINTS = (
    Point(AGENT, "spool", "read", "before"),
    Point(AGENT, "spool", "read", "after", gave=True),
    *_both(AGENT, "log", "publish", r"metrics"),
    *_both(AGENT, "log", "publish", r"checkpoints"),
    *_both(AGENT, "spool", "advance"),
    Point(AGENT, "spool", "advance", "inside"),
    *_both(AGENT, "spool", "release"),
    *_both(AGENT, "store", "create", r"/intent$"),
    *_both(AGENT, "store", "create", r"/chunk-"),
    *_both(AGENT, "store", "create", r"/state$"),
    *_both(AGENT, "store", "create", r"/receipts/"),
    *_both(AGENT, "store", "create", r"/manifest$"),
    *START,
    *RETIRE,
)
REPLICATOR_POINTS = (
    *_both(REPLICATOR, "checkpoints.transfers", "start"),
    *_both(REPLICATOR, "checkpoints.copies", "create", r"/chunk-"),
    Point(REPLICATOR, "checkpoints.transfers", "finished", "after", gave=True),
    *_both(REPLICATOR, "checkpoints.store", "create", r"/manifest$"),
    Point(REPLICATOR, "checkpoints.log", "transaction", "before", r"checkpoints"),
    Point(REPLICATOR, "checkpoints.log", "transaction", "inside", r"checkpoints"),
    Point(REPLICATOR, "checkpoints.log", "transaction", "after", r"checkpoints"),
    Point(REPLICATOR, "metrics.log", "transaction", "before", r"metrics"),
    Point(REPLICATOR, "metrics.log", "transaction", "inside", r"metrics"),
    Point(REPLICATOR, "metrics.log", "transaction", "after", r"metrics"),
)
ALL: tuple[tuple[Point, ...], ...] = tuple((one,) for one in (*AGENT_POINTS, *REPLICATOR_POINTS))


def _named(*names: str) -> tuple[Point, ...]:
    return tuple(next(one for one in (*AGENT_POINTS, *REPLICATOR_POINTS) if one.name == name) for name in names)


SHORT: tuple[tuple[Point, ...], ...] = (
    _named("agent-after-spool-read", "replicator-after-checkpoints.transfers-finished"),
    _named("agent-after-log-publish-metrics", "replicator-before-checkpoints.store-create-manifest"),
    _named("agent-after-log-publish-checkpoints", "replicator-after-checkpoints.store-create-manifest"),
    _named("agent-before-spool-advance", "replicator-before-checkpoints.log-transaction-checkpoints"),
    _named("agent-inside-spool-advance", "replicator-inside-checkpoints.log-transaction-checkpoints"),
    _named("agent-before-store-create-manifest", "replicator-after-checkpoints.log-transaction-checkpoints"),
    _named("agent-after-store-create-manifest", "replicator-inside-metrics.log-transaction-metrics"),
)
