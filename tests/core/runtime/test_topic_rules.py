"""The doctor's sentences on topics: by what the brokers have, not by the settings; and each check by itself."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pipelines.core.topic_rules import MESSAGE_BYTES_LEAST, TopicFacts, faults_of, summary_of
from services.cli.doctor import _try

GOOD = TopicFacts("farside.metrics", 3, 2, "delete", "producer", MESSAGE_BYTES_LEAST)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replicas": 2}, "2 replicas, and the settings say replication = 3"),
        ({"isr_least": 1}, r"min\.insync\.replicas=1 of 3 replicas: an acknowledged event may be lost"),
        ({"isr_least": 3}, r"min\.insync\.replicas=3 of 3 replicas: one broker away stops all writing"),
        ({"cleanup": "compact"}, r"cleanup\.policy=compact: it must be delete"),
        ({"compression": "zstd"}, r"compression\.type=zstd"),
        ({"message_bytes_max": 1_000}, r"max\.message\.bytes=1000"),
    ],
)
def test_each_setting_of_a_topic_that_breaks_a_promise_is_named_with_what_to_do(
    change: dict[str, int | str], said: str
) -> None:
    """In a sentence of its own."""
    assert faults_of(GOOD, replication=3, compacted=False) == ()
    facts = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]  # each case names its own field
    found = faults_of(facts, replication=3, compacted=False)[0]
    assert re.search(said, found)


def test_one_broker_of_a_development_machine_passes_and_is_called_so() -> None:
    """Its compacted topics are to be compacted."""
    alone = dataclasses.replace(GOOD, replicas=1, isr_least=1)
    ledger = dataclasses.replace(alone, name="farside.ledger", cleanup="compact")
    assert faults_of(alone, replication=1, compacted=False) == ()
    assert faults_of(ledger, replication=1, compacted=True) == ()
    assert len(faults_of(alone, replication=1, compacted=True)) == 1
    assert "replication factor 1 (below 3: for development only)" in summary_of((alone, ledger))


def test_a_check_that_breaks_is_a_finding_of_its_own() -> None:
    """The others are made all the same: it names itself and why."""

    def breaks() -> str:
        raise KeyError("topic_id")

    found = _try("east topics", breaks)
    assert (found.what, found.passed) == ("east topics", False)
    assert found.detail == "the check itself failed: KeyError: 'topic_id'"
