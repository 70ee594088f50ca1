"""Faults in what an agent publishes."""

from __future__ import annotations

from tests.mutants.places import (
    AGENT,
    CHECKPOINT_STORIES,
    PUBLISH,
    SENDING,
    SENDINGS,
    SWEEPS,
    UPLOADING,
    VIGIL,
    VIGILS,
    Mutant,
)

AGENT_FAULTS = (
    Mutant(
        "committed without a valid grant",
        PUBLISH,
        "if not branch and not self._valid(launch):",
        "if False:",
        (*AGENT, "tests/core/authority/test_witness_away.py"),
    ),
    Mutant("another attempt's grant is good enough", PUBLISH, "and own and self._clock", "and self._clock", AGENT),
    Mutant(
        "a guard's validity counted from the answer",
        VIGIL,
        "valid_s, asked_s + reply",
        "valid_s, self._clock.boottime_s() + reply",
        VIGILS,
    ),
    Mutant(
        "another attempt renews a guard's validity", VIGIL, " and (reply.epoch, reply.attempt) == own:", ":", VIGILS
    ),
    Mutant("committed without looking for the chunks again", UPLOADING, "return not gone", "return True", SWEEPS),
    Mutant("a receipt is believed whatever is gone", UPLOADING, "shard.rank not in doubted and (", "(", SWEEPS),
    Mutant(
        "a replaced attempt is waited for without end",
        PUBLISH,
        "return replaced and self._abandon(",
        "return not own and self._abandon(",
        CHECKPOINT_STORIES,
    ),
    Mutant(
        "the position passes metrics that gather",
        "pipelines/flows/agent/outbox.py",
        "for queue in (self.metrics, self.others) if queue",
        "for queue in (self.others,) if queue",
        ("tests/core/agent/test_outbox.py",),
    ),
    Mutant(
        "a record that is refused for good is sent again",
        SENDING,
        "kept += self._halves(message) or self.aside(message, REFUSED, why)",
        "kept.append(message)",
        SENDINGS,
    ),
    Mutant(
        "the place of a record that was set aside stays empty",
        SENDING,
        "return sent if filled is None else (",
        "return sent if filled else (",
        SENDINGS,
    ),
    Mutant(
        "a size that was refused is not remembered",
        SENDING,
        "for at in error.too_large:",
        "for at in ():",
        SENDINGS,
    ),
    Mutant(
        "a data version is visible before its list",
        "pipelines/flows/replication/record_judge.py",
        "and not self._copies.lists.done(event):",
        "and self._copies.lists.done(event) is None:",
        ("tests/core/replication/test_data_versions.py",),
    ),
    Mutant(
        "a long list of shards stays in its event",
        "pipelines/flows/agent/outbox.py",
        "if len(listed) > INLINE_BYTES_MAX:",
        "if len(listed) > INLINE_BYTES_MAX**2:",
        SENDINGS,
    ),
    Mutant(
        "a log is removed with records left in it",
        "services/adapters/spool.py",
        "or self.read(run, producer, offset, 1):",
        ":",
        ("tests/contract/test_spool.py",),
    ),
    Mutant(
        "a rank state is digested as it is read",
        "services/adapters/spool.py",
        "if (len(body), digest(body)) != (size, sha256):",
        "if not body:",
        ("tests/contract/test_spool.py",),
    ),
)
