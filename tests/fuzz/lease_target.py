"""Mutated objects at the witness: lease records and groups, read as every controller reads them."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from botocore.exceptions import ClientError
from types_boto3_s3 import S3Client

from pipelines.core.lineage import closing_steps, view_of
from pipelines.errors import CorruptError
from schemas.codec import Codec, DecodeError
from schemas.records import GENESIS, EpochEntry, Lease, LeaseGroup, LeaseMember
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.wrappers.grouped_leases import GroupedLeases
from tests.fuzz.mutations import mutated

CODEC = Codec()


def lease_of(run: str, epochs: int) -> Lease:
    """A record that makes sense, with so many epochs."""
    entry: dict[str, Any] = {"fork_manifest_digest": GENESIS, "fork_lineage_seq": 0, "region": "east", "time_ms": 1}
    entry |= {"reason": "created", "actor": "controller"}
    chain = tuple(EpochEntry(epoch=at, parent_epoch=at - 1, fork_step=at - 2, **entry) for at in range(1, epochs + 1))
    place = {"run": run, "epoch": epochs, "holder": "east", "incarnation": "c1", "mode": "active", "renew_seq": 7}
    more = {"write_id": f"w-{run}", "predecessor": GENESIS, "lease_s": 4.0, "attempt": 1, "launch": "l"}
    rest = {"committed_step": 3, "reason": "renewal_due", "actor": "controller", "profile": "fast", "time_ms": 5}
    return Lease(**cast("Any", place | more | rest), lineage=chain)


class _Bucket:
    """An S3 client whose bucket has these objects."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects, self.meta = objects, SimpleNamespace(endpoint_url="http://witness")

    def get_object(self, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - boto3's keyword arguments
        body = self._objects.get(request["Key"])
        if body is None:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": io.BytesIO(body), "ETag": '"etag"'}


@cache
def _objects() -> tuple[bytes, bytes]:
    leases_of = {run: CODEC.encode(lease_of(run, 2)) for run in ("a", "b")}
    members = tuple(LeaseMember(run=run, write_id=f"w-{run}", lease=lease) for run, lease in leases_of.items())
    return CODEC.encode(lease_of("gpt", 3)), CODEC.encode(LeaseGroup(group="g", write_id="w", members=members))


def leases(generator: random.Random, _folder: Path) -> None:
    """A record that every decision can be made from, or a refusal with its reason; never another error."""
    record, group = (mutated(generator, one) if generator.random() < 0.8 else one for one in _objects())
    bucket = cast("S3Client", _Bucket({"leases/gpt": record, "lease-groups/g": group}))
    store = S3LeaseStore(bucket, "witness", CODEC)
    members = {"a": "g", "b": "g"}
    shared = GroupedLeases(
        store, store, group_of=members, codec=CODEC, clock=SystemClock(), entropy=SystemEntropy(), gathers_s=0.0
    )
    for run in ("gpt", "a", "b"):
        held, refusal = None, "there is none"
        try:
            held = shared.read(run)
        except (DecodeError, CorruptError) as error:
            refusal = str(error)
        assert held is not None or refusal, "a refusal without a reason"
        if held is not None:
            assert held.lease.run == run
            assert held.lease.lineage[-1].epoch == held.lease.epoch
            assert held.lease.epoch in closing_steps(view_of(held.lease.lineage))
