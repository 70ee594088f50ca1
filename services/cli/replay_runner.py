"""Carries out `farside replay`: parses the options into a request, plans it, shows the plan and executes it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipelines import paths
from pipelines.core.record_filter import RecordFilter
from pipelines.core.replay_rules import EARLIEST, LATEST, Bound, Fate, Tempo, parse_bound
from pipelines.errors import FencedError, MisconfiguredError, RetryableError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.inspection import replay
from pipelines.flows.inspection.replay import Drive, Handlers, Mark, Merged, ReplayTarget, Row, Stretch
from pipelines.flows.log.ledger_reader import read_ledger
from pipelines.flows.replication.checkpoint_copies import whole
from pipelines.flows.replication.visible_index import VisibleIndex
from schemas.codec import Codec
from services.adapters.bookmark import FileBookmark
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topic
from services.adapters.recording import RecordingSource, RecordingTarget, format_of
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.cli.events_view import as_json, clean, console, when
from services.cli.exits import FAILED
from services.cli.region_logs import decoding_of, progress, reader
from services.cli.registry import WireFormat
from services.http.endpoints import replicator_of
from services.operations.replay_targets import ConfluentWire, HandlersTarget, TopicTarget, as_it_is, check_topic
from services.runtime.clients import cluster_of, store_of

if TYPE_CHECKING:
    from pipelines.flows.log.log_reader import Decoding, Seen
    from pipelines.ports import EventSource
    from services.settings import Settings

STOPPED = 3
TRY_AGAIN_S = 1.0
HANDLERS, TOPIC, FILE, INTO = "handlers", "topic", "file", "into"


@dataclass(frozen=True, slots=True)
class Asked:
    """A replay, as the command line asks for it."""

    chosen: RecordFilter
    begin: Bound
    until: Bound
    at: str  # the region whose log is read, or was recorded in the file
    kind: str  # of the target: HANDLERS, TOPIC, FILE or INTO
    region: str  # whose handlers, or whose Kafka, or which is rebuilt
    name: str  # the topic, or the file
    from_file: Path | None
    typed: tuple[str, str]  # the bounds, as they were typed
    wiring: WireFormat

    @property
    def key(self) -> str:
        """The same for the same request: the name of the file that keeps the replay's position."""
        chosen = [(option.name, getattr(self.chosen, option.name)) for option in dataclasses.fields(self.chosen)]
        plain = [(name, sorted(value) if isinstance(value, frozenset) else value) for name, value in chosen]
        request = repr((plain, self.typed, self.at, self.kind, self.region, self.name, self.from_file))
        if self.wiring.is_confluent:
            request += repr(self.wiring.url)
        return hashlib.sha256(request.encode()).hexdigest()[:16]

    @property
    def where(self) -> str:
        """The target, in words for people."""
        into = f"the handlers of {self.region}" if self.kind == HANDLERS else f"topic {self.name} of {self.region}"
        if self.wiring.is_confluent:
            into += f" in Confluent's wire format, schemas at {self.wiring.url}"
        return {FILE: f"file {self.name}", INTO: f"{self.region}, which is rebuilt"}.get(self.kind, into)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to replay, and after how many seconds without an answer to give up."""

    rate: float
    speed: float
    patience_s: float


def parse(
    settings: Settings,
    chosen: RecordFilter,
    *,
    begin: str,
    until: str,
    at: str | None,
    to: str,
    into: str | None,
    from_file: Path | None,
    wiring: WireFormat,
) -> Asked:
    """Make a request of the options.

    Raises:
        MisconfiguredError: an option is wrong, or some do not fit together.
    """
    now_ms = SystemClock().wall_ms()
    bounds = [_bound(name, text, now_ms) for name, text in (("--from", begin), ("--until", until))]
    run = settings.run(next(iter(chosen.runs))) if len(chosen.runs) == 1 else None
    at = at or (run.first_region if run is not None else next(iter(settings.regions)))
    settings.region(at)
    kind, region, name = _target(to) if into is None else (INTO, into, "")
    others = [other for other in (run.standby if run is not None else settings.regions) if other != at]
    region = region or (at if kind in {TOPIC, FILE} else next(iter(others), ""))
    if kind in {HANDLERS, INTO}:
        chosen = _replayable(chosen)
        if region == at:
            raise MisconfiguredError(
                f"{region} does not handle its own log: choose another region to deliver to, or another --at"
            )
    settings.region(region)
    if kind == INTO and (
        dataclasses.replace(chosen, lanes=frozenset()) != RecordFilter() or bounds != [EARLIEST, LATEST]
    ):
        raise MisconfiguredError("--into rebuilds whole lanes: the only filter that it accepts is --lane")
    if kind == HANDLERS and from_file is not None:
        raise MisconfiguredError(
            "--from-file can be replayed to a topic, to a file, or --into an empty region; live handlers accept only "
            "records that are in their peer's log"
        )
    wiring.check(into_topic=kind == TOPIC)
    return Asked(chosen, bounds[0], bounds[1], at, kind, region, name, from_file, (begin, until), wiring)


def _bound(name: str, text: str, now_ms: int) -> Bound:
    try:
        return parse_bound(text, now_ms)
    except ValueError as error:
        raise MisconfiguredError(f"{name} {text!r}: {error}") from None


def _target(to: str) -> tuple[str, str, str]:
    kind, _, rest = to.partition(":")
    if kind == HANDLERS:
        return HANDLERS, rest, ""
    if kind == TOPIC:
        name, _, region = rest.partition("@")
        return TOPIC, region, check_topic(name)
    format_of(Path(to))
    return FILE, "", to


def _replayable(chosen: RecordFilter) -> RecordFilter:
    for lane in chosen.lanes:
        replay.check_lane(lane)
    return dataclasses.replace(chosen, lanes=chosen.lanes or frozenset(paths.REPLAYABLE_LANES))


def run(settings: Settings, asked: Asked, pace: Pace, *, execute: bool, again: bool, plain: bool) -> int:
    """Show the plan, and execute it if that was asked for; returns the exit code."""
    bookmark = FileBookmark(settings.state_dir / "replays" / f"{asked.key}.json")
    before = None if again else bookmark.read()
    with _source(settings, asked) as source:
        decoding = decoding_of(settings.region(asked.at))
        goes_on = execute and before is not None and not before.done
        if goes_on and before is not None:
            parts, mark = _as_before(source, asked, before), before
            typer.echo(f"continuing where it was stopped (replay {mark.replay_id}); --again begins anew", err=True)
        else:
            parts = replay.stretches(source, asked.chosen.topics(), asked.chosen, asked.begin, asked.until, decoding)
            mark = _fresh(parts)
            rows = _plan(settings, asked, source, parts, decoding)
            _show_plan(asked, rows, pace, plain=plain, execute=execute)
        if not execute:
            return 0
        if asked.kind == INTO:
            return _rebuild(settings, asked, parts, pace, fresh=not goes_on, bookmark=bookmark, mark=mark, plain=plain)
        with _target_of(settings, asked, mark, decoding) as target:
            drive = _drive(source, parts, asked, decoding, target, bookmark, mark, pace)
            return _turn(drive, asked, parts, mark, pace, plain=plain)


def _fresh(parts: Sequence[Stretch]) -> Mark:
    at, ends = {part.place: part.begin for part in parts}, {part.place: part.end for part in parts}
    since_ms, before_ms = {part.place: part.since_ms for part in parts}, {part.place: part.before_ms for part in parts}
    return Mark(SystemEntropy().new_id(), at, ends, {}, since_ms=since_ms, before_ms=before_ms)


def _as_before(source: EventSource, asked: Asked, mark: Mark) -> tuple[Stretch, ...]:
    """The stretches as they were planned, beginning where the replay was stopped."""
    remaining = []
    for partition in source.partitions(asked.chosen.topics()):
        place = Stretch(partition, 0, 0).place
        if place in mark.ends:
            first, end = source.bounds(partition)
            begin = max(first, mark.at.get(place, first))
            times = (mark.since_ms.get(place), mark.before_ms.get(place))
            remaining.append(Stretch(partition, begin, max(begin, min(end, mark.ends[place])), *times))
    return tuple(remaining)


@contextmanager
def _source(settings: Settings, asked: Asked) -> Iterator[EventSource]:
    if asked.from_file is not None:
        yield RecordingSource(asked.from_file)
        return
    source = _log(settings, asked)
    try:
        yield source
    finally:
        source.close()


def _log(settings: Settings, asked: Asked) -> KafkaSource:
    """A region's log: for handlers over the link of the region that handles it, else as the region's operator."""
    if asked.kind in {HANDLERS, INTO}:
        return KafkaSource(cluster_of(settings.link(asked.region, asked.at)))
    return reader(settings.region(asked.at))


# --- the plan ---


def _plan(
    settings: Settings, asked: Asked, source: EventSource, parts: Sequence[Stretch], decoding: Decoding
) -> list[Row]:
    from services.runtime.wiring import verifier_of  # noqa: PLC0415 - `farside --help` must be quick

    if asked.kind not in {HANDLERS, INTO}:
        return replay.plan(source, parts, asked.chosen, decoding, on_progress=progress())
    here = settings.region(asked.region)
    codec, clock, store, verifier = Codec(), SystemClock(), store_of(here), verifier_of(settings)
    with contextlib.closing(reader(here)) as own:
        ledger = read_ledger(own, codec, clock)
    lanes: dict[str, VisibleIndex] = {}
    for lane in {part.lane for part in parts}:
        with contextlib.closing(reader(here)) as own:
            lanes[lane] = VisibleIndex(lane, own, codec, clock)
            while not lanes[lane].read_on():
                pass
    handlers = Handlers(
        peer=asked.at,
        ledger=ledger,
        known=lambda stream: lanes[stream[3]].known(stream),
        lineage=EpochStore(store),
        whole=lambda event: whole(event, store, codec, verifier.opened),
    )
    return replay.plan(source, parts, asked.chosen, decoding, handlers, progress())


def _show_plan(asked: Asked, rows: Sequence[Row], pace: Pace, *, plain: bool, execute: bool) -> None:
    records = sum(row.records for row in rows)
    times = [ms for row in rows for ms in (row.first_ms, row.last_ms) if ms is not None]
    takes_s = Tempo(pace.rate, pace.speed).takes_s(records, max(times) - min(times) if times else 0)
    if plain:
        request = {"at": asked.at, "to": asked.kind, "region": asked.region, "target": asked.name or None}
        plan = {"takes_s": takes_s, "execute": execute, "rows": [row.plain() for row in rows]}
        typer.echo(json.dumps(request | plan))
        return
    from rich.table import Table  # noqa: PLC0415 - `farside --help` must be quick
    from rich.text import Text  # noqa: PLC0415 - as above

    whose = str(asked.from_file) if asked.from_file is not None else f"the log of {asked.at}"
    typer.echo(f"from {whose} into {asked.where}")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    for name, width in (("lane", 15), ("offsets", 11), ("records", 8), ("bytes", 9), ("steps", 9), ("epochs", 6)):
        table.add_column(name, min_width=width, no_wrap=True)
    table.add_column("first to last (UTC)", min_width=17, no_wrap=True)
    for row in rows:
        steps = "" if row.steps is None else "..".join(map(str, dict.fromkeys(row.steps)))
        span = "" if row.first_ms is None else f"{when(row.first_ms)}..{when(row.last_ms or 0)}"
        cells = (
            row.stretch.place,
            f"{row.stretch.begin}..{row.stretch.end}",
            str(row.records),
            str(row.size_bytes),
            steps,
            ",".join(map(str, sorted(row.epochs))),
            span,
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    console().print(table)
    fates = sum((row.fates for row in rows), Counter[Fate]())
    if fates:
        typer.echo("the handlers: " + ", ".join(f"{count} {_MEANINGS[fate]}" for fate, count in fates.most_common()))
    typer.echo(f"{records} records, " + ("as fast as possible" if takes_s is None else f"in about {takes_s:.0f} s"))
    if not execute:
        typer.echo("this is a plan: nothing was done; add --execute to replay")


_MEANINGS = {
    Fate.NEW: "new (normal replication will deliver them)",
    Fate.DONE: "already done (nothing will change)",
    Fate.MISSED: "missed (will become visible)",
    Fate.DAMAGED: "damaged (bytes are missing in this region and will be copied again)",
    Fate.SUPERSEDED: "superseded (written past a fork: will be refused)",
    Fate.DEAD: "dead letters (left as they are; to retry them: `farside events dead redrive`)",
    Fate.UNDECODABLE: "undecodable (left as they are)",
    Fate.OTHER: "first published in another region (left as they are)",
    Fate.GONE: "no longer in the log",
}


# --- the execution ---


@contextmanager
def _target_of(settings: Settings, asked: Asked, mark: Mark, decoding: Decoding) -> Iterator[ReplayTarget]:
    here = settings.region(asked.region)
    if asked.kind == HANDLERS:
        yield HandlersTarget(asked.at, asked.region, mark.replay_id, replicator_of(settings, asked.region).replay)
    elif asked.kind == FILE:
        target = RecordingTarget(Path(asked.name), mark.target, lambda item: _meaning(decoding.see(item)))
        with contextlib.closing(target):
            yield target
    else:
        cluster = cluster_of(here, here.operator_kafka_credentials_file)
        ensure_topic(cluster, asked.name, here.replication)
        with contextlib.closing(KafkaLog(cluster)) as log, contextlib.closing(KafkaSource(cluster)) as there:
            wire = ConfluentWire(decoding, asked.wiring.registry()) if asked.wiring.is_confluent else as_it_is
            topic = TopicTarget(asked.name, log, mark.replay_id, wire=wire, say=_print_left_out)
            topic.look(there, SystemClock())
            yield topic


def _print_left_out(line: str) -> None:
    typer.echo(f"farside: {clean(line)}", err=True)


def _meaning(seen: Seen) -> dict[str, object]:
    plain = as_json(seen)
    return {name: plain[name] for name in ("type", "problem", "record")}


def _drive(
    source: EventSource,
    parts: Sequence[Stretch],
    asked: Asked,
    decoding: Decoding,
    target: ReplayTarget,
    bookmark: FileBookmark,
    mark: Mark,
    pace: Pace,
) -> Drive:
    clock = SystemClock()
    merged = Merged(source, parts, clock)
    merged.begin()
    return Drive(
        merged=merged,
        chosen=asked.chosen,
        decoding=decoding,
        target=target,
        bookmark=bookmark,
        begun=mark,
        tempo=Tempo(pace.rate, pace.speed),
        clock=clock,
    )


class _Stops:
    """Turns Ctrl-C into a pause. A second Ctrl-C ends the replay; without a terminal the first one does."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: object) -> None:
        self.asked = True

    def goes_on(self) -> bool:
        """Ask the person who paused it whether to go on."""
        signal.signal(signal.SIGINT, self._before)
        try:
            if not sys.stdin.isatty():
                return False
            typer.prompt("paused: Enter to go on, Ctrl-C to stop here", default="", show_default=False, err=True)
        except (KeyboardInterrupt, typer.Abort):
            return False
        self.asked = False
        signal.signal(signal.SIGINT, self._note)
        return True

    def over(self) -> None:
        """Give Ctrl-C its former meaning back."""
        signal.signal(signal.SIGINT, self._before)


def _turn(drive: Drive, asked: Asked, parts: Sequence[Stretch], mark: Mark, pace: Pace, *, plain: bool) -> int:
    clock = SystemClock()
    ended = _until_done(
        step=drive.turn,
        done=lambda: drive.done,
        progress=lambda: (drive.passed, drive.waits()),
        total=sum(part.end - part.begin for part in parts),
        pace=pace,
        clock=clock,
    )
    drive.note()
    _show_end(asked, mark.replay_id, drive.counts, ended, plain=plain)
    if ended:
        return STOPPED if ended == _PAUSED else FAILED
    return FAILED if drive.counts["failed"] or drive.counts["left_out"] else 0


_PAUSED = "stopped by Ctrl-C"


def _until_done(
    *,
    step: Callable[[], float],
    done: Callable[[], bool],
    progress: Callable[[], tuple[int, str]],
    total: int,
    pace: Pace,
    clock: SystemClock,
) -> str:
    """Call `step` until `done`, and show the progress, the rate and the time left.

    Returns:
        why it ended before it was done, or "".
    """
    from rich.console import Console  # noqa: PLC0415 - `farside --help` must be quick
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    stops, answered_s = _Stops(), clock.boottime_s()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task("", total=total)
            began_s = clock.boottime_s()
            while not done():
                if stops.asked:
                    shown.stop()
                    if not stops.goes_on():
                        return _PAUSED
                    shown.start()
                trouble = ""
                try:
                    clock.sleep(step())
                    answered_s = clock.boottime_s()
                except RetryableError as error:
                    trouble = str(error)
                    if clock.boottime_s() - answered_s > pace.patience_s:
                        return trouble
                    clock.sleep(TRY_AGAIN_S)
                passed, waits = progress()
                rate = passed / max(clock.boottime_s() - began_s, 0.001)
                shown.update(task, completed=passed, description=f"{rate:.0f}/s {clean(trouble or waits)}")
    finally:
        stops.over()
    return ""


def _show_end(asked: Asked, replay_id: str, counts: Counter[str], ended: str, *, plain: bool) -> None:
    outcomes = {name: count for name, count in sorted(counts.items()) if count}
    if plain:
        typer.echo(json.dumps({"replay": replay_id, "done": not ended, "why": ended, "counts": outcomes}))
        return
    text = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in outcomes.items()) or "no record was chosen"
    typer.echo(f"replayed into {asked.where}: {text}" if not ended else f"so far: {text}")
    if ended:
        typer.echo(f"farside: {ended}; give the same command again to go on from here", err=True)


def _rebuild(
    settings: Settings,
    asked: Asked,
    parts: Sequence[Stretch],
    pace: Pace,
    *,
    fresh: bool,
    bookmark: FileBookmark,
    mark: Mark,
    plain: bool,
) -> int:
    """Rebuild an empty region. Its ledger holds the position; the bookmark holds where the plan ends."""
    from services.operations.region_rebuild import RegionRebuild  # noqa: PLC0415 - as above
    from services.runtime.wiring import Wiring  # noqa: PLC0415 - `farside --help` must be quick

    if replicator_of(settings, asked.region).status() is not None:
        raise MisconfiguredError(
            f"the replicator of {asked.region} runs and already does this; stop it first, or use --to handlers"
        )
    parts_of = Wiring(settings, asked.region, "replicator")
    parts_of.prepare()

    with contextlib.ExitStack() as open_ones:

        def source() -> EventSource:
            if asked.from_file is not None:
                return RecordingSource(asked.from_file)
            return open_ones.enter_context(contextlib.closing(_log(settings, asked)))

        rebuild = RegionRebuild(parts_of, asked.at, parts, source, Tempo(pace.rate, pace.speed))
        open_ones.callback(rebuild.close)
        if fresh:
            rebuild.check_fresh()
            bookmark.write(mark)
        try:
            ended = _until_done(
                step=rebuild.turn,
                done=lambda: rebuild.done,
                progress=lambda: (rebuild.given, rebuild.waits()),
                total=sum(part.end - part.begin for part in parts),
                pace=pace,
                clock=SystemClock(),
            )
        except FencedError as error:
            raise RetryableError(
                f"the replicator of {asked.region} was started meanwhile and goes on with the rest by itself ({error})"
            ) from error
        bookmark.write(dataclasses.replace(mark, counts=rebuild.counts(), done=not ended))
        _show_end(asked, mark.replay_id, Counter(rebuild.counts()), ended, plain=plain)
    return STOPPED if ended == _PAUSED else FAILED if ended else 0
