"""In which mode a launch goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines.core.resume_mode import ELASTIC, EXACT, SAME_STATE, StartRequest, resume_mode
from pipelines.paths import CheckpointId
from tests.manifests import manifest_of

HERE = {"cpu": "one", "torch": "2.13"}


@pytest.mark.parametrize(
    ("asked", "saved", "expected"),
    [
        (EXACT, {}, (EXACT, True, ())),
        (SAME_STATE, {}, (SAME_STATE, False, ())),
        (EXACT, {"fingerprint": {"cpu": "other"}}, (SAME_STATE, False, ("cpu:", "torch:"))),
        (EXACT, {"world_size": 3}, (ELASTIC, False, ("world_size: saved by 3, here 2",))),
        (SAME_STATE, {"world_size": 3}, (ELASTIC, False, ("world_size:",))),
        (EXACT, {"mode": ELASTIC}, (SAME_STATE, False, ("mode: saved as elastic",))),
    ],
)
def test_exact_needs_the_same_world_and_environment(
    asked: str, saved: dict[str, Any], expected: tuple[str, bool, tuple[str, ...]]
) -> None:
    """Each difference is named; a run that was once not exact does not become so again."""
    plain = manifest_of(CheckpointId("gpt", 1, 1, 10), lineage_seq=1, shards=(), rank_states=(), world_size=2)
    manifest = dataclasses.replace(plain, **({"fingerprint": HERE} | saved))
    resumes = resume_mode(StartRequest(asked, 2, HERE), manifest)
    assert (resumes.mode, resumes.exact) == expected[:2]
    assert len(resumes.differs) == len(expected[2])
    assert all(text.startswith(begin) for text, begin in zip(resumes.differs, expected[2], strict=True))


def test_from_step_0_nothing_is_continued() -> None:
    """So the mode is what was asked for."""
    assert resume_mode(StartRequest(EXACT), None).exact
    assert not resume_mode(StartRequest(ELASTIC), None).exact
