"""`farside events dead`: the events that a replicator could not handle, and having them handled once more."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.core.record_filter import RecordFilter
from pipelines.errors import MisconfiguredError
from schemas.http_bodies import RedriveAnswer, RedriveBody
from services.adapters.system_clock import SystemEntropy
from services.cli.exits import FAILED, misconfigured_exits
from services.cli.filters import filtered
from services.cli.prompts import Json, Yes, confirm, until
from services.cli.region_logs import At, decoding_of, log_of, progress
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.endpoints import ReplicatorClient, replicator_of

if TYPE_CHECKING:
    from pipelines.flows.inspection.dead_letters import Letter
    from services.settings import Settings

app = typer.Typer(
    help="Show the events that a replicator could not handle, and have them handled once more.",
    no_args_is_help=True,
    add_completion=False,
)
_PLACE = re.compile(r"(?:dead-letters/|farside\.dead-letters/)?(\d{1,9})/(\d{1,18})", re.ASCII)
NONE_LEFT = "no dead letter is selected"
UNANSWERED = RedriveAnswer(state="waits", why="the replicator does not answer")
Whole = Annotated[bool, typer.Option("--all", help="Also those that were redriven.")]
Place = Annotated[str, typer.Argument(help="PARTITION/OFFSET, as `list` shows it.")]


@app.command("list")
@filtered
def list_(
    chosen: RecordFilter, config: Config = None, *, at: At = None, whole: Whole = False, as_json: Json = False
) -> None:
    """Show a region's open dead letters, oldest first: the events that its replicator could not handle, and why.

    The filter applies to the event inside each letter. With --all, also those that were redriven.

    Example: farside events dead list --run gpt --at west

    Exit codes: 0 shown, 1 no log answers, 2 misconfigured.
    """
    with misconfigured_exits():
        _, letters = _letters(config, at, chosen)
    shown = [letter for letter in letters if whole or letter.mark is None]
    if as_json:
        for letter in shown:
            typer.echo(json.dumps(_plain(letter)))
        return
    _table(shown)
    typer.echo(
        f"{len(shown)} dead letters; {sum(letter.mark is not None for letter in letters)} were redriven", err=True
    )


@app.command()
def show(place: Place, config: Config = None, *, at: At = None, as_json: Json = False) -> None:
    """Show one dead letter whole: its origin, the reason, the stack, and the original bytes and headers.

    Example: farside events dead show 0/17 --at west

    Exit codes: 0 shown, 1 there is none, or no log answers, 2 misconfigured.
    """
    with misconfigured_exits():
        _, letters = _letters(config, at, RecordFilter(), [place])
    if not letters:
        typer.echo(f"farside: there is no dead letter at {place}", err=True)
        raise typer.Exit(FAILED)
    plain = _plain(letters[0])
    stack = plain.pop("stack", "")
    typer.echo(json.dumps(plain | {"stack": stack}, indent=None if as_json else 2))
    if stack and not as_json:
        from services.cli.events_view import clean  # noqa: PLC0415 - `farside --help` must be quick

        typer.echo("\n".join(clean(line) for line in str(stack).splitlines()))


@app.command()
@filtered
def redrive(
    chosen: RecordFilter,
    places: Annotated[list[str] | None, typer.Argument(help="PARTITION/OFFSET; or use a filter, or --all.")] = None,
    config: Config = None,
    *,
    at: At = None,
    whole: Annotated[bool, typer.Option("--all", help="Redrive all that are open.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Handle them even if the cause still holds; one that fails is a new letter."),
    ] = False,
    peer: Annotated[str, typer.Option(help="The region that published the event, where its headers do not tell.")] = "",
    patience_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until all are settled.")] = 60.0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have a region's replicator handle dead letters once more, with their original bytes; each at most once.

    Do it when the cause is gone. A letter whose cause still holds is refused and stays open; with --force it is handled
    anyhow and becomes a new letter if it fails. In neither case does an event become visible before the objects that it
    names are there, or past a fork.

    Example: farside events dead redrive 0/17 --at west

    Exit codes: 0 all were handled, 1 some were refused or not settled in time, or not confirmed, 2 misconfigured.
    """
    with misconfigured_exits():
        if not whole and not places and chosen == RecordFilter():
            raise MisconfiguredError("say which: PARTITION/OFFSET, a filter, or --all")
        (settings, region), letters = _letters(config, at, chosen, places or [])
        undone = [letter for letter in letters if letter.mark is None and letter.letter]
        requests = [_request_of(settings, region, letter, peer) for letter in undone]
    if not requests:
        typer.echo(
            f"farside: {NONE_LEFT}: it is not there, or was redriven; see `farside events dead list --all`", err=True
        )
        raise typer.Exit(FAILED)
    if not yes:
        _table([request.letter for request in requests])
    confirm(f"Redrive {len(requests)} dead letters in {region}?", yes=yes)
    replicator = replicator_of(settings, region)
    with misconfigured_exits():
        until(lambda: not [one for one in requests if not one.settled(replicator, force=force)], patience_s)
    for request in requests:
        place, answer = _place(request.letter), request.answer
        if as_json:
            typer.echo(json.dumps({"place": place, "state": answer.state, "why": answer.why}))
        else:
            typer.echo(f"{place}: {answer.state}: {answer.why}")
    raise typer.Exit(0 if all(request.answer.state == "done" for request in requests) else FAILED)


@dataclass(slots=True)
class _Request:
    """One letter that a replicator is asked to handle, and its answer so far."""

    letter: Letter
    peer: str
    ask_id: str = field(default_factory=lambda: SystemEntropy().new_id())
    answer: RedriveAnswer = UNANSWERED

    def settled(self, replicator: ReplicatorClient, *, force: bool) -> bool:
        """Send the request, or ask once more what has become of it; whether that is settled."""
        if self.answer.state == "waits":
            partition, offset = self.letter.place
            body = RedriveBody(
                peer=self.peer,
                lane=self.letter.facts.lane or "",
                ask_id=self.ask_id,
                partition=partition,
                offset=offset,
                force=force,
            )
            self.answer = replicator.redrive(body) or self.answer
        return self.answer.state != "waits"


def _letters(
    config: Config, at: str | None, chosen: RecordFilter, places: list[str] | None = None
) -> tuple[tuple[Settings, str], list[Letter]]:
    from pipelines.flows.inspection.dead_letters import letters  # noqa: PLC0415 - `farside --help` must be quick

    wanted = [_parsed(place) for place in places or []]
    settings = load(config)
    with log_of(settings, at) as (region, source):
        return (settings, region), letters(source, chosen, decoding_of(settings.region(region)), wanted, progress())


def _parsed(place: str) -> tuple[int, int]:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise MisconfiguredError(f"place {place!r}: use PARTITION/OFFSET, as `farside events dead list` shows it")
    return int(match[1]), int(match[2])


def _place(letter: Letter) -> str:
    return "{}/{}".format(*letter.place)


def _request_of(settings: Settings, region: str, letter: Letter, peer: str) -> _Request:
    if letter.letter is not None and letter.letter.reason == "spool_record":
        why = f"it never became an event: only the agent of {letter.letter.cluster} could make one of it"
        return _Request(letter, "", answer=RedriveAnswer(state="refused", why=why))
    return _Request(letter, _peer_of(settings, region, letter, peer))


def _peer_of(settings: Settings, region: str, letter: Letter, option: str) -> str:
    """The region that published the event: by --peer, by the letter's headers, or because there is only one other."""
    others = [name for name in settings.regions if name != region]
    peer = option or letter.facts.region or (others[0] if len(others) == 1 else "")
    if peer not in others:
        raise MisconfiguredError(
            f"{_place(letter)}: its headers do not tell whose event it is: use --peer {'|'.join(others)}"
        )
    return peer


def _plain(letter: Letter) -> dict[str, object]:
    from services.cli import events_view  # noqa: PLC0415 - `farside --help` must be quick

    place, mark, record = _place(letter), letter.mark, letter.letter
    if record is None:
        return {"letter": place, "problem": letter.seen.problem or "no dead letter", **events_view.as_json(letter.seen)}
    body: dict[str, object] = {"letter": place, "state": "open" if mark is None else mark.outcome}
    body["redriven"] = events_view.plain(mark)
    body |= events_view.plain(record)
    return body | {"headers": events_view.headers(record)}


def _table(shown: list[Letter]) -> None:
    from rich.table import Table  # noqa: PLC0415 - `farside --help` must be quick
    from rich.text import Text  # noqa: PLC0415 - as above

    from services.cli.events_view import clean, console, when  # noqa: PLC0415 - as above

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    for name, width in (("letter", 8), ("time", 8), ("run", 8), ("lane", 13), ("step", 7), ("state", 10)):
        table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    table.add_column("reason", ratio=1, overflow="fold")
    for letter in shown:
        facts, record, mark = letter.facts, letter.letter, letter.mark
        reason = f"UNDECODABLE: {letter.seen.problem}" if record is None else f"{record.reason}: {record.detail}"
        state = "open" if mark is None else mark.outcome
        step, time_ms = "?" if facts.step is None else str(facts.step), letter.seen.fetched.time_ms
        cells = (_place(letter), when(time_ms), facts.run or "?", facts.lane or "?", step, state, reason)
        table.add_row(*(Text(clean(cell)) for cell in cells))
    console().print(table)
