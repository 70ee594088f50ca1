"""Users for each region and role, on real stores: what they must not do is refused by the store, not by our code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from kafka.admin import ConfigResource, KafkaAdminClient
from typer.testing import CliRunner
from types_boto3_s3 import S3Client

from pipelines import paths
from pipelines.core.topic_rules import MESSAGE_BYTES_LEAST
from pipelines.errors import MisconfiguredError
from schemas.codec import Codec
from services.adapters.kafka.connection import KafkaCluster, KafkaUser
from services.adapters.kafka.log import ensure_topics
from services.adapters.s3.conformance import probe
from services.adapters.s3.faults import code_of
from services.adapters.s3.object_store import S3ObjectStore, connect, ensure_bucket
from services.adapters.system_clock import SystemEntropy
from services.cli import app
from services.demo import local_config
from services.permissions.store_policies import ROLES, iam_policy
from services.runtime.clients import client_of, cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings, load
from tests.manifests import manifest_of, shard_of, state_of
from tests.test_tidy import ROOT
from tests.waiting import wait_until

LEASE = paths.lease("gpt")


def _refused(call: Callable[[], object]) -> bool:
    """Whether the store says no to this user, and to nothing else."""
    try:
        call()
    except ClientError as error:
        return code_of(error) in {"AccessDenied", "403"}
    return False


def _drill(settings: Settings) -> S3Client:
    west = settings.region("west")
    assert west.drill_credentials_file is not None
    return client_of(west.s3, west.drill_credentials_file)


@pytest.mark.servers
def test_a_region_cannot_write_in_another_regions_store(settings: Settings) -> None:
    """6.2: replication only pulls; put, delete and multipart are all refused, and the object is as it was."""
    store_of(settings.region("east")).put("runs/gpt/x", b"east's")
    link = settings.link("west", "east")
    reader = client_of(link.s3, link.credentials_file)
    bucket = link.bucket
    assert reader.get_object(Bucket=bucket, Key="runs/gpt/x")["Body"].read() == b"east's"
    assert S3ObjectStore(reader, bucket).list("runs/") == ("runs/gpt/x",)
    assert _refused(lambda: reader.put_object(Bucket=bucket, Key="runs/gpt/x", Body=b"west's"))
    assert _refused(lambda: reader.put_object(Bucket=bucket, Key="runs/gpt/y", Body=b"", IfNoneMatch="*"))
    assert _refused(lambda: reader.delete_object(Bucket=bucket, Key="runs/gpt/x"))
    assert _refused(lambda: reader.create_multipart_upload(Bucket=bucket, Key="runs/gpt/y"))
    assert store_of(settings.region("east")).get("runs/gpt/x") == b"east's"
    own = json.loads(settings.region("west").credentials_file.read_text(encoding="utf-8"))
    stranger = connect(endpoint=link.s3, **own)
    with pytest.raises(MisconfiguredError, match="denies it"):
        S3ObjectStore(stranger, bucket).get("runs/gpt/x")


@pytest.mark.servers
def test_I2_no_region_can_delete_a_lease_record_and_each_can_still_be_a_writer_of_it(settings: Settings) -> None:
    """The record survives whoever goes mad; the doctor's probes, which are deleted, still pass."""
    for name, region in settings.regions.items():
        client = client_of(region.witness, region.witness_credentials_file)
        bucket = settings.witness.bucket
        client.put_object(Bucket=bucket, Key=LEASE, Body=name.encode())
        assert _refused(partial(client.delete_object, Bucket=bucket, Key=LEASE))
        assert client.get_object(Bucket=bucket, Key=LEASE)["Body"].read() == name.encode()
        assert all(check.passed for check in probe(client, bucket, SystemEntropy()))


@pytest.mark.servers
def test_I10_a_drill_can_read_what_is_real_and_write_only_beside_it(settings: Settings) -> None:
    """Its user is refused outside its prefix, and does not exist at the witness."""
    west = settings.region("west")
    store_of(west).put("runs/gpt/real", b"real")
    drill, bucket = _drill(settings), west.bucket
    assert drill.get_object(Bucket=bucket, Key="runs/gpt/real")["Body"].read() == b"real"
    key = paths.drill_prefix("d1") + LEASE
    etag = drill.put_object(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")["ETag"]
    drill.put_object(Bucket=bucket, Key=key, Body=b"2", IfMatch=etag)
    drill.delete_object(Bucket=bucket, Key=key)
    assert _refused(lambda: drill.put_object(Bucket=bucket, Key="runs/gpt/real", Body=b"drill's"))
    assert _refused(lambda: drill.delete_object(Bucket=bucket, Key="runs/gpt/real"))
    assert store_of(west).get("runs/gpt/real") == b"real"
    assert west.drill_credentials_file is not None
    at_witness = client_of(west.witness, west.drill_credentials_file)
    with pytest.raises(ClientError) as unknown:
        at_witness.put_object(Bucket=settings.witness.bucket, Key=LEASE, Body=b"")
    assert code_of(unknown.value) in {"InvalidAccessKeyId", "AccessDenied", "403"}


def _sweeper(settings: Settings, region: str) -> S3Client:
    here = settings.region(region)
    assert here.sweeper_credentials_file is not None
    return client_of(here.s3, here.sweeper_credentials_file)


@pytest.mark.servers
def test_a_sweeper_deletes_checkpoints_of_its_own_region_and_nothing_else(settings: Settings) -> None:
    """Nobody may ever delete epochs, launches, pins, health, schemas and lease records: the store refuses it."""
    west, own = settings.region("west"), paths.CheckpointId("gpt", 1, 1, 10)
    sweeper, store = _sweeper(settings, "west"), store_of(west)
    for key in (own.manifest, own.intent, own.receipt(0), own.chunk(0, 0), own.rank_state(0)):
        store.put(key, b"x")
        sweeper.delete_object(Bucket=west.bucket, Key=key)
        assert store.get(key) is None
    assert S3ObjectStore(sweeper, west.bucket).create(own.manifest, b"swept")
    for key in (
        paths.epoch_seen("gpt", 1),
        paths.launched("gpt", "l1"),
        paths.start("gpt", "e000001", "a0001"),
        paths.pin(own, 1),
        paths.discarded("gpt", 1),
        paths.notified("gpt", 1),
        paths.health("controller", "west"),
        paths.schema("abc"),
        paths.drilled("gpt", 1, "d1"),
        LEASE,
    ):
        store.put(key, b"real")
        assert _refused(partial(sweeper.delete_object, Bucket=west.bucket, Key=key)), key
        assert _refused(partial(sweeper.put_object, Bucket=west.bucket, Key=key, Body=b"sweeper's")), key
        assert store.get(key) == b"real"
    assert _refused(lambda: sweeper.put_object(Bucket=west.bucket, Key=own.chunk(0, 0), Body=b"sweeper's"))


@pytest.mark.servers
def test_a_sweeper_is_nobody_elsewhere_and_no_other_role_deletes_a_checkpoint(settings: Settings) -> None:
    """Not in another region's store, not at the witness; and agents, replicators and drills delete nothing of it."""
    east, west = settings.region("east"), settings.region("west")
    key = paths.CheckpointId("gpt", 1, 1, 20).chunk(0, 0)
    for region in (east, west):
        store_of(region).put(key, b"real")
    assert west.sweeper_credentials_file is not None
    for endpoint, bucket in ((settings.link("west", "east").s3, east.bucket), (west.witness, settings.witness.bucket)):
        stranger = client_of(endpoint, west.sweeper_credentials_file)
        with pytest.raises(ClientError) as unknown:
            stranger.delete_object(Bucket=bucket, Key=key)
        assert code_of(unknown.value) in {"InvalidAccessKeyId", "AccessDenied", "403"}
    own = client_of(west.s3, west.credentials_file)
    link = settings.link("west", "east")
    reader = client_of(link.s3, link.credentials_file)
    assert _refused(lambda: own.delete_object(Bucket=west.bucket, Key=key))
    assert _refused(lambda: _drill(settings).delete_object(Bucket=west.bucket, Key=key))
    assert _refused(lambda: reader.delete_object(Bucket=link.bucket, Key=key))
    assert store_of(east).get(key) == store_of(west).get(key) == b"real"


def _commit(settings: Settings, regions: tuple[str, ...], step: int) -> paths.CheckpointId:
    """A whole checkpoint of a run of its own, signed by east."""
    own = paths.CheckpointId("swept", 1, 1, step)
    manifest = manifest_of(own, lineage_seq=step, shards=(shard_of(0, b"chunk"),), rank_states=(state_of(0, b"rng"),))
    envelope = signer_of(settings, "east").sign(Codec().encode(manifest))
    for region in regions:
        store = store_of(settings.region(region))
        store.create(own.chunk(0, 0), b"chunk")
        store.create(own.rank_state(0), b"rng")
        store.create(own.manifest, envelope)
    return own


@pytest.mark.servers
def test_a_sweep_on_real_stores_takes_the_older_generations_after_the_grace(config: Path, tmp_path: Path) -> None:
    """`farside pin`, `sweep`, `sweep --execute` twice: with the sweeper's own user, and east's store over the link."""
    text = config.read_text(encoding="utf-8").replace("[runs.gpt]", "[runs.swept]")
    path = tmp_path / "farside.toml"
    path.write_text(text.replace("[regions.west]", "[regions.west]\nsweep_grace_s = 0.001"), encoding="utf-8")
    settings = load(path, {})
    ids = [_commit(settings, ("east", "west"), step) for step in range(10, 70, 10)]
    seen = json.dumps({"run": "swept", "epoch": 1, "region": "east", "forks": [[1, 0, -1]]}).encode()
    for region in ("east", "west"):
        store_of(settings.region(region)).create(paths.epoch_seen("swept", 1), seen)

    def farside(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--run", "swept", "--json", "--config", str(path)])
        assert done.exit_code == 0, done.output
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert farside("pin", "--checkpoint", "20")["pinned"] == [ids[1].prefix]
    planned = farside("sweep", "--region", "west")
    assert [candidate["step"] for candidate in planned["candidates"]] == [10, 30]
    assert planned["gone"] == []
    assert farside("sweep", "--region", "west", "--execute", "--yes")["gone"] == []

    def swept() -> bool:
        return bool(farside("sweep", "--region", "west", "--execute", "--yes")["gone"])

    wait_until(swept, 30, "a sweep that takes something")
    store = store_of(settings.region("west"))
    assert [store.size(own.chunk(0, 0)) is not None for own in ids] == [False, True, False, True, True, True]
    assert all(store_of(settings.region("east")).size(own.chunk(0, 0)) for own in ids)
    assert store.get(paths.epoch_seen("swept", 1)) == seen
    assert farside("unpin", "--checkpoint", "1:20")["unpinned"] == [ids[1].prefix]
    assert 20 in [candidate["step"] for candidate in farside("sweep", "--region", "west")["candidates"]]


@pytest.mark.servers
def test_a_user_who_may_not_make_buckets_needs_none_that_is_there(settings: Settings) -> None:
    """A service's start does not ask for more than it needs; a bucket that is missing is said, with what to do."""
    west = settings.region("west")
    client = client_of(west.s3, west.credentials_file)
    ensure_bucket(client, west.bucket)
    with pytest.raises(MisconfiguredError, match="bucket nowhere"):
        ensure_bucket(client, "nowhere")


def _doctor(path: Path) -> dict[str, tuple[bool, str]]:
    done = CliRunner().invoke(app, ["doctor", "--json", "--config", str(path)])
    checks = {check["what"]: (check["passed"], check["detail"]) for check in json.loads(done.stdout)}
    assert (done.exit_code == 0) == all(passed for passed, _ in checks.values())
    return checks


def _failures(config: Path, instead: Mapping[Path, Mapping[str, str]], folder: Path) -> dict[str, str]:
    """The doctor's failures when these credentials files hold something else."""
    text = config.read_text(encoding="utf-8")
    for number, (path, plain) in enumerate(instead.items()):
        other = folder / f"{number}.json"
        local_config._private(other, json.dumps(plain))
        text = text.replace(str(path), str(other))
    changed = folder / "farside.toml"
    changed.write_text(text, encoding="utf-8")
    return {what: detail for what, (passed, detail) in _doctor(changed).items() if not passed}


@pytest.mark.servers
def test_the_doctor_passes_the_local_stack(config: Path) -> None:
    """Before any service has run, so before there is a topic; and it says what is for development only."""
    well = _doctor(config)
    assert all(passed for passed, _ in well.values()), well
    assert {"west only pulls from east", "west only reads east's Kafka", "west drills beside its topics"} <= set(well)
    assert "for development only" in well["west Kafka"][1]


@pytest.mark.servers
def test_the_doctor_finds_each_user_that_may_write_where_it_must_not(config: Path, tmp_path: Path) -> None:
    """With an administrator's keys in place of a link's, replication could push; with the region's, a drill too."""
    settings = load(config, {})
    roots = json.loads((config.parent / "credentials.json").read_text(encoding="utf-8"))
    link, west = settings.link("west", "east"), settings.region("west")
    assert link.kafka_credentials_file is not None
    assert west.kafka_credentials_file is not None
    assert west.drill_kafka_credentials_file is not None
    instead = {
        link.credentials_file: roots["s3-east"],
        link.kafka_credentials_file: roots["kafka-east"],
        west.drill_kafka_credentials_file: json.loads(west.kafka_credentials_file.read_text(encoding="utf-8")),
    }
    failures = _failures(config, instead, tmp_path)
    assert set(failures) == {
        "west only pulls from east",
        "west only reads east's Kafka",
        "west drills beside its topics",
    }
    assert "user admin at Kafka" in failures["west only reads east's Kafka"]
    assert "user west at Kafka" in failures["west drills beside its topics"]


@pytest.mark.servers
def test_the_doctor_does_not_take_a_user_who_is_not_let_in_for_one_who_only_reads(config: Path, tmp_path: Path) -> None:
    """Wrong secrets are refused every write too; such a link replicates nothing, and the doctor must not pass it."""
    link = load(config, {}).link("west", "east")
    assert link.kafka_credentials_file is not None
    instead = {}
    for path, secret in ((link.credentials_file, "secret_key"), (link.kafka_credentials_file, "password")):
        instead[path] = json.loads(path.read_text(encoding="utf-8")) | {secret: "wrong"}
    failures = _failures(config, instead, tmp_path)
    assert set(failures) == {"west only pulls from east", "west only reads east's Kafka"}
    assert "denies it" in failures["west only pulls from east"]
    assert "user link-west" in failures["west only reads east's Kafka"]
    assert "not let in" in failures["west only reads east's Kafka"]


@pytest.mark.servers
def test_the_doctor_reads_the_topics_as_the_broker_has_them(config: Path) -> None:
    """Whatever the settings say: a topic that loses events, or refuses large ones, is named with what to set."""
    settings = load(config, {})
    east = cluster_of(settings.region("east"))
    ensure_topics(east, replication=1)
    assert "records up to" in _doctor(config)["east topics"][1]
    roots = json.loads((config.parent / "credentials.json").read_text(encoding="utf-8"))
    admin = KafkaCluster(east.bootstrap, KafkaUser(**roots["kafka-east"]))
    wrong = {"cleanup.policy": "compact", "max.message.bytes": "1000", "compression.type": "zstd"}
    right = {"cleanup.policy": "delete", "max.message.bytes": str(MESSAGE_BYTES_LEAST), "compression.type": "producer"}
    with contextlib.closing(KafkaAdminClient(**admin.options())) as client:
        client.alter_configs([ConfigResource("TOPIC", paths.METRICS, configs=wrong)])
        try:
            passed, detail = _doctor(config)["east topics"]
        finally:
            client.alter_configs([ConfigResource("TOPIC", paths.METRICS, configs=right)])
    assert not passed
    for said in ("cleanup.policy=compact", "max.message.bytes=1000", "compression.type=zstd"):
        assert f"{paths.METRICS}: {said}" in detail


def test_the_policies_in_the_docs_are_the_ones_that_are_tested() -> None:
    """One source: what an AWS user copies is what the local stores enforce."""
    text = (ROOT / "docs/credentials.md").read_text(encoding="utf-8")
    for role in ROLES:
        assert iam_policy(role, "BUCKET") in text, f"docs/credentials.md lacks the policy of {role}"


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """The local stack's too."""
    path = tmp_path / "key.json"
    local_config._private(path, "{}")
    assert path.stat().st_mode & 0o077 == 0
