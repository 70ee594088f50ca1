"""Replay: what a lane holds, what its handlers would do with it, and asking the live handlers to read it again.

Planning changes nothing. Executing rewinds the live replicator of the region: it reads the lane again, and its ledger
says of each event that it is done (I15), so what was missed is made up for and nothing happens twice. Heartbeats and
control cannot be replayed: an old sign of life is none (6.11, I10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.ledger import Arrival, Ledger
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.ports import Clock, EventSource, Fetched
from schemas.codec import Codec, DecodeError
from schemas.records import Event

READ_S = 60.0
POLL_S = 0.2


@dataclass(slots=True)
class Plan:
    """What a replay would re-drive."""

    lane: str
    records: int = 0
    size_bytes: int = 0
    steps: tuple[int, int] | None = None
    epochs: set[int] = field(default_factory=set)
    new: int = 0
    done: int = 0
    branch: int = 0
    undecodable: int = 0
    others: int = 0  # of other runs, or published elsewhere: passed over
    begin: int = 0
    end: int = 0

    def plain(self) -> dict[str, object]:
        """As JSON."""
        names = ("lane", "records", "size_bytes", "new", "done", "branch", "undecodable", "others", "begin", "end")
        steps = None if self.steps is None else list(self.steps)
        return {name: getattr(self, name) for name in names} | {"steps": steps, "epochs": sorted(self.epochs)}


def check_lane(lane: str) -> None:
    """Refuse what is not replayable."""
    if lane not in paths.REPLAYABLE_LANES:
        raise MisconfiguredError(f"lane {lane!r} cannot be replayed; these can: {', '.join(paths.REPLAYABLE_LANES)}")


def to_end(source: EventSource, topics: Sequence[str], clock: Clock) -> Iterator[Fetched]:
    """Every record of some topics, from the first that is still there to the end seen when each one's turn comes.

    Raises:
        RetryableError: an end was not reached in time.
    """
    deadline_s = clock.boottime_s() + READ_S
    for partition in source.partitions(topics):
        first, end = source.bounds(partition)
        source.seek(partition, first)
        while source.position(partition) < end:
            if clock.boottime_s() > deadline_s:
                raise RetryableError(f"{partition.topic} was not read to its end within {READ_S:.0f} s")
            yield from source.poll(POLL_S)


def read_ledger(own: EventSource, codec: Codec, clock: Clock) -> Ledger:
    """What a region has done, from its own log; RetryableError if its end is not reached in time."""
    ledger = Ledger()
    for item in to_end(own, [paths.LEDGER, paths.ALARMS], clock):
        ledger.learn(codec.decode(item.value))
    return ledger


def plan(
    *,
    run: str,
    peer: str,
    lane: str,
    source: EventSource,
    ledger: Ledger,
    lineage: Callable[[str], LineageView | None],
    codec: Codec,
    clock: Clock,
) -> Plan:
    """Read the peer's lane from its beginning to the end seen now, and sort every event by what would become of it."""
    check_lane(lane)
    found = Plan(lane)
    view = lineage(run)
    for partition in source.partitions([paths.topic(lane)]):
        found.begin, found.end = source.bounds(partition)
    for item in to_end(source, [paths.topic(lane)], clock):
        found.records += 1
        found.size_bytes += len(item.value)
        try:
            _sort(found, codec.decode(item.value), run, peer, ledger, view)
        except DecodeError:
            found.undecodable += 1
    return found


def _sort(found: Plan, event: object, run: str, peer: str, ledger: Ledger, view: LineageView | None) -> None:
    if not isinstance(event, Event) or (event.run, event.region) != (run, peer):
        found.others += 1
        return
    low, high = found.steps or (event.step, event.step)
    found.steps = (min(low, event.step), max(high, event.step))
    found.epochs.add(event.epoch)
    if ledger.arrival(event) is Arrival.DUPLICATE:
        found.done += 1
    elif view is not None and standing(view, event.epoch, event.step) is Standing.BRANCH:
        found.branch += 1
    else:
        found.new += 1
