"""Faults in retention, permissions, inspection and the rest."""

from __future__ import annotations

from tests.mutants.places import CHECKPOINT_STORIES, RETENTION, SWEEP, SWEEPS, Mutant

S3_FAULTS, STORE_FAULTS = "services/adapters/s3/faults.py", ("tests/contract/test_store_faults.py",)
RETRIES = ("tests/core/runtime/test_retrying.py",)

OTHER_FAULTS = (
    Mutant(
        "a drill writes over the real objects",
        "services/wrappers/overlay.py",
        "self._own.put(self._prefix + key, body)",
        "self._base.put(key, body)",
        ("tests/core/authority/test_drill.py",),
    ),
    Mutant(
        "a write whose outcome is unknown is sent again",
        "services/wrappers/retrying.py",
        "and not isinstance(error, UnknownOutcomeError)",
        "and True",
        RETRIES,
    ),
    Mutant("a call is repeated without end", "services/wrappers/retrying.py", ">= policy.attempts_max", "< 0", RETRIES),
    Mutant(
        "slow attempts are not counted by the clock",
        "services/wrappers/retrying.py",
        ">= policy.repeat_s",
        "< 0",
        RETRIES,
    ),
    Mutant(
        "a redirection takes a request to another host",
        "services/adapters/http/sending.py",
        "at.host == onward.host and",
        "at.host != '' and",
        ("tests/core/runtime/test_http_sending.py",),
    ),
    Mutant(
        "a missing bucket is taken for a missing object",
        S3_FAULTS,
        'MISSING = "NoSuchKey"',
        'MISSING = "NoSuchBucket"',
        STORE_FAULTS,
    ),
    Mutant(
        "a conflict is taken for an object that is there",
        S3_FAULTS,
        'REFUSED_CONDITION = frozenset({"412",',
        'REFUSED_CONDITION = frozenset({"412", "ConditionalRequestConflict",',
        STORE_FAULTS,
    ),
    Mutant(
        "an error of the library's leaves the store's adapter",
        S3_FAULTS,
        "    except Exception as error:\n        raise mapped",
        "    except ClientError as error:\n        raise mapped",
        STORE_FAULTS,
    ),
    Mutant(
        "a page that is no listing is taken for an empty bucket",
        "services/adapters/s3/object_store.py",
        'if "IsTruncated" not in page and "KeyCount" not in page:',
        "if not isinstance(page, Mapping):",
        STORE_FAULTS,
    ),
    Mutant(
        "a conditional write without an answer counts as refused",
        "services/adapters/s3/lease_store.py",
        'raise UnknownOutcomeError(f"{ours}; the write may have happened") from error',
        "raise ours from error",
        STORE_FAULTS,
    ),
    Mutant("a sweep takes branches", RETENTION, "(branch, Keep.BRANCH)", "(False, Keep.BRANCH)", SWEEPS),
    Mutant("a sweep ignores the grace", RETENTION, "due=since_s >= policy.grace_s", "due=True", SWEEPS),
    Mutant("a sweep's grace by one clock only", RETENTION, "max(0, min(now", "max(0, max(now", SWEEPS),
    Mutant("a sweep takes open uploads", RETENTION, "(unsettled and young, Keep.OPEN)", "(False, Keep.OPEN)", SWEEPS),
    Mutant("a sweep ignores pins", RETENTION, "(Keep.PINNED, roots.pinned)", "(Keep.PINNED, ())", SWEEPS),
    Mutant(
        "a sweep ignores what other regions have", RETENTION, "(Keep.SHARED, roots.shared)", "(Keep.SHARED, ())", SWEEPS
    ),
    Mutant("a sweep goes on out of sight", RETENTION, "Hold.UNSEEN if roots.unseen else None", "None", SWEEPS),
    Mutant("a sweep's lineage may be behind", RETENTION, "> roots.view.epoch:", "> roots.view.epoch + 9:", SWEEPS),
    Mutant(
        "a sweep deletes chunks before the manifest's key is taken",
        SWEEP,
        "if verdict.reason is not Go.TOMBSTONE and not self._settled",
        "if verdict.reason is None and not self._settled",
        SWEEPS,
    ),
    Mutant("a sweep gives way to nobody", SWEEP, "if verdict in plan(", "if True or verdict in plan(", SWEEPS),
    Mutant(
        "chunks go before their receipts",
        RETENTION,
        "return 0 if match is None or match.lastindex is None else match.lastindex",
        "return 0 if match is None or match.lastindex is None else -match.lastindex",
        SWEEPS,
    ),
    Mutant(
        "a link's user may write in the other region's Kafka",
        "services/permissions/kafka_policies.py",
        '"link": (Grant(_LOOK,',
        '"link": (Grant(_WORK,',
        ("tests/core/runtime/test_kafka_acls.py",),
    ),
    Mutant("attempts share a folder", "pipelines/paths.py", "/a{self.attempt:04d}/s", "/a0001/s", CHECKPOINT_STORIES),
    Mutant(
        "what a wire format leaves out is not told",
        "services/operations/replay_targets.py",
        "self.say(f",
        "str(f",
        ("tests/core/inspection/test_confluent.py",),
    ),
    Mutant(
        "what an audit misses at a standby is called in flight",
        "pipelines/core/audit.py",
        "_kept(missing.up_to(mark), taken, lane, log)",
        "_kept(missing.up_to(0), taken, lane, log)",
        ("tests/core/inspection/test_audit.py",),
    ),
    Mutant(
        "a log that does not answer counts as an empty one",
        "pipelines/flows/inspection/audit_reader.py",
        "return Log(self.region, str(error))",
        "return Log(self.region)",
        ("tests/core/inspection/test_audit.py",),
    ),
    Mutant(
        "what cannot be decoded is hidden by a filter",
        "pipelines/core/record_filter.py",
        "return not decoded if value is None else wanted.holds(value)",
        "return value is not None and wanted.holds(value)",
        ("tests/core/log/test_record_filter.py",),
    ),
    Mutant(
        "a payload that lost bytes hides the next record",
        "client/farside/_segments.py",
        "return end if found is None else offset + found",
        "return end",
        ("tests/core/client/test_segments.py",),
    ),
    Mutant(
        "a metric left out is not accounted for",
        "client/farside/_thinning.py",
        "account.dropped += 1",
        "pass",
        ("tests/core/client/test_thinning.py",),
    ),
)
