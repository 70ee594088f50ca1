"""Each method of each Kafka port, for each exception of the client library: only our own errors come out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import kafka
import pytest
from kafka import errors

from pipelines.errors import FarsideError
from pipelines.ports import Message, Partition
from services.adapters.kafka import log
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topic, ensure_topics

CLUSTER = KafkaCluster("127.0.0.1:1")
PLACE = Partition("c", "id", "t", 0)
MESSAGES = (Message("t", b"k", b"v"),)


def _raised() -> list[Exception]:
    """One of every class of kafka.errors, and those of Python that its clients let through."""
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)]
    plain = [
        OSError("reset"),
        ValueError("a closed selector"),
        AttributeError("gone"),
        KeyError("t"),
        AssertionError(),
        RuntimeError("StopIteration raised unpacking messageset"),
        TypeError("None"),
    ]
    return [one({}) if one is errors.LogTruncationError else one("planted") for one in classes] + plain


RAISED = _raised()


class _Client:
    """In place of each client of the library: answers, until it is told to raise."""

    def __init__(self, raised: list[Exception], only: set[str], **_: Any) -> None:  # noqa: ANN401 - any option
        self._raised, self._only = raised, only
        self._fetcher = SimpleNamespace()
        self._sender = SimpleNamespace(force_close=lambda: None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_: object, **__: object) -> Any:  # noqa: ANN401 - whatever the method answers
            if self._raised and (not self._only or name in self._only):
                raise self._raised[0]
            return _ANSWERS.get(name)

        return call


_TOPIC = kafka.TopicPartition("t", 0)
_ANSWERS: dict[str, Any] = {
    "beginning_offsets": {_TOPIC: 0},
    "end_offsets": {_TOPIC: 9},
    "offsets_for_times": {_TOPIC: None},
    "position": 0,
    "poll": {},
}

READ: dict[str, Callable[[KafkaSource], object]] = {
    "partitions": lambda source: source.partitions(["t"]),
    "bounds": lambda source: source.bounds(PLACE),
    "offset_at": lambda source: source.offset_at(PLACE, 0),
    "seek": lambda source: source.seek(PLACE, 0),
    "position": lambda source: source.position(PLACE),
    "poll": lambda source: source.poll(0.0),
}
QUIET: dict[str, Callable[[KafkaSource], object]] = {
    "pause": lambda source: source.pause([PLACE]),
    "resume": lambda source: source.resume([PLACE]),
    "close": lambda source: source.close(),
}
WRITTEN: dict[str, Callable[[], object]] = {
    "publish": lambda: KafkaLog(CLUSTER).publish(MESSAGES),
    "transaction": lambda: KafkaLog(CLUSTER, "id").transaction(MESSAGES),
    "ensure_topics": lambda: ensure_topics(CLUSTER, 1),
    "ensure_topic": lambda: ensure_topic(CLUSTER, "t", 1),
}


@pytest.fixture
def only() -> set[str]:
    """The methods that raise; all of them while there is none."""
    return set()


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch, only: set[str]) -> list[Exception]:
    """The error that each client raises from now on; none at first."""
    told: list[Exception] = []
    for place, name in ((kafka, "KafkaConsumer"), (kafka, "KafkaProducer"), (log, "KafkaAdminClient")):
        monkeypatch.setattr(place, name, lambda **options: _Client(told, only, **options))
    return told


@pytest.mark.parametrize("method", READ)
def test_I18_a_reader_raises_only_errors_of_the_tree(method: str, raised: list[Exception]) -> None:
    """Also while it restores its positions after a lost link, whatever the library raised."""
    for error in RAISED:
        for is_restoring in (False, True):
            raised.clear()
            source = KafkaSource(CLUSTER)
            source.seek(PLACE, 0)
            if is_restoring:
                source.close()
            raised.append(error)
            with pytest.raises(FarsideError):
                READ[method](source)
            raised.clear()
            source.seek(PLACE, 0)
            assert source.poll(0.0) == (), "it goes on afterwards"


@pytest.mark.parametrize("step", ["assign", "seek", "pause"])
def test_I18_a_position_that_cannot_be_restored_is_an_error_of_the_tree(
    step: str, raised: list[Exception], only: set[str]
) -> None:
    """The bounds were told, and then the link was lost: in the middle of a seek, or of the reading after it."""
    only.add(step)
    for error in RAISED:
        for method in ("seek", "position", "poll"):
            raised.clear()
            source = KafkaSource(CLUSTER)
            source.seek(PLACE, 0)
            source.close()
            raised.append(error)
            with pytest.raises(FarsideError):
                READ[method](source)


@pytest.mark.parametrize("method", QUIET)
def test_I18_pause_resume_and_close_raise_nothing(method: str, raised: list[Exception]) -> None:
    """As their port says; what is paused stays so in the next client."""
    for error in RAISED:
        raised.clear()
        source = KafkaSource(CLUSTER)
        source.seek(PLACE, 0)
        raised.append(error)
        QUIET[method](source)


@pytest.mark.parametrize("method", WRITTEN)
def test_I18_a_writer_raises_only_errors_of_the_tree(method: str, raised: list[Exception]) -> None:
    """Of a commit, too: its outcome is unknown, whatever was raised."""
    for error in RAISED:
        raised[:] = [error]
        with pytest.raises(FarsideError):
            WRITTEN[method]()
