"""Whom a Kafka is asked as, what each user may do there, and what a refusal costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import paths
from pipelines.errors import MisconfiguredError
from pipelines.flows.authority.heartbeat_reader import LOOK_S, HeartbeatReader, PeerState
from pipelines.ports import Partition
from schemas.codec import Codec
from services.adapters.kafka.connection import KafkaUser
from services.adapters.memory.kafka import MemoryKafka, MemorySource
from services.permissions.kafka_policies import ROLES, grants
from services.runtime.clients import cluster_of
from services.settings import KafkaSettings, kafka_user
from tests.certificates import certificate, pem
from tests.manual_clock import ManualClock

SECRET = "s3cr3t"  # noqa: S105 - no secret of anything


class _Refusing(MemorySource):
    """A log that does not let us read until it is told to."""

    refuses = True

    def partitions(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        """As the real adapter does when the broker says no."""
        if self.refuses:
            raise MisconfiguredError("user link-west at Kafka k: refused: grant it Describe and Read on topic t")
        return super().partitions(topics)


@pytest.mark.parametrize(
    ("user", "tls", "protocol"),
    [(False, False, "PLAINTEXT"), (False, True, "SSL"), (True, False, "SASL_PLAINTEXT"), (True, True, "SASL_SSL")],
)
def test_a_cluster_is_reached_as_its_settings_say(user: bool, tls: bool, protocol: str, tmp_path: Path) -> None:
    """A user makes it SASL, a file of authorities makes it TLS; without a word the mechanism is the strongest."""
    path = tmp_path / "user.json"
    path.write_text(json.dumps({"username": "west", "password": SECRET}))
    ca = tmp_path / "ca.pem" if tls else None
    if ca is not None:
        ca.write_bytes(pem(certificate("an authority")[1]))
    cluster = cluster_of(
        KafkaSettings(kafka="k:1", kafka_credentials_file=path if user else None, kafka_tls_ca_file=ca)
    )
    options = cluster.options()
    assert (options["bootstrap_servers"], options["security_protocol"]) == ("k:1", protocol)
    assert (options.get("ssl_context") is not None) == tls
    if tls:
        assert options["ssl_context"].check_hostname
        assert options["ssl_context"].get_ca_certs(), "it trusts nobody"
    assert options.get("sasl_mechanism") == ("SCRAM-SHA-512" if user else None)
    assert options.get("sasl_plain_password") == (SECRET if user else None)
    assert SECRET not in f"{cluster!r} {cluster} {cluster.who}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'{{"username": "west", "passwort": "{SECRET}"}}', "no JSON object with username and password"),
        (f'["{SECRET}"]', "no JSON object"),
        (SECRET, "no JSON object"),
        (f'{{"username": "w", "password": "{SECRET}", "mechanism": "GSSAPI"}}', "mechanism is one of SCRAM-SHA-512"),
        (None, "No such file"),
    ],
)
def test_a_bad_credentials_file_is_named_and_never_shown(text: str | None, reason: str, tmp_path: Path) -> None:
    """One line says which file and what should be in it."""
    path = tmp_path / "user.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MisconfiguredError, match=reason) as caught:
        kafka_user(path)
    assert str(path) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_users_mechanism_is_the_files(tmp_path: Path) -> None:
    """PLAIN only where the file says so."""
    path = tmp_path / "user.json"
    path.write_text(json.dumps({"username": "west", "password": SECRET, "mechanism": "PLAIN"}))
    assert kafka_user(path) == KafkaUser("west", SECRET, "PLAIN")


def test_only_a_region_writes_farsides_topics_and_only_its_own_drill_writes_the_drills() -> None:
    """6.2 and I10 as the table of roles: a link reads, an operator reads and copies aside; nobody deletes or alters."""
    changing = {
        role: {one.prefix for one in grants(role, "west") if not {"Describe", "Read"}.issuperset(one.operations)}
        for role in ROLES
    }
    assert changing == {
        "region": {"farside.", "farside-replicator-west-"},
        "link": set(),
        "drill": {"drill.farside."},
        "operator": {paths.REPLAY_TOPICS},
    }
    operations = {name for role in ROLES for one in grants(role, "west") for name in one.operations}
    assert operations == {"Create", "Describe", "DescribeConfigs", "Read", "Write"}


def test_every_topic_and_transactional_id_lies_under_what_its_user_may_touch() -> None:
    """A new topic or id of another name would be refused by every broker with ACLs."""
    topics, ids = (one.prefix for one in grants("region", "west"))
    (beside,) = (one.prefix for one in grants("drill", "west"))
    assert all(name.startswith(topics) for name in paths.TOPICS)
    assert all((paths.DRILL_TOPICS + name).startswith(beside) for name in paths.TOPICS)
    assert not any(name.startswith((beside, paths.REPLAY_TOPICS)) for name in paths.TOPICS)
    assert all(paths.transactional_id("west", "east", lane).startswith(ids) for lane in paths.REPLICATED_LANES)
    assert not paths.transactional_id("east", "west", "metrics").startswith(ids)


def test_I16_a_region_whose_kafka_refuses_us_does_not_end_the_process_that_holds_our_leases() -> None:
    """It is told as a trouble of the listener, asked again seldom, and forgotten when it lets us in."""
    clock = ManualClock()
    kafka = MemoryKafka("east")
    kafka.topic(paths.HEARTBEATS)
    source = _Refusing(kafka)
    listener = PeerState(region="east", run="gpt", clock=clock)
    heartbeats = HeartbeatReader(region="east", source=source, codec=Codec(), clock=clock, peer_states=[listener])
    assert heartbeats.turn() > LOOK_S
    assert "grant it Describe and Read" in listener.trouble
    source.refuses = False
    clock.sleep(60)
    heartbeats.turn()
    assert listener.trouble == ""
