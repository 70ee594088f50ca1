"""Whatever a foreign producer leaves in a topic: it is given, or told by place, and what follows it is read."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import cramjam
import kafka
import kafka.codec
import pytest
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder

from infra.local.stack import Stack
from pipelines import paths
from pipelines.ports import Fetched
from services.adapters.kafka.acls import COMMON
from services.adapters.kafka.batches import (
    BATCH_MAX_BYTES,
    HEADERS_MAX,
    KEPT_BYTES,
    RECORD_MAX_BYTES,
    DamagedValue,
    SafeBatch,
)
from services.adapters.kafka.clients import made, thrown_away
from services.adapters.kafka.decompression import NAMES
from services.adapters.kafka.log import KafkaSource, ensure_topic
from tests.brokers import admin_of
from tests.waiting import wait_until

CODECS = {name: number for number, name in NAMES.items()}
NULL = b"<null>"
TOPICS = itertools.count(1)
Headers = Sequence[tuple[str, bytes | None]]


@pytest.fixture(autouse=True)
def _snappy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library writes snappy only with a package that we do not need for reading it."""
    packing = SimpleNamespace(compress=lambda plain: bytes(cramjam.snappy.compress_raw(plain)))
    monkeypatch.setattr(kafka.codec, "snappy", packing)


def _batch(*records: tuple[bytes, Headers], codec: int = 0, base: int = 100) -> bytearray:
    builder = MemoryRecordsBuilder(2, codec, 1 << 26)
    for value, headers in records:
        assert builder.append(7, b"gpt", value, headers)
    builder.close()
    batch = bytearray(builder.buffer())
    batch[:8] = struct.pack(">q", base)
    return batch


def _read(batch: bytes | bytearray) -> list[Any]:
    return list(SafeBatch(batch))


@pytest.mark.parametrize("codec", ["none", *CODECS])
def test_every_codec_of_kafka_is_read(codec: str) -> None:
    """Keys, values, headers, offsets and times, as they were written."""
    records = [(f"value {number}".encode() * 50, [("h", b"1"), ("empty", b"")]) for number in range(20)]
    read = _read(_batch(*records, codec=CODECS.get(codec, 0)))
    assert [(one.offset, one.timestamp, one.key, one.value, one.headers) for one in read] == [
        (100 + number, 7, b"gpt", value, headers) for number, (value, headers) in enumerate(records)
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_of_any_codec_is_told_by_its_place_and_digest(codec: str) -> None:
    """One damaged record for the whole batch; never more than the bound is unpacked."""
    batch = bytes(_batch(*[(bytes(RECORD_MAX_BYTES), [])] * 5, codec=CODECS[codec]))
    (one,) = _read(batch)
    assert (one.offset, one.value.damage.last_offset, len(one.value)) == (100, 104, min(KEPT_BYTES, len(batch)))
    assert one.value.damage.reason == f"{codec} would unpack it to more than {BATCH_MAX_BYTES} bytes"
    assert (one.value.damage.size_bytes, one.value.damage.sha256) == (len(batch), hashlib.sha256(batch).hexdigest())


def test_a_record_that_is_too_large_keeps_its_headers_and_the_others_are_read() -> None:
    """So that it fills its place in its sequence."""
    large = bytes(RECORD_MAX_BYTES + 1)
    first, second, third = _read(_batch((b"a", []), (large, [("farside_seq", b"2")]), (b"c", []), codec=CODECS["gzip"]))
    assert (first.value, third.value) == (b"a", b"c")
    assert (second.offset, second.key, second.headers) == (101, b"gpt", [("farside_seq", b"2")])
    assert second.value.damage.reason == f"its value is larger than {RECORD_MAX_BYTES} bytes"
    assert (second.value.damage.size_bytes, second.value.damage.last_offset) == (len(large), 101)


def test_a_header_without_a_value_has_an_empty_one_and_a_name_that_is_no_text_is_read_all_the_same() -> None:
    """Both are valid for a broker; Kafka's own client gives them."""
    batch = _batch((b"a", [("null", None), ("name", b"x")]), (b"b", []))
    first, second = _read(batch.replace(b"name", b"n\xffme"))
    assert first.headers == [("null", b""), ("n\ufffdme", b"x")]
    assert second.value == b"b"


def test_a_record_with_too_many_headers_is_damaged_and_the_next_is_read() -> None:
    """A header takes two bytes in the log and a hundred in memory."""
    many: Headers = [("", b"")] * (HEADERS_MAX + 1)
    first, second = _read(_batch((b"a", many), (b"b", many[1:])))
    assert "1001 headers" in first.value.damage.reason
    assert (second.value, len(second.headers)) == (b"b", HEADERS_MAX)


def test_any_changed_byte_yields_records_or_damage_that_cover_every_offset() -> None:
    """Also what no broker of today would take: nothing raises, and nothing is skipped without a word."""
    whole = _batch(*[(b"value", [("h", b"1")])] * 3)
    for at in range(61, len(whole)):
        for bit in (1, 64, 128):
            changed = bytearray(whole)
            changed[at] ^= bit
            read = _read(changed)
            covered = [
                (one.offset, getattr(getattr(one.value, "damage", None), "last_offset", one.offset)) for one in read
            ]
            assert [offset for first, last in covered for offset in range(first, last + 1)] == [100, 101, 102], at


def test_no_record_of_a_batch_takes_a_place_of_those_behind_it_or_of_the_next_batch() -> None:
    """Found by fuzzing: a first record that leaps to the last offset. It is damage; the others keep their places."""
    batch = _batch((b"a", []), (b"b", []), (b"c", []))
    assert batch[61 + 3] == 0
    batch[61 + 3] = 2 << 1  # the first record's offset, from the first of the batch on
    read = _read(batch)
    assert [one.offset for one in read] == [100, 101, 102]
    assert [isinstance(one.value, DamagedValue) for one in read] == [True, False, False]


def test_a_batch_with_more_records_than_places_is_damage_in_its_own_places() -> None:
    """Its header is wrong, so nobody can tell which record lies where."""
    batch = _batch((b"a", []), (b"b", []))
    batch[57:61] = (3).to_bytes(4)
    (one,) = _read(batch)
    assert (one.offset, one.value.damage.last_offset) == (100, 101)


def test_a_wrong_checksum_is_asked_for_once_more_before_it_is_given_up() -> None:
    """It may have been the way's fault; a batch that stays so must not be asked for for ever."""
    batch = _batch((b"a", []))
    batch[-1] ^= 1
    doubted: set[tuple[str, int, int]] = set()
    for is_readable in (False, True):
        safe = SafeBatch(batch)
        safe.judge_checksum(("t", 0, 100), doubted)
        assert safe.validate_crc() is is_readable
    (one,) = safe
    assert one.value.damage.reason == "its checksum is wrong, each time that it is read"


class _Topic:
    """A fresh topic of a real broker, with a foreign producer and our reader."""

    def __init__(self, stack: Stack) -> None:
        self.cluster = admin_of(stack, "east")
        self.name = f"{paths.METRICS}.poison-{next(TOPICS)}"
        ensure_topic(self.cluster, self.name, 1)
        self.source = KafkaSource(self.cluster)
        (self.partition,) = self.source.partitions([self.name])
        self.source.seek(self.partition, 0)

    def send(self, value: bytes, headers: Headers | None = None, codec: str | None = None) -> None:
        options = {**self.cluster.options(), **COMMON}
        producer = made(kafka.KafkaProducer, compression_type=codec, max_request_size=1 << 27, **options)
        try:
            producer.send(self.name, key=b"gpt", value=value, headers=list(headers or [])).get(timeout=30)
        finally:
            thrown_away(producer)

    def read(self, count: int) -> list[Fetched]:
        found: list[Fetched] = []

        def enough() -> bool:
            found.extend(self.source.poll(0.2))
            return len(found) >= count

        wait_until(enough, 30, f"{count} records")
        return found


@pytest.fixture
def _null_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's producer refuses to write one; others, and Kafka's own, do."""
    append = DefaultRecordBatchBuilder.append

    def with_nulls(self: Any, *place: Any, headers: Headers) -> Any:  # noqa: ANN401 - kafka-python has no types
        return append(self, *place, [(name, None if value == NULL else value) for name, value in headers])

    monkeypatch.setattr(
        DefaultRecordBatchBuilder, "append", lambda self, *parts: with_nulls(self, *parts[:-1], headers=parts[-1])
    )


@pytest.fixture
def topic(stack: Stack) -> Iterator[_Topic]:
    """On the local stack's broker."""
    made_topic = _Topic(stack)
    yield made_topic
    made_topic.source.close()


@pytest.mark.servers
@pytest.mark.usefixtures("_null_headers")
def test_I18_a_real_broker_takes_all_of_it_and_the_reader_goes_on_behind_each(topic: _Topic) -> None:
    """Null headers, every codec, a bomb as it was seen (to 2.1 GiB it would be the same), and a plain record last."""
    topic.send(b"null", [("h", NULL)])
    for codec in CODECS:
        topic.send(codec.encode() * 100, codec=codec)
    topic.send(bytes(64 * 1024 * 1024), codec="gzip")
    topic.send(b"last")
    *read, bomb, last = topic.read(len(CODECS) + 3)
    assert read[0].headers == (("h", b""),)
    assert [one.value for one in read[1:]] == [codec.encode() * 100 for codec in CODECS]
    assert bomb.damage is not None
    assert "gzip would unpack it to more than" in bomb.damage.reason
    assert (last.value, last.damage) == (b"last", None)
    assert topic.source.position(topic.partition) == last.offset + 1


def test_the_bound_is_the_unpacked_size_and_not_the_packed_one() -> None:
    """Just at the bound it is read."""
    value = bytes(BATCH_MAX_BYTES // 5)
    read = _read(_batch(*[(value, [])] * 4, codec=CODECS["gzip"]))
    assert [len(one.value) for one in read] == [len(value)] * 4
    assert len(gzip.compress(value * 4)) < BATCH_MAX_BYTES // 100
