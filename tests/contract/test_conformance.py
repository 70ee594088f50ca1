"""The probe that decides which store may be a witness."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from types_boto3_s3 import S3Client

from infra.local.stack import Stack
from pipelines.errors import MisconfiguredError
from services.adapters.s3.conformance import probe, refuse_unfit
from services.adapters.s3.object_store import ensure_bucket
from services.adapters.system_clock import SystemEntropy
from tests.contract.conftest import witness_client


class _IgnoresConditions:
    """An S3 server of the kind that stores whatever comes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.meta = SimpleNamespace(endpoint_url="http://keeps-whatever-comes")

    def put_object(self, **request: Any) -> dict[str, str]:  # noqa: ANN401 - boto3's keyword arguments
        self.objects[request["Key"]] = request["Body"]
        return {"ETag": f'"{hash(request["Body"])}"'}

    def get_object(self, **request: Any) -> dict[str, io.BytesIO]:  # noqa: ANN401 - boto3's keyword arguments
        return {"Body": io.BytesIO(self.objects.get(request["Key"], b""))}

    def delete_object(self, **request: Any) -> None:  # noqa: ANN401 - boto3's keyword arguments
        self.objects.pop(request["Key"], None)


@pytest.mark.servers
def test_the_witness_of_the_local_stack_passes_and_keeps_nothing_of_the_probe(stack: Stack) -> None:
    """The real server honours every condition, in races too."""
    client = witness_client(stack)
    ensure_bucket(client, "probed")
    checks = probe(client, "probed", SystemEntropy())
    assert [check for check in checks if not check.passed] == []
    refuse_unfit(client, "probed", SystemEntropy())
    assert len(checks) == 7
    assert client.list_objects_v2(Bucket="probed")["KeyCount"] == 0


def test_a_store_that_ignores_conditions_is_refused() -> None:
    """Each broken promise is named, with what was seen."""
    store = _IgnoresConditions()
    checks = probe(cast("S3Client", store), "any", SystemEntropy())
    failed = {check.name: check.detail for check in checks if not check.passed}
    assert set(failed) == {
        "create-only refuses an existing key",
        "a stale version is refused",
        "a missing key is not created by If-Match",
        "of 8 creators one wins",
        "of 8 replacers one wins",
    }
    assert "If-None-Match was ignored" in failed["create-only refuses an existing key"]
    assert store.objects == {}


def test_a_controller_refuses_such_a_store_with_one_line_that_says_what_to_do() -> None:
    """And takes one that honours them, as the test above shows; nothing of the probe is left."""
    store = _IgnoresConditions()
    with pytest.raises(MisconfiguredError, match="Name a store that honours If-Match and If-None-Match") as caught:
        refuse_unfit(cast("S3Client", store), "any", SystemEntropy())
    assert "\n" not in str(caught.value)
    assert "If-None-Match was ignored" in str(caught.value)
    assert store.objects == {}
