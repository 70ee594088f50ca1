"""The event plane on real brokers: looked at by an operator, redriven, audited, and read by somebody else's tools."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from typer.testing import CliRunner, Result

from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines import paths
from pipelines.flows.agent.publisher import headers_of
from pipelines.flows.log.log_reader import Decoding, scan
from pipelines.flows.log.writer_schemas import store_schemas
from pipelines.paths import CheckpointId
from pipelines.ports import Fetched, Message
from schemas.codec import HEADER_BYTES, MARKER, Codec, digest, schema_text
from schemas.records import Checkpoint, Event, Heartbeat, LastSeq, Metric
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.adapters.s3.object_store import S3ObjectStore
from services.adapters.system_clock import SystemClock
from services.cli import app
from services.cli.events_view import plain
from services.demo import local_config
from services.demo.actors import Actors
from services.http.endpoints import ask, endpoint_of
from services.runtime.clients import client_of, cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings, load
from tests.brokers import admin_of
from tests.integration.foreign_environment import read
from tests.manifests import manifest_of, shard_of, state_of
from tests.waiting import wait_until

pytestmark = pytest.mark.servers
CODEC = Codec()
DEADLINE_S = 60.0
OWN = CheckpointId("gpt", 1, 1, 10)
CHUNK, STATE = b"the chunk", b"the state"


def _common(seq: int, lane: str) -> dict[str, Any]:
    return {
        "event_id": f"gpt/1/r0/{lane}/{seq}",
        "run": "gpt",
        "region": "east",
        "epoch": 1,
        "attempt": 1,
        "producer": "r0",
        "seq": seq,
        "step": seq,
        "time_ms": 1_790_000_000_000 + seq,
    }


def _metric(seq: int) -> Metric:
    return Metric(**_common(seq, "metrics"), values={"loss": 1.0 / seq, "grad_norm": float("inf")})


def _message(event: Event, value: bytes | None = None) -> Message:
    body = CODEC.encode(event) if value is None else value
    return Message(paths.topic(event.lane), b"gpt", body, headers_of(event, event.lane))


@dataclasses.dataclass
class _Plane:
    """East has events, one of them torn, and a checkpoint without its chunk; west follows."""

    stack: Stack
    settings: Settings
    config: Path
    actors: Actors

    def farside(self, *args: str, code: int = 0) -> Result:
        """The command, which ends with this code."""
        result = CliRunner().invoke(app, [*args, "--config", str(self.config)], env={"COLUMNS": "100"})
        assert result.exit_code == code, (args, result.output, result.stderr, result.exception)
        return result

    def lines(self, *args: str, code: int = 0) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.farside(*args, "--json", code=code).stdout.splitlines()]

    def answers(self, port: int) -> bool:
        """Whether a service serves there."""
        at = dataclasses.replace(endpoint_of(self.settings, "replicator", "west"), port=port)
        return ask(at, "/status", dict[str, Any]) is not None

    def fill_east(self) -> None:
        """As its agent would have."""
        store, signer = store_of(self.settings.region("east")), signer_of(self.settings, "east")
        manifest = manifest_of(OWN, lineage_seq=1, shards=(shard_of(0, CHUNK),), rank_states=(state_of(0, STATE),))
        payload = CODEC.encode(manifest)
        store.create(OWN.rank_state(0), STATE)
        store.create(OWN.manifest, signer.sign(payload))
        event = Checkpoint(
            **_common(1, "checkpoints") | {"step": 10},
            state="committed",
            manifest_key=OWN.manifest,
            manifest_digest=digest(payload),
            lineage_seq=1,
            size_bytes=len(CHUNK) + len(STATE),
            reason="",
        )
        last = (LastSeq(producer="r0", lane="metrics", seq=6), LastSeq(producer="r0", lane="checkpoints", seq=1))
        beat = Heartbeat(**_common(1, "heartbeats"), node="n0", phase="train", budget_s=1.0, last_seqs=last)
        log = KafkaLog(cluster_of(self.settings.region("east")))
        torn = CODEC.encode(_metric(3))[:-3]
        log.publish([_message(_metric(seq), torn if seq == 3 else None) for seq in range(1, 6)])
        log.publish([_message(event), _message(beat)])
        log.close()


@contextmanager
def two_regions(folder: Path, *, begun: bool = True) -> Iterator[tuple[Stack, Settings, Path, Actors]]:
    """East and west with topics, schemas and, if it has begun, the run's first epoch; and nobody at work."""
    with Stack(folder / "stack", Tools.cached(), ("east", "west"), LinkShape()) as stack:
        stack.start()
        config = local_config.write(stack.layout)
        settings = load(config, {})
        for name in ("east", "west"):
            ensure_topics(cluster_of(settings.region(name)), replication=1)
            store_schemas(store_of(settings.region(name)))
            seen = {"run": "gpt", "epoch": 1, "region": "east", "forks": [[1, 0, -1]]}
            if begun:
                store_of(settings.region(name)).create(paths.epoch_seen("gpt", 1), json.dumps(seen).encode())
        actors = Actors(stack.folder, config, settings.service_ports())
        try:
            yield stack, settings, config, actors
        finally:
            actors.stop()


@contextmanager
def opened(folder: Path) -> Iterator[_Plane]:
    """East filled, west empty, and nobody who follows."""
    with two_regions(folder) as parts:
        found = _Plane(*parts)
        found.fill_east()
        yield found


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Plane]:
    """Once for the tests of this file, in their order; west's replicator runs."""
    with opened(tmp_path_factory.mktemp("events")) as found:
        found.actors.service("replicator", "west")
        yield found


def test_what_is_in_a_log_is_shown_whole_by_readers_that_nobody_notices(plane: _Plane) -> None:
    """List, tail, show and count agree; what is torn is shown with its reason; no consumer group comes of it."""
    shown = plane.lines("events", "list", "--at", "east", "--run", "gpt", "--lane", "metrics")
    assert [line["place"] for line in shown] == [f"farside.metrics/0/{at}" for at in range(5)]
    assert [bool(line["problem"]) for line in shown] == [False, False, True, False, False]
    assert shown[0]["record"]["values"] == {"loss": 1.0, "grad_norm": "inf"}
    table = plane.farside("events", "list", "--at", "east", "--steps", "3..4").stdout
    assert "UNDECODABLE" in table
    assert "loss=0.25" in table
    assert max(map(len, table.splitlines())) <= 100
    assert len(plane.lines("events", "tail", "--at", "east", "--since", "1h", "--steps", "..2", "--limit", "3")) == 3
    assert plane.lines("events", "list", "--at", "east", "--until", "1h") == []
    (one,) = plane.lines("events", "show", "gpt/1/r0/metrics/2", "--at", "east")
    assert [one] == plane.lines("events", "show", "metrics/0/1", "--at", "east") == [shown[1]]
    raw = plane.lines("events", "show", "metrics/0/2", "--at", "east", "--raw", "hex")
    assert raw[0]["value"] == CODEC.encode(_metric(3))[:-3].hex()
    counts_text = plane.farside("events", "count", "--at", "east", "--by", "lane", "--lane", "metrics", "--json").stdout
    (counted,) = json.loads(counts_text)
    assert (counted["records"], counted["undecodable"], counted["steps"]) == (5, 1, [1, 5])
    assert "offset 99 is outside" in plane.farside("events", "show", "metrics/0/99", "--at", "east", code=1).stderr
    for name in ("east", "west"):
        admin = KafkaAdminClient(**admin_of(plane.stack, name).options())
        assert admin.list_groups() == []
        admin.close()


def test_I13_a_dead_letter_is_redriven_when_its_bytes_are_there_and_an_audit_accounts_for_all(plane: _Plane) -> None:
    """Refused while the chunk is missing; restored, the checkpoint is copied and visible once."""
    wait_until(lambda: len(plane.lines("events", "dead", "list", "--at", "west")) == 2, DEADLINE_S, "two letters")
    letters = {one["reason"]: one for one in plane.lines("events", "dead", "list", "--at", "west")}
    assert set(letters) == {"corrupt", "undecodable"}
    place = letters["corrupt"]["letter"]
    shown = plane.farside("events", "dead", "show", place, "--at", "west").stdout
    assert "Traceback" in shown
    redrive = ("events", "dead", "redrive", "--at", "west", "--yes")
    assert "the cause still holds: corrupt" in plane.farside(*redrive, place, code=1).stdout
    store_of(plane.settings.region("east")).create(OWN.chunk(0, 0), CHUNK)
    (done,) = plane.lines(*redrive, "--lane", "checkpoints")
    assert (done["state"], done["why"]) == ("done", "published")
    assert "no dead letter is selected" in plane.farside(*redrive, place, code=1).stderr
    (visible,) = plane.lines("events", "list", "--at", "west", "--lane", "checkpoints")
    assert ["farside_redriven", place.replace("/", ":")] in visible["headers"]
    assert store_of(plane.settings.region("west")).get(OWN.chunk(0, 0)) == CHUNK
    (report,) = plane.lines("events", "audit", "--run", "gpt")
    assert report["unaccounted"] == []
    found = {(one["lane"], one["region"]): one for one in report["lines"]}
    assert (found["metrics", "east"]["accepted"], found["metrics", "east"]["in_flight"]) == (6, 1)
    assert (found["metrics", "west"]["visible"], found["metrics", "west"]["dead"]) == (4, 1)
    assert (found["checkpoints", "west"]["visible"], found["checkpoints", "west"]["dead"]) == (1, 0)
    assert "every event is accounted for" in plane.farside("events", "audit", "--run", "gpt", "--all").stdout


def test_I15_a_replay_is_planned_changes_nothing_and_goes_to_handlers_a_topic_and_a_file(
    plane: _Plane, tmp_path: Path
) -> None:
    """The plan says done, and so do the handlers; copies hold the same bytes, marked; the file is read as the log."""
    listed = ("events", "list", "--at", "west", "--lane", "metrics", "--lane", "checkpoints", "--limit", "0")
    before = plane.lines(*listed)
    shown = plane.farside("replay", "--run", "gpt", "--lane", "metrics").stdout
    assert "the handlers: 4 already done (nothing will change), 1 dead letters (" in shown
    assert "nothing was done" in shown
    replay = ("replay", "--run", "gpt", "--execute")
    _, done = plane.lines(*replay, "--lane", "metrics", "--lane", "checkpoints")
    assert (done["done"], done["counts"]) == (True, {"dead": 1, "done": 5})
    assert plane.lines(*listed) == before
    _, copied = plane.lines(*replay, "--lane", "metrics", "--to", "topic:replay.incident", "--rate", "100")
    assert copied["counts"] == {"published": 5}
    (there,) = (one for one in _topic(plane, "replay.incident"))
    assert [item.value for item in there] == [item.value for item in _topic(plane, paths.METRICS)[0]]
    assert {dict(item.headers)["farside_replay"].decode() for item in there} == {copied["replay"]}
    recording = str(tmp_path / "incident.jsonl")
    _, recorded = plane.lines(*replay, "--to", recording)
    lines = [json.loads(line) for line in Path(recording).read_text().splitlines()]
    assert len(lines) == recorded["counts"]["recorded"] == 7
    (plan,) = plane.lines("replay", "--from-file", recording, "--lane", "metrics", "--to", "topic:replay.again")
    assert [row["records"] for row in plan["rows"]] == [5]
    _, again = plane.lines(
        "replay", "--from-file", recording, "--lane", "metrics", "--to", "topic:replay.again", "--execute"
    )
    assert again["counts"] == {"published": 5}
    assert "cannot be replayed into handlers" in plane.farside("replay", "--lane", "heartbeats", code=2).stderr


def test_I13_bytes_that_a_standby_lost_are_copied_again_by_a_replay(plane: _Plane) -> None:
    """The plan says damaged; executed, the chunk is there again, and nothing is visible twice."""
    store = store_of(plane.settings.region("west"))
    sweeper = client_of(plane.settings.region("west").s3, _sweeper(plane))
    S3ObjectStore(sweeper, plane.settings.region("west").bucket).delete(OWN.chunk(0, 0))
    assert store.get(OWN.chunk(0, 0)) is None
    replay = ("replay", "--run", "gpt", "--lane", "checkpoints")
    assert "1 damaged" in plane.farside(*replay).stdout
    _, done = plane.lines(*replay, "--execute", "--again")
    assert done["counts"] == {"repaired": 1}
    assert store.get(OWN.chunk(0, 0)) == CHUNK
    assert len(plane.lines("events", "list", "--at", "west", "--lane", "checkpoints")) == 1


def test_a_rebuild_is_refused_beside_the_regions_own_replicator(plane: _Plane) -> None:
    """Both would be one writer, and one of them would be fenced; and a rebuild is of whole lanes."""
    into = ("replay", "--at", "east", "--into", "west", "--execute")
    assert "the replicator of west runs" in plane.farside(*into, code=2).stderr
    assert "the only filter that it accepts is --lane" in plane.farside(*into, "--epoch", "1", code=2).stderr


def _topic(plane: _Plane, topic: str) -> list[list[Fetched]]:
    source = KafkaSource(admin_of(plane.stack, "east"))
    try:
        return [list(scan(source, [topic], SystemClock()))]
    finally:
        source.close()


def _sweeper(plane: _Plane) -> Path:
    found = plane.settings.region("west").sweeper_credentials_file
    assert found is not None
    return found


def test_somebody_elses_reader_gets_the_same_values_from_the_exported_schemas_alone(
    plane: _Plane, clean_python: Path, tmp_path: Path
) -> None:
    """Every topic of both regions but the torn record: key, headers and every field are what our own reader gets."""
    exported = CliRunner().invoke(app, ["schemas", "export", "--to", str(tmp_path / "out")])
    assert exported.exit_code == 0, exported.output
    assert subprocess.run(
        [str(clean_python), "-I", "-c", "import schemas"], check=False, capture_output=True
    ).returncode
    topics = [one for one in paths.TOPICS if one != paths.CONTROL]
    for name in ("east", "west"):
        here = plane.settings.region(name)
        looks = cluster_of(here, here.operator_kafka_credentials_file)
        ours, torn = [], []
        source, decoding = KafkaSource(looks), Decoding(Codec(), SystemClock())
        for fetched in scan(source, topics, SystemClock()):
            seen = decoding.see(fetched)
            if seen.record is None:
                torn.append(fetched)
            else:
                ours.append((fetched.partition.topic, fetched.offset, fetched.key.decode(), plain(seen.record)))
        source.close()
        assert len(torn) == (1 if name == "east" else 0)
        readable = [one for one in topics if not any(item.partition.topic == one for item in torn)]
        theirs = read(clean_python, str(tmp_path / "out"), looks, readable, tmp_path)
        found = [(one["topic"], one["offset"], one["key"], one["record"]) for one in theirs]
        assert len(found) >= 2
        assert sorted(found, key=str) == sorted((one for one in ours if one[0] in readable), key=str)


def test_a_schema_that_is_newer_than_the_operators_command_is_fetched_from_the_regions_store(plane: _Plane) -> None:
    """A region that was upgraded earlier: its events are decoded all the same."""
    newer = json.loads(schema_text(Metric))
    newer["fields"].append({"name": "unit", "type": "string", "default": ""})
    name = Codec().learn(json.dumps(newer))
    value = MARKER + bytes.fromhex(name) + CODEC.encode(_metric(6))[HEADER_BYTES:] + b"\x00"
    log = KafkaLog(cluster_of(plane.settings.region("east")))
    log.publish([_message(_metric(6), value)])
    log.close()
    (before,) = plane.lines("events", "show", "gpt/1/r0/metrics/6", "--at", "east")
    assert f"has no schemas/{name}" in before["problem"]
    store_of(plane.settings.region("east")).create(paths.schema(name), json.dumps(newer).encode())
    (after,) = plane.lines("events", "show", "gpt/1/r0/metrics/6", "--at", "east")
    assert after["record"] == plain(_metric(6))


def test_with_the_primary_gone_the_standby_is_looked_at_and_the_audit_says_what_nobody_can_know(plane: _Plane) -> None:
    """Without --at the first region that answers is read, and said; the audit counts what is there, and exits 1."""
    plane.stack.kill("kafka-east")
    plane.stack.kill("s3-east")
    result = plane.farside("events", "list", "--lane", "metrics", "--json")
    assert "east does not answer" in result.stderr
    assert "reading the log of west" in result.stderr
    assert len(result.stdout.splitlines()) >= 4
    assert "no log can be read; tried east" in plane.farside("events", "count", "--at", "east", code=1).stderr
    (report,) = plane.lines("events", "audit", "--run", "gpt", code=1)
    assert any(line.startswith("east: what was accepted there") for line in report["unaccounted"])
    west = [one for one in report["lines"] if one["region"] == "west" and one["lane"] == "metrics"]
    assert [(one["accepted"], one["dead"], one["gaps"]) for one in west] == [(None, 1, [])]
