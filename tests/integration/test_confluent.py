"""A replay into Confluent's wire format, with a real registry, as Confluent's own deserializer reads it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.registry import registry
from infra.local.tools import Tools, registry_jar
from pipelines import paths
from pipelines.core.replay_rules import origin_of
from pipelines.flows.log.log_reader import Decoding, scan
from pipelines.flows.replication.replay_requests import origin
from pipelines.ports import Fetched
from schemas.codec import HEADER_BYTES, MARKER, Codec, schema_text
from schemas.records import DataShard, DataVersion, EpochChange, Event, Metric, MetricBatch, MetricColumn
from services.adapters.kafka.log import KafkaLog, KafkaSource
from services.adapters.system_clock import SystemClock
from services.cli.events_view import plain
from services.runtime.clients import cluster_of, store_of
from tests.integration.foreign_environment import read
from tests.integration.test_events import CODEC, _common, _message, _metric, _Plane, opened

pytestmark = pytest.mark.servers
TORN, UNKNOWN, LATER = "farside.metrics/0/2", "farside.metrics/0/7", "farside.metrics/0/5"


def _later_metric(seq: int, field: str) -> tuple[str, str, bytes]:
    """A metric of a later version, which has one field more: fingerprint, schema, value."""
    schema = json.loads(schema_text(Metric))
    schema["fields"].append({"name": field, "type": "string", "default": ""})
    name = Codec().learn(json.dumps(schema))
    return name, json.dumps(schema), MARKER + bytes.fromhex(name) + CODEC.encode(_metric(seq))[HEADER_BYTES:] + b"\x00"


def _more() -> list[Event]:
    """A batch of metrics, which has records in it, and an event of another lane."""
    column = MetricColumn(name="loss", rows=(0,), values=(0.5,))
    return [
        MetricBatch(
            **_common(8, "metrics"), first_seq=7, steps=(7, 8), times_ms=(1_790_000_000_007, 8), columns=(column,)
        ),
        DataVersion(
            **_common(1, "data-versions"),
            name="corpus",
            digest="d",
            shards=(DataShard(path="a", size=1, sha256="00"), DataShard(path="ä", size=2, sha256="ff")),
            sampler="shuffle",
            data_seed=7,
        ),
        EpochChange(
            **_common(1, "control"),
            parent_epoch=0,
            fork_step=-1,
            fork_manifest_digest="",
            holder="east",
            holder_before="",
            reason="first",
            actor="ops",
            gates=("a", "b"),
        ),
    ]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Plane]:
    """East's log has every kind of event, a torn one, one of a later version, and one that nobody has the schema of."""
    with opened(tmp_path_factory.mktemp("confluent")) as found:
        name, schema, later = _later_metric(6, "unit")
        _, _, unknown = _later_metric(7, "nobody_knows")
        store_of(found.settings.region("east")).create(paths.schema(name), schema.encode())
        log = KafkaLog(cluster_of(found.settings.region("east")))
        log.publish([_message(_metric(6), later), _message(_metric(7)), _message(_metric(7), unknown)])
        log.publish([_message(one) for one in _more()])
        log.close()
        yield found


def _log_of_east(plane: _Plane) -> dict[str, tuple[Fetched, Any]]:
    """Every event that our own reader understands, by where a replayed copy of it says that it comes from."""
    east = plane.settings.region("east")
    source = KafkaSource(cluster_of(east, east.operator_kafka_credentials_file))
    decoding = Decoding(Codec(), SystemClock(), store_of(east).get)
    seen = [decoding.see(one) for one in scan(source, paths.TOPICS, SystemClock())]
    source.close()
    return {origin(one.fetched): (one.fetched, plain(one.record)) for one in seen if one.record is not None}


def test_confluents_own_deserializer_reads_a_replayed_topic_and_gets_the_same_values(
    plane: _Plane, clean_python: Path, tmp_path: Path
) -> None:
    """Every record with its key, headers and values; the two that nobody can read are told, and it exits 1."""
    ours = _log_of_east(plane)
    with registry(tmp_path, Tools.cached().java, registry_jar()) as url:
        replay = ("replay", "--run", "gpt", "--to", "topic:replay.confluent", "--wire", "confluent", "--registry", url)
        shown = plane.farside(*replay).stdout
        assert f"in Confluent's wire format, schemas at {url}" in shown
        assert (_subjects(url), "nothing was done" in shown) == ([], True)
        result = plane.farside(*replay, "--execute", "--json", code=1)
        ended = json.loads(result.stdout.splitlines()[-1])
        assert (ended["done"], ended["counts"]) == (True, {"left_out": 2, "published": len(ours)})
        left_out = [line for line in result.stderr.splitlines() if "is left out" in line]
        assert [line.split(" is left out: ")[0] for line in left_out] == [f"farside: {TORN}", f"farside: {UNKNOWN}"]
        assert "undecodable Metric" in left_out[0]
        assert "the region's store has no schemas/" in left_out[1]
        kinds = ("Checkpoint", "DataVersion", "EpochChange", "Heartbeat", "Metric", "MetricBatch")
        assert _subjects(url) == [f"dev.farside.{one}" for one in kinds]
        east = plane.settings.region("east")
        looks = cluster_of(east, east.operator_kafka_credentials_file)
        theirs = read(clean_python, url, looks, ["replay.confluent"], tmp_path)
    found = {dict(one["headers"])["farside_replayed_from"]: one for one in theirs}
    assert len(theirs) == len(found) == len(ours) == 11
    assert found.keys() == ours.keys()
    for place, (fetched, values) in ours.items():
        one = found[place]
        later = {"unit": ""} if place.endswith(LATER) else {}
        assert (one["key"], one["record"]) == (fetched.key.decode(), values | later)
        marks = {"farside_replay": ended["replay"], "farside_replayed_from": place}
        assert dict(one["headers"]) == {name: value.decode() for name, value in fetched.headers} | marks
    assert {one["name"] for one in theirs} == set(kinds)


def test_a_registry_that_is_gone_is_told_and_the_topic_gets_nothing(plane: _Plane) -> None:
    """Exit code 1, the address, and that the same command goes on."""
    gone = ("--wire", "confluent", "--registry", "http://127.0.0.1:1", "--wait", "0.5")
    result = plane.farside("replay", "--to", "topic:replay.gone", *gone, "--execute", "--json", code=1)
    ended = json.loads(result.stdout.splitlines()[-1])
    assert (ended["done"], ended["counts"]) == (False, {})
    assert ended["why"].startswith("schema registry http://127.0.0.1:1 does not answer")
    east = plane.settings.region("east")
    source = KafkaSource(cluster_of(east, east.operator_kafka_credentials_file))
    assert [one for one in scan(source, ["replay.gone"], SystemClock()) if origin_of(one.headers)] == []
    source.close()


def _subjects(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/subjects", timeout=10) as answer:  # noqa: S310 - loopback
        return sorted(json.load(answer))
