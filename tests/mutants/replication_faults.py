"""Faults in what a standby copies, publishes, replays and alarms."""

from __future__ import annotations

from tests.mutants.places import COPYING, JUDGE, MIRROR, REDRIVE, REDRIVES, REPLICATE, REPLICATOR_STORIES, Mutant

REPLICATION_FAULTS = (
    Mutant(
        "a branch is visible before its fork is known",
        JUDGE,
        "event.epoch == view.epoch and _is_branch(event)",
        "False",
        MIRROR,
    ),
    Mutant(
        "an adopted branch is visible before its bytes",
        JUDGE,
        'frozenset({"committed", "abandoned", "branch"})',
        'frozenset({"committed", "abandoned"})',
        MIRROR,
    ),
    Mutant("the replicator skips the lineage", JUDGE, "if place is Standing.BRANCH:", "if False:", MIRROR),
    Mutant(
        "visible before its bytes",
        JUDGE,
        "if not self._copies.done(event):",
        "if self._copies.done(event) is None:",
        MIRROR,
    ),
    Mutant("duplicates are published again", JUDGE, " or arrival is Arrival.DUPLICATE:", ":", MIRROR),
    Mutant(
        "the lineage is not read again before publishing",
        REPLICATE,
        "if not ready or not self._judge.still_stands(ready):",
        "if not ready:",
        MIRROR,
    ),
    Mutant("a copy is visible though its chunks went", COPYING, " or not self._still_whole(copy):", ":", MIRROR),
    Mutant("a pinned copy gives way", JUDGE, "is_pinned(self._store, manifests.check_event(event))", "False", MIRROR),
    Mutant(
        "an unknown schema is skipped",
        JUDGE,
        "it waits, it is no dead letter\n            return None",
        "it waits, it is no dead letter\n            return Outcome()",
        REPLICATOR_STORIES,
    ),
    Mutant(
        "a store that is away stops all runs of a lane",
        JUDGE,
        "except (UnknownSchemaError, RetryableError) as error:",
        "except UnknownSchemaError as error:",
        REPLICATOR_STORIES,
    ),
    Mutant(
        "a replicator begins without fencing the one before it",
        REPLICATE,
        "self._log.transaction(())",
        "pass",
        REPLICATOR_STORIES,
    ),
    Mutant(
        "a redriven event that is visible already is published again",
        REDRIVE,
        "        if there:\n",
        "        if False:\n",
        REDRIVES,
    ),
    Mutant(
        "a redriven letter is not marked",
        REDRIVE,
        "if each is not None), mark_message, *changes])",
        "if each is not None), *changes])",
        REDRIVES,
    ),
    Mutant(
        "force makes an event visible that the decision refuses",
        REDRIVE,
        "outcome, sent = DEAD_AGAIN, verdict.letter",
        "outcome, sent = PUBLISHED, verdict.message or Message(letter.topic, letter.key, letter.value)",
        REDRIVES,
    ),
    Mutant(
        "a redrive does not look at what is visible",
        "pipelines/flows/replication/visible_index.py",
        "elif item.partition.topic == self._topic:",
        "elif False:",
        REDRIVES,
    ),
    Mutant(
        "a replay judges by numbers that are visible nowhere",
        "pipelines/core/replay_rules.py",
        "if not numbers - known.visible:",
        "if not numbers.above(ledger.watermarks.get(stream, 0)):",
        ("tests/core/inspection/test_replay.py",),
    ),
    Mutant(
        "a batch takes its last number only",
        "pipelines/core/ledger.py",
        "(seq if first_seq is None else first_seq) <= seen + 1",
        "seq == seen + 1",
        ("tests/core/agent/test_metric_batches.py",),
    ),
    Mutant(
        "a number in the headers of garbage may leap",
        "pipelines/core/sequence_numbers.py",
        "if arrival is Arrival.NEXT else None",
        "if arrival is not Arrival.DUPLICATE else None",
        ("tests/core/log/test_sequence_numbers.py",),
    ),
)
