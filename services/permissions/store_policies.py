"""The permissions of each role in a bucket: the one source of the local stores' policies and of `docs/credentials.md`.

A region writes to its own store only, and replication only pulls (6.2): a region that wakes up superseded can spoil
nothing but its own branch, whatever it believes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines import paths

READ = ("s3:GetObject",)
LIST = ("s3:ListBucket",)
WRITE = ("s3:PutObject", "s3:AbortMultipartUpload")
DELETE = ("s3:DeleteObject",)
DRILLS, PROBES = f"{paths.DRILLS}*", "probe/*"  # the second as `services/adapters/s3/conformance.py` has it
SWEEPS = f"{paths.SWEEPS}*"
# Written out to the last digit: `runs/*/e*` would take in `runs/<run>/epochs/`, which nobody may ever delete (I2).
CHECKPOINTS = "runs/*/e??????/a????/s??????????/*"
MANIFESTS = "runs/*/e??????/a????/s??????????/manifest"

ROLES: Mapping[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    # For the agent, replicator, warmer and controller of a region, in its own bucket. They delete nothing.
    "region": ((LIST, ""), (READ, "*"), (WRITE, "*")),
    # For another region's replicator and controller.
    "link": ((LIST, ""), (READ, "*")),
    # For a region's controller at the witness. A lease record is never deleted (I2); the doctor's probes are.
    "witness": ((LIST, ""), (READ, "*"), (WRITE, "*"), (DELETE, PROBES)),
    # For a drill in its region's bucket: it reads the real objects, and writes under its own prefix (I10).
    "drill": ((LIST, ""), (READ, "*"), (WRITE, DRILLS), (DELETE, DRILLS)),
    # For a sweep in its region's bucket: it deletes the objects of checkpoints, and puts a record in the place of a
    # manifest.
    "sweeper": (
        (LIST, ""),
        (READ, "*"),
        (WRITE, MANIFESTS),
        (WRITE, SWEEPS),
        (DELETE, CHECKPOINTS),
        (DELETE, SWEEPS),
    ),
}


def statements(role: str, bucket: str) -> list[dict[str, Any]]:
    """The statements of a role's IAM policy, without a principal."""
    return [
        {
            "Effect": "Allow",
            "Action": list(actions),
            "Resource": [f"arn:aws:s3:::{bucket}" + (f"/{keys}" if keys else "")],
        }
        for actions, keys in ROLES[role]
    ]


def iam_policy(role: str, bucket: str) -> str:
    """A role's policy for a user or role of AWS's IAM, as JSON."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements(role, bucket)}, indent=2)


def bucket_policy(users: Iterable[tuple[str, str]], bucket: str) -> str:
    """One policy for a whole bucket, for each (user, role), as JSON; for stores that have no policies of users."""
    permitted = [
        {"Principal": {"AWS": [user]}, **statement} for user, role in users for statement in statements(role, bucket)
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": permitted})
