"""Confluent's wire format and the registry's client, without a registry: bytes, refusals and what is left out."""

from __future__ import annotations

import base64
import http.server
import io
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines.core.replay_rules import origin_of, replay_of
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.log.log_reader import Decoding
from pipelines.ports import Fetched, Partition
from schemas import confluent
from schemas.codec import HEADER_BYTES, MARKER, Codec, DecodeError, all_schemas, fingerprint, schema_text, writer_of
from schemas.records import Metric
from services.adapters.http.schema_registry import HttpSchemaRegistry, RegistryUser
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.schema_registry import MemorySchemaRegistry
from services.adapters.system_clock import SystemClock
from services.cli import app
from services.cli.registry import PASSWORD, USERNAME, Wire, WireFormat, user_of
from services.operations.replay_targets import ConfluentWire, TopicTarget
from tests.core.replication.test_redrive_requests import _metric

CODEC = Codec()
EAST = Partition("east", "id", "farside.metrics", 0)


def _newer() -> tuple[str, bytes]:
    """A metric's schema of a later version, and a value that was written with it."""
    schema = json.loads(schema_text(Metric))
    schema["fields"].append({"name": "unit", "type": "string", "default": ""})
    name = Codec().learn(json.dumps(schema))
    return json.dumps(schema), MARKER + bytes.fromhex(name) + CODEC.encode(_metric(9))[HEADER_BYTES:] + b"\x00"


# --- bytes ---


@given(schema_id=st.integers(0, confluent.ID_MAX), seq=st.integers(1, 2**40))
def test_only_the_header_is_exchanged_and_the_datum_stays(schema_id: int, seq: int) -> None:
    """Zero, four bytes of id, and then what fastavro reads with the writer's schema alone."""
    value = CODEC.encode(_metric(seq))
    framed = confluent.framed(value, schema_id)
    assert struct.unpack(">BI", framed[:5]) == (0, schema_id)
    assert framed[5:] == value[HEADER_BYTES:]
    schema = fastavro.parse_schema(json.loads(schema_text(Metric)))
    read = fastavro.schemaless_reader(io.BytesIO(framed[5:]), schema, None)
    assert isinstance(read, dict)
    assert read["seq"] == seq


@given(st.binary(max_size=30))
def test_bytes_that_are_not_ours_get_no_other_header(value: bytes) -> None:
    """A DecodeError that keeps them."""
    with pytest.raises(DecodeError) as caught:
        confluent.framed(value, 1)
    assert caught.value.value == value


@pytest.mark.parametrize("schema_id", [-1, 2**31])
def test_an_id_that_no_reader_takes_is_refused(schema_id: int) -> None:
    """Readers take the four bytes for a signed number."""
    with pytest.raises(ValueError, match="schema's id"):
        confluent.framed(CODEC.encode(_metric(1)), schema_id)


def test_a_subject_is_the_records_full_name() -> None:
    """RecordNameStrategy; the same for every version of a record."""
    assert confluent.subject_of(schema_text(Metric)) == "dev.farside.Metric"
    assert confluent.subject_of('{"type": "record", "name": "a.B", "namespace": "c", "fields": []}') == "a.B"
    assert confluent.subject_of('{"type": "record", "name": "B", "fields": []}') == "B"
    assert {confluent.subject_of(text).rpartition(".")[0] for text in all_schemas().values()} == {"dev.farside"}


# --- the topic ---


def _fetched(*values: bytes) -> list[Fetched]:
    return [Fetched(EAST, at, b"gpt", value, (("ce_id", b"%d" % at),)) for at, value in enumerate(values)]


def _target(registry: MemorySchemaRegistry, kafka: MemoryKafka, reported: list[str], **stored: bytes) -> TopicTarget:
    decoding = Decoding(Codec(), SystemClock(), lambda key: stored.get(key.rpartition("/")[2]))
    target = TopicTarget(
        "replay.x", MemoryLog(kafka), "r-1", wire=ConfluentWire(decoding, registry), say=reported.append
    )
    target.look(MemorySource(kafka), SystemClock())
    return target


def test_a_topic_gets_every_readable_record_and_each_other_one_is_told_with_its_place_and_reason() -> None:
    """Key, headers and marks are as ever; torn and of an unknown schema: counted, said, and not in the topic."""
    kafka, registry, reported = MemoryKafka("east", lambda: 1), MemorySchemaRegistry(), list[str]()
    good, (_, newer) = CODEC.encode(_metric(1)), _newer()
    records = _fetched(good, good[:-3], newer, CODEC.encode(_metric(2)), b"no Avro")
    assert _target(registry, kafka, reported).deliver(records) == {"published": 2, "there": 0, "left_out": 3}
    there = [one for one in kafka.topic("replay.x") if one is not None]
    assert [one.value for one in there] == [confluent.framed(records[at].value, 1) for at in (0, 3)]
    assert [(one.key, replay_of(one.headers), origin_of(one.headers)) for one in there] == [
        (b"gpt", "r-1", f"east/farside.metrics/0/{at}") for at in (0, 3)
    ]
    assert [line.partition(":")[0] for line in reported] == [f"farside.metrics/0/{at} is left out" for at in (1, 2, 4)]
    assert "undecodable Metric" in reported[0]
    assert f"unknown schema fingerprint {writer_of(newer)}" in reported[1]
    assert "not Avro single-object encoding" in reported[2]


def test_a_schema_that_the_regions_store_has_is_fetched_and_registered_as_it_is() -> None:
    """A region that was upgraded earlier: its records are readable by everybody else too."""
    kafka, registry, reported = MemoryKafka("east", lambda: 1), MemorySchemaRegistry(), list[str]()
    text, newer = _newer()
    target = _target(registry, kafka, reported, **{writer_of(newer): text.encode()})
    assert target.deliver(_fetched(newer, CODEC.encode(_metric(1)))) == {"published": 2, "there": 0}
    assert (registry.schemas, reported) == ([text, schema_text(Metric)], [])
    assert registry.subjects == {"dev.farside.Metric": [1, 2]}


def test_a_registry_is_asked_once_a_schema_and_one_that_is_away_publishes_nothing() -> None:
    """The batch is delivered whole once it is back; what is left out is then told once."""

    class _Away(MemorySchemaRegistry):
        asked, away = 0, True

        def register(self, subject: str, schema: str) -> int:
            """Not at first."""
            self.asked += 1
            if self.away:
                raise RetryableError("away")
            return super().register(subject, schema)

    kafka, registry, reported = MemoryKafka("east", lambda: 1), _Away(), list[str]()
    target, records = _target(registry, kafka, reported), _fetched(b"no Avro", *[CODEC.encode(_metric(1))] * 3)
    with pytest.raises(RetryableError):
        target.deliver(records)
    assert (kafka.has("replay.x") and len(kafka.topic("replay.x")), reported) == (0, [])
    registry.away = False
    assert target.deliver(records) == {"published": 3, "there": 0, "left_out": 1}
    assert (registry.asked, len(reported)) == (2, 1)
    assert _target(registry, kafka, reported).deliver(records) == {"published": 0, "there": 3, "left_out": 1}


# --- the client ---


class _Registry(http.server.BaseHTTPRequestHandler):
    """Answers as it is told to, and keeps what it was asked."""

    answer: tuple[int, bytes, dict[str, str]]
    asked: list[tuple[str, str | None, dict[str, str]]]

    def do_POST(self) -> None:
        """Note it, and answer."""
        code, body, headers = self.answer
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], sent))
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Nothing to say."""


@pytest.fixture
def answering() -> Iterator[tuple[type[_Registry], str]]:
    """A server on loopback whose answer is set, and its address."""

    class _One(_Registry):
        answer = (200, b'{"id": 7}', {})
        asked: list[tuple[str, str | None, dict[str, str]]] = []  # noqa: RUF012 - one a test

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _One)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield _One, f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


def test_a_schema_is_registered_by_the_standard_request_as_the_user(answering: tuple[type[_Registry], str]) -> None:
    """The subject is quoted, the schema is a text in the body, the user goes by basic authentication."""
    server, url = answering
    assert HttpSchemaRegistry(f"{url}/", RegistryUser("ops", "s3cret")).register("a/b.C", '{"type": "int"}') == 7
    pair = base64.b64encode(b"ops:s3cret").decode()
    sent = {"schema": '{"type": "int"}', "schemaType": "AVRO"}
    assert server.asked == [("/api/subjects/a%2Fb.C/versions", f"Basic {pair}", sent)]
    assert HttpSchemaRegistry(url).register("a", "{}") == 7
    assert server.asked[1][1] is None


@pytest.mark.parametrize(
    ("code", "body", "error", "why"),
    [
        (401, b"", MisconfiguredError, "user 'ops' is not let in: give its credentials"),
        (403, b"", MisconfiguredError, "user 'ops' may not register a.B"),
        (404, b"<html>", MisconfiguredError, "name its root, below which /subjects is"),
        (409, b'{"error_code": 409, "message": "not\\n backward"}', MisconfiguredError, r"rule .*\(not backward\)"),
        (422, b'{"error_code": 42201, "message": "bad type"}', MisconfiguredError, r"schema of a.B \(bad type\)"),
        (400, b"[]", MisconfiguredError, "does not take the request"),
        (429, b"", RetryableError, "answered 429"),
        (503, b'{"message": "no leader"}', RetryableError, "answered 503 .no leader."),
        (200, b"<html>", MisconfiguredError, "answers with no schema's id"),
        (200, b'{"id": "7"}', MisconfiguredError, "answers with no schema's id"),
        (200, b'{"id": 4294967296}', MisconfiguredError, "answers with no schema's id"),
    ],
)
def test_a_refusal_says_where_what_and_what_to_do_and_never_the_password(
    answering: tuple[type[_Registry], str], code: int, body: bytes, error: type[Exception], why: str
) -> None:
    """One line each; what may pass by itself is retryable, the rest is a person's."""
    server, url = answering
    server.answer = (code, body, {})
    with pytest.raises(error, match=why) as caught:
        HttpSchemaRegistry(url, RegistryUser("ops", "s3cret")).register("a.B", "{}")
    assert str(caught.value).startswith(f"schema registry {url}")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in f"{caught.value}{caught.value.__cause__}{RegistryUser('ops', 's3cret')}"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirection_is_told_and_the_password_is_not_taken_elsewhere(
    answering: tuple[type[_Registry], str], code: int
) -> None:
    """One request, and the new address is in the text."""
    server, url = answering
    server.answer = (code, b"", {"Location": f"{url}/elsewhere"})
    with pytest.raises(MisconfiguredError, match=f"it is now at {url}/elsewhere: name that"):
        HttpSchemaRegistry(url, RegistryUser("ops", "s3cret")).register("a.B", "{}")
    assert len(server.asked) == 1


def test_silence_is_retryable_and_ends_in_time() -> None:
    """Nobody listens; somebody listens and says nothing."""
    with pytest.raises(RetryableError, match="does not answer: "):
        HttpSchemaRegistry("http://127.0.0.1:1").register("a", "{}")
    with (
        http.server.HTTPServer(("127.0.0.1", 0), _Registry) as deaf,
        pytest.raises(RetryableError, match="does not answer: "),
    ):
        HttpSchemaRegistry(f"http://127.0.0.1:{deaf.server_port}", timeout_s=0.05).register("a", "{}")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://registry", "its address is http://"),
        ("file:///etc/passwd", "its address is http://"),
        ("registry:8081", "its address is http://"),
        ("http://", "its address is http://"),
        ("http://registry:port", "no URL"),
        ("http://registry/?key=1", "its address is http://"),
        ("https://ops:s3cret@registry", "has no user in it: give the credentials in a file"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_asked(url: str, why: str) -> None:
    """And a password in it is not shown again."""
    with pytest.raises(MisconfiguredError, match=why) as caught:
        HttpSchemaRegistry(url)
    assert "s3cret" not in str(caught.value)


# --- the options ---


def test_credentials_come_from_a_file_or_else_from_the_environment(tmp_path: Path) -> None:
    """The file goes first; half a pair is refused; no error shows what is in them."""
    both = {USERNAME: "env", PASSWORD: "s3cret"}
    file = tmp_path / "user.json"
    file.write_text('{"username": "ops", "password": "pw"}', encoding="utf-8")
    assert user_of(file, both) == RegistryUser("ops", "pw")
    assert user_of(None, both) == RegistryUser("env", "s3cret")
    assert user_of(None, {}) is None
    with pytest.raises(MisconfiguredError, match=r"only one of .* is set"):
        user_of(None, {PASSWORD: "s3cret"})
    file.write_text('{"password": "s3cret"}', encoding="utf-8")
    with pytest.raises(MisconfiguredError, match="no JSON object with username") as caught:
        user_of(file, both)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(MisconfiguredError, match="No such file"):
        user_of(tmp_path / "none", both)


@pytest.mark.parametrize(
    ("wiring", "into_topic", "why"),
    [
        (WireFormat(Wire.CONFLUENT), True, "needs --registry URL"),
        (WireFormat(Wire.CONFLUENT, "http://r"), False, "is possible with --to topic:"),
        (WireFormat(Wire.CONFLUENT, "r"), True, "its address is http://"),
        (WireFormat(Wire.AVRO, "http://r"), True, "is used with --wire confluent only"),
    ],
)
def test_a_wire_format_that_cannot_be_had_is_refused_with_the_plan(
    wiring: WireFormat, into_topic: bool, why: str
) -> None:
    """Before a topic is made or anything is read."""
    with pytest.raises(MisconfiguredError, match=why):
        wiring.check(into_topic=into_topic)


def test_all_schemas_are_registered_and_told(answering: tuple[type[_Registry], str]) -> None:
    """The oldest release first, so that a registry's versions count upwards; errors have their exit codes."""
    server, url = answering
    answer = CliRunner().invoke(app, ["schemas", "register", "--registry", url, "--json"])
    assert answer.exit_code == 0, answer.output
    registered = json.loads(answer.stdout)
    assert [(one["fingerprint"], one["id"]) for one in registered] == [(name, 7) for name in all_schemas()]
    assert {"subject": "dev.farside.Metric", "fingerprint": fingerprint(Metric), "id": 7} in registered
    assert [one[2]["schema"] for one in server.asked] == list(all_schemas().values())
    shown = CliRunner().invoke(app, ["schemas", "register", "--registry", url]).stdout
    assert len(shown.splitlines()) == len(registered)
    server.answer = (401, b"", {})
    refused = CliRunner().invoke(app, ["schemas", "register", "--registry", url])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "without a user is not let in" in refused.stderr
    server.answer = (500, b"", {})
    assert CliRunner().invoke(app, ["schemas", "register", "--registry", url]).exit_code == 1
