"""`farside events dead`: what could not be handled, and handling it once more."""

from __future__ import annotations

import getpass
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.core.record_filter import RecordFilter
from pipelines.errors import MisconfiguredError
from services.adapters.system_clock import SystemEntropy
from services.cli.exits import FAILED, misconfigured_exits
from services.cli.filters import filtered
from services.cli.prompts import Json, Yes, confirm, until
from services.cli.region_logs import At, decoding_of, log_of, progress
from services.cli.serve import Config
from services.cli.settings_file import load
from services.http.client import ask

if TYPE_CHECKING:
    from pipelines.flows.inspection.dead_letters import Letter
    from services.settings import Settings

app = typer.Typer(
    help="Look at what could not be handled, and have it handled once more.", no_args_is_help=True, add_completion=False
)
_PLACE = re.compile(r"(?:dead-letters/|farside\.dead-letters/)?(\d{1,9})/(\d{1,18})", re.ASCII)
NONE_LEFT = "no dead letter is selected"
Whole = Annotated[bool, typer.Option("--all", help="Also those that were redriven.")]
Place = Annotated[str, typer.Argument(help="PARTITION/OFFSET, as `list` shows it.")]


@app.command("list")
@filtered
def list_(
    chosen: RecordFilter, config: Config = None, *, at: At = None, whole: Whole = False, as_json: Json = False
) -> None:
    """Show the dead letters that are open, oldest first; the filter is on the event that is in each.

    Exit codes: 0 shown, 1 no log answers, 2 misconfigured.
    """
    with misconfigured_exits():
        _, found = _letters(config, at, chosen)
    shown = [one for one in found if whole or one.mark is None]
    if as_json:
        for one in shown:
            typer.echo(json.dumps(_plain(one)))
        return
    _table(shown)
    typer.echo(f"{len(shown)} dead letters; {sum(one.mark is not None for one in found)} were redriven", err=True)


@app.command()
def show(place: Place, config: Config = None, *, at: At = None, as_json: Json = False) -> None:
    """Show one dead letter whole: its origin, the reason, the stack, and the original bytes and headers.

    Exit codes: 0 shown, 1 there is none, or no log answers, 2 misconfigured.
    """
    with misconfigured_exits():
        _, found = _letters(config, at, RecordFilter(), [place])
    if not found:
        typer.echo(f"farside: there is no dead letter at {place}", err=True)
        raise typer.Exit(FAILED)
    plain = _plain(found[0])
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
    whole: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Handle them although the cause may hold: what fails is a letter anew.")
    ] = False,
    peer: Annotated[str, typer.Option(help="Whose event it is, where its headers do not tell.")] = "",
    patience_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds until it must be settled.")] = 60.0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have dead letters handled once more, as they are, by the region's replicator; each at most once.

    One whose cause still holds is refused and stays as it is. Nothing becomes visible before what it names is there,
    nor past a fork, also with --force.

    Exit codes: 0 all were handled, 1 some were refused or not settled in time, or not confirmed, 2 misconfigured.
    """
    with misconfigured_exits():
        if not whole and not places and chosen == RecordFilter():
            raise MisconfiguredError("say which: PARTITION/OFFSET, a filter, or --all")
        (settings, region), found = _letters(config, at, chosen, places or [])
        asked = [_asked(settings, region, one, peer) for one in found if one.mark is None and one.letter]
    if not asked:
        typer.echo(
            f"farside: {NONE_LEFT}: it is not there, or was redriven; see `farside events dead list --all`", err=True
        )
        raise typer.Exit(FAILED)
    if not yes:
        _table([one.letter for one in asked])
    confirm(f"Redrive {len(asked)} dead letters in {region}?", yes=yes)
    port = settings.region(region).ports.replicator
    until(lambda: not [one for one in asked if not one.settled(port, force=force)], patience_s)
    for one in asked:
        if as_json:
            typer.echo(json.dumps({"place": _place(one.letter), **one.answer}))
        else:
            typer.echo(f"{_place(one.letter)}: {one.answer['state']}: {one.answer['why']}")
    raise typer.Exit(0 if all(one.answer["state"] == "done" for one in asked) else FAILED)


@dataclass(slots=True)
class _Asked:
    """One letter that a replicator was asked to handle."""

    letter: Letter
    peer: str
    ask_id: str = field(default_factory=lambda: SystemEntropy().new_id())
    answer: dict[str, Any] = field(default_factory=lambda: {"state": "waits", "why": "the replicator does not answer"})

    def settled(self, port: int, *, force: bool) -> bool:
        """Ask, or ask what has become of it."""
        if self.answer["state"] == "waits":
            partition, offset = self.letter.place
            body: dict[str, object] = {"peer": self.peer, "lane": self.letter.facts.lane, "ask_id": self.ask_id}
            body |= {"partition": partition, "offset": offset, "force": force, "actor": getpass.getuser()}
            self.answer = ask(port, "/v1/redrive", body) or self.answer
        return bool(self.answer["state"] != "waits")


def _letters(
    config: Config, at: str | None, chosen: RecordFilter, places: list[str] | None = None
) -> tuple[tuple[Settings, str], list[Letter]]:
    from pipelines.flows.inspection.dead_letters import letters  # noqa: PLC0415 - `farside --help` must be quick

    wanted = [_parsed(place) for place in places or []]
    settings = load(config)
    with log_of(settings, at) as (region, source):
        return (settings, region), letters(source, chosen, decoding_of(settings.region(region)), wanted, progress())


def _parsed(place: str) -> tuple[int, int]:
    found = _PLACE.fullmatch(place)
    if found is None:
        raise MisconfiguredError(f"place {place!r}: use PARTITION/OFFSET, as `farside events dead list` shows it")
    return int(found[1]), int(found[2])


def _place(one: Letter) -> str:
    return "{}/{}".format(*one.place)


def _asked(settings: Settings, region: str, one: Letter, said: str) -> _Asked:
    if one.letter is not None and one.letter.reason == "spool_record":
        why = f"it never became an event: only the agent of {one.letter.cluster} could make one of it"
        return _Asked(one, "", answer={"state": "refused", "why": why})
    return _Asked(one, _peer(settings, region, one, said))


def _peer(settings: Settings, region: str, one: Letter, said: str) -> str:
    """Which region's event it is: its headers tell, or there is only one other."""
    others = [name for name in settings.regions if name != region]
    found = said or one.facts.region or (others[0] if len(others) == 1 else "")
    if found not in others:
        raise MisconfiguredError(
            f"{_place(one)}: its headers do not tell whose event it is: use --peer {'|'.join(others)}"
        )
    return found


def _plain(one: Letter) -> dict[str, object]:
    from services.cli import events_view  # noqa: PLC0415 - `farside --help` must be quick

    if one.letter is None:
        return {"letter": _place(one), "problem": one.seen.problem or "no dead letter", **events_view.as_json(one.seen)}
    found = {"letter": _place(one), "state": "open" if one.mark is None else one.mark.outcome}
    found |= {"redriven": events_view.plain(one.mark), **events_view.plain(one.letter)}
    return found | {"headers": events_view.headers(one.letter)}


def _table(shown: list[Letter]) -> None:
    from rich.table import Table  # noqa: PLC0415 - `farside --help` must be quick
    from rich.text import Text  # noqa: PLC0415 - as above

    from services.cli.events_view import clean, console, when  # noqa: PLC0415 - as above

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    for name, width in (("letter", 8), ("time", 8), ("run", 8), ("lane", 13), ("step", 7), ("state", 10)):
        table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    table.add_column("reason", ratio=1, overflow="fold")
    for one in shown:
        facts, letter = one.facts, one.letter
        reason = f"UNDECODABLE: {one.seen.problem}" if letter is None else f"{letter.reason}: {letter.detail}"
        state = "open" if one.mark is None else one.mark.outcome
        step = "?" if facts.step is None else str(facts.step)
        cells = (_place(one), when(one.seen.fetched.time_ms), facts.run or "?", facts.lane or "?", step, state, reason)
        table.add_row(*(Text(clean(cell)) for cell in cells))
    console().print(table)
