"""Reads the logs and spools that `core.audit` compares: a region's log, and the spools of a machine's nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core.audit import Log
from pipelines.core.ledger import Stream, region_of
from pipelines.core.lineage import LineageView, Standing, standing
from pipelines.core.record_filter import Facts, facts_of, facts_of_letter, identity_of
from pipelines.core.sequence_ranges import SequenceRanges
from pipelines.core.set_aside import why_set_aside
from pipelines.errors import FarsideError
from pipelines.flows.log.log_reader import Decoding, OnProgress, Seen, quiet, scan
from pipelines.ports import EventSource, Spool
from schemas.records import Checkpoint, DataVersion, DeadLetter, Event, Heartbeat, Record, Watermark

LANES = paths.REPLICATED_LANES
_TOPICS = (*map(paths.topic, LANES), paths.DEAD_LETTERS, paths.HEARTBEATS)


@dataclass(slots=True)
class Reading:
    """Reads the log of one region for one run.

    Args:
        run: the run.
        region: the region.
        view: the run's lineage; None if it is not known.
        decoding: decodes the log's records.
        manifests: lists the keys of manifests and of lists of shards that the region's store holds; None if it does not
            answer. It is asked when the log has been read: what an event names is there before the event is.
        on_event: is called with each event.
    """

    run: str
    region: str
    view: LineageView | None
    decoding: Decoding
    manifests: Callable[[], Collection[str] | None] = lambda: None
    on_event: Callable[[Event], None] = lambda _event: None
    _named: list[tuple[str, Stream, SequenceRanges]] = field(
        default_factory=list
    )  # manifests that the log says are there

    def read(self, source: EventSource, on_progress: OnProgress = quiet) -> Log:
        """The log's numbers; a log that cannot be read is given back with its trouble.

        The ledger is read first: whatever it says is done is in the lanes when they are read after it, so events that
        arrive meanwhile are in flight, and never look lost.
        """
        log = Log(self.region)
        try:
            for fetched in scan(source, [paths.LEDGER], self.decoding.clock):
                self._mark(log, self.decoding.see(fetched))
            for partition in source.partitions([paths.topic(lane) for lane in LANES]):
                if source.bounds(partition)[0] > 0:
                    log.trimmed.add(_lane(partition.topic))
            for fetched in scan(source, _TOPICS, self.decoding.clock, on_progress):
                self._take(log, self.decoding.see(fetched))
            self._look_for_manifests(log)
        except FarsideError as error:
            return Log(self.region, str(error))
        return log

    def _mark(self, log: Log, seen: Seen) -> None:
        record = seen.record
        if isinstance(record, Watermark) and record.run == self.run and region_of(record) is None:
            log.marks[record.run, record.epoch, record.producer, record.lane] = record.seq

    def _take(self, log: Log, seen: Seen) -> None:
        topic, record = seen.fetched.partition.topic, seen.record
        facts = facts_of(record, seen.fetched.headers)
        if topic == paths.DEAD_LETTERS:
            if isinstance(record, DeadLetter):
                self._letter(log, record)
        elif topic == paths.HEARTBEATS:
            if isinstance(record, Heartbeat) and record.run == self.run and record.region == self.region:
                self._promises(log, record)
        elif why_set_aside(seen.fetched.headers, seen.fetched.value):
            self._set_aside(log, facts)
        elif facts.run in {None, self.run}:
            self._event(log, _lane(topic), facts, record)

    def _event(self, log: Log, lane: str, facts: Facts, record: Record | None) -> None:
        if isinstance(record, Event):
            self.on_event(record)
            if record.seq < 1:
                return  # it takes no number
        identity = identity_of(facts)
        if identity is None:
            log.nameless[lane] = log.nameless.get(lane, 0) + 1
            return
        stream, numbers = identity
        log.take(stream, numbers, facts.region)
        if self.view and facts.step is not None and standing(self.view, stream[1], facts.step) is Standing.BRANCH:
            _put(log.branch, stream, numbers)
        if isinstance(record, Checkpoint) and record.state == "committed":
            self._named.append((record.manifest_key, stream, numbers))
        if isinstance(record, DataVersion) and record.list_key:
            self._named.append((record.list_key, stream, numbers))

    def _set_aside(self, log: Log, facts: Facts) -> None:
        """A record that fills the place of one: its dead letter is beside it, and it is no event."""
        identity = identity_of(facts)
        if facts.run == self.run and identity is not None:
            if facts.region is not None:
                log.sources.setdefault(identity[0], facts.region)
            _put(log.dead, *identity)

    def _look_for_manifests(self, log: Log) -> None:
        """Whether what events name is here: a manifest is created last, so where it is, everything is (I13)."""
        there = self.manifests()
        for key, stream, numbers in self._named:
            if there is not None and key not in there:
                _put(log.early, stream, numbers)

    def _letter(self, log: Log, letter: DeadLetter) -> None:
        facts = facts_of_letter(letter)
        if identity_of(facts) is None:
            facts = facts_of(self.decoding.read(letter.value)[0], ())
        identity = identity_of(facts)
        if facts.run != self.run or identity is None:
            return
        stream, numbers = identity
        if facts.region is not None:
            log.sources.setdefault(stream, facts.region)
        _put(log.branch if letter.reason == "branch" else log.dead, stream, numbers)

    def _promises(self, log: Log, beat: Heartbeat) -> None:
        for last_seq in beat.last_seqs:
            if last_seq.lane in LANES:
                _, before = log.promised.get((last_seq.producer, last_seq.lane), (0, 0))
                log.promised[last_seq.producer, last_seq.lane] = (beat.epoch, max(last_seq.seq, before))


def accepted(spools: Iterable[Spool], run: str, view: LineageView) -> dict[Stream, SequenceRanges]:
    """Every event in some nodes' spools that lies on the lineage."""
    numbers: dict[Stream, SequenceRanges] = {}
    for spool in spools:
        for producer in spool.producers(run):
            offset = 0
            while records := spool.read(run, producer, offset):
                offset = records[-1].end
                for record in records:
                    if standing(view, record.epoch, record.step) is Standing.CURRENT:
                        numbers.setdefault(
                            (record.run, record.epoch, record.producer, record.lane), SequenceRanges()
                        ).add(record.seq)
    return numbers


def _put(kept: dict[Stream, SequenceRanges], stream: Stream, numbers: SequenceRanges) -> None:
    kept[stream] = kept.get(stream, SequenceRanges()) | numbers


def _lane(topic: str) -> str:
    return topic.removeprefix(paths.topic(""))
