import itertools
import time

import pytest

from infra.local.stack import Stack
from pipelines.errors import CorruptError, FencedError
from pipelines.ports import Fetched, Message
from services.adapters.kafka import KafkaLog, KafkaSource, ensure_topics

pytestmark = pytest.mark.servers
TOPIC = "farside.metrics"
IDS = itertools.count(1)


def read_from(source: KafkaSource, count: int) -> list[Fetched]:
    """Poll until so many records came, or the deadline."""
    found: list[Fetched] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        found.extend(source.poll(0.5))
    return found


@pytest.fixture
def bootstrap(stack: Stack) -> str:
    """A real broker with Farside's topics."""
    address = stack.endpoints().regions["east"].kafka_bootstrap
    ensure_topics(address, replication=1)
    return address


def test_what_is_published_is_read_back_from_its_offset(bootstrap: str) -> None:
    """A record comes back with key, value and headers, and an offset past the end is refused."""
    source = KafkaSource(bootstrap)
    (partition,) = source.partitions([TOPIC, "no.such.topic"])
    _, end = source.bounds(partition)
    KafkaLog(bootstrap).publish([Message(TOPIC, b"k", b"v", (("h", b"1"),))])
    source.seek(partition, end)
    (found,) = read_from(source, 1)
    assert (found.key, found.value, found.headers, found.offset) == (b"k", b"v", (("h", b"1"),), end)
    with pytest.raises(CorruptError):
        source.seek(partition, end + 1000)
    source.close()


def test_a_newer_writer_fences_the_older(bootstrap: str) -> None:
    """After a second log of the same transactional id began, the first one's transaction raises FencedError."""
    name = f"fence-{next(IDS)}"
    older, newer = KafkaLog(bootstrap, name), KafkaLog(bootstrap, name)
    older.transaction([Message(TOPIC, b"k", b"older")])
    newer.transaction([Message(TOPIC, b"k", b"newer")])
    with pytest.raises(FencedError):
        older.transaction([Message(TOPIC, b"k", b"late")])
    newer.close()
