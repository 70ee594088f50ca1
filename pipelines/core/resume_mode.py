"""In which mode a launch goes on from a checkpoint: exactly, in the same state, or elastically (design 2). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.records import Manifest

EXACT, SAME_STATE, ELASTIC = "exact", "same_state", "elastic"


@dataclass(frozen=True, slots=True)
class StartRequest:
    """The mode that a launch of the trainer asked for, and the environment in which it runs."""

    mode: str = EXACT
    world_size: int = 1
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    guard: str = ""  # the guard under which it runs; "" for none


@dataclass(frozen=True, slots=True)
class ResumeMode:
    """The mode that a launch gets.

    Attributes:
        mode: stamped on every manifest of the attempt.
        exact: the run continues bit for bit.
        differs: why not, if exactness was asked for: what was saved under, and what is here.
    """

    mode: str
    exact: bool
    differs: tuple[str, ...] = ()


def resume_mode(asked: StartRequest, manifest: Manifest | None) -> ResumeMode:
    """The mode of a launch that starts from a checkpoint; without one nothing is continued, and all is exact."""
    if manifest is None:
        return ResumeMode(asked.mode, asked.mode == EXACT)
    if manifest.world_size != asked.world_size:
        sizes = (f"world_size: saved by {manifest.world_size}, here {asked.world_size}",)
        return ResumeMode(ELASTIC, exact=False, differs=sizes)
    if asked.mode != EXACT:
        return ResumeMode(asked.mode, exact=False)
    if manifest.mode != EXACT:
        return ResumeMode(SAME_STATE, exact=False, differs=(f"mode: saved as {manifest.mode}",))
    names = sorted({*manifest.fingerprint, *asked.fingerprint})
    differs = tuple(
        f"{name}: saved under {manifest.fingerprint.get(name)!r}, here {asked.fingerprint.get(name)!r}"
        for name in names
        if manifest.fingerprint.get(name) != asked.fingerprint.get(name)
    )
    return ResumeMode(SAME_STATE, exact=False, differs=differs) if differs else ResumeMode(EXACT, exact=True)
