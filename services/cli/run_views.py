"""One run as every region's controller sees it, and asking the region that holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import typer

from schemas.http_bodies import RunStatus
from services.cli.exits import misconfigured_exits
from services.cli.settings_file import load
from services.http.endpoints import UnexpectedAnswerError, controller_of
from services.settings import Settings


def settings_of(config: Path | None, run: str, *regions: str) -> Settings:
    """The settings, which know the run and the regions; else the command ends with exit code 2."""
    with misconfigured_exits():
        settings = load(config)
        settings.run(run)
        for region in regions:
            settings.region(region)
    return settings


@dataclass(slots=True)
class RunViews:
    """Asks the controllers about a run, as often as a command needs.

    Attributes:
        unexpected: a line for each controller that answered something else; each is printed once, on stderr.
    """

    settings: Settings
    run: str
    unexpected: set[str] = field(default_factory=set)

    def now(self) -> dict[str, RunStatus]:
        """The run by region; a region whose controller does not answer, or not with a status, is left out."""
        views = {}
        for region in self.settings.regions:
            try:
                status = controller_of(self.settings, region).status_of(self.run)
            except UnexpectedAnswerError as error:
                self._warn(str(error))
                continue
            if status is not None:
                views[region] = status
        return views

    def newest(self) -> RunStatus | None:
        """The view of the newest epoch, the holder's own if it answers; None if no controller answers."""
        return max(self.now().values(), key=lambda view: (view.epoch, view.is_holder), default=None)

    def holder(self) -> RunStatus | None:
        """The view of the region that holds the run; None if its controller does not answer."""
        newest = self.newest()
        return newest if newest is not None and newest.is_holder else None

    def _warn(self, line: str) -> None:
        if line not in self.unexpected:
            self.unexpected.add(line)
            typer.echo(f"farside: {line}", err=True)
