"""The diagnosis, by table: which part is named for what is seen, and with which evidence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from pipelines.core.alarm_texts import Kind
from pipelines.core.diagnosis import NodeSign, Symptoms, Trouble, Vantage, diagnose
from pipelines.core.failure_detector import PHI_MOST
from pipelines.core.troubles import Finding

BEATS, SILENT = NodeSign(0.5, 0.0, silent=False), NodeSign(9.0, 40.0, silent=True)
OWN, OTHER = "west's controller", "north's controller"
ALL_WELL = Symptoms(
    region="west",
    holder="east",
    witness_age_s=0.3,
    witness_limit_s=1.5,
    renewed_age_s=0.8,
    renewed_limit_s=3.0,
    controller_age_s=0.9,
    log_age_s=0.5,
    store_age_s=0.5,
    evidence_s=5.0,
    silence_s=3.0,
    reach_s=4.0,
    nodes={"n0": BEATS, "n1": BEATS},
    vantages=(Vantage(OWN, 1.0, 1.0, 0.5),),
)
DEAF: dict[str, Any] = {"nodes": {"n0": SILENT, "n1": SILENT}, "controller_age_s": 9.0}
NOT_RENEWED: dict[str, Any] = {"renewed_age_s": 9.0}
NOTHING, ONLY_STORE = Vantage(OWN, 9.0, 9.0, 9.0), Vantage(OWN, 9.0, 1.0, 9.0)


def _found(kind: Kind) -> tuple[Finding, ...]:
    return (Finding(kind, "part", "what was found"),)


@pytest.mark.parametrize(
    ("change", "trouble", "where"),
    [
        ({}, Trouble.NONE, "east"),
        ({"nodes": {"n0": BEATS, "n1": SILENT}}, Trouble.NODE, "n1"),
        ({**DEAF, "controller_age_s": 0.5}, Trouble.NODE, "east (all nodes)"),
        ({**DEAF, "vantages": (NOTHING,)}, Trouble.LINK, "west to east"),
        ({**DEAF, **NOT_RENEWED, "vantages": (NOTHING,)}, Trouble.REGION, "east"),
        ({**DEAF, **NOT_RENEWED, "vantages": (Vantage(OWN, 1.0, 1.0, 9.0),)}, Trouble.REGION, "east"),
        ({**DEAF, **NOT_RENEWED, "vantages": (NOTHING, Vantage(OTHER, 1.0, 1.0, 0.5))}, Trouble.LINK, "west to east"),
        ({**DEAF, **NOT_RENEWED, "vantages": (ONLY_STORE,)}, Trouble.KAFKA, "east"),
        ({**DEAF, "vantages": (ONLY_STORE,)}, Trouble.KAFKA, "east"),
        ({"vantages": (Vantage(OWN, 1.0, 9.0, 0.5),)}, Trouble.STORE, "east"),
        (NOT_RENEWED, Trouble.CONTROLLER, "east"),
        ({"witness_age_s": 9.0}, Trouble.WITNESS, "the witness"),
        ({"witness_age_s": math.inf}, Trouble.WITNESS, "the witness"),
        ({"commit_age_s": 90.0, "commit_limit_s": 60.0}, Trouble.JOB, "east"),
        ({"score": 2}, Trouble.OBSERVER, "west"),
        ({"log_age_s": 9.0}, Trouble.OBSERVER, "west"),
        ({"store_age_s": 9.0}, Trouble.OBSERVER, "west"),
        ({"log_age_s": 9.0, "region": "east"}, Trouble.KAFKA, "east"),
        ({"store_age_s": 9.0, "region": "east"}, Trouble.STORE, "east"),
        ({**DEAF, "region": "east", "vantages": ()}, Trouble.NODE, "east (all nodes)"),
        ({"vantages": (Vantage(OWN, 1.0, 1.0, 0.5), Vantage(OTHER, 1.0, 9.0, 0.5))}, Trouble.LINK, "west to east"),
        ({"controller_age_s": 9.0}, Trouble.CONTROLLER, "east"),
        ({"findings": _found(Kind.LAG)}, Trouble.REPLICATION, "west"),
        ({"findings": _found(Kind.DAMAGE)}, Trouble.REPLICA, "west"),
        ({"findings": _found(Kind.UPLOADS)}, Trouble.UPLOAD, "west"),
        ({"findings": _found(Kind.ABANDONED)}, Trouble.CHECKPOINTS, "west"),
        ({"findings": _found(Kind.REFUSED)}, Trouble.DEPENDENCY, "west"),
        ({"findings": _found(Kind.UNSEEN)}, Trouble.SERVICE, "west"),
        ({"findings": _found(Kind.LAG), "score": 2}, Trouble.OBSERVER, "west"),
    ],
)
def test_the_part_that_fails_is_named(change: dict[str, Any], trouble: Trouble, where: str) -> None:
    """One thing changed in a world where all is well; every part that can fail has a row."""
    diagnosis = diagnose(dataclasses.replace(ALL_WELL, **change))
    assert (diagnosis.trouble, diagnosis.where) == (trouble, where)
    assert diagnosis.evidence or trouble is Trouble.NONE, "a diagnosis names its evidence"


def test_every_trouble_can_be_diagnosed() -> None:
    """The table above leaves none out."""
    marks = test_the_part_that_fails_is_named.pytestmark
    assert {row[1] for row in marks[0].args[1]} == set(Trouble)


def test_the_evidence_names_who_saw_what() -> None:
    """The line in the history must be enough for an operator at 3 a.m."""
    diagnosis = diagnose(dataclasses.replace(ALL_WELL, **DEAF, **NOT_RENEWED, vantages=(NOTHING,)))
    assert diagnosis.text == (
        "region of east: n0 silent for 9.0 s (phi 40.0); n1 silent for 9.0 s (phi 40.0); its record changed 9.0 s ago; "
        "seen from west's controller: Kafka does not answer, store does not answer"
    )
    assert diagnosis.status().trouble == "region"
    certain = {"n0": NodeSign(9.0, PHI_MOST, silent=True)}
    diagnosis = diagnose(dataclasses.replace(ALL_WELL, **{**DEAF, "nodes": certain}, **NOT_RENEWED))
    assert "n0 silent for 9.0 s (phi certain)" in diagnosis.text
