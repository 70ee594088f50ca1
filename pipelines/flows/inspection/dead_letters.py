"""The dead letters of a region, each with what has become of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipelines import paths
from pipelines.core.record_filter import Facts, RecordFilter, facts_of_letter
from pipelines.flows.log.log_reader import Decoding, OnProgress, Seen, quiet, scan
from pipelines.ports import EventSource
from schemas.records import DeadLetter, Redriven

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter where it lies, and the mark that it was redriven; `letter` is None if it cannot be decoded."""

    seen: Seen
    letter: DeadLetter | None
    mark: Redriven | None = None

    @property
    def place(self) -> Place:
        """Partition and offset in the region's dead letters."""
        return self.seen.fetched.partition.number, self.seen.fetched.offset

    @property
    def facts(self) -> Facts:
        """The facts that are known of the event in it."""
        return Facts() if self.letter is None else facts_of_letter(self.letter)


def letters(
    source: EventSource,
    chosen: RecordFilter,
    decoding: Decoding,
    places: Collection[Place] = (),
    on_progress: OnProgress = quiet,
) -> list[Letter]:
    """The letters of a selection, oldest first; the filter is on the event that is in each."""
    chosen_letters: list[Letter] = []
    marks: dict[Place, Redriven] = {}
    for seen in _read(source, decoding, on_progress):
        if isinstance(seen.record, Redriven):
            marks[seen.record.partition, seen.record.offset] = seen.record
            continue
        letter = Letter(seen, seen.record if isinstance(seen.record, DeadLetter) else None)
        headers = [(each.key, each.value) for each in letter.letter.headers] if letter.letter else seen.fetched.headers
        wanted = chosen.admits(letter.facts, headers, seen.fetched.time_ms, decoded=False)
        if wanted and (not places or letter.place in places):
            chosen_letters.append(letter)
    return [Letter(letter.seen, letter.letter, marks.get(letter.place)) for letter in chosen_letters]


def _read(source: EventSource, decoding: Decoding, on_progress: OnProgress) -> Iterator[Seen]:
    for fetched in scan(source, [paths.DEAD_LETTERS], decoding.clock, on_progress):
        yield decoding.see(fetched)
