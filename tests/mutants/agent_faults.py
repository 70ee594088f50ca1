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

NODE_FILES = ("tests/core/agent/test_node_files.py",)
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
        "an intent is signed whatever it says",
        "pipelines/core/manifests.py",
        "    check_contents(\n        where,",
        "    bool or check_contents(\n        where,",
        NODE_FILES,
    ),
    Mutant(
        "a beat of any shape is taken",
        "services/adapters/spool.py",
        "functools.partial(node_files.beat_of, producer)",
        "lambda found: Beat(producer=producer, **found)",
        NODE_FILES,
    ),
    Mutant(
        "a folder of any name is a run",
        "services/adapters/spool.py",
        'self._node_dir / "runs", node_files.check_run)',
        'self._node_dir / "runs", len)',
        NODE_FILES,
    ),
    Mutant(
        "one run's files stop the turn of all runs",
        PUBLISH,
        "except Exception as error:  # noqa: BLE001 - one run's files",
        "except ZeroDivisionError as error:  # noqa: BLE001 - one run's files",
        NODE_FILES,
    ),
    Mutant(
        "the trainer is not told what was abandoned",
        PUBLISH,
        "if isinstance(outcome, Abandoned):\n            self._tell",
        "if isinstance(outcome, Manifest):\n            self._tell",
        AGENT,
    ),
    Mutant(
        "what an agent told before it was started again is forgotten",
        "client/farside/_session.py",
        "return tuple(sorted(self._given_up.items()))",
        "return tuple(_given_up_in(self._standing))",
        ("tests/core/client/test_client_run.py",),
    ),
    Mutant(
        "a manifest is staged whatever it says",
        "services/adapters/arena.py",
        '    check_contents(\n        f"manifest',
        '    bool or check_contents(\n        f"manifest',
        ("tests/contract/test_standby_pool.py",),
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
