"""A reader that is not ours: fastavro and confluent-kafka, the exported schemas, and nothing of Farside.

Runs in an environment of its own: `python -I foreign_reader.py <exported folder> <client.json> <topic> ...`
Prints one JSON line for each record, with the values as it understood them.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import confluent_kafka
import fastavro

folder, settings, topics = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3:]
known: dict[str, Any] = {}


def decoded(value: bytes) -> dict[str, Any]:
    """By Avro's own rule: two bytes of marker, eight of fingerprint, the datum."""
    assert value[:2] == b"\xc3\x01"
    name = value[2:10].hex()
    if name not in known:
        text = (folder / "schemas" / f"{name}.avsc").read_text(encoding="utf-8")
        known[name] = fastavro.parse_schema(json.loads(text))
    body = io.BytesIO(value[10:])
    found = fastavro.schemaless_reader(body, known[name], None)
    assert body.read() == b""
    return {"name": known[name]["name"].rpartition(".")[2], "record": found}


def main() -> None:
    """Read each topic from its beginning to the end that it has now."""
    ours = {"group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = confluent_kafka.Consumer({**ours, "isolation.level": "read_committed", **settings})
    for topic in topics:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        while (message := consumer.poll(20)) is not None:
            code = None if message.error() is None else message.error().code()
            if code == confluent_kafka.KafkaError._PARTITION_EOF:
                break
            if code == confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # it looks for its group all the same; who assigns partitions needs none
            if code is not None:
                raise SystemExit(str(message.error()))
            headers = [[key, value.decode()] for key, value in message.headers() or []]
            line = {"topic": topic, "offset": message.offset(), "key": message.key().decode(), "headers": headers}
            print(json.dumps(line | decoded(message.value()), default=bytes.hex))  # noqa: T201 - its answer
        if message is None:
            raise SystemExit(f"{topic}: its end was not reached")
    consumer.close()


main()
