"""Records and their schemas: they match, they evolve, and bytes that are not ours are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import avro.compatibility
import avro.schema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, records
from schemas.codec import Codec, DecodeError, UnknownSchemaError
from schemas.evolution import UnsafeSchemaError
from schemas.records import Heartbeat, LastSeq, Metric

SCHEMAS = Path(codec.__file__).parent
TYPES = [cls for cls in vars(records).values() if isinstance(cls, type) and issubclass(cls, records.Record)]
WRITTEN = [cls for cls in TYPES if cls.schema_name]
RELEASED = sorted((SCHEMAS / "released").rglob("*.avsc"))
METRIC = Metric(
    event_id="id",
    run="gpt",
    region="east",
    epoch=1,
    attempt=1,
    producer="p",
    seq=1,
    step=7,
    time_ms=3,
    values={"loss": 0.5},
)


def _compatible(reader: str, writer: str) -> bool:
    checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call] # avro's own gap
    result = checker.get_compatibility(avro.schema.parse(reader), avro.schema.parse(writer))
    return bool(result.compatibility is avro.compatibility.SchemaCompatibilityType.compatible)


@pytest.mark.parametrize("cls", WRITTEN, ids=lambda cls: cls.__name__)
def test_a_record_matches_its_schema_field_by_field(cls: type[records.Record]) -> None:
    """The .avsc is the source of truth; the class has its name and its fields, in its order."""
    schema: dict[str, Any] = json.loads(codec.schema_text(cls))
    assert schema["name"] == cls.__name__
    assert [field["name"] for field in schema["fields"]] == [field.name for field in dataclasses.fields(cls)]


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_released_schema_reads_and_is_read_by_todays(path: Path) -> None:
    """FULL_TRANSITIVE: the regions upgrade at different times."""
    today = (SCHEMAS / path.parent.name / path.name).read_text(encoding="utf-8")
    released = path.read_text(encoding="utf-8")
    assert _compatible(today, released)
    assert _compatible(released, today)


def test_every_schema_is_released() -> None:
    """A schema that is written but not in the archive would escape the check above."""
    assert {cls.schema_name for cls in WRITTEN} == {f"{path.parent.name}/{path.stem}" for path in RELEASED}


def test_the_compatibility_check_can_fail() -> None:
    """A field without a default cannot be added."""
    schema = json.loads(codec.schema_text(Metric))
    schema["fields"].append({"name": "added", "type": "string"})
    assert not _compatible(json.dumps(schema), codec.schema_text(Metric))


@given(
    step=st.integers(0, 2**62),
    phase=st.text(),
    budget_s=st.floats(allow_nan=False),
    seqs=st.lists(st.tuples(st.text(), st.text(), st.integers(0, 2**62)), max_size=4),
)
def test_what_is_encoded_is_decoded(step: int, phase: str, budget_s: float, seqs: list[tuple[str, str, int]]) -> None:
    """Round trip through single-object bytes."""
    last = tuple(LastSeq(producer=producer, lane=lane, seq=seq) for producer, lane, seq in seqs)
    common = {f.name: getattr(METRIC, f.name) for f in dataclasses.fields(records.Event)}
    beat = Heartbeat(**common | {"step": step}, node="n", phase=phase, budget_s=budget_s, last_seqs=last)
    assert Codec().decode(Codec().encode(beat)) == beat


@given(st.binary(max_size=200))
def test_bytes_that_are_not_ours_are_a_decode_error_that_keeps_them(value: bytes) -> None:
    """Never another error, never a record."""
    with pytest.raises(DecodeError) as caught:
        Codec().decode(value)
    assert caught.value.value == value


def test_a_record_cut_anywhere_or_followed_by_more_is_refused() -> None:
    """Torn bytes are no record."""
    whole = Codec().encode(METRIC)
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            Codec().decode(whole[:length])
    with pytest.raises(DecodeError, match="followed by more"):
        Codec().decode(whole + b"x")


def test_an_unknown_writer_waits_for_its_schema_and_is_read_once_it_is_learnt() -> None:
    """An unknown fingerprint is not a dead letter: the schema is fetched by its name."""
    newer = json.loads(codec.schema_text(Metric))
    newer["fields"].append({"name": "unit", "type": "string", "default": ""})
    reader = Codec()
    name = Codec().learn(json.dumps(newer))
    value = codec.MARKER + bytes.fromhex(name) + Codec().encode(METRIC)[codec.HEADER_BYTES :] + b"\x00"
    with pytest.raises(UnknownSchemaError) as caught:
        reader.decode(value)
    assert caught.value.fingerprint == name
    assert reader.learn(json.dumps(newer)) == name
    assert reader.decode(value) == METRIC


def test_a_record_of_another_kind_is_refused_by_name() -> None:
    """`decode_as` says what it found."""
    with pytest.raises(DecodeError, match="expected Heartbeat, found Metric"):
        Codec().decode_as(Heartbeat, Codec().encode(METRIC))


def _metric_with(**field: Any) -> str:  # noqa: ANN401 - a field's schema
    """Today's Metric with one more field."""
    newer = json.loads(codec.schema_text(Metric))
    newer["fields"].append({"name": "more", **field})
    return json.dumps(newer)


def _nested(depth: int) -> Any:  # noqa: ANN401 - a schema
    return "long" if depth == 0 else {"type": "array", "items": _nested(depth - 1)}


_ENDLESS = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
_EMPTY = {"type": "record", "name": "Nothing", "fields": []}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_metric_with(type={"type": "array", "items": "null"}, default=[]), "takes no byte"),
        (_metric_with(type={"type": "map", "values": {"type": "null"}}, default={}), "takes no byte"),
        (_metric_with(type={"type": "array", "items": _EMPTY}, default=[]), "takes no byte"),
        (_metric_with(type={"type": "fixed", "name": "F", "size": 0}, default=""), "takes no byte"),
        (_metric_with(type=["null", _ENDLESS], default=None), "contains itself"),
        (_metric_with(type=_nested(20), default=[]), "nested deeper than 16"),
        (_metric_with(type="string", default="x" * 300_000), "longer than 262144"),
        (_metric_with(type="long"), "it cannot read a release of Metric: Metric.more is missing, and has no default"),
        (codec.schema_text(Metric).replace('"long"', '"string"'), "it cannot be read by a release of Metric"),
        (codec.schema_text(Metric).replace('"Metric"', '"Sphinx"'), "Sphinx is no record of this version"),
    ],
)
def test_I18_a_foreign_schema_that_is_harmful_or_no_evolution_of_a_release_is_refused(text: str, reason: str) -> None:
    """Thirty bytes of it would hold the interpreter for hours, or the fields would be of another type than they are."""
    with pytest.raises(UnsafeSchemaError, match=reason):
        Codec().learn(text)


def test_I18_a_logical_type_cannot_turn_a_number_into_something_else() -> None:
    """A fingerprint does not cover it, so a stranger may add one to a schema of ours."""
    plain = '{\n      "name": "time_ms",\n      "type": "long"\n    }'
    text = codec.schema_text(Metric)
    assert plain in text
    dated = text.replace(plain, '{"name": "time_ms", "type": {"type": "long", "logicalType": "timestamp-millis"}}')
    newer = json.loads(dated)
    newer["fields"].append({"name": "unit", "type": "string", "default": ""})
    reader = Codec()
    name = reader.learn(json.dumps(newer))
    value = codec.MARKER + bytes.fromhex(name) + Codec().encode(METRIC)[codec.HEADER_BYTES :] + b"\x00"
    assert reader.decode(value) == METRIC


@pytest.mark.parametrize("cls", [*codec.record_types().values()])
def test_every_schema_of_ours_is_harmless_and_an_evolution_of_its_releases(cls: type[records.Record]) -> None:
    """By our own checker, as by Avro's."""
    assert Codec().learn(codec.schema_text(cls)) == codec.fingerprint(cls)


@pytest.mark.parametrize("length", [2**62, 2**40, -1, -(2**62)])
@pytest.mark.parametrize("at", range(codec.HEADER_BYTES, 60))
def test_I18_no_length_in_a_value_costs_more_than_the_value_itself(length: int, at: int) -> None:
    """Whatever stands where a length is expected: quickly refused, or no length at all."""
    huge = (length << 1) ^ (length >> 63)
    varint = bytearray()
    while huge > 0x7F:
        varint.append(huge & 0x7F | 0x80)
        huge >>= 7
    varint.append(huge)
    value = Codec().encode(METRIC)
    began_s = time.monotonic()
    with contextlib.suppress(DecodeError):
        Codec().decode(value[:at] + bytes(varint) + value[at + 1 :])
    assert time.monotonic() - began_s < 1.0
