"""Users for each region and role, on real brokers: what they must not do is refused by Kafka, not by our code."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka.admin import (
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipelines import paths
from pipelines.errors import CorruptError, FencedError, MisconfiguredError, RetryableError
from pipelines.ports import EventSource, Message, Partition
from services.adapters.kafka.acls import give
from services.adapters.kafka.connection import KafkaCluster, KafkaUser
from services.adapters.kafka.librdkafka_log import LibrdkafkaLog
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.adapters.kafka.writing import WritingLog
from services.adapters.system_clock import SystemClock
from services.permissions.kafka_policies import ROLES, TOPIC, Grant, commands, grants
from services.runtime.clients import cluster_of
from services.settings import Settings
from services.wrappers.retrying import repeat_until_done
from tests.test_tidy import ROOT
from tests.waiting import wait_until

IDS = itertools.count(1)
LANE = "metrics"
WRITERS: tuple[type[WritingLog], ...] = (KafkaLog, LibrdkafkaLog)


@pytest.fixture
def east(settings: Settings) -> KafkaCluster:
    """East's own Kafka, as east; with its topics."""
    cluster = cluster_of(settings.region("east"))
    ensure_topics(cluster, replication=1)
    return cluster


@pytest.fixture
def from_west(settings: Settings) -> KafkaCluster:
    """East's Kafka through the link, as west may."""
    return cluster_of(settings.link("west", "east"))


@pytest.fixture
def drill(settings: Settings) -> KafkaCluster:
    """East's Kafka, as a drill there."""
    region = settings.region("east")
    return cluster_of(region, region.drill_kafka_credentials_file)


def _admin(config: Path, cluster: KafkaCluster) -> KafkaCluster:
    known = json.loads((config.parent / "credentials.json").read_text(encoding="utf-8"))
    return KafkaCluster(cluster.bootstrap, KafkaUser(**known["kafka-east"]))


def _message(topic: str = paths.METRICS) -> Message:
    return Message(topic, b"gpt", str(next(IDS)).encode())


def _publish(cluster: KafkaCluster, topic: str = paths.METRICS, writer: type[WritingLog] = KafkaLog) -> None:
    with contextlib.closing(writer(cluster)) as log:
        log.publish([_message(topic)])


def _transaction(cluster: KafkaCluster, transactional_id: str, writer: type[WritingLog] = KafkaLog) -> None:
    with contextlib.closing(writer(cluster, transactional_id)) as log:
        log.transaction([_message()])


def _partition(source: EventSource, topic: str = paths.METRICS) -> Partition:
    (partition,) = source.partitions([topic])
    return partition


def _end(cluster: KafkaCluster, topic: str = paths.METRICS) -> int:
    with contextlib.closing(KafkaSource(cluster)) as source:
        return source.bounds(_partition(source, topic))[1]


def _last(cluster: KafkaCluster, topic: str = paths.METRICS) -> bytes:
    """The value of the newest record, as this user reads it."""
    with contextlib.closing(KafkaSource(cluster)) as source:
        partition = _partition(source, topic)
        source.seek(partition, max(0, source.bounds(partition)[1] - 1))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if records := source.poll(0.5):
                return records[-1].value
    return b""


@contextlib.contextmanager
def _refused(who: str, need: str) -> Iterator[None]:
    """The broker says no; the error names the user and what to grant, for a person."""
    with pytest.raises(MisconfiguredError) as caught:
        yield
    assert f"user {who} at Kafka" in str(caught.value)
    assert f"grant it {need}" in str(caught.value)


@pytest.mark.servers
def test_a_region_only_reads_in_another_regions_kafka(east: KafkaCluster, from_west: KafkaCluster) -> None:
    """6.2: it reads what is published there; records, topics and transactions are refused, and nothing was added."""
    message = _message()
    with contextlib.closing(KafkaLog(east)) as log:
        log.publish([message])
    before = _end(east)
    assert _last(from_west) == message.value
    ensure_topics(from_west, replication=1)  # all of them are there: there is nothing to ask for
    for writer in WRITERS:
        with _refused("link-west", f"Describe and Write on topic {paths.METRICS}"):
            _publish(from_west, writer=writer)
    with _refused("link-west", f"Create, Describe, Read and Write on topics {paths.DRILL_TOPICS}farside.*"):
        ensure_topics(from_west, replication=1, prefix=paths.DRILL_TOPICS)
    for region, peer in (("east", "west"), ("west", "east")):
        name = paths.transactional_id(region, peer, LANE)
        for writer in WRITERS:
            with _refused("link-west", f"Describe and Write on transactional id {name}"):
                _transaction(from_west, name, writer)
    assert _end(east) == before


@pytest.mark.servers
def test_a_refused_transaction_does_not_fence_the_replicator_whose_id_it_took(
    east: KafkaCluster, from_west: KafkaCluster
) -> None:
    """Else a zombie in west could stop east's replication by beginning, without writing anything."""
    for writer in WRITERS:
        name = paths.transactional_id("east", "west", LANE)
        with contextlib.closing(writer(east, name)) as log:
            log.transaction([_message()])
            with _refused("link-west", f"Describe and Write on transactional id {name}"):
                _transaction(from_west, name, writer)
            log.transaction([_message()])


@pytest.mark.servers
def test_a_region_is_nobody_in_another_regions_kafka(settings: Settings, from_west: KafkaCluster) -> None:
    """West's own user does not exist there."""
    own = cluster_of(settings.region("west")).user
    with pytest.raises(MisconfiguredError, match=r"user west at Kafka .* not let in"):
        _publish(KafkaCluster(from_west.bootstrap, own))


@pytest.mark.servers
def test_a_region_can_do_in_its_own_kafka_what_its_services_do(east: KafkaCluster) -> None:
    """Topics, records, reading, and transactions that fence an older writer; no drill's topic, no other's id."""
    for topic in paths.TOPICS:
        _publish(east, topic)
    name = paths.transactional_id("east", "west", LANE)
    for old, new in ((KafkaLog, LibrdkafkaLog), (LibrdkafkaLog, KafkaLog)):
        with contextlib.closing(old(east, name)) as older, contextlib.closing(new(east, name)) as newer:
            older.transaction([_message()])
            newer.transaction([])
            with pytest.raises(FencedError):
                older.transaction([_message()])
    other = paths.transactional_id("west", "east", LANE)
    for writer in WRITERS:
        with _refused("east", f"Describe and Write on transactional id {other}"):
            _transaction(east, other, writer)
    with _refused("east", f"Create, Describe, Read and Write on topics {paths.DRILL_TOPICS}farside.*"):
        ensure_topics(east, replication=1, prefix=paths.DRILL_TOPICS)


@pytest.mark.servers
def test_I10_a_drill_writes_its_own_topics_and_neither_writes_nor_reads_the_real_ones(
    east: KafkaCluster, drill: KafkaCluster
) -> None:
    """Its records come back under its own topics; the real log has no more, and its ids are not a region's."""
    before = _end(east)
    ensure_topics(drill, replication=1, prefix=paths.DRILL_TOPICS)
    beside = paths.DRILL_TOPICS + paths.METRICS
    message = _message(beside)
    with contextlib.closing(KafkaLog(drill)) as log:
        log.publish([message])
    assert _last(drill, beside) == message.value
    for writer in WRITERS:
        with _refused("drill-east", f"Describe and Write on topic {paths.METRICS}"):
            _publish(drill, writer=writer)
    with _refused("drill-east", f"Describe and Read on topic {paths.METRICS}"):
        _end(drill)
    name = paths.transactional_id("east", "west", LANE)
    with _refused("drill-east", f"Describe and Write on transactional id {name}"):
        _transaction(drill, name)
    assert _end(east) == before


@pytest.mark.servers
def test_an_operator_who_looks_can_change_nothing(settings: Settings, east: KafkaCluster) -> None:
    """The plan of a replay needs no more than reading; a copy goes only where no service reads."""
    region = settings.region("east")
    operator = cluster_of(region, region.operator_kafka_credentials_file)
    _publish(east)
    assert _last(operator)
    with _refused("operator", f"Describe and Write on topic {paths.METRICS}"):
        _publish(operator)


@pytest.mark.servers
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "SCRAM-SHA-256"])
def test_who_is_not_let_in_is_told_so_and_does_not_try_for_ever(settings: Settings, mechanism: str) -> None:
    """A wrong secret, an unknown user, a mechanism that is not offered; whatever is asked; the secret shows nowhere."""
    secret = "not-the-secret"  # noqa: S105 - that is the point
    bad = KafkaCluster(settings.region("east").kafka, KafkaUser("east", secret, mechanism))
    source = KafkaSource(bad)
    asked: list[Callable[[], object]] = [
        lambda: ensure_topics(bad, replication=1),
        lambda: source.partitions([paths.METRICS]),
        lambda: source.bounds(Partition("c", "t", paths.METRICS, 0)),
        lambda: _publish(bad),
        lambda: _transaction(bad, paths.transactional_id("east", "west", LANE)),
        lambda: _publish(bad, writer=LibrdkafkaLog),
        lambda: _transaction(bad, paths.transactional_id("east", "west", LANE), LibrdkafkaLog),
    ]
    waits: list[str] = []
    for ask in asked:
        with pytest.raises(MisconfiguredError, match=r"user east at Kafka .*: not let in \(.+\): put") as caught:
            repeat_until_done(ask, clock=SystemClock(), deadline_s=30, waits=waits.append)
        assert secret not in str(caught.value)
    assert waits == []


@pytest.mark.servers
def test_I18_a_replicator_whose_link_is_not_let_in_says_so_for_each_lane_and_lives(
    config: Path, settings: Settings, tmp_path: Path
) -> None:
    """The peer's refusal is no fault of its other peers: the lanes rest, and a person is told whose password it is."""
    path = settings.link("west", "east").kafka_credentials_file
    assert path is not None
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"password": "not-the-secret"}))
    changed = tmp_path / "farside.toml"
    changed.write_text(config.read_text(encoding="utf-8").replace(str(path), str(wrong)), encoding="utf-8")
    command = [sys.executable, "-m", "services.cli", "replicator", "--region", "west", "--config", str(changed)]
    log = tmp_path / "replicator.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:

        def waits() -> bool:
            said = [line for line in log.read_text().splitlines() if "replicate.waits" in line]
            return len([line for line in said if "user link-west at Kafka" in line]) >= len(paths.REPLICATED_LANES)

        wait_until(lambda: waits() or process.poll() is not None, 120, "each lane to say whom it waits for")
        assert process.poll() is None, log.read_text()
        assert "not-the-secret" not in log.read_text()
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


@pytest.mark.servers
def test_a_service_without_a_user_is_told_which_setting_is_missing(settings: Settings) -> None:
    """The broker only hangs up, so it may be away too: that is tried again."""
    nobody = KafkaCluster(settings.region("east").kafka)
    for writer in WRITERS:
        with pytest.raises(RetryableError, match="kafka_credentials_file is missing"):
            _publish(nobody, writer=writer)


@pytest.mark.servers
def test_a_user_of_scram_logs_in_and_one_that_may_look_but_not_read_is_told_so(
    config: Path, east: KafkaCluster
) -> None:
    """The mechanism that production should have; and reading is refused with a word, not with silence."""
    secret = "of-the-test-only"  # noqa: S105 - drawn by nobody
    admin = _admin(config, east)
    with contextlib.closing(KafkaAdminClient(**admin.options())) as client:
        made = UserScramCredentialUpsertion("looker", ScramMechanism.SCRAM_SHA_512, secret)
        assert client.alter_user_scram_credentials([made]) == {"looker": None}
    give(admin, {"looker": [Grant(("Describe",), TOPIC, paths.TOPIC_PREFIX)]})
    _publish(east)
    looker = KafkaCluster(east.bootstrap, KafkaUser("looker", secret))
    for writer in WRITERS:
        with _refused("looker", f"Describe and Write on topic {paths.METRICS}"):
            _publish(looker, writer=writer)
    with contextlib.closing(KafkaSource(looker)) as source:
        partition = _partition(source)
        source.seek(partition, 0)
        with _refused("looker", f"Describe and Read on topic {paths.METRICS}"):
            _until_refused(source)


def _until_refused(source: EventSource) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        source.poll(0.5)
    raise CorruptError("it was never refused")


@pytest.mark.servers
def test_the_brokers_acls_are_the_roles_grants_and_nothing_else(config: Path, east: KafkaCluster) -> None:
    """The ACLs that `docs/credentials.md` shows are those that the tests above ran with."""
    users = {"east": "region", "link-west": "link", "drill-east": "drill", "operator": "operator"}
    wanted = {
        (f"User:{user}", grant.resource.upper().replace("-", "_"), grant.prefix, _constant(operation))
        for user, role in users.items()
        for grant in grants(role, "east")
        for operation in grant.operations
    }
    everything = ACLFilter(
        principal=None,
        host=None,
        operation=ACLOperation.ANY,
        permission_type=ACLPermissionType.ANY,
        resource_pattern=ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
    )
    with contextlib.closing(KafkaAdminClient(**_admin(config, east).options())) as client:
        acls, _ = client.describe_acls(everything)
    given = {
        (acl.principal, acl.resource_pattern.resource_type.name, acl.resource_pattern.resource_name, acl.operation.name)
        for acl in acls
        if acl.principal != "User:looker"
    }
    assert given == wanted
    assert all(acl.resource_pattern.pattern_type is ACLResourcePatternType.PREFIXED for acl in acls)


def _constant(operation: str) -> str:
    """The client library's name of an operation: DescribeConfigs is DESCRIBE_CONFIGS."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()


@pytest.mark.servers
def test_the_brokers_files_with_secrets_are_readable_by_their_owner_only(config: Path) -> None:
    """Properties, the administrator's and every user's."""
    keys = list((config.parent / "keys").glob("kafka-*.json"))
    settings = list((config.parent / "config").glob("kafka-*.properties"))
    assert (len(keys), len(settings)) == (8, 2)
    secrets = [*keys, *settings, config.parent / "users.json", config.parent / "credentials.json"]
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []
    assert not any(
        json.loads(path.read_text(encoding="utf-8"))["password"] in config.read_text(encoding="utf-8") for path in keys
    )


def test_the_acls_in_the_docs_are_the_ones_that_are_tested() -> None:
    """One source: what an administrator copies is what the local brokers enforce."""
    text = (ROOT / "docs/credentials.md").read_text(encoding="utf-8")
    users = {"region": "east", "link": "link-west", "drill": "drill-east", "operator": "operator"}
    assert users.keys() == ROLES.keys()
    for role, user in users.items():
        for line in commands(role, "east", user):
            assert line in text.replace(" \\\n    ", " "), f"docs/credentials.md lacks {line}"
