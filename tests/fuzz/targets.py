"""The targets of mutated bytes, each with its rule: no error but its own, with a reason; nothing whole is lost.

Each target makes an input from a generator and judges what becomes of it. It raises AssertionError where a promise is
broken; whatever else it raises is a crash.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from kafka.record.memory_records import MemoryRecordsBuilder

from farside import _spool
from pipelines.core.dead_letters import LETTER_MAX_BYTES, fitting
from pipelines.core.ledger import Arrival, Ledger
from pipelines.core.metric_batches import batch_of, metrics_of
from pipelines.core.sequence_numbers import DIGITS_MAX, SPAN_MAX, number_of, place_of
from pipelines.errors import CorruptError
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.log.writer_schemas import learn
from schemas.codec import HEADER_BYTES, MARKER, Codec, DecodeError, schema_text
from schemas.records import (
    Checkpoint,
    DataShard,
    DataVersion,
    DeadLetter,
    Event,
    Header,
    Heartbeat,
    LastSeq,
    Metric,
    MetricBatch,
    Record,
    Watermark,
)
from services.adapters.kafka.batches import DamagedValue, SafeBatch
from services.adapters.kafka.decompression import GZIP, LZ4, ZSTD
from services.adapters.spool import UNREADABLE, NodeSpool
from tests.fuzz.http_target import bodies
from tests.fuzz.lease_target import leases
from tests.fuzz.mutations import mutated
from tests.fuzz.node_target import intents, node_files

Target = Callable[[random.Random, Path], None]
RUN, PRODUCER = "gpt", "r00000-0123456789abcdef"
CODEC = Codec()
BATCH_HEAD_BYTES = 61
NUMBERS = (b"0", b"1", b"5", b"6", b"1000000", b"9223372036854775808", b"9" * 30, b"9" * 5_000, "\u0663".encode())


def _identity(seq: int) -> dict[str, Any]:
    place = {"event_id": f"gpt/1/r0/x/{seq}", "run": RUN, "region": "east", "epoch": 1, "attempt": 1, "producer": "r0"}
    return {**place, "seq": seq, "step": seq, "time_ms": 5}


@cache
def _records() -> tuple[Record, ...]:
    metrics = [Metric(**_identity(seq), values={"loss": 1.5, "lr": 0.1}) for seq in range(1, 6)]
    shards = (DataShard(path="a", size=1, sha256="d" * 64), DataShard(path="b", size=2, sha256="e" * 64))
    beat = Heartbeat(
        **_identity(3),
        node="n0",
        phase="train",
        budget_s=60.0,
        last_seqs=(LastSeq(producer="r0", lane="metrics", seq=9),),
    )
    checkpoint = Checkpoint(
        **_identity(4),
        state="committed",
        manifest_key="runs/gpt/x/manifest",
        manifest_digest="d" * 64,
        lineage_seq=4,
        size_bytes=10,
        reason="",
    )
    version = DataVersion(**_identity(5), name="v", digest="d" * 64, shards=shards, sampler="s", data_seed=7)
    mark = Watermark(run=RUN, epoch=1, producer="r0", lane="metrics", seq=7)
    return (metrics[0], batch_of(metrics), beat, checkpoint, version, mark)


@cache
def _encoded() -> tuple[bytes, ...]:
    return tuple(CODEC.encode(one) for one in _records())


def codec(generator: random.Random, _folder: Path) -> None:
    """A value from the wire: a record that can be encoded again, or a DecodeError with its reason and its bytes."""
    value = mutated(generator, generator.choice(_encoded()))
    try:
        record = CODEC.decode(value)
    except DecodeError as error:
        assert error.reason, "a refusal without a reason"
        assert error.value == value, "the refusal does not keep the bytes"
        return
    assert isinstance(CODEC.encode(record), bytes)
    if isinstance(record, MetricBatch):
        try:
            rows = metrics_of(record)
        except CorruptError as error:
            assert str(error), "a refusal without a reason"
        else:
            assert [one.seq for one in rows] == list(range(record.first_seq, record.seq + 1))


def headers(generator: random.Random, _folder: Path) -> None:
    """The headers of an undecodable record: a place that the ledger can hold and that leaps over nothing, or none."""
    record = generator.choice([one for one in _records() if isinstance(one, Event)])
    plain = list(headers_of(record, "fuzz"))
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(plain))
        name, value = plain[at]
        if generator.random() < 0.1:
            del plain[at]
        elif generator.random() < 0.2:
            plain[at] = (name, generator.choice(NUMBERS))
        else:
            plain[at] = (name, mutated(generator, value))
    seen = generator.randint(0, 8)
    found = number_of(plain)
    ledger = Ledger() if found is None else Ledger({found.stream: seen})
    arrival, takes = place_of(plain, ledger)
    if takes is None:
        return
    (run, epoch, producer, lane), seq = takes.stream, takes.seq
    assert arrival is Arrival.NEXT
    assert seen < seq < seen + 1 + SPAN_MAX, "it leaps over events that have not come"
    assert seq < 10**DIGITS_MAX
    CODEC.encode(Watermark(run=run, epoch=epoch, producer=producer, lane=lane, seq=seq))


@cache
def _frames() -> tuple[tuple[bytes, int], ...]:
    made = []
    for seq in range(1, 9):
        body = {"values": {"loss": 0.5, "x" * seq: 1}, "note": "FS\x01 and \ud800" if seq % 3 == 0 else ""}
        record = {"lane": "metrics", "seq": seq, "kind": "metric", "run": RUN, "epoch": 1, "attempt": 1, "body": body}
        made.append((_spool.encode_frame({**record, "step": seq, "time_ms": 5}), seq))
    return tuple(made)


def _untouched(data: bytes) -> list[int]:
    """The numbers of the frames that are whole in `data`, found by looking for each one's very bytes."""
    places = []
    for frame, seq in _frames():
        at = data.find(frame)
        while at >= 0:
            places.append((at, seq))
            at = data.find(frame, at + 1)
    return [seq for _, seq in sorted(places)]


def segments(generator: random.Random, folder: Path) -> None:
    """A log in one to three segments, some of them damaged: every frame that is whole in them is read, in order."""
    producer = _spool.producer_folder(folder, RUN, PRODUCER)
    producer.mkdir(parents=True, exist_ok=True)
    for old in producer.iterdir():
        old.unlink()
    base, whole = 0, []
    for _ in range(generator.randint(1, 3)):
        data = b"".join(frame for frame, _ in generator.choices(_frames(), k=generator.randint(1, 8)))
        damaged = mutated(generator, data) if generator.random() < 0.7 else data
        # What lies past the next segment's beginning has no offset in the log, so only a cut or a change is possible.
        damaged = damaged[: len(data)] if generator.random() < 0.5 else damaged
        (producer / _spool.segment_name(base)).write_bytes(damaged)
        whole += _untouched(damaged)
        base += max(len(data), len(damaged))
    _judge_reading(folder, whole)


def _judge_reading(folder: Path, whole: list[int]) -> None:
    journal = _Journal()
    spool = NodeSpool(folder, journal)
    found, offset = [], 0
    for _ in range(200):
        records = spool.read(RUN, PRODUCER, offset, 3)
        if not records:
            break
        assert records[0].end > offset, "reading does not come forward"
        found += [one for one in records if one.kind != UNREADABLE]
        offset = records[-1].end
    assert [one.seq for one in found] == whole, f"{[one.seq for one in found]} read, {whole} are whole"
    assert all(fields["reason"] for fields in journal.torn), "torn without a reason"
    assert spool.retire(RUN, PRODUCER, offset), "its writer is gone and nothing is left, and it stays"


class _Journal:
    """Implements Journal: keeps what was said of torn bytes."""

    def __init__(self) -> None:
        self.torn: list[dict[str, Any]] = []

    def say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - as the port
        if event == "spool.torn":
            self.torn.append(fields)


@cache
def _batches() -> tuple[bytes, ...]:
    made = []
    for number, codec_number in enumerate((0, 0, GZIP, LZ4, ZSTD)):
        builder = MemoryRecordsBuilder(2, codec_number, 1 << 20)
        for seq, value in enumerate(_encoded()[: number + 1]):
            plain = [("farside_seq", str(seq).encode()), ("null", None), ("", b"")]
            builder.append(5, b"gpt", value, plain)
        builder.close()
        made.append(bytes(builder.buffer()))
    return tuple(made)


def batches(generator: random.Random, _folder: Path) -> None:
    """A batch as it lies in a topic: each of its offsets is a record or damaged, in order; nothing is skipped."""
    whole = generator.choice(_batches())
    head, body = whole[:BATCH_HEAD_BYTES], whole[BATCH_HEAD_BYTES:]
    batch = SafeBatch(head + mutated(generator, body))
    due = batch.base_offset
    for record in batch:
        assert record.offset >= due, "an offset comes twice"
        assert record.offset == due or not isinstance(record.value, DamagedValue), "damage leaps"
        damage = getattr(record.value, "damage", None)
        assert damage is None or damage.reason, "damage without a reason"
        assert all(isinstance(value, bytes) for _, value in record.headers), "a header without a value"
        due = 1 + (record.offset if damage is None else damage.last_offset)
        letter = _letter_of(record)
        assert len(CODEC.encode(fitting(letter))) <= LETTER_MAX_BYTES, "a dead letter that does not fit"
    assert due <= batch.next_offset


def _letter_of(record: Any) -> DeadLetter:  # noqa: ANN401 - kafka-python has no types
    return DeadLetter(
        cluster="c",
        topic="t",
        partition=0,
        offset=record.offset,
        key=record.key or b"",
        value=record.value or b"",
        headers=tuple(Header(key=name, value=value) for name, value in record.headers),
        reason="undecodable",
        detail="fuzz",
        time_ms=5,
    )


@cache
def _foreign_schemas() -> tuple[str, ...]:
    plain = json.loads(schema_text(Metric))
    types = (
        "null",
        "string",
        {"type": "array", "items": "null"},
        {"type": "array", "items": "long"},
        {"type": "map", "values": ["null", "bytes"]},
        ["null", {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}],
        {"type": "fixed", "name": "F", "size": 0},
    )
    texts = [json.dumps({**plain, "fields": [*plain["fields"], {"name": "more", "type": one}]}) for one in types]
    more = [{"name": "more", "type": one, "default": None} for one in types]
    return (schema_text(Metric), *texts, *(json.dumps({**plain, "fields": [*plain["fields"], one]}) for one in more))


def schemas(generator: random.Random, _folder: Path) -> None:
    """A foreign writer's schema and a value of it: refused with a reason, or what it costs is the value's own size."""
    text = mutated(generator, generator.choice(_foreign_schemas()).encode(), most=2)
    reader = Codec()
    value = MARKER + bytes(8) + mutated(generator, generator.choice(_encoded())[HEADER_BYTES:])
    try:
        learn(reader, text, value)
    except DecodeError as error:
        assert error.reason, "a refusal without a reason"
        named = re.search(r"lies another one: ([0-9a-f]{16})", error.reason)
        if named is None:
            return
        value = MARKER + bytes.fromhex(named[1]) + value[HEADER_BYTES:]
    try:
        record = reader.decode(value)
    except DecodeError as error:
        assert error.reason, "a refusal without a reason"
        return
    assert isinstance(CODEC.encode(record), bytes)


TARGETS: dict[str, Target] = {
    "codec": codec,
    "headers": headers,
    "segments": segments,
    "leases": leases,
    "bodies": bodies,
    "batches": batches,
    "schemas": schemas,
    "intents": intents,
    "node-files": node_files,
}
