"""The branches in a region's store: checkpoints past the fork that closed their epoch (6.1)."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from schemas.http_bodies import RunStatus
from services.cli.exits import FAILED
from services.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """Who said that a branch is of no use, why and when; kept in the region's store."""

    actor: str
    reason: str
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One checkpoint that was set aside; with `trouble` set, the store cannot be read and nothing is known."""

    epoch: int = 0
    attempt: int = 0
    step: int = 0
    manifest: str = ""
    discarded: Discarded | None = None
    trouble: str = ""

    @property
    def text(self) -> str:
        """The branch in a line."""
        gone = self.discarded
        verdict = "" if gone is None else f", discarded by {gone.actor}: {gone.reason}"
        return self.trouble or f"epoch {self.epoch} attempt {self.attempt} step {self.step}{verdict}"


def branches_of(settings: Settings, newest: RunStatus, region: str) -> list[Branch]:
    """The branches of a run in a region's store, by the lineage that `newest` carries."""
    from pipelines import paths  # noqa: PLC0415 - `farside --help` must be quick
    from pipelines.core.lineage import LineageView, Standing, standing  # noqa: PLC0415 - as above
    from pipelines.errors import FarsideError  # noqa: PLC0415 - as above
    from services.http.bodies import BodyError, from_json  # noqa: PLC0415 - as above
    from services.runtime.clients import store_of  # noqa: PLC0415 - as above

    view = LineageView(newest.epoch, newest.forks)
    try:
        store = store_of(settings.region(region))
        committed = paths.committed(store.list(paths.checkpoints_prefix(newest.run)))
        aside = [own for own in committed if standing(view, own.epoch, own.step) is Standing.BRANCH]
        bodies = {epoch: store.get(paths.discarded(newest.run, epoch)) for epoch in {own.epoch for own in aside}}
        verdicts = {epoch: from_json(Discarded, body) for epoch, body in bodies.items() if body is not None}
    except (FarsideError, BodyError) as error:
        return [Branch(trouble=f"cannot be read: {error}")]
    return [
        Branch(
            epoch=own.epoch,
            attempt=own.attempt,
            step=own.step,
            manifest=own.manifest,
            discarded=verdicts.get(own.epoch),
        )
        for own in aside
    ]


def readable_branches(settings: Settings, newest: RunStatus, region: str) -> list[Branch]:
    """The same; the command ends with exit code 1 if the store cannot be read: nobody knows then what is there."""
    branches = branches_of(settings, newest, region)
    for branch in branches:
        if branch.trouble:
            typer.echo(
                f"farside: the store of {region} {branch.trouble}; what was set aside there is not known: bring the "
                "store back first",
                err=True,
            )
            raise typer.Exit(FAILED)
    return branches
