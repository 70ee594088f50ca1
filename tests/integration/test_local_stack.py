"""The local stack on real servers: links shape and cut, kills keep data, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

from infra.local.ports import is_free
from infra.local.servers import http_answers, kafka_answers
from infra.local.stack import Stack, owner_of, states
from services.runtime.child_processes import ProcessId
from tests.brokers import admin_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

pytestmark = pytest.mark.servers


def _s3(stack: Stack, name: str, endpoint: str) -> S3Client:
    keys = json.loads(stack.endpoints().credentials_file.read_text(encoding="utf-8"))[name]
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        config=Config(
            s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 1}
        ),
    )


def test_a_link_delays_what_crosses_it_and_a_cut_link_carries_nothing(stack: Stack) -> None:
    """The round trip over a link takes both ways' latency; cut, it fails; healed, it works."""
    near = _s3(stack, "s3-west", stack.endpoints().regions["west"].s3_endpoint)
    far = _s3(stack, "s3-west", stack.endpoints().links["east", "west"].s3_endpoint)
    near.create_bucket(Bucket="probe")
    near.put_object(Bucket="probe", Key="a", Body=b"bytes")
    began = time.monotonic()
    assert far.get_object(Bucket="probe", Key="a")["Body"].read() == b"bytes"
    assert time.monotonic() - began >= 0.08
    url = stack.endpoints().links["east", "west"].s3_endpoint + "/farside-health"
    stack.cut("east", "west")
    assert not http_answers(url)
    stack.heal("east", "west")
    assert http_answers(url)
    assert stack.link_bytes()["east.west.s3"].total > 0


def test_a_client_that_bootstraps_over_the_link_stays_on_it(stack: Stack) -> None:
    """The broker advertises the proxy's address to whoever came through the proxy."""
    link = admin_of(stack, "east", "west").options()
    admin = KafkaAdminClient(**link)
    admin.create_topics([NewTopic("through-the-link", 1, 1)])
    admin.close()
    producer = KafkaProducer(**link, acks="all")
    producer.send("through-the-link", b"one").get(timeout=20)
    producer.close()
    consumer = KafkaConsumer("through-the-link", **link, auto_offset_reset="earliest", group_id=None)
    got: list[bytes] = []

    def arrived() -> bool:
        got.extend(record.value for records in consumer.poll(200).values() for record in records)
        return bool(got)

    wait_until(arrived, 20, "the record over the link")
    consumer.close()
    assert got == [b"one"]
    assert stack.link_bytes()["west.east.kafka"].total > 0


def test_a_killed_broker_comes_back_on_its_port_with_its_data(stack: Stack) -> None:
    """SIGKILL and restart: the topic that was there is there."""
    local = admin_of(stack, "east")
    admin = KafkaAdminClient(**local.options())
    admin.create_topics([NewTopic("survives", 1, 1)])
    admin.close()
    stack.kill("kafka-east")
    assert not kafka_answers(int(local.bootstrap.rpartition(":")[2]))
    assert {server.name for server in stack.states() if server.state != "running"} == {"kafka-east"}
    stack.restart("kafka-east")
    admin = KafkaAdminClient(**local.options())
    topics = admin.list_topics()
    admin.close()
    assert "survives" in topics


@pytest.mark.alone  # another stack could take the ports that are given back
def test_a_supervisor_starts_again_what_ends_and_leaves_nothing_when_it_is_killed(tmp_path: Path) -> None:
    """A killed server is back, with why in the list; SIGKILL of the owner ends every server, the second one too."""
    command = [sys.executable, "-m", "infra.local.supervisor", str(tmp_path), "0", "0", "east"]
    supervisor = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=os.environ.copy())
    try:
        wait_until(lambda: owner_of(tmp_path) is not None or supervisor.poll() is not None, 90, "the stack")
        found = states(tmp_path)
        assert {server.state for server in found} == {"running"}
        (store,) = [server for server in found if server.name == "s3-east"]
        os.kill(store.pid or 0, signal.SIGKILL)

        def again() -> bool:
            (now,) = [server for server in states(tmp_path) if server.name == "s3-east"]
            return (now.state, now.restarts) == ("running", 1) and now.reason.startswith("signal 9 after")

        wait_until(again, 20, "the killed server")
        wait_until(lambda: http_answers(f"http://127.0.0.1:{store.port}/farside-health"), 20, "its answer")
        found = states(tmp_path)
        pids = [json.loads((tmp_path / "pids" / f"{server.name}.pid").read_text()) for server in found]
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    wait_until(lambda: not any(ProcessId(**pid).alive() for pid in pids), 10, "the end of the servers")
    wait_until(lambda: all(is_free(server.port) for server in found), 10, "free ports")
    assert owner_of(tmp_path) is None
